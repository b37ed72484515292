"""The processes that decode images, started when they are first needed, with turns between keys.

A file that makes its decoder crash, loop or fill the memory ends one of them and fails alone.
"""

import asyncio
import logging
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.errors import InvalidRequest
from gateway.images.memory import Budget
from gateway.images.preparation import Preparation
from gateway.images.preprocess import PLAIN_BYTES
from gateway.images.worker import CPU_S, GO_ON, LENGTH_BYTES, Decoded, Job, Needed, Refused, packed
from gateway.scheduling import cores
from gateway.scheduling.turns import Account, Turns

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
"""[3, H, W], RGB."""

SPARE = 2
"""Processes beyond the cores, for keys that have none: the kernel shares the cores between them."""
FINISH_S = 0.25
"""For an image that nobody waits for any more: most are done by then, and a new process takes as long to start."""
FOLDER = Path(__file__).parents[2]
"""Where Python finds this package."""


class Decoders:
    """A pool of them. Belongs to the event loop it is used in."""

    def __init__(self, max_pixels: int) -> None:
        """Start none yet.

        Args:
            max_pixels: an image may have, and all large ones that are decoded at a time; fewer where their kind takes
                more memory to decode.
        """
        self._memory = Budget(max_pixels * PLAIN_BYTES)
        self._turns = Turns(cores.count(), SPARE)
        self._idle: list[_Decoder] = []

    async def close(self) -> None:
        """End those that do nothing; none is doing anything any more."""
        while self._idle:
            await self._idle.pop().end()

    async def read(self, given: str | bytes, preparation: Preparation, place: str, account: Account) -> Pixels:
        """The pixels that a model sees of an image, UINT8 [3, H, W].

        Args:
            given: a file, or it as a data: URI or in base64.
            preparation: of the model.
            place: what error messages call it.
            account: whose turn it takes, and who is charged, whether it succeeds or not.

        Raises:
            InvalidRequest: it is not an image within the limits.
        """
        async with self._turns.take(account.key):
            work = asyncio.ensure_future(self._decode(given, preparation, place, account))
            try:
                answer = await asyncio.shield(work)
            except asyncio.CancelledError:
                try:
                    await asyncio.wait([work], timeout=FINISH_S)
                finally:
                    work.cancel()
                await asyncio.wait([work])
                raise
        if isinstance(answer, Refused):
            raise InvalidRequest(answer.message, param=place)
        return np.frombuffer(answer.pixels, np.uint8).reshape(3, preparation.height, preparation.width)

    async def _decode(
        self, given: str | bytes, preparation: Preparation, place: str, account: Account
    ) -> Decoded | Refused:
        decoder = self._idle.pop() if self._idle else await _Decoder.start()
        began = time.monotonic()
        try:
            answer = await self._ask(decoder, given, preparation, place)
        except BaseException:  # it has died, or whoever waited has given up, and so does it
            account.seconds += min(time.monotonic() - began, CPU_S)
            await decoder.end()
            raise
        account.seconds += answer.seconds
        self._idle.append(decoder)
        return answer

    async def _ask(
        self, decoder: "_Decoder", given: str | bytes, preparation: Preparation, place: str
    ) -> Decoded | Refused:
        # Here, and not before it was its turn: a copy of each image that waits might be too much.
        content = given.encode("utf-8", "surrogatepass") if isinstance(given, str) else given
        job = Job(place, preparation, self._memory.size, len(content), isinstance(given, str))
        try:
            return await decoder.ask(job, content, self._memory)
        except (EOFError, ConnectionError) as exc:
            raise InvalidRequest(f"{place} {await decoder.problem()}", param=place) from exc


class _Decoder:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a process with pipes is wanted")
        self._process = process
        self._to, self._from = process.stdin, process.stdout

    @classmethod
    async def start(cls) -> "_Decoder":
        pipe = asyncio.subprocess.PIPE
        # Pillow warns of what is odd in a file, with words of it.
        command = (sys.executable, "-W", "ignore", "-m", "gateway.images.worker")
        return cls(await asyncio.create_subprocess_exec(*command, cwd=FOLDER, stdin=pipe, stdout=pipe))

    async def ask(self, job: Job, content: bytes, memory: Budget) -> Decoded | Refused:
        """Have an image decoded; a large one waits for the memory that others hold.

        Raises:
            EOFError, ConnectionError: the process has ended.
        """
        self._to.write(packed(job))
        self._to.write(content)
        await self._to.drain()
        answer: Needed | Decoded | Refused = msgspec.msgpack.decode(await self._read(), type=Needed | Decoded | Refused)
        if not isinstance(answer, Needed):
            return answer
        async with memory.hold(answer.size):
            self._to.write(GO_ON)
            last: Decoded | Refused = msgspec.msgpack.decode(await self._read(), type=Decoded | Refused)
            return last

    async def _read(self) -> bytes:
        length = int.from_bytes(await self._from.readexactly(LENGTH_BYTES), "little")
        return await self._from.readexactly(length)

    async def end(self) -> None:
        """End it, whatever it is doing."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def problem(self) -> str:
        """What to say of the image that ended it."""
        code = await self._process.wait()  # not killed: asyncio loses the code of what dies in the same moment
        if code == -signal.SIGXCPU:
            return f"takes more than {CPU_S} s to decode"
        log.warning("a decoder ended with code %d", code)
        return "cannot be decoded"
