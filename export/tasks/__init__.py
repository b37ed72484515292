"""The tasks that a model can be exported for, one module each: from a source's folder to towers."""
