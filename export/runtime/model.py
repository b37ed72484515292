"""The python backend's model: one file for every role, told apart by the graph's inputs.

Triton hands over a batch of requests as they came, each a few rows of one stored length. All their rows are sorted and
packed together, and each request gets its own rows back.

Tensors cross by DLPack, not as_numpy(): the stub of Triton 2.51 was built before numpy 2 and reads its arrays wrongly.
"""

from __future__ import annotations  # the stub defines the types it names only after this file is loaded

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as triton
from engine import Engine, InvalidTensorsError, Limits, Row, read_rows
from numpy.typing import NDArray


class Counter:
    """A metric of a model, beside Triton's own."""

    def __init__(self, name: str, description: str, model: str) -> None:
        family = triton.MetricFamily(name, description, triton.MetricFamily.COUNTER)
        self._metric = family.Metric(labels={"model": model})
        self._family = family  # has to outlive its metrics

    def add(self, value: float) -> None:
        """Count on."""
        if value:  # it takes 40 us
            self._metric.increment(value)


class TritonPythonModel:
    """One instance of an entry."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the graph of this version."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.limits = Limits(int(parameters.get("max_tokens", 0)), int(parameters.get("vocabulary_size", 0)))
        self.output: str = config["output"][0]["name"]
        graph = Path(args["model_repository"]) / args["model_version"] / parameters["graph"]
        self.engine = Engine(graph, parameters.get("precision"))
        self.tokens = Counter("conch_tokens_total", "Tokens computed", args["model_name"])
        self.padding = Counter("conch_padding_tokens_total", "Work on padding, in tokens", args["model_name"])
        triton.Logger.log_info(f"{args['model_name']} computes in {self.engine.precision}")

    def execute(self, requests: list[triton.InferenceRequest]) -> list[triton.InferenceResponse]:
        """Answer each request; one with malformed tensors fails alone."""
        rows: list[Row] = []
        answers: list[slice | triton.TritonError] = []
        for request in requests:
            try:
                own = self._read(request)
            except InvalidTensorsError as exc:
                answers.append(triton.TritonError(str(exc), triton.TritonError.INVALID_ARG))
            else:
                answers.append(slice(len(rows), len(rows) + len(own)))
                rows += own
        results = self._run(rows)
        return [
            triton.InferenceResponse([triton.Tensor.from_dlpack(self.output, results[answer])])
            if isinstance(answer, slice)
            else triton.InferenceResponse([], answer)
            for answer in answers
        ]

    def _run(self, rows: list[Row]) -> NDArray[np.float32]:
        tokens, padding = self.engine.tokens, self.engine.padding
        results = self.engine.run(rows)
        self.tokens.add(self.engine.tokens - tokens)
        self.padding.add(self.engine.padding - padding)
        return results

    def _read(self, request: triton.InferenceRequest) -> list[Row]:
        names = [name for field in self.engine.fields for name in field.inputs]
        tensors = {name: np.from_dlpack(triton.get_input_tensor_by_name(request, name)) for name in names}
        return read_rows(tensors, self.engine.fields, self.limits)
