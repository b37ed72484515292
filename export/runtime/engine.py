"""Runs a graph on OpenVINO: rows of any length in, the outputs that are wanted of each row out.

Entries of the python backend hold a copy of this file; the export verifies with it.
"""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from .contract import FIELDS, OUTPUTS, Array, Output, Row, Values, in_order, read_output, text_field
from .counts import Counts, resident_memory

HINTS: Mapping[str, str | None] = {"bf16": None, "fp32": "f32", "int8": None}
"""OpenVINO's name for a precision of the python backend; None for bf16 where the processor computes in it."""
NAMES: Mapping[str, str] = {"f32": "fp32", "bf16": "bf16"}
"""The precision for what OpenVINO says it computes in."""
PACK_TOKENS = 512
"""Tokens in one execution. On two AVX-512 cores 384 to 512 gave the most tokens/s; beyond that the activations outgrow
the caches."""
KERNELS = 1000
"""Compiled kernels to keep for the sizes of packs. OpenVINO keeps 5000 by default, which takes some 200 MiB more and
makes no workload faster; with 500, some are 5% slower."""
PACK_COST = 20
"""Fixed time of an execution, in tokens. This and the next are measured for all-MiniLM-L6-v2 in bf16 on two cores. For
larger models this one is lower and the next higher, but there it matters less where packs are cut."""
CELLS_PER_TOKEN = 900
"""Cells of attention (a token attending to a token or to padding) that take as long as the other work on a token."""


class Engine:
    """A compiled graph. Not thread-safe: each Triton instance has one."""

    def __init__(self, graph: Path, precision: str | None = None, device: str = "cpu") -> None:
        """Compile a graph as the export writes them.

        Args:
            graph: an ONNX or OpenVINO file.
            precision: "f32", or "bf16", which is the default and f32 where the processor does not compute in bf16.
            device: has to be "cpu".
        """
        if device != "cpu":
            raise ValueError(f"this engine computes on CPUs only, not on {device}")
        import openvino as ov  # noqa: PLC0415 - an export for GPUs does without

        settings: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            # By default OpenVINO counts physical cores, and takes a virtual machine's two CPUs for one.
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
            # A thread pinned to a core would wait there for the gateway, or for another model's thread.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS,
        }
        core = ov.Core()
        settings["INFERENCE_PRECISION_HINT"] = hint(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        compiled = core.compile_model(graph, "CPU", settings)
        self.precision: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.description = self.precision
        """How it computes, for the log."""
        names = {name for port in compiled.inputs for name in port.names}
        self.fields = tuple(field for field in FIELDS if field.name in names)
        self._ports = {name: port for name in OUTPUTS for port in compiled.outputs if name in port.names}
        self.outputs = tuple(
            read_output(name, [-1 if size.is_dynamic else size.get_length() for size in port.partial_shape])
            for name, port in self._ports.items()
        )
        self.counts = Counts(executions=Counter(compiled=0))
        """Only attention has padding: it extends rows to the longest of the pack."""
        self._request = compiled.create_infer_request()

    def is_alive(self) -> bool:
        """Whether it can still compute after an error."""
        return True

    def run(
        self, rows: Sequence[Row], wanted: Collection[str], each: Sequence[Collection[str]] | None = None
    ) -> dict[str, Values]:
        """Compute every row.

        Args:
            rows: in any order.
            wanted: names of outputs.
            each: those of each row, where some want fewer: only what a row wants is copied for it.

        Returns:
            The outputs by name, of all rows in the order given; zeros, or no tokens, of a row that does not want them.
        """
        outputs = [output for output in self.outputs if output.name in wanted]
        parts: dict[str, list[tuple[Sequence[int], Values]]] = {output.name: [] for output in outputs}
        costs = [sum(field.cost(value) for field, value in zip(self.fields, row, strict=True)) for row in rows]
        with self.counts.computing(sum(costs)):
            for pack in packs(costs, PACK_TOKENS):
                given = [rows[i] for i in pack]
                computed = self._execute(given)
                for output in outputs:
                    own = [i for i, place in enumerate(pack) if each is None or output.name in each[place]]
                    if own:
                        values = self._by_rows(output, computed[self._ports[output.name]], given)
                        copied = values[own] if isinstance(values, np.ndarray) else [values[i].copy() for i in own]
                        parts[output.name].append(([pack[i] for i in own], copied))
                self._count([costs[i] for i in pack])
        return {output.name: in_order(output, len(rows), parts[output.name]) for output in outputs}

    def memory(self) -> dict[str, int]:
        """Bytes that are held, by kind."""
        return resident_memory()

    def _count(self, lengths: Sequence[int]) -> None:
        self.counts.executions["compiled"] += 1
        self.counts.tokens += sum(lengths)
        padding = len(lengths) * max(lengths) ** 2 - sum(length**2 for length in lengths)
        self.counts.padding += padding / CELLS_PER_TOKEN

    def _execute(self, rows: Sequence[Row]) -> Mapping[object, Array]:
        """All outputs, in memory that the next execution takes again."""
        feed: dict[str, Array] = {}
        for field, values in zip(self.fields, zip(*rows, strict=True), strict=True):
            feed |= field.feed(values)
        results: Mapping[object, Array] = self._request.infer(feed, share_inputs=True, share_outputs=True)
        return results

    def _by_rows(self, output: Output, values: Array, rows: Sequence[Row]) -> Values:
        if output.per == "row":
            return values
        if output.per == "query token":
            return list(values)
        text = self.fields.index(text_field(self.fields))
        return np.split(values, np.cumsum([len(row[text]) for row in rows[:-1]]))


def hint(precision: str | None, capabilities: Sequence[str]) -> str:
    """OpenVINO's hint for a precision, on a processor with these capabilities.

    Without one, or with bf16 on a processor that lacks it, OpenVINO takes f16 where there is that: on Arm, and on some
    x86. No export verifies it, and some models exceed its range.
    """
    return "f32" if precision == "f32" or "BF16" not in capabilities else "bf16"


def packs(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Cut rows into packs of similar cost, each within the budget unless one row alone exceeds it.

    Of all ways to cut the rows in order of their cost, this takes the least time: few packs, and little padding in
    attention, where each row of a pack is as long as the longest.

    Args:
        costs: tokens of each row.
        budget: tokens a pack may hold.

    Returns:
        The indices of each pack's rows, packs of short ones first; together every row exactly once.
    """
    order = sorted(range(len(costs)), key=costs.__getitem__)
    best = [0.0]  # the least time for so many of the first rows
    cut = [0]  # and where the last pack begins then
    for end in range(1, len(order) + 1):
        longest = costs[order[end - 1]]
        choices: list[tuple[float, int]] = []
        tokens = 0
        for start in range(end - 1, -1, -1):
            tokens += costs[order[start]]
            if tokens > budget and choices:
                break
            # The tokens themselves take the same time however they are cut.
            choices.append((best[start] + PACK_COST + (end - start) * longest**2 / CELLS_PER_TOKEN, start))
        time, start = min(choices)
        best.append(time)
        cut.append(start)
    found = []
    end = len(order)
    while end:
        found.append(order[cut[end] : end])
        end = cut[end]
    return found[::-1]
