"""The model of the python backend: one file for every role, which the inputs of the graph tell apart, and both engines.

Triton hands over a batch of requests as they came, each a few rows of one stored length. All their rows are sorted and
packed together, and each request gets its own rows back.

Tensors cross by DLPack, not as_numpy(): the stub of Triton 2.51 was built before numpy 2 and reads its arrays wrongly.
"""

from __future__ import annotations  # the stub defines the types it names only after this file is loaded

import ctypes
import json
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from conch_runtime.contract import InvalidTensorsError, Limits, Row, Tokens, Values, padded, read_rows, text_field
from conch_runtime.metrics import Publisher
from numpy.typing import NDArray

set_destructor = ctypes.pythonapi.PyCapsule_SetDestructor
set_destructor.argtypes = (ctypes.py_object, ctypes.c_void_p)


@dataclass(frozen=True)
class Asked:
    """What one request asks for."""

    rows: list[Row]
    outputs: frozenset[str]
    length: int
    """The stored length of its texts."""


class TritonPythonModel:
    """One instance of an entry."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the graph of this version."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.limits = Limits(
            int(parameters.get("max_tokens", 0)),
            int(parameters.get("vocabulary_size", 0)),
            int(parameters.get("image_token", -1)),
            int(parameters.get("image_merge", 1)),
        )
        graph = Path(args["model_repository"]) / args["model_version"] / parameters["graph"]
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        # An entry's environment has what its own engine imports, no more.
        engine = import_module(f"conch_runtime.{'torch_engine' if graph.suffix == '.pt2' else 'engine'}")
        self.engine = engine.Engine(graph, parameters.get("precision"), device)
        self.publisher = Publisher(self.engine, args["model_name"], device, args["model_instance_name"])
        triton.Logger.log_info(f"{args['model_name']} computes in {self.engine.description}")

    def finalize(self) -> None:
        """Stop what runs beside the requests."""
        self.publisher.close()

    def execute(self, requests: list[triton.InferenceRequest]) -> list[triton.InferenceResponse]:
        """Answer each request; one with malformed tensors, or rows that the engine cannot compute, fails alone."""
        given = [self._read(request) for request in requests]
        answers = iter(self._together([asked for asked in given if isinstance(asked, Asked)]))
        return [_response(next(answers) if isinstance(asked, Asked) else asked) for asked in given]

    def _together(self, batch: list[Asked]) -> list[list[triton.Tensor] | triton.TritonError]:
        """Compute the rows of all requests at once or, if that fails, of each request separately."""
        wanted = {name for asked in batch for name in asked.outputs}
        try:
            each = [asked.outputs for asked in batch for _ in asked.rows]
            results = self.engine.run([row for asked in batch for row in asked.rows], wanted, each)
        except Exception as exc:  # noqa: BLE001 - what the engines raise depends on what is wrong
            if not self.engine.is_alive():
                triton.Logger.log_error(f"the device fails and cannot be used any more: {exc}")
                os._exit(1)  # Triton starts another process for the next batch
            if len(batch) > 1:
                return [answer for asked in batch for answer in self._together([asked])]
            return [triton.TritonError(str(exc))]
        answers: list[list[triton.Tensor] | triton.TritonError] = []
        begin = 0
        for asked in batch:
            end = begin + len(asked.rows)
            answers.append(self._tensors(asked, {name: values[begin:end] for name, values in results.items()}))
            begin = end
        return answers

    def _tensors(self, asked: Asked, results: dict[str, Values]) -> list[triton.Tensor]:
        """The outputs that a request asks for, tokens padded as its own are."""
        tensors = []
        for output in self.engine.outputs:
            if output.name in asked.outputs:
                values = results[output.name]
                if not isinstance(values, np.ndarray):
                    values = padded(values, asked.length if output.per == "token" else 1)  # Triton takes no length of 0
                tensors.append(_tensor(output.name, values))
        return tensors

    def _read(self, request: triton.InferenceRequest) -> Asked | triton.TritonError:
        fields = self.engine.fields
        names = [name for field in fields for name in field.inputs]
        tensors = {name: np.from_dlpack(triton.get_input_tensor_by_name(request, name)) for name in names}
        try:
            rows = read_rows(tensors, fields, self.limits)
        except InvalidTensorsError as exc:
            return triton.TritonError(str(exc), triton.TritonError.INVALID_ARG)
        has_text = any(isinstance(field, Tokens) for field in fields)
        length = tensors[text_field(fields).ids].shape[1] if has_text else 0
        return Asked(rows, frozenset(request.requested_output_names()), length)


def _response(answer: list[triton.Tensor] | triton.TritonError) -> triton.InferenceResponse:
    if isinstance(answer, triton.TritonError):
        return triton.InferenceResponse([], answer)
    return triton.InferenceResponse(answer)


def _tensor(name: str, values: NDArray[Any]) -> triton.Tensor:
    """Hand an array over to Triton, which frees it."""
    capsule = values.__dlpack__()
    tensor = triton.Tensor.from_dlpack(name, capsule)
    # Triton marks the capsule as used by another word than numpy does, whose destructor then complains on stderr.
    set_destructor(capsule, None)
    return tensor
