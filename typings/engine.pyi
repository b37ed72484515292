# An entry holds engine.py beside model.py, which imports it by this name.
from export.runtime.engine import Engine as Engine
from export.runtime.engine import InvalidTensorsError as InvalidTensorsError
from export.runtime.engine import Limits as Limits
from export.runtime.engine import Row as Row
from export.runtime.engine import read_rows as read_rows
