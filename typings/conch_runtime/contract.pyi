from export.runtime.contract import InvalidTensorsError as InvalidTensorsError
from export.runtime.contract import Limits as Limits
from export.runtime.contract import Row as Row
from export.runtime.contract import Tokens as Tokens
from export.runtime.contract import Values as Values
from export.runtime.contract import padded as padded
from export.runtime.contract import read_rows as read_rows
from export.runtime.contract import text_field as text_field
