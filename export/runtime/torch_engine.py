"""Runs a torch program on a GPU or a CPU: rows of any length in, the outputs that are wanted of each row out.

Entries of the torch backend hold a copy of this file; the export verifies with it.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from .compiled import FORMS, compiled_staleness, load_compiled
from .contract import FIELDS, IMAGE_TOKENS, Output, Row, Values, in_order
from .counts import Counts, resident_memory
from .execution import Execution, cut
from .inputs import EMPTY, Ints, Layout, Pack, Sizes, dtype, write_rows
from .operators import has_flash
from .program import IMAGES, PROGRAM, SPEC, TYPES, ProgramSpec, load

Program = Callable[[list[Tensor]], Sequence[Tensor]]
"""Takes the inputs in the order of the specification, and returns the outputs so."""
Span = tuple[int, int]
"""Begin and end."""

GRAPH_TOKENS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Tokens of executions that are recorded, as far as that pays for this model."""
GRAPH_LONGEST = 512
"""Tokens of the longest row in those of several rows: attention launches as much for each row."""
GRAPH_GAIN = 0.8
"""A recorded execution takes at most so much of the time of a launched one: up to a third of it is padding."""
GRAPH_ROWS = (1, 16, 128)
"""Texts or pairs of those."""
PADDED_GRAPH_TOKENS = 512
"""The same where rows are padded to the longest, which for a recorded execution is all of its tokens."""
GRAPH_IMAGES = (2, 4, 8, 16)
GRAPH_QUERY_TOKENS = 256
"""Tokens of the query of recorded pairs."""
DTYPES: Mapping[type[np.generic], torch.dtype] = {
    np.uint8: torch.uint8,
    np.int32: torch.int32,
    np.float32: torch.float32,
}
"""torch's types by numpy's."""


