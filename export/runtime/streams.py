"""Executes a graph on OpenVINO: on all cores together, or several times side by side, each on one core.

Entries of the python backend hold a copy of this file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import cores
from .contract import Array

Feed = Mapping[str, Array]
"""The inputs of one execution."""
Request = Any
"""An openvino.InferRequest, which holds the outputs of its last execution."""

KERNELS = 1000
"""Compiled kernels to keep for the sizes of packs. OpenVINO keeps 5000 by default, which takes some 200 MiB more and
makes no workload faster; with 500, some are 5% slower."""
MOST_WEIGHTS = 2**30
"""Bytes of a graph's files above which the weights are not held twice: the larger its products, the less do threads
wait for each other."""
MOST_STREAMS = 16
"""Executions side by side, at most. Each has kernels and activations of its own: about 50 MiB."""


class Streams:
    """A graph compiled for both, so that the weights are held twice: with more than MOST_WEIGHTS only for all cores."""

    def __init__(self, graph: Path, precision: str | None = None) -> None:
        """Compile a graph.

        Args:
            graph: an ONNX or OpenVINO file.
            precision: "f32", or "bf16", which is the default and f32 where the processor does not compute in bf16.
        """
        import openvino as ov  # noqa: PLC0415 - an export for GPUs does without

        core = ov.Core()
        self.threads = cores.count()
        """Of all executions together."""
        settings: dict[str, object] = {
            # By default OpenVINO counts physical cores, and takes a virtual machine's two CPUs for one.
            "INFERENCE_NUM_THREADS": self.threads,
            # A thread pinned to a core would wait there for the gateway, or for another model's thread.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS,
            "INFERENCE_PRECISION_HINT": hint(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        }
        model = core.read_model(graph)
        self.compiled = core.compile_model(model, "CPU", settings | {"NUM_STREAMS": 1})
        self.precision: str = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        """"f32" or "bf16"."""
        self._on_all: Request = self.compiled.create_infer_request()
        self._on_one: list[Request] = [self._on_all]
        if (number := min(self.threads, MOST_STREAMS)) > 1 and _bytes(graph) <= MOST_WEIGHTS:
            compiled = core.compile_model(model, "CPU", settings | {"NUM_STREAMS": number})
            self._on_one = [compiled.create_infer_request() for _ in range(number)]

    def __len__(self) -> int:
        """How many executions there can be side by side."""
        return len(self._on_one)

    def on_all(self, feed: Feed) -> Request:
        """Execute on all cores. The outputs are there until the next execution."""
        self._on_all.infer(feed, share_inputs=True, share_outputs=True)
        return self._on_all

    def on_one(self, feeds: Sequence[Feed], times: Sequence[float]) -> Iterator[tuple[int, Request]]:
        """Execute side by side, the first ones first.

        Args:
            feeds: of each execution.
            times: how long each takes, in any unit. The core that should be free first takes the next one.

        Yields:
            The place of an execution that is done; its outputs are there until the next place is asked for.
        """
        free_at = [0.0] * len(self)
        running: dict[int, int] = {}  # places by core
        try:
            for place, (feed, time) in enumerate(zip(feeds, times, strict=True)):
                core = free_at.index(min(free_at))
                if core in running:
                    yield self._finished(running, core)
                self._on_one[core].start_async(feed, share_inputs=True)
                running[core] = place
                free_at[core] += time
            while running:
                yield self._finished(running, min(running, key=free_at.__getitem__))
        finally:
            for core in running:  # of an error, or a caller who has enough
                with suppress(RuntimeError):
                    self._on_one[core].wait()

    def _finished(self, running: dict[int, int], core: int) -> tuple[int, Request]:
        self._on_one[core].wait()
        return running.pop(core), self._on_one[core]


def _bytes(graph: Path) -> int:
    """The size of a graph and of its weights beside it."""
    return sum(file.stat().st_size for file in graph.parent.glob(f"{graph.stem}.*"))


def hint(precision: str | None, capabilities: Sequence[str]) -> str:
    """OpenVINO's hint for a precision, on a processor with these capabilities.

    Without one, or with bf16 on a processor that lacks it, OpenVINO takes f16 where there is that: on Arm, and on some
    x86. No export verifies it, and some models exceed its range.
    """
    return "f32" if precision == "f32" or "BF16" not in capabilities else "bf16"
