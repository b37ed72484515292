import asyncio
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from embedded.supervisor import Service, StartFailedError, Supervisor
from tests.waiting import eventually

pytestmark = pytest.mark.slow  # they wait for seconds


def python(name: str, code: str, **options: object) -> Service:
    environment = dict(os.environ)
    return Service(name, [sys.executable, "-c", code], environment, 1.0, **options)  # type: ignore[arg-type] # passed on


def counting(file: Path) -> str:
    """Code of a service that writes a line at each start and stays."""
    return f"open({str(file)!r}, 'a').write('started\\n'); import time; time.sleep(60)"


def run(
    services: list[Service],
    is_ready: Callable[[], bool],
    ready: Callable[[], object],
    unhealthy_s: float = 60,
    start_timeout_s: float = 60,
) -> None:
    asyncio.run(Supervisor(services, unhealthy_s, start_timeout_s).run(is_ready, ready))


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_service_that_exits_early_fails_the_start() -> None:
    with pytest.raises(StartFailedError, match="bad exited with code 3 before it was ready"):
        run([python("bad", "raise SystemExit(3)")], is_ready=lambda: False, ready=lambda: None)


def test_dead_service_is_cleaned_up_and_restarted(tmp_path: Path) -> None:
    starts, cleaned = tmp_path / "starts", []
    code = f"import os; open({str(starts)!r}, 'a').write('started\\n'); os.kill(os.getpid(), 9)"
    dying = python("dying", f"import time; time.sleep(0.5); {code}", clean_up=lambda: cleaned.append(1))

    def ready() -> None:
        asyncio.get_running_loop().call_later(4, stop)

    run([dying], is_ready=lambda: True, ready=ready)
    assert starts.read_text().count("started") >= 2
    assert len(cleaned) >= 2


def test_services_stop_in_reverse_order_and_are_killed_if_necessary(tmp_path: Path) -> None:
    log = tmp_path / "ends"
    write = f"open({str(log)!r}, 'a').write"
    handler = "import signal, sys, time; signal.signal(15, lambda *_: ({0}('{1}\\n'), sys.exit()))"
    stay = "\nprint('up', flush=True)\ntime.sleep(60)"
    up = tmp_path / "up"
    services = [
        python("first", handler.format(write, "first") + stay, log=up),
        python("second", handler.format(write, "second") + stay, log=up),
        python("stubborn", "import signal, time; signal.signal(15, signal.SIG_IGN)" + stay, log=up),
    ]
    started = time.monotonic()
    run(services, is_ready=lambda: up.read_text().count("up") == 3, ready=stop)
    assert log.read_text().split() == ["second", "first"]
    assert time.monotonic() - started < 8


def test_stop_during_start_stops_the_services(tmp_path: Path) -> None:
    starts = tmp_path / "starts"

    def is_ready() -> bool:
        if starts.exists():
            stop()
        return False

    run([python("slow", counting(starts))], is_ready=is_ready, ready=lambda: pytest.fail("was never ready"))


def has_ended(pid: str) -> bool:
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()  # a zombie that waits for init
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_children_of_a_killed_service_are_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    child = f"import subprocess; p = subprocess.Popen(['sleep', '60']); open({str(pid)!r}, 'w').write(str(p.pid))"
    services = [python("parent", child + "; import time; time.sleep(60)")]
    run(services, is_ready=lambda: pid.exists() and pid.read_text() != "", ready=stop)
    eventually(lambda: has_ended(pid.read_text()), "end of the child")


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
open({file!r}, "a").write(f"{{child.pid}}\\n")
time.sleep(60)
"""


@pytest.mark.parametrize(("lost_s", "starts"), [(3, 2), (math.inf, 1)])
def test_unhealthy_service_without_its_child_is_restarted_sooner(tmp_path: Path, lost_s: float, starts: int) -> None:
    started = tmp_path / "children"

    def children() -> list[int]:
        return [int(line) for line in started.read_text().split()] if started.exists() else []

    def is_healthy() -> bool:
        return not killed or len(children()) > 1

    killed: list[int] = []

    def ready() -> None:
        loop = asyncio.get_running_loop()

        def kill() -> None:
            killed.extend(children())
            os.kill(killed[0], signal.SIGKILL)

        loop.call_later(2.5, kill)
        loop.call_later(10, stop)

    parent = python("parent", PARENT.format(file=str(started)), is_healthy=is_healthy, lost_s=lost_s)
    run([parent], lambda: bool(children()), ready)
    assert len(children()) == starts
    for child in children():
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_service_that_is_not_yet_healthy_is_left_alone(tmp_path: Path) -> None:
    starts = tmp_path / "starts"

    def ready() -> None:
        asyncio.get_running_loop().call_later(4, stop)

    run([python("slow", counting(starts), is_healthy=lambda: False)], lambda: True, ready, unhealthy_s=0)
    assert starts.read_text().count("started") == 1


def test_unhealthy_service_is_restarted(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    looks = iter([True, *[False] * 3])

    def ready() -> None:
        asyncio.get_running_loop().call_later(8, stop)

    run([python("stuck", counting(starts), is_healthy=lambda: next(looks, True))], lambda: True, ready, unhealthy_s=1)
    assert starts.read_text().count("started") == 2


def test_machine_that_slept_is_no_reason_to_restart(tmp_path: Path) -> None:
    """After it, the first check may fail."""
    starts = tmp_path / "starts"
    pauses = iter([(0, True), (3, True), (0, False)])

    def is_healthy() -> bool:
        seconds, answer = next(pauses, (0, True))
        time.sleep(seconds)
        return answer

    def ready() -> None:
        asyncio.get_running_loop().call_later(9, stop)

    run([python("slept", counting(starts), is_healthy=is_healthy)], lambda: True, ready, unhealthy_s=2)
    assert next(pauses, None) is None
    assert starts.read_text().count("started") == 1


def test_service_that_never_becomes_healthy_is_restarted(tmp_path: Path) -> None:
    starts = tmp_path / "starts"

    def ready() -> None:
        asyncio.get_running_loop().call_later(6, stop)

    services = [python("stuck", counting(starts), is_healthy=lambda: False)]
    run(services, starts.exists, ready, unhealthy_s=0, start_timeout_s=1)
    assert starts.read_text().count("started") >= 2


def test_large_log_is_rotated_while_the_service_writes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write = "for i in range(10**9): print(f'line {i}', flush=True); time.sleep(0.001)"
    service = python("talker", f"import time\n{write}", log=log, max_log_bytes=2000)
    sizes = []

    def ready() -> None:
        loop = asyncio.get_running_loop()

        def look() -> None:
            sizes.append(log.stat().st_size)
            loop.call_later(0.05, look)

        look()
        loop.call_later(4, stop)

    run([service], lambda: log.stat().st_size > 0, ready)
    assert sizes != sorted(sizes), "the log never began again"
    before, after = (file.read_text().splitlines() for file in (tmp_path / "log.1", log))
    assert before[-1].startswith("line ")
    assert after
    assert all(line.startswith("line ") for line in after), "whoever writes goes on at the new end"
