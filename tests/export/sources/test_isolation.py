import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from export.errors import ExportError, ParityError, SourceError
from export.sources.isolation import Limits, Progress, default_memory, run

GENEROUS = Limits(memory=8 * 2**30, seconds=100)


def silent(_: str) -> None:
    """Progress that nobody follows."""


def apart(function: Callable[..., Any], *arguments: object, limits: Limits = GENEROUS) -> Any:
    return run(limits, function, arguments, silent)


# What is run apart.


def speaks(word: str, progress: Progress) -> dict[str, str]:
    progress("first")
    progress("second")
    print(f"export: {word}")
    print("a bar", file=sys.stderr)
    return {"word": word}


def raises(kind: type[BaseException], progress: Progress) -> None:  # noqa: ARG001
    raise kind("what went wrong\nand a trace")


class PanicException(BaseException):
    """As pyo3's, which is no Exception."""


def dies(how: int, progress: Progress) -> None:  # noqa: ARG001
    print("warning", "the last words", sep="\n", file=sys.stderr, flush=True)
    os.kill(os.getpid(), how)


def leaves(progress: Progress) -> None:  # noqa: ARG001
    os._exit(3)


def hangs(progress: Progress) -> None:  # noqa: ARG001
    time.sleep(1000)


def hoards(progress: Progress) -> None:  # noqa: ARG001
    held = []
    while True:
        held.append(b"x" * 2**24)


def hoards_elsewhere(progress: Progress) -> None:  # noqa: ARG001
    subprocess.run([sys.executable, "-c", "x = b'x' * 2**31; import time; time.sleep(1000)"], check=True)


def starts_another(progress: Progress) -> int:  # noqa: ARG001
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid


def connects(port: int, progress: Progress) -> list[str]:  # noqa: ARG001
    """What becomes of connecting in Python, without it, and from another process."""
    found = []
    try:
        socket.create_connection(("127.0.0.1", port))
        found.append("connected")
    except OSError as exc:
        found.append(type(exc).__name__)
    libc = ctypes.CDLL(None)
    found += [str(libc.socket(family, socket.SOCK_STREAM, 0)) for family in (socket.AF_INET, socket.AF_INET6)]
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    found.append(str(subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode))
    socket.socket(socket.AF_UNIX).close()
    return found


def looks_around(progress: Progress) -> dict[str, bool]:  # noqa: ARG001
    return {
        "preloaded": "torch" in sys.modules and "export.pipeline" in sys.modules,
        "offline": huggingface_hub.constants.HF_HUB_OFFLINE,
    }


def test_answer_and_progress_come_back_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    stages: list[str] = []
    assert run(GENEROUS, speaks, ("hello",), stages.append) == {"word": "hello"}
    assert stages == ["first", "second"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [SourceError, ParityError, OSError])
def test_errors_of_ours_come_back_as_they_are(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^what went wrong\nand a trace$"):
        apart(raises, kind)


def test_kinds_of_errors_of_the_system_come_back_as_one() -> None:
    with pytest.raises(OSError, match=r"^what went wrong"):
        apart(raises, PermissionError)


@pytest.mark.parametrize("kind", [AttributeError, MemoryError, PanicException, KeyboardInterrupt, SystemExit])
def test_any_other_error_is_one_sentence_with_its_place(
    kind: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    place = r"\(test_isolation\.py:\d+\)"
    message = rf"^source: cannot be exported: {kind.__name__}: what went wrong {place}$"
    with pytest.raises(SourceError, match=message):
        apart(raises, kind)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_crash_is_one_sentence_with_its_last_words(how: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match=rf"^source: the process that read it ended with {how.name}: the last words$"):
        apart(dies, how)
    assert capfd.readouterr() == ("", "")


def test_end_without_an_answer_is_one_sentence() -> None:
    with pytest.raises(SourceError, match=r"^source: the process that read it ended with code 3$"):
        apart(leaves)


def test_what_hangs_is_ended() -> None:
    with pytest.raises(SourceError, match=r"^source: exceeded the --time-limit of 0\.5 s$"):
        apart(hangs, limits=Limits(GENEROUS.memory, 0.5))


@pytest.mark.parametrize("hog", [hoards, hoards_elsewhere])
def test_what_takes_too_much_memory_is_ended(hog: Callable[..., None]) -> None:
    with pytest.raises(SourceError, match=r"^source: exceeded the --memory-limit of 1\.5 GiB$"):
        apart(hog, limits=Limits(3 * 2**29, GENEROUS.seconds))


def test_processes_that_it_started_end_with_it() -> None:
    pid = apart(starts_another)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return  # whoever started it is gone too, and nobody asks how it ended
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()  # from here there is
        assert apart(connects, port) == ["PermissionError", "-1", "-1", "1"]


def test_sockets_of_python_fail_where_the_kernel_takes_no_filter() -> None:
    code = (
        "import socket, sys; from export.sources.isolation import refuse_sockets; sys.addaudithook(refuse_sockets);"
        "socket.socket(socket.AF_UNIX); socket.socket(socket.AF_INET)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "PermissionError: network access is disabled"


def test_process_has_all_imported_and_looks_for_nothing_on_the_hub() -> None:
    assert apart(looks_around) == {"preloaded": True, "offline": True}
    assert "HF_HUB_OFFLINE" not in os.environ


def test_default_limit_of_memory_is_below_what_the_machine_has() -> None:
    assert 2**28 < default_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_every_error_of_an_export_has_a_kind_that_comes_back() -> None:
    for kind in ExportError.__subclasses__():
        with pytest.raises(ExportError):
            apart(raises, kind)
