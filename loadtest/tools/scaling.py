"""The engine's time by cores: fitted to packs measured on one thread, on several, and side by side; simulated beyond.

Four formulas of the field, with the least parameters that the measurements can tell apart:

- A pack on one thread takes a fixed time, a time per token, and one per cell of attention, as `packs` in
  export/runtime/packs.py counts them.
- Threads that compute one pack together follow Amdahl's law (AFIPS 1967): one of them does a share of the work alone.
  They wait for each other at a barrier after each operator, whose cost grows with the logarithm of the threads (the
  tournament barrier of Hensgen, Finkel and Manber, 1988).
- Packs side by side, one thread each, share caches and the bandwidth of memory. Each slows the others down by the same
  share: the contention of Gunther's universal scalability law (2007), whose other parameter two cores cannot tell.
- Packs are dealt to streams longest first, each to the stream that is free first (Graham's LPT rule, 1969).
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from scipy.optimize import nnls

from export.runtime.packs import PACK_TOKENS, packs


class Pack(msgspec.Struct, frozen=True):
    """The time of packs of equal rows, measured."""

    rows: int
    tokens: int
    """Of each row."""
    streams: int
    """Packs side by side, each on a stream of its own."""
    threads: int
    """Of each stream."""
    ms: float
    """Until all of them were done: the median of the rounds."""


@dataclass(frozen=True, slots=True)
class Model:
    """What packs cost, in milliseconds."""

    pack_ms: float
    token_ms: float
    cell_ms: float
    serial: float
    """The share of a pack's work that threads do not share."""
    barrier_ms: float
    """Per pack, for each time that its threads double."""
    contention: float
    """The share by which each pack slows down each other one beside it."""

    def ms(self, lengths: Sequence[int], threads: int = 1, streams: int = 1) -> float:
        """The time of a pack of rows of these lengths on so many threads, beside streams - 1 other packs."""
        alone = self.pack_ms + self.token_ms * sum(lengths) + self.cell_ms * len(lengths) * max(lengths) ** 2
        together = alone * (self.serial + (1 - self.serial) / threads) + self.barrier_ms * math.log2(threads)
        return together * (1 + self.contention * (streams - 1))


@dataclass(frozen=True, slots=True)
class Plan:
    """How cores share the work."""

    streams: int
    """That get work."""
    threads: int
    """Of each stream."""
    ms: float
    """Until all of the work is done."""


def fit(measured: Sequence[Pack]) -> Model:
    """The costs that explain packs best, by the relative error.

    Raises:
        ValueError: no packs on one thread, on several, or side by side were measured.
    """
    single = [pack for pack in measured if pack.streams == pack.threads == 1]
    together = [pack for pack in measured if pack.threads > 1]
    beside = [pack for pack in measured if pack.streams > 1]
    if not (single and together and beside):
        raise ValueError("packs on one thread, on several threads and side by side are needed")
    terms = [[1, pack.rows * pack.tokens, pack.rows * pack.tokens**2] for pack in single]
    pack_ms, token_ms, cell_ms = _least(terms, [pack.ms for pack in single])
    alone = Model(pack_ms, token_ms, cell_ms, 0, 0, 0)
    shares = [[_time(alone, pack) * (1 - 1 / pack.threads), math.log2(pack.threads)] for pack in together]
    excess = [max(0.0, pack.ms - _time(alone, pack) / pack.threads) for pack in together]
    serial, barrier_ms = _least(shares, excess, [pack.ms for pack in together])
    slower = [(pack.ms / _time(alone, pack) - 1) / (pack.streams - 1) for pack in beside]
    return Model(pack_ms, token_ms, cell_ms, serial, barrier_ms, max(0.0, float(np.median(slower))))


def error(model: Model, pack: Pack) -> float:
    """What the model says of a pack, over what was measured, less 1."""
    return model.ms([pack.tokens] * pack.rows, pack.threads, pack.streams) / pack.ms - 1


def best(model: Model, lengths: Sequence[int], cores: int) -> Plan:
    """The fastest way to compute rows that wait together: so many streams of as many threads as use all cores."""
    return min((plan(model, lengths, streams, cores // streams) for streams in divisors(cores)), key=lambda one: one.ms)


def plan(model: Model, lengths: Sequence[int], streams: int, threads: int) -> Plan:
    """Compute rows on streams: packs are cut so small that each stream gets as many, if there are rows enough."""
    waves = math.ceil(sum(lengths) / (PACK_TOKENS * streams))
    budget = math.ceil(sum(lengths) / (streams * waves))
    cut = [[lengths[i] for i in pack] for pack in packs(lengths, budget)]
    busy = min(streams, len(cut))
    free = [0.0] * busy
    for ms in sorted((model.ms(pack, threads, busy) for pack in cut), reverse=True):
        heapq.heapreplace(free, free[0] + ms)
    return Plan(busy, threads, max(free))


def served(alone: float, engine_share: float, model: Model, cores: int) -> float:
    """Items a second of a whole server by cores, which are all busy.

    Args:
        alone: items a second on one core.
        engine_share: of its CPU time. The rest, in gateway and Triton, is spread over the cores too.
        model: only its contention matters.
        cores: of the machine.
    """
    return alone * cores / (1 + engine_share * model.contention * (cores - 1))


def divisors(cores: int) -> list[int]:
    """Numbers of streams that have equally many threads."""
    return [streams for streams in range(1, cores + 1) if cores % streams == 0]


def _time(model: Model, pack: Pack) -> float:
    return model.ms([pack.tokens] * pack.rows)


def _least(terms: Sequence[Sequence[float]], ms: Sequence[float], scale: Sequence[float] | None = None) -> list[float]:
    """Costs, none below zero, of terms that add up to times: the least squares of the errors over the scale."""
    by = np.array(scale or ms)
    found, _ = nnls(np.array(terms) / by[:, None], np.array(ms) / by)
    costs: list[float] = found.tolist()
    return costs
