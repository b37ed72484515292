"""Runs what reads a model in a process of its own, with limited memory and time and without network.

Processes are forked from one that has already imported torch and transformers, which takes ten seconds.
"""

import argparse
import ctypes
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from export.errors import ExportError, ManifestError, NotBuiltError, ParityError, SourceError

POLL_S = 0.2
MOST_ANSWERED = 64 * 2**20
"""Bytes of one message: a proof has a few thousand."""
RAISED: Mapping[str, type[Exception]] = {
    kind.__name__: kind for kind in (ManifestError, NotBuiltError, OSError, ParityError, SourceError)
}
"""The exceptions that a process may report; any other becomes a SourceError."""

Progress = Callable[[str], None]
"""A function that is called before each stage, and again after each step of the stage."""
Run = Callable[[Callable[..., Any], Sequence[Any], Progress], Any]
"""Calls a function with arguments, of which progress is the last."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the process of one model."""

    memory: int
    """Bytes, of all processes that it starts too; files that are mapped do not count."""
    seconds: float


def default_memory() -> int:
    """Nine tenths of what the machine has, or the container in which this runs."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no limit is "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total * 9 // 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that limits come from."""
    parser.add_argument(
        "--memory-limit",
        type=_positive,
        default=default_memory() / 2**30,
        metavar="GIB",
        help="memory for the export of one model (default: 90 %% of the machine's, %(default).1f)",
    )
    parser.add_argument(
        "--time-limit",
        type=_positive,
        default=3600.0,
        metavar="SECONDS",
        help="time for the export of one model, without its download (default: %(default)s)",
    )


def limits(arguments: argparse.Namespace) -> Limits:
    """The limits that the options set."""
    return Limits(int(arguments.memory_limit * 2**30), arguments.time_limit)


def _positive(text: str) -> float:
    if (value := float(text)) <= 0:
        raise ValueError(text)
    return value


def here(function: Callable[..., Any], arguments: Sequence[Any], progress: Progress) -> Any:  # noqa: ANN401
    """Call a function in this process."""
    return function(*arguments, progress)


def start() -> None:
    """Begin to import what all processes need; it goes on in the background."""
    _CONTEXT.set_forkserver_preload(["export.preload"])
    ensure_running()


_CONTEXT = get_context("forkserver")


def run(allowed: Limits, function: Callable[..., Any], arguments: Sequence[object], progress: Progress) -> Any:  # noqa: ANN401
    """Call a function in a separate process. Its last argument is a callable for progress.

    Args:
        allowed: what it may take.
        function: a function of a module; its result is sent as JSON.
        arguments: its first ones, which can be pickled.
        progress: called here with the function's messages.

    Returns:
        What the function returns.

    Raises:
        SourceError: the process ended without an answer, was beyond a limit, or raised what it should not.
        ExportError: as the function raised it.
        OSError: the same.
    """
    start()
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        logs = Path(folder)
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_work, args=(sender, logs, function, arguments))
        interruption = {signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, interruption)  # half started, it would complain on its own
        try:
            process.start()
        except BaseException:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, interruption)
            raise
        sender.close()
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, interruption)
            return _follow(process, receiver, allowed, logs, progress)
        finally:
            _end(process)
            receiver.close()


def _follow(process: BaseProcess, receiver: Connection, allowed: Limits, logs: Path, progress: Progress) -> Any:  # noqa: ANN401
    """Wait for an answer, and hold the limits meanwhile."""
    deadline = time.monotonic() + allowed.seconds
    while True:
        if receiver.poll(POLL_S):
            try:
                message = json.loads(receiver.recv_bytes(MOST_ANSWERED))
            except (EOFError, OSError, ValueError):
                _tell_end(process, logs)
            match message:
                case {"progress": str(stage)}:
                    progress(stage)
                case {"result": result}:
                    return result
                case {"error": str(kind), "message": str(text)}:
                    raise RAISED.get(kind, SourceError)(text)
        if time.monotonic() > deadline:
            raise SourceError(f"source: exceeded the --time-limit of {allowed.seconds:g} s")
        if _memory(process.pid or 0) > allowed.memory:
            raise SourceError(f"source: exceeded the --memory-limit of {allowed.memory / 2**30:.3g} GiB")


