# What is used of it; the package ships no types.
from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
from numpy.typing import NDArray

class SessionOptions:
    enable_cpu_mem_arena: bool
    intra_op_num_threads: int
    log_severity_level: int
    def add_session_config_entry(self, config_key: str, config_value: str, /) -> None: ...

class InferenceSession:
    def __init__(
        self,
        path_or_bytes: str | PathLike[str] | bytes,
        sess_options: SessionOptions | None = ...,
        *,
        providers: Sequence[str | tuple[str, Mapping[str, str]]] = ...,
    ) -> None: ...
    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, NDArray[np.generic]]
    ) -> list[NDArray[np.float32]]: ...
    def get_providers(self) -> list[str]: ...

def get_available_providers() -> list[str]: ...
def preload_dlls() -> None: ...
