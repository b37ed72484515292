"""Rate limits: the requests and tokens that each API key may use per minute."""

import math
import time
from collections.abc import Mapping

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from gateway.errors import QuotaExceeded


class Quotas:
    """Counts usage by key and minute, in this process."""

    def __init__(self, per_minute: Mapping[str, int | None]) -> None:
        """Start with nothing used.

        Args:
            per_minute: the limits of "requests" and of "tokens"; None for no limit.
        """
        self._items = {unit: RateLimitItemPerMinute(limit) for unit, limit in per_minute.items() if limit is not None}
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    @property
    def enabled(self) -> bool:
        """Whether there is any limit."""
        return bool(self._items)

    def check(self, key: str) -> None:
        """Raise QuotaExceeded if a key has reached one of its limits."""
        for unit, item in self._items.items():
            if not self._limiter.test(item, key, unit):
                raise QuotaExceeded(
                    f"rate limit of {item.amount} {unit} per minute exceeded",
                    headers=self.headers(key) | {"retry-after": str(self._seconds_left(unit, key))},
                )

    def count(self, key: str, unit: str, amount: int) -> None:
        """Count usage. Tokens are known only after they are computed, so the last request may exceed the limit."""
        if unit in self._items:
            self._limiter.hit(self._items[unit], key, unit, cost=amount)

    def headers(self, key: str) -> dict[str, str]:
        """The rate-limit headers of OpenAI's API: the limit, what remains of it, and the time until it resets."""
        headers = {}
        for unit, item in self._items.items():
            remaining = max(0, self._limiter.get_window_stats(item, key, unit).remaining)
            headers[f"x-ratelimit-limit-{unit}"] = str(item.amount)
            headers[f"x-ratelimit-remaining-{unit}"] = str(remaining)
            headers[f"x-ratelimit-reset-{unit}"] = f"{self._seconds_left(unit, key)}s"
        return headers

    def _seconds_left(self, unit: str, key: str) -> int:
        return max(1, math.ceil(self._limiter.get_window_stats(self._items[unit], key, unit).reset_time - time.time()))
