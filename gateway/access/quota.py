"""What a key may ask for in a minute, where the settings limit that."""

import math
import time
from collections.abc import Mapping

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from gateway.errors import QuotaExceeded


class Quotas:
    """Counts by key and minute, in this process."""

    def __init__(self, most: Mapping[str, int | None]) -> None:
        """Begin with nothing counted.

        Args:
            most: in a minute, of "requests" and of "tokens"; None is no limit.
        """
        self._items = {unit: RateLimitItemPerMinute(count) for unit, count in most.items() if count is not None}
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    @property
    def are_any(self) -> bool:
        """Whether anything is limited."""
        return bool(self._items)

    def check(self, key: str) -> None:
        """Raise QuotaExceeded if a key has used up one of its quotas."""
        for unit, item in self._items.items():
            if not self._limiter.test(item, key, unit):
                raise QuotaExceeded(
                    f"this key may ask for {item.amount} {unit} a minute, and has",
                    headers=self.headers(key) | {"retry-after": str(self._seconds_left(unit, key))},
                )

    def count(self, key: str, unit: str, amount: int) -> None:
        """Note what was asked for; tokens are known only when they are computed, so the last request may go over."""
        if unit in self._items:
            self._limiter.hit(self._items[unit], key, unit, cost=amount)

    def headers(self, key: str) -> dict[str, str]:
        """What OpenAI's API says in every answer: limit, what remains of it, and when it begins anew."""
        found = {}
        for unit, item in self._items.items():
            remaining = max(0, self._limiter.get_window_stats(item, key, unit).remaining)
            found[f"x-ratelimit-limit-{unit}"] = str(item.amount)
            found[f"x-ratelimit-remaining-{unit}"] = str(remaining)
            found[f"x-ratelimit-reset-{unit}"] = f"{self._seconds_left(unit, key)}s"
        return found

    def _seconds_left(self, unit: str, key: str) -> int:
        return max(1, math.ceil(self._limiter.get_window_stats(self._items[unit], key, unit).reset_time - time.time()))
