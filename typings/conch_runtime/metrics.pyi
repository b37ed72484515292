from export.runtime.metrics import Publisher as Publisher