class Engine:
    """A program on its device. Not thread-safe: each Triton instance has one."""

    def __init__(self, graph: Path, precision: str | None = None, device: str = "cpu") -> None:
        """Load a program as the export writes it, compiled if it was compiled for this machine.

        Args:
            graph: program.pt2, among its other files.
            precision: the program's, if it is given.
            device: such as "cpu" or "cuda:0".

        Raises:
            ProgramError: the program cannot be run here.
        """
        folder = graph.parent
        self.spec = ProgramSpec.read(folder / SPEC)
        if precision not in {None, self.spec.precision}:
            raise ValueError(f"the program computes in {self.spec.precision}, not in {precision}")
        self.precision = self.spec.precision
        self.device = _device(device)
        self.fields = tuple(field for field in FIELDS if field.name in self.spec.fields)
        expansion = self.spec.expansion
        self._least = [
            expansion.length if expansion is not None and field.name == expansion.field else 0 for field in self.fields
        ]
        self.outputs = self.spec.outputs
        self.counts = Counts(executions=Counter(graph=0, compiled=0, eager=0))
        """Padding is what fills a recorded execution up."""
        if self.device.type == "cuda":  # pragma: needs a GPU
            torch.cuda.set_device(self.device)  # or pinned memory would open the first GPU too
            # Sums in half precision are what no verification on a CPU sees.
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.exported = {PROGRAM: load(folder, self.device)}
        """PROGRAM and, if there is one for packs with images, IMAGES."""
        if self.spec.image_inputs:
            self.exported[IMAGES] = load(folder, self.device, IMAGES, self.exported[PROGRAM].state_dict)
        self._programs: dict[str, Program] = {name: _eager(program) for name, program in self.exported.items()}
        self.uncompiled = compiled_staleness(folder, self.device)
        """Why the programs are not compiled; None if they are."""
        self.padded = self.spec.padded or not has_flash(self.device, TYPES[self.precision], self.spec.head_width)
        """Whether memory grows with rows x longest."""
        self.execution = Execution.read(folder) if self.uncompiled is None else Execution()
        self._image = _image(self.spec, self.exported[PROGRAM])
        self._buckets: list[Bucket] = []
        self.unrecorded: str | None = None
        """Why small packs are launched kernel by kernel on a GPU, if they are."""
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":  # pragma: needs a GPU
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._stagings = cycle([Staging(pinned=self._stream is not None) for _ in range(2)])
        if self.uncompiled is None:
            try:
                self.adopt(folder)
            except RuntimeError as exc:
                self.uncompiled = str(exc)
        if self.uncompiled is not None:
            self._record()
        if self._stream is not None:  # pragma: needs a GPU
            # After the recorded executions, which keep their outputs: vectors of tokens take hundreds of MiB.
            self.execution = self.execution.within(torch.cuda.mem_get_info(self.device)[0])

    @property
    def description(self) -> str:
        """How it computes, for the log."""
        where = torch.cuda.get_device_name(self.device) if self._stream is not None else "a CPU"
        how = "compiled" if self.uncompiled is None else f"not compiled, because {self.uncompiled}"
        if self.unrecorded is not None:  # pragma: needs a GPU
            how += f", without CUDA graphs, because {self.unrecorded}"
        limits = self.execution
        return f"{self.precision} on {where}, {how}; up to {limits.tokens} tokens and {limits.rows} rows at once"

    def adopt(self, folder: Path) -> None:
        """Compute by the compiled forms of the programs, without asking whether they fit.

        Args:
            folder: theirs.

        Raises:
            RuntimeError: one does not load here.
        """
        programs: dict[str, Program] = {}
        for name, program in self.exported.items():
            try:
                programs[name] = load_compiled(folder / FORMS[name], program, self.device)
            except RuntimeError as exc:
                raise RuntimeError(f"torch does not load {FORMS[name]}: {str(exc).partition(chr(10))[0]}") from exc
        self._programs = programs
        self.uncompiled = None
        self._record()

    def _record(self) -> None:
        """Record the executions of small packs, where that saves time."""
        self._buckets = []
        self.unrecorded = None
        if self._stream is not None:  # pragma: needs a GPU
            try:
                self.prepare(buckets(self.spec, padded=self.padded))
            except RuntimeError as exc:  # it serves without
                self._buckets = []
                self.unrecorded = str(exc).partition("\n")[0]
            torch.cuda.synchronize(self.device)  # raises if the device is lost

    def prepare(self, sizes: Iterable[Sizes]) -> None:
        """Prepare executions of some sizes, which smaller packs then use. On a GPU they are recorded as CUDA graphs."""
        self._buckets = []  # their memory, before more is taken
        found = []
        pool = torch.cuda.graph_pool_handle() if self._stream is not None else None
        slow: set[int] = set()  # numbers of rows of which more tokens are not worth it either
        for one in sorted(sizes, key=_order):
            bucket = Bucket(self.spec.inputs, one, self._image, self.device)
            bucket.run = launch = partial(self._programs[PROGRAM], bucket.arguments)
            if self._stream is not None and pool is not None:  # pragma: needs a GPU
                if one.rows in slow:
                    continue
                bucket.run = partial(_replay, *_capture(launch, self._stream, pool))
                if _seconds(bucket.run, self._stream) > GRAPH_GAIN * _seconds(launch, self._stream):
                    slow.add(one.rows)
                    continue
            found.append(bucket)
        self._buckets = found

    def is_alive(self) -> bool:
        """Whether it can still compute after an error: a GPU is lost to a process that made it fail."""
        try:
            if self._stream is not None:  # pragma: needs a GPU
                torch.cuda.synchronize(self.device)
        except RuntimeError:  # pragma: needs a GPU
            return False
        return True

    def memory(self) -> dict[str, int]:
        """Bytes by kind: on a GPU, what tensors take, what this process holds, and the GPU's own, free and in all."""
        if self._stream is None:
            return resident_memory()
        try:  # pragma: needs a GPU
            free, total = torch.cuda.mem_get_info(self.device)
        except RuntimeError:  # pragma: needs a GPU
            return {}  # the device is lost
        return {  # pragma: needs a GPU
            "allocated": torch.cuda.memory_allocated(self.device),
            "reserved": torch.cuda.memory_reserved(self.device),
            "free": free,
            "total": total,
        }

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

        Raises:
            RuntimeError: a row does not fit into memory.
        """
        outputs = [output for output in self.outputs if output.name in wanted]
        costs = [self.cost(row) for row in rows]
        packs = cut(costs, self.execution, self.spec.heads if self.padded else 0)
        computed: list[dict[str, Copied]] = []
        with self.counts.computing(sum(costs)), torch.inference_mode(), self._scope():
            for pack in packs:
                self._compute(rows, pack, outputs, each, computed)
            if self._stream is not None:  # pragma: needs a GPU
                self._stream.synchronize()
        return {
            output.name: in_order(
                output,
                len(rows),
                ((one.places, one.by_rows()) for copied in computed if (one := copied.get(output.name)) is not None),
            )
            for output in outputs
        }

    def _scope(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def cost(self, row: Row) -> int:
        """Tokens of a row, at most: a query that other rows have too is computed once."""
        return sum(
            max(field.cost(value), least if value.size else 0)
            for field, value, least in zip(self.fields, row, self._least, strict=True)
        )

    def _compute(
        self,
        rows: Sequence[Row],
        places: Sequence[int],
        outputs: Sequence[Output],
        each: Sequence[Collection[str]] | None,
        computed: list[dict[str, "Copied"]],
    ) -> None:
        """Start to compute a pack or, if there is no memory for it, its halves."""
        own = {
            output.name: [i for i, place in enumerate(places) if each is None or output.name in each[place]]
            for output in outputs
        }
        try:
            pack = Pack(self.spec.fields, [rows[place] for place in places], self.spec.expansion, self.spec.vision)
            computed.append(self._start(pack, places, own))
        except RuntimeError as exc:
            if len(places) == 1 or not self._lacks_memory(exc):
                raise
        else:
            return
        # Outside of the handler, whose exception holds the tensors.
        self.counts.halved += 1
        if self._stream is not None:  # pragma: needs a GPU
            torch.cuda.empty_cache()
        half = len(places) // 2
        self._compute(rows, places[:half], outputs, each, computed)
        self._compute(rows, places[half:], outputs, each, computed)

    def _lacks_memory(self, exc: RuntimeError) -> bool:
        """Compiled programs and the allocator of a CPU raise no class of their own."""
        return isinstance(exc, torch.OutOfMemoryError) or self.uncompiled is None or "allocate memory" in str(exc)

    def _start(self, pack: Pack, places: Sequence[int], own: Mapping[str, Sequence[int]]) -> dict[str, "Copied"]:
        """Start to compute a pack and to copy outputs of it.

        Args:
            pack: of rows.
            places: of those among all rows.
            own: the rows of the pack that want an output, by its name.
        """
        names = self.spec.inputs_of(images=pack.has_images)
        bucket = None
        if not pack.has_images:
            bucket = next((bucket for bucket in self._buckets if bucket.sizes.holds(pack.sizes)), None)
        sizes = pack.sizes if bucket is None else bucket.sizes
        layout = Layout(names, sizes, self._image, pack.shapes) if bucket is None else bucket.layout
        staging = next(self._stagings)
        pack.write(layout.views(staging.take(layout.size)), sizes)
        if bucket is None:
            buffer = torch.empty(layout.size, dtype=torch.int32, device=self.device)
            staging.copy_to(buffer)
            program = IMAGES if pack.has_images and IMAGES in self._programs else PROGRAM
            results = self._programs[program](arguments(names, layout, sizes, buffer))
        else:
            staging.copy_to(bucket.buffer)
            results = bucket.run()
        copied = {}
        for output, result in zip(self.outputs, results, strict=True):
            if rows := own.get(output.name):
                spans = _spans(output, pack)
                stretches = [(0, pack.number if output.per == "row" else pack.tokens)]
                if len(rows) < pack.number:
                    stretches, spans = close_up([spans[row] for row in rows])
                parts = [result[begin:end] for begin, end in stretches]
                values = parts[0] if len(parts) == 1 else torch.cat(parts)
                copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=self._stream is not None)
                copy.copy_(values, non_blocking=True)
                copied[output.name] = Copied([places[row] for row in rows], output, copy, spans)
        mode = "graph" if bucket is not None else "compiled" if self.uncompiled is None else "eager"
        self.counts.executions[mode] += 1
        self.counts.tokens += pack.tokens + pack.patches
        self.counts.padding += sizes.tokens - pack.tokens
        return copied


@dataclass(frozen=True, slots=True)
class Copied:
    """An output of those rows of a pack that want it, which may still be on its way to the host."""

    places: Sequence[int]
    """Of the rows among all."""
    output: Output
    values: Tensor
    """One for each row, [N, ...], or for each of their tokens."""
    spans: Sequence[Span]
    """Where each row's values are."""

    def by_rows(self) -> Values:
        """The same as `Values` are, once it is there."""
        values = self.values.numpy()
        return values if self.output.per == "row" else [values[begin:end] for begin, end in self.spans]


