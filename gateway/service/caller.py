"""What the service needs to work for one request."""

from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct, field

from gateway.cache import Cache
from gateway.catalog import TritonModel
from gateway.scheduling.admission import SMALL_TOKENS, Queues
from gateway.scheduling.threads import Threads
from gateway.scheduling.turns import Account
from gateway.service.shared_calls import SharedCalls
from gateway.telemetry.timings import Timings

INLINE_CHARACTERS = 1024
"""Texts up to this length are tokenized on the event loop: 0.3 ms of work, or 4 ms for an adversarial text."""

Result = TypeVar("Result")


class Caller(Struct, frozen=True):
    """A request's account and timings, and the shared resources that it uses."""

    calls: SharedCalls
    queues: Queues
    threads: Threads
    account: Account = field(default_factory=Account)
    timings: Timings = field(default_factory=Timings)
    reserve: Callable[[int], None] = lambda _: None
    """Reserves bytes of memory for the response; raises Overloaded or RequestTooLarge if there are too few."""
    cache: Cache | None = None
    """Of results of text models; None if it is off."""

    def check(self, model: TritonModel | None, tokens: int) -> None:
        """Fail early if the model's queue will not admit about this many tokens; no model admits everything.

        Few tokens of a model whose results are cached pass: they may be in the cache, and cost little until that is
        known.

        Raises:
            Overloaded: too much work is queued.
        """
        if (
            model is None
            or self.account.is_background
            or (self.cache is not None and model.generation and tokens <= SMALL_TOKENS)
        ):
            return
        if tokens:
            self.queues.get(model.triton_name).check(self.account.key, tokens)

    async def tokenize(self, characters: int, work: Callable[[], Result]) -> Result:
        """Run work on a text of this length: inline if it is short, else in a thread when it is the key's turn."""
        if characters <= INLINE_CHARACTERS:
            return work()
        return await self.threads.run(self.account, work)
