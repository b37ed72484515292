from export.runtime.engine import Engine as Engine
