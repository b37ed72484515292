"""Admission control and fair queueing of the work for each model, measured in tokens.

Triton is kept busy with a small amount of work in flight. Everything else waits here, where later requests can still
overtake it. Each API key has two flows per model: one for small requests and one for bulk work. The flows share the
model by tokens (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996), so neither a key nor bulk work starves
others. A flow with more queued work than can be done in time gets no more admitted.

Background work, such as that of batches, has flows of its own that yield to all others. While other requests come,
only a little of it is in flight, because they may have to wait for it. It is never refused, and never stops entirely.

The workers of a gateway send work to the same Triton, each from a queue of its own. They share on a board what they
have in flight, what Triton has computed, and what waits in each flow. So each of them knows the rate of the whole
model, and a flow counts once, however many workers it is spread over: each has a part of it, by the tokens that wait.
"""

import asyncio
import heapq
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice

import numpy as np

from gateway.board import Board
from gateway.errors import Overloaded
from gateway.scheduling.rate import Rate

SMALL_TOKENS = 2048
"""Requests with more tokens are bulk work."""
SMALL_WAIT_S = 0.5
"""Maximum expected wait of small requests, which are usually interactive."""
MIN_QUEUE_TOKENS = 4096
"""Always allow this much to queue, so that slow models stay usable."""
BULK_SHARE = 0.75
"""Maximum expected wait of any request, as a share of the request timeout."""
IN_FLIGHT_S = 0.4
"""Work in flight at Triton, as the time that it takes: about two executions of 64 texts on two cores."""
FAST_IN_FLIGHT_S = 0.05
"""The same for a model that computes ENOUGH_TOKENS in less: the time that the gateway may need to send more."""
ENOUGH_TOKENS = 16_384
"""Work in flight of a model that is not as fast, at most: two executions of 64 texts of 128 tokens."""
MIN_IN_FLIGHT_TOKENS = 2048
"""Least work in flight: used until the rate is known, and so that slow models still get a full batch."""
BATCH_S = 0.05
"""Maximum batch above MIN_IN_FLIGHT_TOKENS, as the time that it takes: other requests wait for whole batches."""
BACKGROUND_S = 0.02
"""Background work in flight while other requests come, as the time that it takes."""
BACKGROUND_TOKENS = 128
"""Least background work in flight: used until the rate is known."""
QUIET_BACKGROUND_S = 0.1
"""The same while no other request has come for QUIET_S: it keeps the model busy, and the next one waits little."""
QUIET_S = 10.0
STARVED_S = 1.0
"""Background work gets a turn this often, whatever else waits."""

Key = str


@dataclass(slots=True)
class _Flow:
    """Requests that are served one after the other: the small or the bulk requests of one key."""

    row: int
    """Of the board: the tokens queued, by worker."""
    queued: int = 0
    """Tokens admitted by this worker and not yet sent to Triton."""
    finish: float = 0.0
    """Virtual time at which all of its requests so far are served."""
    is_background: bool = False


@dataclass(order=True, slots=True)
class _Waiter:
    """A queued batch, ordered by virtual start time, then by arrival."""

    start: float
    number: int
    tokens: int = field(compare=False)
    granted: "asyncio.Future[None]" = field(compare=False)