def _tell_end(process: BaseProcess, logs: Path) -> NoReturn:
    process.join(10)
    code = process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"code {code}"
    output = (logs / "log").read_text(errors="replace") if (logs / "log").exists() else ""
    last = f": {output.strip().splitlines()[-1][:200]}" if output.strip() else ""
    raise SourceError(f"source: the process that read it ended with {how}{last}")


def _end(process: BaseProcess) -> None:
    """End a process and those that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join()


def _memory(group: int) -> int:
    """Bytes that the processes of a group hold, without files that they have mapped."""
    held = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):  # it has ended meanwhile
            if os.getpgid(int(folder.name)) == group:
                lines = (folder / "status").read_text().splitlines()
                sizes = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
                held += sum(int(size.split()[0]) * 1024 for size in sizes.values())
    return held


def _work(sender: Connection, logs: Path, function: Callable[..., Any], arguments: Sequence[object]) -> None:
    os.setpgid(0, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with (logs / "log").open("wb") as log:  # bars, warnings and panics of libraries
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    except FileNotFoundError:  # the command was interrupted before this began
        return
    cut_network()

    def send(message: Mapping[str, object]) -> None:
        sys.stdout.flush()
        sender.send_bytes(json.dumps(message).encode())

    try:
        send({"result": function(*arguments, lambda stage: send({"progress": stage}))})
    except (ExportError, OSError) as exc:
        known = (name for name, kind in RAISED.items() if isinstance(exc, kind))
        send({"error": next(known, "SourceError"), "message": str(exc)})
    except BaseException as exc:  # noqa: BLE001 - a panic of tokenizers is not an Exception
        send({"error": "SourceError", "message": f"source: cannot be exported: {_reason(exc)}"})


def _reason(exc: BaseException) -> str:
    """An error that nobody foresaw: what it is, and where it was raised."""
    last = traceback.extract_tb(exc.__traceback__)[-1]
    text = str(exc).strip().partition("\n")[0]
    return f"{type(exc).__name__}{f': {text}' if text else ''} ({Path(last.filename).name}:{last.lineno})"


PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
SOCKET: Mapping[str, tuple[int, int]] = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""The kernel's constant (AUDIT_ARCH_*, linux/audit.h) and the number of the system call `socket`, by machine."""
IO_URING_SETUP = 425
FIRST_X32 = 0x40000000
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000


def cut_network() -> None:
    """Take this process's way to open a socket to any network, for good; sockets of this machine (AF_UNIX) stay.

    A filter of system calls does it (man 2 seccomp), which needs no rights and which native code cannot pass. Where the
    kernel does not take one, Python's own sockets fail.
    """
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    program = _filter(*SOCKET[platform.machine()]) if platform.machine() in SOCKET else b""
    code = ctypes.create_string_buffer(program)
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    if not program or _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(described)) != 0:
        sys.addaudithook(refuse_sockets)


def _filter(architecture: int, number: int) -> bytes:
    """Instructions of classic BPF over struct seccomp_data: number at 0, architecture at 4, first argument at 16."""
    fail = FAIL | 1  # EPERM
    steps = (
        (LOAD, 0, 0, 4),
        (EQUAL, 0, 7, architecture),  # to the end, fail
        (LOAD, 0, 0, 0),
        (AT_LEAST, 5, 0, FIRST_X32),
        (EQUAL, 4, 0, IO_URING_SETUP),
        (EQUAL, 0, 2, number),
        (LOAD, 0, 0, 16),
        (EQUAL, 0, 1, socket.AF_UNIX),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, fail),
    )
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def refuse_sockets(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook that replaces a filter."""
    if event == "socket.__new__" and arguments[1] != socket.AF_UNIX:
        raise PermissionError("network access is disabled")


def _prctl(*arguments: Any) -> int:  # noqa: ANN401 - numbers and pointers
    result: int = ctypes.CDLL(None, use_errno=True).prctl(
        *(ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    return result
