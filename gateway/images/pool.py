"""A pool of processes that decode images, started on demand and shared fairly between API keys.

An image that makes the decoder crash, loop or run out of memory ends one process; no other request fails.
"""

import asyncio
import logging
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import overload

import msgspec
import numpy as np

from gateway.board import Board
from gateway.errors import InvalidRequest
from gateway.images.memory import InFlight, MemoryLimit
from gateway.images.preparation import Patches, Pixels, Preparation
from gateway.images.preprocess import BYTES_PER_PIXEL
from gateway.images.processors import AnyProcessor
from gateway.images.worker import CPU_S, GO_ON, LENGTH_BYTES, Decoded, Job, Needed, Refused, packed
from gateway.scheduling import cores
from gateway.scheduling.turns import Account, Turns

log = logging.getLogger(__name__)

SPARE = 2
"""Processes in addition to one per core, for keys that have none: the kernel shares the cores between them."""
FINISH_S = 0.25
"""How long an image whose request was cancelled may continue. Most finish in this time, and starting a new process
takes as long."""
PATCHES_FACTOR = 8
"""Pixels of all patches in flight, for each pixel of the images that may be decoded at a time. A file of 100 bytes may
become patches of 50 MiB, and waits with them until its model is free."""
FOLDER = Path(__file__).parents[2]
"""The folder that holds this package, from which Python imports it."""

Answer = tuple[Decoded, bytes] | Refused
"""A prepared image and its pixels, or the error."""


class DecoderPool:
    """A pool of decoder processes. Must be used in one event loop."""

    def __init__(self, max_pixels: int, board: Board | None = None) -> None:
        """Start no process yet.

        Args:
            max_pixels: the limit for one image, and for all large images decoded concurrently. It is lower for formats
                that take more memory to decode.
            board: shared with the pools of other workers, which have the same limit together.
        """
        workers = board.workers if board else 1
        self._memory = MemoryLimit(max_pixels * BYTES_PER_PIXEL, board)
        self._patches = InFlight("image patches", max_pixels * PATCHES_FACTOR * 3, board)
        self._turns = Turns(max(1, cores.count() // workers), SPARE)
        self._idle: list[_Decoder] = []

    async def close(self) -> None:
        """End the processes. All of them must be idle."""
        while self._idle:
            await self._idle.pop().end()

    @overload
    async def read(self, image: str | bytes, preparation: Preparation, place: str, account: Account) -> Pixels: ...

    @overload
    async def read(self, image: str | bytes, preparation: AnyProcessor, place: str, account: Account) -> Patches: ...

    async def read(
        self, image: str | bytes, preparation: Preparation | AnyProcessor, place: str, account: Account
    ) -> Pixels | Patches:
        """Decode and preprocess an image.

        Args:
            image: the file, or a data: URI or base64 of it.
            preparation: the model's image processor.
            place: the field for error messages.
            account: whose turn is used, and who is charged for the CPU time, even if decoding fails.

        Returns:
            The model's input: UINT8 [3, H, W], or patches.

        Raises:
            InvalidRequest: it is not an image within the limits.
            Overloaded: the patches of all images in flight reach their limit.
        """
        async with self._turns.take(account.key):
            work = asyncio.ensure_future(self._decode(image, preparation, place, account))
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
        decoded, content = answer
        pixels = np.frombuffer(content, np.uint8)
        if isinstance(preparation, Preparation):
            return pixels.reshape(3, preparation.height, preparation.width)
        self._patches.count(pixels, account.key)
        return Patches(pixels.reshape(-1, preparation.patch_bytes), decoded.grids, decoded.tiles)

    async def _decode(
        self, image: str | bytes, preparation: Preparation | AnyProcessor, place: str, account: Account
    ) -> Answer:
        decoder = self._idle.pop() if self._idle else await _Decoder.start()
        began = time.monotonic()
        try:
            answer = await self._ask(decoder, image, preparation, place)
        except BaseException:  # the process died, or the request was cancelled
            account.seconds += min(time.monotonic() - began, CPU_S)
            await decoder.end()
            raise
        account.seconds += (answer if isinstance(answer, Refused) else answer[0]).seconds
        self._idle.append(decoder)
        return answer

    async def _ask(
        self, decoder: "_Decoder", image: str | bytes, preparation: Preparation | AnyProcessor, place: str
    ) -> Answer:
        # Copied only now that a process is free: a copy of every waiting image could take too much memory.
        content = image.encode("utf-8", "surrogatepass") if isinstance(image, str) else image
        job = Job(place, preparation, self._memory.size, len(content), isinstance(image, str))
        try:
            return await decoder.ask(job, content, self._memory)
        except (EOFError, ConnectionError) as exc:
            raise InvalidRequest(f"{place} {await decoder.exit_reason()}", param=place) from exc


class _Decoder:
    """One decoder process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the process must have pipes for stdin and stdout")
        self._process = process
        self._to, self._from = process.stdin, process.stdout

    @classmethod
    async def start(cls) -> "_Decoder":
        pipe = asyncio.subprocess.PIPE
        # Pillow's warnings quote the file.
        command = (sys.executable, "-W", "ignore", "-m", "gateway.images.worker")
        return cls(await asyncio.create_subprocess_exec(*command, cwd=FOLDER, stdin=pipe, stdout=pipe))

    async def ask(self, job: Job, content: bytes, memory: MemoryLimit) -> Answer:
        """Send an image and receive the result. A large image first waits until enough memory is free.

        Raises:
            EOFError, ConnectionError: the process has ended.
        """
        self._to.write(packed(job))
        self._to.write(content)
        await self._to.drain()
        answer: Needed | Decoded | Refused = msgspec.msgpack.decode(await self._read(), type=Needed | Decoded | Refused)
        if not isinstance(answer, Needed):
            return await self._complete(answer)
        # The limit holds for decoding. Resizing the largest images may take more than is left of it.
        async with memory.reserve(min(answer.size, memory.size)):
            self._to.write(GO_ON)
            last: Decoded | Refused = msgspec.msgpack.decode(await self._read(), type=Decoded | Refused)
            return await self._complete(last)

    async def _complete(self, answer: Decoded | Refused) -> Answer:
        return answer if isinstance(answer, Refused) else (answer, await self._from.readexactly(answer.size))

    async def _read(self) -> bytes:
        length = int.from_bytes(await self._from.readexactly(LENGTH_BYTES), "little")
        return await self._from.readexactly(length)

    async def end(self) -> None:
        """Kill the process."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def exit_reason(self) -> str:
        """Why the process ended, as a clause about the image."""
        code = await self._process.wait()  # not killed first: asyncio would lose the exit code of a dying process
        if code == -signal.SIGXCPU:
            return f"takes more than {CPU_S} s to decode"
        log.warning("an image decoder exited with code %d", code)
        return "cannot be decoded"
