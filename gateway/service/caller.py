"""On whose behalf work is done."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.catalog import TritonModel
from gateway.scheduling.admission import Lines
from gateway.scheduling.threads import Threads
from gateway.scheduling.turns import Account
from gateway.telemetry.timings import Timings
from gateway.triton import Triton

INLINE_CHARACTERS = 1024
"""Up to so much text is tokenised here: 0.3 ms of work, or 4 ms of text that was made to be slow."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Caller:
    """One request's access to what works for all."""

    triton: Triton
    lines: Lines
    threads: Threads
    account: Account = field(default_factory=Account)
    """Whose it is, for turns between keys."""
    timings: Timings = field(default_factory=Timings)
    """Where it notes what takes how long."""

    def check(self, model: TritonModel | None, tokens: int) -> None:
        """Refuse early what would not be admitted later.

        Args:
            model: which has to do the work, if any has.
            tokens: about how many.

        Raises:
            Overloaded: too much is waiting.
        """
        if model is not None and tokens:
            self.lines.of(model.triton_name).check(self.account.key, tokens)

    async def read(self, characters: int, work: Callable[[], Result]) -> Result:
        """Do work on so much text: in a thread, when its turn has come, unless it is little."""
        if characters <= INLINE_CHARACTERS:
            return work()
        return await self.threads.run(self.account, work)
