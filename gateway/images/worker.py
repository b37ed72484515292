"""A process that decodes images, with hard limits on its memory and CPU time.

`gateway.images.pool` starts these processes. It sends a `Job`, followed by the image, and receives `Decoded`, followed
by the pixels, or `Refused`. A large image is first answered with `Needed`: the process then waits for one byte before
it allocates the memory.
"""

import gc
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from gateway.errors import InvalidRequest
from gateway.images import data_uri, preprocess
from gateway.images.preparation import Grid, Preparation
from gateway.images.processors import AnyProcessor

OPENING_BYTES = 40 * 2**20
"""Memory to decode base64 and read an image's header. Small images are decoded within it."""
SPARE_BYTES = 16 * 2**20
"""Memory in addition to the pixels of a large image."""
CPU_S = 5
"""CPU seconds for one image. The largest image of each format takes one to two."""
LENGTH_BYTES = 4
GO_ON = b"\n"

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Job:
    """An image to decode."""

    place: str
    """The field for error messages, such as "input[3].image"."""
    preparation: Preparation | AnyProcessor
    max_bytes: int
    """The most memory that decoding may take, and the most that resizing to patches may take in addition."""
    size: int
    """The number of bytes of the image that follow."""
    is_text: bool
    """Whether these bytes are a data: URI or base64 instead of the file."""


class Needed(msgspec.Struct, tag=True):
    """The memory that decoding the image takes."""

    size: int
    """Bytes."""


class Decoded(msgspec.Struct, tag=True):
    """A decoded and preprocessed image."""

    size: int
    """The number of bytes that follow: pixels [3, H, W], or patches [P, B]."""
    grids: tuple[Grid, ...] = ()
    """Of patches."""
    tiles: Grid = (0, 0)
    seconds: float = 0.0
    """CPU time."""


class Refused(msgspec.Struct, tag=True):
    """The error for an image that cannot be read or exceeds a limit."""

    message: str
    seconds: float = 0.0
    """CPU time."""


def main() -> None:
    """Process jobs until stdin is closed."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # nobody waits for the answer: end without an error in the log
    own = _virtual_bytes()
    while (job := read(source, Job)) is not None:
        _limit_memory(own + OPENING_BYTES)
        _limit_time()
        began = time.process_time()
        answer, pixels = _answer(job, source, sink)
        answer.seconds = time.process_time() - began
        send(sink, answer, pixels)


def _answer(job: Job, source: BinaryIO, sink: BinaryIO) -> tuple[Decoded | Refused, bytes | memoryview]:
    """The answer, and the pixels that follow it."""

    def reserve(size: int) -> None:
        if size > OPENING_BYTES // 2:
            send(sink, Needed(size))
            if source.read(len(GO_ON)) != GO_ON:
                sys.exit()  # nobody waits for it any more
            _limit_memory(_virtual_bytes() + size + SPARE_BYTES)

    try:
        return _decode(job, source.read(job.size), reserve)
    except InvalidRequest as exc:
        return Refused(exc.message), b""
    except MemoryError:
        gc.collect()
        return Refused(f"{job.place} needs more memory to decode than an image of its size should"), b""


def _decode(job: Job, content: bytes, reserve: Callable[[int], None]) -> tuple[Decoded, bytes | memoryview]:
    if job.is_text:
        content = data_uri.decode(content, job.place)
    if isinstance(job.preparation, Preparation):
        pixels = preprocess.read(content, job.preparation, job.place, job.max_bytes, reserve)
        return Decoded(len(pixels)), pixels
    patches = preprocess.read_patches(content, job.preparation, job.place, job.max_bytes, reserve)
    return Decoded(patches.pixels.nbytes, patches.grids, patches.tiles), patches.pixels.data.cast("B")


def read(source: BinaryIO, kind: type[Message]) -> Message | None:
    """Read one message; None at the end of the input."""
    length = source.read(LENGTH_BYTES)
    return msgspec.msgpack.decode(source.read(int.from_bytes(length, "little")), type=kind) if length else None


def send(sink: BinaryIO, message: object, behind: bytes | memoryview = b"") -> None:
    """Write one message, and the bytes that follow it."""
    sink.write(packed(message))
    sink.write(behind)
    sink.flush()


def packed(message: object) -> bytes:
    """A message in MessagePack after its length."""
    content = msgspec.msgpack.encode(message)
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def _limit_memory(size: int) -> None:
    """Limit the address space of this process, in bytes. Allocating more raises MemoryError."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size, most))


def _limit_time() -> None:
    """Limit the CPU time from now on to CPU_S. SIGXCPU then ends this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + CPU_S, most))


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
