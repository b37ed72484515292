from export.runtime.contract import InvalidTensorsError as InvalidTensorsError
from export.runtime.contract import Limits as Limits
from export.runtime.contract import Row as Row
from export.runtime.contract import read_rows as read_rows
