"""Other engines in process, in turns with Conch's, with the same weights and the same token ids.

None of them tokenizes here, and each computes rows of similar length together. Compared are the work on the device and
the copies to it and back.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from export.entry import is_built
from export.plans.measures import cosine_errors
from export.repository import build
from export.runtime.contract import TEXT, Row
from export.verification.runners import CUDA, cuda_options
from loadtest.experiments.gpu.engine import Conch
from loadtest.experiments.gpu.plan import MIXED, Model, Plan, rows, source, spec
from loadtest.experiments.gpu.rates import Engine, throughput
from loadtest.experiments.gpu.results import LeaveOut, Results

PADDED_TOKENS = 16384
"""Tokens that a peer computes at a time, padding included."""
BATCHES = 2
"""How many of the plan's batches are compared: the largest."""
KINDS = 2
"""How many kinds of text are compared with the models after the first: the last."""
ONNX_TOKENS = 512
"""Models that take longer texts are not exported for ONNX Runtime here: the proof of that takes minutes."""


CHECKED = 16
"""Rows whose vectors must be alike in all engines."""
ALIKE = 1e-2
"""1 - cosine of fp16 and fp16."""


class LeftOutError(Exception):
    """An engine cannot be compared. Says why."""


def run(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    """Compare with all models."""
    results.compared = []
    for place, model in enumerate(plan.models):
        engines = [Conch(plan, plan.entry(model)), *_peers(plan, model, leave_out)]
        _check(engines, rows(plan.entry(model), MIXED, CHECKED))
        for kind in model.lengths if place == 0 else model.lengths[-KINDS:]:
            for batch in plan.batches[-BATCHES:]:
                for found in throughput(plan, model, engines, kind, batch):
                    results.compared.append(found)
                    rate = max(found.texts_per_second)
                    print(f"{model.name} {kind:>5} tokens, {batch:4} texts, {found.engine:40} {rate:9,.0f} texts/s")


def _check(engines: Sequence[Engine], given: Sequence[Row]) -> None:
    """Raise RuntimeError if an engine computes something else than the first: its speed would mean nothing."""
    expected = engines[0].run(given)
    for engine in engines[1:]:
        if not (error := cosine_errors(expected, engine.run(given)).max()) <= ALIKE:
            raise RuntimeError(f"{engine.name} differs from {engines[0].name} by {error:.2g} (1 - cosine)")


def _peers(plan: Plan, model: Model, leave_out: LeaveOut) -> Iterator[Engine]:
    """Those that this machine has."""
    starts: Mapping[str, Callable[[str, Plan, Model], Engine]] = {
        "sentence-transformers with sdpa": partial(SentenceTransformers, attention="sdpa"),
        "sentence-transformers with flash attention": partial(SentenceTransformers, attention="flash_attention_2"),
        "ONNX Runtime": OnnxRuntime,
    }
    for name, begin in starts.items():
        try:
            yield begin(name, plan, model)
        except LeftOutError as exc:
            leave_out(f"{name}, {model.name}", str(exc))


class SentenceTransformers:
    """sentence-transformers in fp16 on a GPU, without padding where flash attention is installed."""

    def __init__(self, name: str, plan: Plan, model: Model, attention: str) -> None:
        if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
            raise LeftOutError("the package flash-attn is not installed")
        on_gpu = plan.device != "cpu"
        self.name = name
        self._model: Any = SentenceTransformer(
            str(source(plan, model)),
            device=plan.device,
            model_kwargs={"attn_implementation": attention, "dtype": torch.float16 if on_gpu else torch.float32},
        )
        self._model.eval()
        self._is_flat: bool = getattr(self._model[0], "can_flatten_inputs", False)
        self._first_position: int = getattr(self._model[0], "_flatten_position_offset", 0)

    @torch.inference_mode()
    def run(self, given: Sequence[Row]) -> NDArray[np.float32]:
        parts = list(cut([len(ids) for (ids,) in given]))
        vectors = []
        for part in parts:
            values = [given[i][0].astype(np.int64) for i in part]
            features = self._flat(values) if self._is_flat else _padded(values)
            features = {
                name: value.to(self._model.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            vectors.append(self._model(features)["sentence_embedding"].float())
        result: NDArray[np.float32] = torch.cat(vectors).cpu().numpy()
        return result[np.argsort(np.concatenate(parts))]

    def _flat(self, values: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
        """What its own DataCollatorWithFlattening makes of rows, which is slow."""
        lengths = [len(ids) for ids in values]
        starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        position = np.concatenate([np.arange(length) for length in lengths]) + self._first_position
        row = np.repeat(np.arange(len(values), dtype=np.int32), lengths)
        return {
            "input_ids": torch.from_numpy(np.concatenate(values))[None],
            "position_ids": torch.from_numpy(position)[None],
            "seq_idx": torch.from_numpy(row)[None],
            "cu_seq_lens_q": starts,
            "cu_seq_lens_k": starts,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
        }


def _padded(values: Sequence[NDArray[np.int64]]) -> dict[str, torch.Tensor]:
    ids = np.zeros((len(values), max(map(len, values))), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(values):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


class OnnxRuntime:
    """Our own entry for Triton's onnxruntime backend in fp16, by CUDA."""

    def __init__(self, name: str, plan: Plan, model: Model) -> None:
        on_gpu = plan.device != "cpu"
        if on_gpu and CUDA not in ort.get_available_providers():
            raise LeftOutError("this onnxruntime is built without CUDA: install onnxruntime-gpu")
        if model.longest > ONNX_TOKENS:
            raise LeftOutError("its export for ONNX Runtime takes minutes")
        self.name = name
        table, repository = spec(plan, model, "onnxruntime"), plan.folder / "onnxruntime"
        if not is_built(table, repository):
            build(table, repository, lambda _: None)
        if on_gpu:
            ort.preload_dlls()  # CUDA's, from NVIDIA's packages, which are on no path
        provider = (CUDA, cuda_options((TEXT,))) if on_gpu else "CPUExecutionProvider"
        graph = repository / model.name / "1" / "model.onnx"
        self._session = ort.InferenceSession(graph, providers=[provider])
        if on_gpu and CUDA not in self._session.get_providers():
            raise LeftOutError("CUDA did not start in onnxruntime: its log says why")

    def run(self, given: Sequence[Row]) -> NDArray[np.float32]:
        parts = list(cut([len(ids) for (ids,) in given]))
        vectors = [self._session.run(None, TEXT.feed([given[i][0] for i in part]))[0] for part in parts]
        result: NDArray[np.float32] = np.concatenate(vectors)
        return result[np.argsort(np.concatenate(parts))]


def cut(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Batches of rows of similar length, the longest first, each of PADDED_TOKENS or of one row."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > PADDED_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
