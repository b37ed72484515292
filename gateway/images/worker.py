"""A process that decodes images, within limits of memory and time that hold whatever a file does to its decoder.

`gateway.images.pool` starts these and talks to them: it sends a `Job` and the file behind it, and gets an answer. If that is
`Needed`, an image takes more memory than the process may have yet, and a byte says that it may go on.
"""

import gc
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from gateway.errors import InvalidRequest
from gateway.images import data_uri, preprocess
from gateway.images.preparation import Preparation

OPENING_BYTES = 40 * 2**20
"""Memory to decode base64 in, and to read what stands around an image's pixels. Small images fit in it as a whole."""
SPARE_BYTES = 16 * 2**20
"""Memory beside the pixels of a large one."""
CPU_S = 5
"""For one image. The largest of each kind take one to two."""
LENGTH_BYTES = 4
GO_ON = b"\n"

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Job:
    """What to decode."""

    place: str
    """What error messages call the image, such as "input[3].image"."""
    preparation: Preparation
    max_bytes: int
    """Memory that any image may take."""
    size: int
    """Bytes that follow."""
    is_text: bool
    """Whether they are a data: URI or base64, or else the file."""


class Needed(msgspec.Struct, tag=True):
    """So much memory, in bytes."""

    size: int


class Decoded(msgspec.Struct, tag=True):
    """Its pixels, UINT8 [3, H, W] as the model sees them."""

    pixels: bytes
    seconds: float = 0.0
    """CPU time that it took."""


class Refused(msgspec.Struct, tag=True):
    """Why it is not an image, or not one within the limits."""

    message: str
    seconds: float = 0.0


def main() -> None:
    """Answer until the input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    own = _virtual_bytes()
    while (job := read(source, Job)) is not None:
        _limit_memory(own + OPENING_BYTES)
        _limit_time()
        began = time.process_time()
        answer = _answer(job, source, sink)
        answer.seconds = time.process_time() - began
        send(sink, answer)


def _answer(job: Job, source: BinaryIO, sink: BinaryIO) -> Decoded | Refused:
    def reserve(size: int) -> None:
        if size > OPENING_BYTES // 2:
            send(sink, Needed(size))
            source.read(len(GO_ON))
            _limit_memory(_virtual_bytes() + size + SPARE_BYTES)

    try:
        return Decoded(_decode(job, source.read(job.size), reserve))
    except InvalidRequest as exc:
        return Refused(exc.message)
    except MemoryError:
        gc.collect()
        return Refused(f"{job.place} takes more memory to decode than an image of its size should")


def _decode(job: Job, content: bytes, reserve: Callable[[int], None]) -> bytes:
    if job.is_text:
        content = data_uri.decode(content, job.place)
    return preprocess.read(content, job.preparation, job.place, job.max_bytes, reserve)


def read(source: BinaryIO, kind: type[Message]) -> Message | None:
    """One message, or None at the end of all."""
    length = source.read(LENGTH_BYTES)
    return msgspec.msgpack.decode(source.read(int.from_bytes(length, "little")), type=kind) if length else None


def send(sink: BinaryIO, message: object) -> None:
    """Write one message."""
    sink.write(packed(message))
    sink.flush()


def packed(message: object) -> bytes:
    """A message as it travels."""
    content = msgspec.msgpack.encode(message)
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def _limit_memory(size: int) -> None:
    """Have no more memory than this many bytes in all: beyond, there is a MemoryError."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size, most))


def _limit_time() -> None:
    """Take no more time than CPU_S from now on: then, SIGXCPU ends this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + CPU_S, most))


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
