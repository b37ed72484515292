# What the python backend's stub process offers to a model (github.com/triton-inference-server/python_backend).
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import CapsuleType

class Tensor:
    @staticmethod
    def from_dlpack(name: str, data: NDArray[np.generic] | CapsuleType) -> Tensor: ...
    def __dlpack__(self, /, *, stream: None = ...) -> CapsuleType: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class TritonError:
    INVALID_ARG: int
    def __init__(self, message: str, code: int = ...) -> None: ...

class InferenceRequest:
    def requested_output_names(self) -> list[str]: ...

class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor], error: TritonError | None = ...) -> None: ...

class Logger:
    @staticmethod
    def log_info(message: str) -> None: ...
    @staticmethod
    def log_error(message: str) -> None: ...

class Metric:
    def increment(self, value: float) -> None: ...
    def set(self, value: float) -> None: ...

class MetricFamily:
    COUNTER: int
    GAUGE: int
    def __init__(self, name: str, description: str, kind: int) -> None: ...
    def Metric(self, labels: dict[str, str] = ...) -> Metric: ...  # noqa: N802

def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor: ...