def _spans(output: Output, pack: Pack) -> list[Span]:
    """Where each row's values of an output are."""
    if output.per == "row":
        return [(row, row + 1) for row in range(pack.number)]
    return pack.text_tokens if output.per == "token" else pack.query_tokens


def close_up(spans: Sequence[Span]) -> tuple[list[Span], list[Span]]:
    """The stretches that hold some spans, and where each span is when these stand one behind the other.

    Args:
        spans: in any order; two are the same or do not overlap.
    """
    stretches: list[Span] = []
    moved: dict[Span, Span] = {}
    length = 0
    for begin, end in sorted(set(spans)):
        moved[begin, end] = (length, length := length + end - begin)
        if stretches and stretches[-1][1] == begin:
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((begin, end))
    return stretches, [moved[span] for span in spans]


class Bucket:
    """An execution of one size, with memory of its own for its inputs."""

    def __init__(self, names: Sequence[str], sizes: Sizes, image: tuple[int, ...], device: torch.device) -> None:
        """Lay out the inputs, of rows without tokens.

        Args:
            names: the program's inputs.
            sizes: of the execution.
            image: the shape of an image.
            device: where the program runs.
        """
        self.sizes = sizes
        self.layout = Layout(names, sizes, image)
        rows = np.zeros(self.layout.size, np.int32)
        if "starts" in names:  # no kernel may read behind its input, whatever the output is for
            lengths = np.zeros(sizes.rows, np.int32)
            lengths[-1] = sizes.tokens
            write_rows(self.layout.views(rows), lengths)
        self.buffer = torch.from_numpy(rows).to(device)
        self.arguments = arguments(names, self.layout, sizes, self.buffer)
        self.run: Callable[[], Sequence[Tensor]]
        """Compute the outputs of what is in the buffer."""


