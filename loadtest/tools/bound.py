"""ONNX Runtime in process, in fp32: what no server that is built on it exceeds.

It gets the token ids of all rows beforehand, and computes neither tokens nor pooling nor JSON.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.runtime.contract import Row
from loadtest.tools import ceiling

BATCHES = (1, 4, 16, 64)
"""Rows in an execution that are tried."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a graph is run."""

    batch: int
    """Rows in an execution."""
    spins: bool
    """Whether threads that wait for work keep their core, which is ONNX Runtime's default."""

    def __str__(self) -> str:
        return f"{self.batch} rows, threads {'spin' if self.spins else 'sleep'}"


class OnnxRuntime:
    """A padded graph of `baseline.prepare`, with a thread per core."""

    def __init__(self, graph: Path) -> None:
        self._sessions = {spins: _session(graph, spins) for spins in (True, False)}

    def run(self, rows: Sequence[Row], setting: Setting) -> None:
        """Compute rows, sorted by length and padded to the longest of each execution; what comes out is dropped."""
        ordered = sorted((ids for (ids,) in rows), key=len)
        for start in range(0, len(ordered), setting.batch):
            self._hidden(padded(ordered[start : start + setting.batch]), setting.spins)

    def embed(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Unit vectors of rows, by the mean over tokens: [rows, width]."""
        given = padded([ids for (ids,) in rows])
        mask = given["attention_mask"][..., None]
        sums = (self._hidden(given, spins=True) * mask).sum(axis=1)
        unit: NDArray[np.float32] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return unit

    def best(self, rows: Sequence[Row], most: int, seconds: float) -> Setting:
        """The fastest setting.

        Args:
            rows: a sample.
            most: rows that an execution may have: a server never has more of them than its clients have sent.
            seconds: that each setting is tried.
        """
        settings = [Setting(batch, spins) for batch in BATCHES if batch <= most for spins in self._sessions]
        return max(settings, key=lambda one: ceiling.rows_per_second(partial(self.run, setting=one), rows, seconds))

    def _hidden(self, given: dict[str, NDArray[np.int64]], spins: bool) -> NDArray[np.float32]:
        """[rows, tokens, width]."""
        hidden: NDArray[np.float32] = self._sessions[spins].run(None, given)[0]
        return hidden


def _session(graph: Path, spins: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def padded(rows: Sequence[NDArray[np.generic]]) -> dict[str, NDArray[np.int64]]:
    """A graph's inputs: [rows, tokens of the longest]."""
    mask = np.arange(max(map(len, rows))) < np.array([[len(row)] for row in rows])
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(rows)
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": np.zeros_like(ids)}
