"""Calls on a volume that has one mode for all files, such as a mount of SMB: the kernel refuses them chmod."""

import ctypes
import platform
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

CHMOD = {"x86_64": (90, 91, 268, 452), "aarch64": (52, 53, 452)}
"""The numbers of chmod, fchmod, fchmodat and fchmodat2, by machine."""
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, EPERM = 0x7FFF0000, 0x00050001


def without_chmod(call: Callable[[], T]) -> T:
    """Call it in a thread of its own, which the kernel answers EPERM whenever it changes a mode (man 2 seccomp)."""
    with ThreadPoolExecutor(1, initializer=_refuse_chmod) as thread:
        return thread.submit(call).result()


def _refuse_chmod() -> None:
    numbers = CHMOD[platform.machine()]
    steps = [
        (LOAD, 0, 0, 0),  # the number of the system call
        *((EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, EPERM),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    described = ctypes.c_char_p(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    kernel = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    for option, value, program in ((38, 1, zero), (22, 2, described)):  # no new privileges, then the filter
        if kernel.prctl(option, ctypes.c_ulong(value), program, zero, zero):
            raise OSError(ctypes.get_errno(), "prctl")
