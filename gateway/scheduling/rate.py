"""The rate at which a model computes, measured by the results that it returns."""

import math
from dataclasses import dataclass

WINDOW_S = 2.0
"""Time constant of the exponentially weighted rate. It spans several executions, because they end in bursts."""
MIN_WINDOW_S = 0.25
"""The rate is known after about this much time with a full load, and it is 0 for as long with any load."""
LIGHT = 0.01
"""Weight of the time without a full load."""


@dataclass(slots=True)
class Rate:
    """The most that a model can do.

    A light load shows only what the model does at least, since a few tokens take nearly as long as many on a fast one.
    So a light load may raise the rate, but it never lowers it.
    """

    per_second: float = 0.0
    """In tokens; 0 at first."""
    is_known: bool = False
    """Whether there was a full load. Until then, the model may be much faster."""
    _load: float = LIGHT
    """1 for a full load, smoothed over the results of one execution, which arrive together."""
    _tokens: float = 0.0
    _window_s: float = 0.0

    def add(self, tokens: int, seconds: float, *, is_full: bool) -> None:
        """Count a result.

        Args:
            tokens: its tokens.
            seconds: time since the result before it, or since the model was idle.
            is_full: whether the model had a full load.
        """
        memory = math.exp(-seconds / MIN_WINDOW_S)
        self._load = memory * self._load + (1 - memory) * (1.0 if is_full else LIGHT)
        weight = math.exp(-seconds / WINDOW_S)
        self._tokens = weight * self._tokens + self._load * tokens
        self._window_s = weight * self._window_s + self._load * seconds
        if self._window_s >= MIN_WINDOW_S:
            self.is_known = True
            self.per_second = self._tokens / self._window_s
        elif self._window_s >= LIGHT * MIN_WINDOW_S:
            self.per_second = max(self.per_second, self._tokens / self._window_s)