class Queue:
    """The queue of one model. Use it in one event loop only."""

    def __init__(self, timeout_s: float, board: Board | None = None, model: str = "") -> None:
        """Create an empty queue for requests with this timeout; all workers that share the board share the model."""
        self.rate = Rate()
        """Of the model, for all workers."""
        self._board = board or Board()
        self._in_flight = self._board.row(f"tokens in flight {model}")
        self._done = self._board.row(f"tokens done {model}", lasts=True)
        self._board.own[self._in_flight] = 0
        self._prefix = f"waiting tokens {model} "
        self._flow_rows: list[int] = []  # of all workers
        self._seen = 0  # rows of the board
        self._max_wait_s = BULK_SHARE * timeout_s
        self._flows: dict[tuple[Key, bool], _Flow] = {}
        self._waiters: list[_Waiter] = []  # a heap
        self._background_flows: dict[Key, _Flow] = {}
        self._background_waiters: list[_Waiter] = []  # a heap
        self._background_in_flight = self._board.row(f"background tokens in flight {model}")
        self._board.own[self._background_in_flight] = 0
        self._background_at = 0.0
        self._request_at = self._board.row("last request")  # of any model: they share the machine
        self._numbers = count()
        self._now = 0.0  # virtual time: the start of the latest batch sent
        self._sampled_at = self._sampled_done = 0.0

    @property
    def in_flight(self) -> int:
        """Tokens of this worker at Triton."""
        return int(self._board.own[self._in_flight])

    @in_flight.setter
    def in_flight(self, tokens: int) -> None:
        self._board.own[self._in_flight] = tokens

    @property
    def waiting(self) -> int:
        """Tokens queued here."""
        return sum(flow.queued for flow in self._flows.values())

    @property
    def expected_s(self) -> float:
        """Expected duration of the work of all workers in flight; 0 until the rate is known."""
        return self._board.total(self._in_flight) / self.rate.per_second if self.rate.per_second else 0.0

    def batch_tokens(self, most: int, *, background: bool = False) -> int:
        """Tokens for one batch: `most`, or what the model computes in BATCH_S if that is less."""
        usual = min(most, max(MIN_IN_FLIGHT_TOKENS, int(self.rate.per_second * BATCH_S)))
        return min(usual, self._max_background()) if background else usual

    def check(self, key: Key, tokens: int) -> None:
        """Raise Overloaded if a request of this size would not be admitted."""
        bulk = tokens > SMALL_TOKENS
        if not self._waiters or not self.rate.is_known:
            return  # nothing is queued, or the wait cannot be estimated
        rate = self.rate.per_second
        queued = self._board.total(self._flow(key, bulk=bulk).row)
        active = self._waiting_flows()[1] + (not queued)
        wait_s = queued * active / rate
        own_s = tokens * active / rate
        limit_s = math.inf if bulk else max(SMALL_WAIT_S, MIN_QUEUE_TOKENS / rate)
        if wait_s > limit_s or wait_s + own_s > self._max_wait_s:
            raise Overloaded(
                "the server is overloaded: the request could not be answered in time; try again later",
                headers={"retry-after": str(max(1, math.ceil(wait_s)))},
            )

    @contextmanager
    def admit(self, key: Key, tokens: int, *, background: bool = False) -> Iterator["Admission"]:
        """Admit a request with this many tokens in all of its batches.

        Raises:
            Overloaded: too much is queued in the request's flow.
        """
        if background:
            flow = self._background_flow(key)
        else:
            self._board.own[self._request_at] = time.monotonic()
            self.check(key, tokens)
            flow = self._flow(key, bulk=tokens > SMALL_TOKENS)
        admission = Admission(self, flow, tokens)
        self.enqueue(admission.flow, tokens)
        try:
            yield admission
        finally:
            self.enqueue(admission.flow, -admission.left)

    def enqueue(self, flow: _Flow, tokens: int) -> None:
        """Count tokens as admitted and not yet sent to Triton; negative once they are sent, or given up."""
        flow.queued += tokens
        self._board.own[flow.row] = flow.queued

    async def acquire(self, flow: _Flow, tokens: int) -> None:
        """Wait until a batch may be sent to Triton, and count it as in flight."""
        start = max(self._now, flow.finish)
        cost = tokens / self._part(flow)
        flow.finish = start + cost
        waiters = self._background_waiters if flow.is_background else self._waiters
        if not waiters and self._may_start(tokens, background=flow.is_background):
            self._start(start, tokens, background=flow.is_background)
            return
        waiter = _Waiter(start, next(self._numbers), tokens, asyncio.get_running_loop().create_future())
        heapq.heappush(waiters, waiter)
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():  # granted just before the cancellation
                self.release(tokens, done=False, background=flow.is_background)
            else:  # the flow did not use this time
                flow.finish = max(self._now, flow.finish - cost)
            raise

    def release(self, tokens: int, *, done: bool, background: bool = False) -> None:
        """Count a batch as no longer in flight, and let waiting batches start. `done`: Triton computed it."""
        now = time.monotonic()
        if done:
            self._board.own[self._done] += tokens
            is_full = bool(self._waiters) or self._board.total(self._in_flight) >= MIN_IN_FLIGHT_TOKENS
            computed = round(self._board.total(self._done) - self._sampled_done)
            self.rate.add(computed, now - self._sampled_at, is_full=is_full)
        self.in_flight -= tokens
        if background:
            self._board.own[self._background_in_flight] -= tokens
        self._sample(now)
        for waiters in (self._waiters, self._background_waiters):
            self._grant(waiters, background=waiters is self._background_waiters)

    def _grant(self, waiters: list[_Waiter], *, background: bool) -> None:
        """Let batches start while there is room."""
        while waiters and (waiters[0].granted.done() or self._may_start(waiters[0].tokens, background=background)):
            waiter = heapq.heappop(waiters)
            if not waiter.granted.done():  # otherwise it was cancelled
                self._start(waiter.start, waiter.tokens, background=background)
                waiter.granted.set_result(None)

    def _may_start(self, tokens: int, *, background: bool) -> bool:
        return self._has_background_room(tokens) if background else self._has_room()

    def _has_background_room(self, tokens: int) -> bool:
        """Whether a batch of background work may be sent. One may always be in flight, unless other work waits: every
        batch in flight wakes the next one."""
        if self._waiters:
            return time.monotonic() - self._background_at > STARVED_S
        own = self._board.own[self._background_in_flight]
        return not own or own + tokens <= self._max_background()

    def _is_quiet(self) -> bool:
        """Whether no request other than background work has come for a while, to any worker."""
        latest = max(self._board.values(self._request_at), default=0.0)
        return time.monotonic() - latest > QUIET_S

    def _max_background(self) -> int:
        """Tokens of this worker's background work in flight, at most."""
        active = sum(tokens > 0 for tokens in self._board.values(self._background_in_flight))
        seconds, least = BACKGROUND_S, BACKGROUND_TOKENS
        if self._is_quiet():
            seconds, least = QUIET_BACKGROUND_S, MIN_IN_FLIGHT_TOKENS
        return max(least, int(self.rate.per_second * seconds)) // max(1, active)

    def _has_room(self) -> bool:
        """Whether another batch may be sent. A worker without any may always send one: nobody would wake it later."""
        if not self.in_flight:
            return True
        most = max_in_flight(self.rate.per_second)
        if self._board.total(self._in_flight) > most:
            return False
        own, active = self._waiting_flows()
        return self.in_flight * active <= most * own

    def _flow(self, key: Key, *, bulk: bool) -> _Flow:
        flow = self._flows.get((key, bulk))
        if flow is None:
            row = self._board.row(f"{self._prefix}{'bulk' if bulk else 'small'} {key}")
            flow = self._flows[key, bulk] = _Flow(row)
        return flow

    def _background_flow(self, key: Key) -> _Flow:
        flow = self._background_flows.get(key)
        if flow is None:
            row = self._board.row(f"background {self._prefix}{key}")
            flow = self._background_flows[key] = _Flow(row, is_background=True)
        return flow

    def _part(self, flow: _Flow) -> float:
        """The part of a flow that waits in this worker."""
        return flow.queued / max(flow.queued, self._board.total(flow.row)) if flow.queued else 1.0

    def _waiting_flows(self) -> tuple[float, int]:
        """The flows that wait in this worker, each counted by the part of it that does, and those that wait in any."""
        if self._board.workers == 1:
            waiting = sum(flow.queued > 0 for flow in self._flows.values())
            return waiting, waiting
        known = self._board.rows()
        if len(known) > self._seen:
            added = islice(known.items(), self._seen, None)
            self._flow_rows += [rows.first for name, rows in added if name.startswith(self._prefix)]
            self._seen = len(known)
        tokens = self._board.matrix[:, self._flow_rows]  # by worker and flow
        tokens[np.isnan(tokens)] = 0
        total = tokens.sum(axis=0)
        waiting_rows = total > 0
        own = tokens[self._board.own_column, waiting_rows] / total[waiting_rows]
        return float(own.sum()), int(np.count_nonzero(waiting_rows))

    def _start(self, start: float, tokens: int, *, background: bool) -> None:
        self._now = max(self._now, start)
        if not self.in_flight:
            self._sample(time.monotonic())
        self.in_flight += tokens
        if background:
            self._background_at = time.monotonic()
            self._board.own[self._background_in_flight] += tokens

    def _sample(self, now: float) -> None:
        self._sampled_at, self._sampled_done = now, self._board.total(self._done)


def max_in_flight(rate: float) -> float:
    """Tokens at Triton above which a model with this rate, in tokens per second, gets no further batch."""
    enough = max(ENOUGH_TOKENS, FAST_IN_FLIGHT_S * rate)
    return max(MIN_IN_FLIGHT_TOKENS, min(IN_FLIGHT_S * rate, enough))


@dataclass(slots=True)
class Admission:
    """An admitted request."""

    queue: Queue
    flow: _Flow
    left: int
    """Tokens not yet sent to Triton."""

    async def acquire(self, tokens: int) -> None:
        """Wait until a batch of this size may be sent to Triton. The caller must `release` it on the queue."""
        await self.queue.acquire(self.flow, tokens)
        self.left -= tokens
        self.queue.enqueue(self.flow, -tokens)


class Queues:
    """The queues of all models."""

    def __init__(self, timeout_s: float, board: Board | None = None) -> None:
        self._timeout_s = timeout_s
        self._board = board or Board()
        self._queues: dict[str, Queue] = {}

    def get(self, model: str) -> Queue:
        """Return the queue of a model by its Triton name, created on first use."""
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = Queue(self._timeout_s, self._board, model)
        return queue
