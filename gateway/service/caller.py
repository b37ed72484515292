"""On whose behalf work is sent to Triton."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.admission import Lines
from gateway.catalog import Tower
from gateway.stages import Stages
from gateway.triton import Triton


async def _stays() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Caller:
    """One request's access to Triton."""

    triton: Triton
    lines: Lines
    key: str = ""
    """Whose it is, for turns between keys."""
    is_gone: Callable[[], Awaitable[bool]] = _stays
    """Whether the client has hung up, asked before work is sent that had to wait."""
    stages: Stages = field(default_factory=Stages)
    """Where it notes what takes how long."""

    def check(self, tower: Tower | None, tokens: int) -> None:
        """Refuse early what would not be admitted later.

        Args:
            tower: which has to do the work, if any has.
            tokens: about how many.

        Raises:
            Overloaded: too much is waiting.
        """
        if tower is not None and tokens:
            self.lines.of(tower.triton_name).check(self.key, tokens)
