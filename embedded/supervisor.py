"""Runs processes, restarts those that die or hang, and stops all of them in order."""

import asyncio
import ctypes
import math
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 180
"""Large models take a minute to load and warm up."""
RESTART_DELAY_S = 1.0
PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
UNHEALTHY_S = 20.0
"""How long a service may be unhealthy before it is restarted: longer than any execution of a model."""
USUAL_CHECKS = 20
"""Good checks that tell how many children a service usually has."""
CHECK_S = 1.0
"""Interval of health checks."""
MAX_LOG_BYTES = 16 * 2**20


def _nothing() -> None:
    pass


def _healthy() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Service:
    """A process to keep running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_timeout_s: float
    """Time to exit after SIGTERM."""
    log: Path | None = None
    """File for its output; by default the output goes to the supervisor's."""
    clean_up: Callable[[], None] = _nothing
    """Called each time the process has ended."""
    is_healthy: Callable[[], bool] = _healthy
    """Health check, called every second in a thread. A process that is unhealthy for UNHEALTHY_S is restarted; a new
    process has START_TIMEOUT_S more."""
    lost_s: float = math.inf
    """Replaces UNHEALTHY_S, if it is shorter, while the service has fewer child processes than it usually has."""
    max_log_bytes: int = MAX_LOG_BYTES
    """A larger log is copied to a file with the suffix `.1` and emptied."""


class StartFailedError(Exception):
    """A service exited, or the start timed out, before everything was ready."""


class Supervisor:
    """Keeps services running until SIGINT or SIGTERM."""

    def __init__(
        self, services: Sequence[Service], unhealthy_s: float = UNHEALTHY_S, start_timeout_s: float = START_TIMEOUT_S
    ) -> None:
        self.services = services
        self._unhealthy_s = unhealthy_s
        self._start_timeout_s = start_timeout_s
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def run(self, is_ready: Callable[[], bool], ready: Callable[[], object]) -> None:
        """Start the services in order, and stop them in reverse order when SIGINT or SIGTERM arrives.

        Args:
            is_ready: called repeatedly in a thread until it returns True.
            ready: called once after that.

        Raises:
            StartFailedError: a service exited, or the start timed out, before everything was ready.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, stop.set)
        try:
            for service in self.services:
                await self._start(service)
            await self._wait_until(is_ready, stop)
            if not stop.is_set():
                ready()
                await self._keep_running(stop)
        finally:
            for service in reversed(self.services):
                await self._stop(service)

    async def _wait_until(self, is_ready: Callable[[], bool], stop: asyncio.Event) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not stop.is_set() and not await asyncio.to_thread(is_ready):
            for name, process in self._processes.items():
                if process.returncode is not None:
                    raise StartFailedError(f"{name} exited with code {process.returncode} before it was ready")
            if time.monotonic() > deadline:
                raise StartFailedError(f"not ready within {self._start_timeout_s:g} s")
            await asyncio.sleep(0.1)

    async def _keep_running(self, stop: asyncio.Event) -> None:
        keeps = (self._restart, self._watch, self._bound_log)
        keepers = [asyncio.create_task(keep(service)) for service in self.services for keep in keeps]
        await stop.wait()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    async def _restart(self, service: Service) -> None:
        while True:
            code = await self._processes[service.name].wait()
            print(f"{service.name} exited with code {code}; restarting it", file=sys.stderr, flush=True)
            self._clean_up(service)
            while True:
                await asyncio.sleep(RESTART_DELAY_S)
                try:
                    await self._start(service)
                except OSError as exc:
                    print(f"{service.name} could not be restarted: {exc}", file=sys.stderr, flush=True)
                else:
                    break

    async def _watch(self, service: Service) -> None:
        process = None
        # Since its first failed check, not since the last good one: a machine may have slept in between.
        unhealthy_at: float | None = None
        # How many children it had at the last good checks. The fewest count: for a new version of a model there is one
        # more for a while.
        children: deque[int] = deque(maxlen=USUAL_CHECKS)
        while True:
            await asyncio.sleep(CHECK_S)
            if process is not self._processes[service.name]:
                process = self._processes[service.name]
                unhealthy_at = time.monotonic() + self._start_timeout_s
                children.clear()
            now, number = time.monotonic(), len(_children(process.pid))
            if await asyncio.to_thread(service.is_healthy):
                unhealthy_at = None
                children.append(number)
                continue
            unhealthy_at = now if unhealthy_at is None else unhealthy_at
            has_lost_child = number < min(children, default=0)
            limit_s = min(self._unhealthy_s, service.lost_s) if has_lost_child else self._unhealthy_s
            if now - unhealthy_at > limit_s:
                print(f"{service.name} is not responding; stopping it", file=sys.stderr, flush=True)
                unhealthy_at = math.inf  # only once
                self._kill(process.pid)

    async def _bound_log(self, service: Service) -> None:
        while service.log is not None:
            await asyncio.sleep(CHECK_S)
            with suppress(OSError):  # tried again in a second
                if service.log.stat().st_size > service.max_log_bytes:
                    await asyncio.to_thread(_rotate, service.log)

    async def _start(self, service: Service) -> None:
        output = service.log.open("ab") if service.log else None
        self._processes[service.name] = await asyncio.create_subprocess_exec(
            *service.command,
            env=service.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A process group of its own: Ctrl-C must reach only the supervisor, which stops the services in order.
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        if output:
            output.close()

    async def _stop(self, service: Service) -> None:
        process = self._processes.get(service.name)
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), service.stop_timeout_s)
        self._clean_up(service)
        await process.wait()

    def _clean_up(self, service: Service) -> None:
        """Kill the remaining children of a service, which outlive a killed parent, and clean up after it."""
        self._kill(self._processes[service.name].pid)
        service.clean_up()

    @staticmethod
    def _kill(group: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _children(pid: int) -> frozenset[int]:
    """All running descendants of a process; none if the process has ended."""
    try:
        lists = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return frozenset()
    own = {int(child) for listed in lists for child in listed.split() if _runs(child)}
    return frozenset(own.union(*map(_children, own)))


def _runs(pid: str) -> bool:
    """Whether a process is not a zombie (proc_pid_stat(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def _rotate(log: Path) -> None:
    """Copy a log to `.1` and empty it. The writer appends, so it continues at the new end without blocking."""
    with suppress(OSError):  # empty it even if the disk is full
        shutil.copyfile(log, f"{log}.1")
    os.truncate(log, 0)


def _die_with_parent() -> None:
    """Make a service end when the supervisor is killed. Runs between fork and exec."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
