"""Rate limits: the requests and tokens that each API key may use per minute."""

import math
import time
from collections.abc import Callable, Mapping
from functools import cache

from gateway.board import Board
from gateway.errors import QuotaExceeded

WINDOW_S = 60.0


class Quotas:
    """Counts usage in windows of a minute that begin with a key's first use. All workers share the counts."""

    def __init__(
        self,
        per_minute: Mapping[str, int | None],
        board: Board | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with nothing used.

        Args:
            per_minute: the limits of "requests" and of "tokens"; None for no limit.
            board: holds the counts; by default they are this process's own.
            clock: the same for all workers.
        """
        self._limits = {unit: limit for unit, limit in per_minute.items() if limit is not None}
        self._board = board or Board()
        self._clock = clock
        self._rows = cache(self._find_rows)  # the keys are valid ones

    @property
    def enabled(self) -> bool:
        """Whether there is any limit."""
        return bool(self._limits)

    def admit(self, key: str) -> None:
        """Count a request, or raise QuotaExceeded if the key has reached one of its limits."""
        rows = self._rows(key)
        with self._board.locked():
            reached = next((unit for unit, limit in self._limits.items() if self._used(rows[unit]) >= limit), None)
            if reached is None:
                self._add(rows, "requests", 1)
        if reached is not None:
            raise QuotaExceeded(
                f"rate limit of {self._limits[reached]} {reached} per minute exceeded",
                headers=self.headers(key) | {"retry-after": str(self._seconds_left(rows[reached]))},
            )

    def count_tokens(self, key: str, tokens: int) -> None:
        """Count tokens. They are known only after they are computed, so the last requests may exceed the limit."""
        rows = self._rows(key)
        with self._board.locked():
            self._add(rows, "tokens", tokens)

    def background_delay_s(self, key: str) -> float:
        """How long background work of a key must wait: it leaves half of the tokens of each window to requests."""
        row = self._rows(key).get("tokens")
        if row is None or self._used(row) < self._limits["tokens"] / 2:
            return 0.0
        return float(self._seconds_left(row))

    def headers(self, key: str) -> dict[str, str]:
        """The rate-limit headers of OpenAI's API: the limit, what remains of it, and the time until it resets."""
        headers = {}
        for unit, row in self._rows(key).items():
            limit = self._limits[unit]
            headers[f"x-ratelimit-limit-{unit}"] = str(limit)
            headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, limit - round(self._used(row))))
            headers[f"x-ratelimit-reset-{unit}"] = f"{self._seconds_left(row)}s"
        return headers

    def _find_rows(self, key: str) -> dict[str, int]:
        """For each limit, the row of what is used and, after it, the row of the window's end."""
        return {unit: self._board.row(f"quota {unit} {key}", 2, lasts=True) for unit in self._limits}

    def _used(self, row: int) -> float:
        used: float = self._board.common[row]
        return used if self._clock() < self._board.common[row + 1] else 0.0

    def _add(self, rows: Mapping[str, int], unit: str, amount: int) -> None:
        if unit not in rows:
            return
        row, common = rows[unit], self._board.common
        now = self._clock()
        if now >= common[row + 1]:
            common[row], common[row + 1] = 0.0, now + WINDOW_S
        common[row] += amount

    def _seconds_left(self, row: int) -> int:
        """Until the window ends; a whole window if none has begun."""
        left = self._board.common[row + 1] - self._clock()
        return max(1, math.ceil(left)) if left > 0 else round(WINDOW_S)
