"""Runs a graph on OpenVINO: rows of any length in, the outputs that are wanted of each row out.

Entries of the python backend hold a copy of this file; the export verifies with it.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from .contract import FIELDS, OUTPUTS, Array, Output, Prefix, Row, Tokens, Values, in_order, read_output, text_field
from .counts import Counts, resident_memory
from .packs import CELLS_PER_TOKEN, Pace, Paces, plan, work
from .streams import Feed, Request, Streams

HINTS: Mapping[str, str | None] = {"bf16": None, "fp32": "f32", "int8": None}
"""OpenVINO's name for a precision of the python backend; None for bf16 where the processor computes in it."""
NAMES: Mapping[str, str] = {"f32": "fp32", "bf16": "bf16"}
"""The precision for what OpenVINO says it computes in."""
PROBE_TOKENS = 16
PROBE_ROWS = (1, 4)
"""What is timed when a graph is loaded: so many rows of PROBE_TOKENS."""
PROBE_ROUNDS = 5
"""How often; the fastest counts."""
PROBE_S = 1.0
"""The time after which no further round begins: one of a large model takes long enough."""


class Engine:
    """A compiled graph. Not thread-safe: each Triton instance has one."""

    def __init__(
        self, graph: Path, precision: str | None = None, device: str = "cpu", *, paces: Paces | None = None
    ) -> None:
        """Compile a graph as the export writes them.

        Args:
            graph: an ONNX or OpenVINO file.
            precision: "f32", or "bf16", which is the default and f32 where the processor does not compute in bf16.
            device: has to be "cpu".
            paces: how fast the graph is computed; measured by default.
        """
        if device != "cpu":
            raise ValueError(f"this engine computes on CPUs only, not on {device}")
        self._streams = Streams(graph, precision)
        self.precision = self._streams.precision
        ports = self._streams.compiled.outputs
        names = {name for port in self._streams.compiled.inputs for name in port.names}
        self.fields = tuple(field for field in FIELDS if field.name in names)
        self._places = {name: place for name in OUTPUTS for place, port in enumerate(ports) if name in port.names}
        self.outputs = tuple(
            read_output(name, [-1 if size.is_dynamic else size.get_length() for size in ports[place].partial_shape])
            for name, place in self._places.items()
        )
        self.counts = Counts(executions=Counter(compiled=0))
        """Only attention has padding: it extends rows to the longest of the pack."""
        self._paces = paces or self._measure()
        took = [1000 * pace.time(PROBE_TOKENS) for pace in (self._paces.on_one, self._paces.on_all)]
        self.description = (
            f"{self.precision}, {len(self._streams)} at a time: {PROBE_TOKENS} tokens in {took[0]:.1f} ms on one core,"
            f" {took[1]:.1f} ms on all"
        )
        """How it computes, for the log."""

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
        costs = [self._cost(row) for row in rows]
        with self.counts.computing(sum(costs)):
            for pack, request in self._computed(rows, costs):
                for output in outputs:
                    own = [i for i, place in enumerate(pack) if each is None or output.name in each[place]]
                    if own:
                        computed = request.get_output_tensor(self._places[output.name]).data
                        values = self._by_rows(output, computed, [rows[place] for place in pack])
                        copied = values[own] if isinstance(values, np.ndarray) else [values[i].copy() for i in own]
                        parts[output.name].append(([pack[i] for i in own], copied))
                self._count([costs[place] for place in pack])
        return {output.name: in_order(output, len(rows), parts[output.name]) for output in outputs}

    def memory(self) -> dict[str, int]:
        """Bytes that are held, by kind."""
        return resident_memory()

    def _count(self, lengths: Sequence[int]) -> None:
        self.counts.executions["compiled"] += 1
        self.counts.tokens += sum(lengths)
        padding = len(lengths) * max(lengths) ** 2 - sum(length**2 for length in lengths)
        self.counts.padding += padding / CELLS_PER_TOKEN

    def _cost(self, row: Row) -> int:
        return sum(field.cost(value) for field, value in zip(self.fields, row, strict=True))

    def _computed(self, rows: Sequence[Row], costs: Sequence[int]) -> Iterator[tuple[list[int], Request]]:
        """Each pack, and what holds its outputs until the next pack is asked for."""
        chosen = plan(costs, len(self._streams), self._paces)
        feeds = [self._feed([rows[place] for place in pack]) for pack in chosen.packs]
        if chosen.side_by_side:
            times = [self._paces.on_one.time(work(pack, costs)) for pack in chosen.packs]
            for place, request in self._streams.on_one(feeds, times):
                yield chosen.packs[place], request
        else:
            for pack, feed in zip(chosen.packs, feeds, strict=True):
                yield pack, self._streams.on_all(feed)

    def _feed(self, rows: Sequence[Row]) -> Feed:
        feed: dict[str, Array] = {}
        for field, values in zip(self.fields, zip(*rows, strict=True), strict=True):
            feed |= field.feed(values)
        return feed

    def _by_rows(self, output: Output, values: Array, rows: Sequence[Row]) -> Values:
        if output.per == "row":
            return values
        if output.per == "query token":
            return list(values)
        text = self.fields.index(text_field(self.fields))
        return np.split(values, np.cumsum([len(row[text]) for row in rows[:-1]]))

    def _measure(self) -> Paces:
        """Time both ways to execute, in turns. The first round compiles kernels and does not count.

        In CPU time by core, not on the clock: other models load at the same time, and a core that they take would be
        waited for by all the others.
        """
        row = self._probe()
        feeds = {work(range(number), [self._cost(row)] * number): self._feed([row] * number) for number in PROBE_ROWS}
        side_by_side = len(self._streams)

        def on_one(feed: Feed) -> None:
            for _ in self._streams.on_one([feed] * side_by_side, [1] * side_by_side):
                pass

        ways = (on_one, self._streams.on_all)
        fastest = {(way, tokens): inf for way in ways for tokens in feeds}
        began = perf_counter()
        for turn in range(1 + PROBE_ROUNDS):
            for (way, tokens), seconds in fastest.items():
                started = process_time()
                way(feeds[tokens])
                if turn:
                    fastest[way, tokens] = min(seconds, (process_time() - started) / self._streams.threads)
            if turn and perf_counter() - began > PROBE_S:
                break
        small, large = feeds
        return Paces(*(Pace.through((small, fastest[way, small]), (large, fastest[way, large])) for way in ways))

    def _probe(self) -> Row:
        """A row of small values."""
        row: list[Array] = []
        for field in self.fields:
            match field:
                case Tokens():
                    row.append(np.zeros(PROBE_TOKENS, np.int64))
                case Prefix():
                    row.append(np.ones((), np.int32))
                case _:
                    shape = self._streams.compiled.input(field.name).partial_shape
                    row.append(np.zeros([size.get_length() for size in list(shape)[1:]], np.uint8))
        return tuple(row)