class Staging:
    """Memory of the host that inputs are written to and copied from."""

    def __init__(self, *, pinned: bool) -> None:
        """Take no memory yet.

        Args:
            pinned: whether a GPU copies it while the host goes on.
        """
        self._pinned = pinned
        self._memory = torch.empty(0, dtype=torch.int32)
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]

    def take(self, size: int) -> Ints:
        """The memory, once its last copy is done."""
        if self._copied is not None:  # pragma: needs a GPU
            self._copied.synchronize()
        if size > len(self._memory):
            self._memory = torch.empty(max(size, 1 << 14), dtype=torch.int32, pin_memory=self._pinned)
        self._size = size
        taken: Ints = self._memory.numpy()[:size]
        return taken

    def copy_to(self, buffer: Tensor) -> None:
        """Start to copy what was taken."""
        buffer.copy_(self._memory[: self._size], non_blocking=True)
        if self._copied is not None:  # pragma: needs a GPU
            self._copied.record()


def arguments(names: Sequence[str], layout: Layout, sizes: Sizes, buffer: Tensor) -> list[Tensor]:
    """The inputs of a program in a buffer on its device."""
    found = []
    for name in names:
        if name in EMPTY:
            found.append(torch.empty(getattr(sizes, name), 0, device=buffer.device))
            continue
        begin, end, shape = layout.sections[name]
        section = buffer[begin:end].view(DTYPES[dtype(name)])
        found.append(section[: int(np.prod(shape))].view(shape))
    return found


