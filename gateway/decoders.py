"""The processes that decode images: one for each core, started when they are first needed.

A file that makes its decoder crash, loop or fill the memory ends one of them and fails alone.
"""

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway import cores
from gateway.budget import Budget
from gateway.decoder import CPU_S, GO_ON, LENGTH_BYTES, Decoded, Job, Needed, Refused, packed
from gateway.errors import InvalidRequest
from gateway.pixels import PLAIN_BYTES, Preparation

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
"""[3, H, W], RGB."""

FOLDER = Path(__file__).parents[1]
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
        self._idle: asyncio.LifoQueue[_Decoder | None] = asyncio.LifoQueue()
        self.count = cores.count()
        """How many images are decoded at a time."""
        for _ in range(self.count):
            self._idle.put_nowait(None)

    async def close(self) -> None:
        """End those that do nothing; none is doing anything any more."""
        while not self._idle.empty():
            decoder = self._idle.get_nowait()
            if decoder is not None:
                await decoder.end()

    async def read(self, given: str | bytes, preparation: Preparation, place: str) -> Pixels:
        """The pixels that a tower sees of an image, UINT8 [3, H, W].

        Args:
            given: a file, or it as a data: URI or in base64.
            preparation: of the tower.
            place: what error messages call it.

        Raises:
            InvalidRequest: it is not an image within the limits.
        """
        decoder = await self._idle.get()
        back: _Decoder | None = None
        try:
            decoder = decoder or await _Decoder.start()
            answer = await self._ask(decoder, given, preparation, place)
            back = decoder
        except BaseException:  # it has died, or whoever waited has given up, and so does it
            if decoder is not None:
                await decoder.end()
            raise
        finally:
            self._idle.put_nowait(back)
        if isinstance(answer, Refused):
            raise InvalidRequest(answer.message, param=place)
        return np.frombuffer(answer.pixels, np.uint8).reshape(3, preparation.height, preparation.width)

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
        command = (sys.executable, "-W", "ignore", "-m", "gateway.decoder")
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
