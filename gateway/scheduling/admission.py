"""Whose work goes to a model next, and what is refused: counted in tokens, fair, no more than can be done in time.

Each model has a line. So much work is under way at Triton that it never waits for the gateway, and no more, so that
what comes later can still go first. The rest waits here, in flows: a key's small requests are one, its bulk ones
another. Flows take turns by tokens (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996), so that neither a key
nor bulk work starves others. A flow with more waiting than can be done in time takes nothing more.
"""

import asyncio
import heapq
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from gateway.errors import Overloaded

SMALL_TOKENS = 2048
"""A request of more is bulk work."""
SMALL_WAIT_S = 0.5
"""The longest that small requests are let wait: whoever sends one sits in front of it."""
LEAST_WAITING = 4096
"""Tokens that may wait in any case: a slow model is not for those who cannot."""
BULK_SHARE = 0.75
"""Of the request timeout, the longest that any are let wait."""
UNDER_WAY_S = 0.4
"""Work at Triton, by the time that it takes: about two executions of 64 texts on two cores."""
LEAST_UNDER_WAY = 2048
"""Tokens at Triton at least: as long as the rate is not known, and for models that are so slow that less would be less
than a batch."""
WINDOW_S = 2.0
"""Of work that the rate is taken over, with a weight that falls by e in so long a time: executions end in bursts."""
LEAST_WINDOW_S = 0.25
"""As long as there is less, the rate is not known."""

Key = str


@dataclass(slots=True)
class _Flow:
    """Requests that wait for each other."""

    waiting: int = 0
    """Tokens that are admitted and not at Triton yet."""
    finish: float = 0.0
    """The virtual time at which all that it has asked for is served."""


@dataclass(order=True, slots=True)
class _Turn:
    """A part that waits."""

    start: float
    """Virtual time."""
    number: int
    tokens: int = field(compare=False)
    come: "asyncio.Future[None]" = field(compare=False)


class Line:
    """The work for one model. Belongs to the event loop it is used in."""

    def __init__(self, timeout_s: float) -> None:
        """Begin empty.

        Args:
            timeout_s: after which requests are given up.
        """
        self.in_flight = 0
        """Tokens at Triton."""
        self.rate = 0.0
        """Tokens a second that Triton does as long as it has any; 0 as long as that is not known."""
        self._most_wait_s = BULK_SHARE * timeout_s
        self._flows: dict[tuple[Key, bool], _Flow] = defaultdict(_Flow)
        self._turns: list[_Turn] = []
        self._numbers = count()
        self._now = 0.0  # virtual: where the last part that went began
        self._sampled_at = 0.0
        self._done = 0.0  # tokens, in the window
        self._window_s = 0.0

    @property
    def waiting(self) -> int:
        """Tokens that wait here."""
        return sum(flow.waiting for flow in self._flows.values())

    @property
    def expected_s(self) -> float:
        """How long what is at Triton should take; 0 as long as that is not known."""
        return self.in_flight / self.rate if self.rate else 0.0

    def check(self, key: Key, tokens: int) -> None:
        """Raise Overloaded if a request of so many tokens would not be admitted."""
        bulk = tokens > SMALL_TOKENS
        if not self._turns or not self.rate:
            return  # nobody waits, or nobody knows for how long
        flow = self._flows.get((key, bulk), _Flow())
        active = sum(other.waiting > 0 for other in self._flows.values()) + (not flow.waiting)
        wait_s = flow.waiting * active / self.rate
        own_s = tokens * active / self.rate
        enough_s = math.inf if bulk else max(SMALL_WAIT_S, LEAST_WAITING / self.rate)
        if wait_s > enough_s or wait_s + own_s > self._most_wait_s:
            raise Overloaded(
                "the server is overloaded: its queue cannot be worked off in time; try again later",
                headers={"retry-after": str(math.ceil(wait_s))},
            )

    @contextmanager
    def admit(self, key: Key, tokens: int) -> Iterator["Ticket"]:
        """Let a request in.

        Args:
            key: whose it is.
            tokens: of all its parts.

        Raises:
            Overloaded: too much of the kind is waiting already.
        """
        self.check(key, tokens)
        place = (key, tokens > SMALL_TOKENS)
        ticket = Ticket(self, self._flows[place], tokens)
        ticket.flow.waiting += tokens
        try:
            yield ticket
        finally:
            ticket.flow.waiting -= ticket.left

    async def wait(self, flow: _Flow, tokens: int) -> None:
        """Wait until a part may go to Triton, and count it as under way."""
        start = max(self._now, flow.finish)
        flow.finish = start + tokens
        if not self._turns and self._has_room():
            self._go(start, tokens)
            return
        turn = _Turn(start, next(self._numbers), tokens, asyncio.get_running_loop().create_future())
        heapq.heappush(self._turns, turn)
        try:
            await turn.come
        except asyncio.CancelledError:
            if turn.come.done() and not turn.come.cancelled():  # it had come in the same moment
                self.leave(tokens, done=False)
            else:  # the flow has not had it
                flow.finish = max(self._now, flow.finish - tokens)
            raise

    def leave(self, tokens: int, *, done: bool) -> None:
        """A part is no longer under way: the next ones may go."""
        self.in_flight -= tokens
        self._sample(tokens, done=done)
        while self._turns and (self._turns[0].come.done() or self._has_room()):
            turn = heapq.heappop(self._turns)
            if not turn.come.done():  # else it was given up
                self._go(turn.start, turn.tokens)
                turn.come.set_result(None)

    def _has_room(self) -> bool:
        return self.in_flight <= max(LEAST_UNDER_WAY, self.rate * UNDER_WAY_S)

    def _go(self, start: float, tokens: int) -> None:
        self._now = max(self._now, start)
        if not self.in_flight:
            self._sampled_at = time.monotonic()
        self.in_flight += tokens

    def _sample(self, tokens: int, *, done: bool) -> None:
        now = time.monotonic()
        seconds, self._sampled_at = now - self._sampled_at, now
        if not done:
            return
        weight = math.exp(-seconds / WINDOW_S)
        self._done = weight * self._done + tokens
        self._window_s = weight * self._window_s + seconds
        if self._window_s >= LEAST_WINDOW_S:
            self.rate = self._done / self._window_s


@dataclass(slots=True)
class Ticket:
    """A request that was let in."""

    line: Line
    flow: _Flow
    left: int
    """Tokens of it that have not gone to Triton."""

    async def turn(self, tokens: int) -> None:
        """Wait until a part of so many tokens may go to Triton; whoever waited has to `leave` the line in the end."""
        await self.line.wait(self.flow, tokens)
        self.left -= tokens
        self.flow.waiting -= tokens


class Lines:
    """The lines of all models."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lines: dict[str, Line] = {}

    def of(self, model: str) -> Line:
        """The line of a model, by its Triton name."""
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = Line(self._timeout_s)
        return line