def buckets(spec: ProgramSpec, *, padded: bool) -> list[Sizes]:
    """The sizes of executions worth recording.

    Args:
        spec: of the program.
        padded: whether its work grows with rows x longest.
    """
    if "patches" in spec.inputs:
        return []  # images of any size have sizes of their own
    if "pixels" in spec.inputs:
        return [Sizes(images * IMAGE_TOKENS, images, 0) for images in GRAPH_IMAGES]
    rows, most = (GRAPH_ROWS[:1], PADDED_GRAPH_TOKENS) if padded else (GRAPH_ROWS, GRAPH_TOKENS[-1])
    sizes = [(tokens, count) for tokens in GRAPH_TOKENS for count in rows if 2 * count <= tokens <= most]
    found = []
    for tokens, count in sizes:
        longest = tokens if count == 1 else min(tokens, GRAPH_LONGEST)
        if "query" in spec.inputs:
            query = GRAPH_QUERY_TOKENS if count == 1 else GRAPH_QUERY_TOKENS // 4
            pairs = max(2, count)
            found.append(Sizes(tokens, pairs + 2, longest, pairs, min(tokens, query)))
        else:
            found.append(Sizes(tokens, count + 1, longest))
    return found


def _device(name: str) -> torch.device:
    """A device; a GPU with its number."""
    if name == "cuda":
        return torch.device("cuda", torch.cuda.current_device())  # pragma: needs a GPU
    return torch.device(name)


def _order(sizes: Sizes) -> tuple[int, int]:
    return sizes.tokens, sizes.rows


def _eager(program: ExportedProgram) -> Program:
    module = program.module(check_guards=False)
    module._forward_pre_hooks.clear()  # they compare sizes with the program's limits, which takes a millisecond

    def run(inputs: list[Tensor]) -> Sequence[Tensor]:
        results: Sequence[Tensor] = module(*inputs)
        return results

    return run


def _image(spec: ProgramSpec, program: ExportedProgram) -> tuple[int, ...]:
    """The shape of an image, if the program takes images."""
    if "pixels" not in spec.inputs:
        return ()
    name = program.graph_signature.user_inputs[spec.inputs.index("pixels")]
    (pixels,) = (node for node in program.graph.nodes if node.name == name)
    return tuple(map(int, pixels.meta["val"].shape[1:]))


def _capture(  # pragma: needs a GPU
    run: Callable[[], Sequence[Tensor]],
    stream: torch.cuda.Stream,
    pool: Any,  # noqa: ANN401 - torch's handle
) -> tuple[torch.cuda.CUDAGraph, Sequence[Tensor]]:
    """Record a run as a CUDA graph, in the memory of a pool, and return it with the memory of its outputs."""
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(2):  # kernels are loaded, and libraries take their memory
            run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                outputs = run()
        except RuntimeError as exc:
            # Otherwise the allocator takes the capture for unfinished, and never frees memory again.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(stream.device_index, pool)
            raise RuntimeError(f"recording fails: {exc.__context__ or exc}") from exc
    return graph, outputs


def _seconds(run: Callable[[], Sequence[Tensor]], stream: torch.cuda.Stream) -> float:  # pragma: needs a GPU
    """The time of a run, at best."""
    taken = []
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(4):
            begin = time.perf_counter()
            run()
            stream.synchronize()
            taken.append(time.perf_counter() - begin)
    return min(taken)


def _replay(graph: torch.cuda.CUDAGraph, outputs: Sequence[Tensor]) -> Sequence[Tensor]:  # pragma: needs a GPU
    graph.replay()
    return outputs
