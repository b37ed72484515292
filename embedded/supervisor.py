"""Runs services side by side: starts one again when it dies, stops all of them in order."""

import asyncio
import ctypes
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 180
"""Large models take a minute to load and to warm up."""
RESTART_DELAY_S = 1.0
PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


UNWELL_S = 20.0
"""How long a service may be unwell that was well: longer than any one execution of a model."""
LOOK_S = 1.0
MAX_LOG_BYTES = 16 * 2**20


def _nothing() -> None:
    pass


def _well() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Service:
    """A process to keep running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_timeout_s: float
    """How long it may take to end after SIGTERM."""
    log: Path | None = None
    """Where its output goes, by default to the supervisor's own."""
    clean_up: Callable[[], None] = _nothing
    """Called after each end of the process."""
    is_well: Callable[[], bool] = _well
    """Asked every second, in a thread. A process that does no longer what it did is ended and started again after
    UNWELL_S. A fresh one has START_TIMEOUT_S more."""
    lost_s: float = math.inf
    """In place of UNWELL_S, where it is shorter, for a service that has lost a child lately and does not work without
    it."""
    max_log_bytes: int = MAX_LOG_BYTES
    """A log that is larger begins again, with what it held in a file beside it, `.1`."""


class StartFailedError(Exception):
    """A service ended, or the time did, before everything worked."""


class Supervisor:
    """Keeps services running until it is told to stop."""

    def __init__(
        self, services: Sequence[Service], unwell_s: float = UNWELL_S, start_timeout_s: float = START_TIMEOUT_S
    ) -> None:
        self.services = services
        self._unwell_s = unwell_s
        self._start_timeout_s = start_timeout_s
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def run(self, is_ready: Callable[[], bool], ready: Callable[[], object]) -> None:
        """Start the services in order, and stop them in reverse order when SIGINT or SIGTERM arrives.

        Args:
            is_ready: asked a few times a second, in a thread, whether everything works.
            ready: called once, when everything does.

        Raises:
            StartFailedError: a service ended, or START_TIMEOUT_S did, before everything worked.
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
            self._bury(service)
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
        well_at, lost_at, children = 0.0, -math.inf, frozenset[int]()
        while True:
            await asyncio.sleep(LOOK_S)
            if process is not self._processes[service.name]:
                process = self._processes[service.name]
                well_at, lost_at, children = time.monotonic() + self._start_timeout_s, -math.inf, frozenset()
            now, before, children = time.monotonic(), children, _children(process.pid)
            if before - children:
                lost_at = now
            if await asyncio.to_thread(service.is_well):
                well_at = now
            elif now - well_at > min(self._unwell_s, service.lost_s if now - lost_at < self._unwell_s else math.inf):
                print(f"{service.name} is not responding; stopping it", file=sys.stderr, flush=True)
                well_at = math.inf  # only once
                self._kill(process.pid)

    async def _bound_log(self, service: Service) -> None:
        while service.log is not None:
            await asyncio.sleep(LOOK_S)
            with suppress(OSError):  # looked at again in a second
                if service.log.stat().st_size > service.max_log_bytes:
                    await asyncio.to_thread(_begin_again, service.log)

    async def _start(self, service: Service) -> None:
        output = service.log.open("ab") if service.log else None
        self._processes[service.name] = await asyncio.create_subprocess_exec(
            *service.command,
            env=service.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A group of its own: a Ctrl-C in the terminal is for the supervisor, which stops the services in order.
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
        self._bury(service)
        await process.wait()

    def _bury(self, service: Service) -> None:
        """End what is left of a service: children outlive a killed parent."""
        self._kill(self._processes[service.name].pid)
        service.clean_up()

    @staticmethod
    def _kill(group: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _children(pid: int) -> frozenset[int]:
    """The processes that a process has started, and those in turn; none if it is gone itself."""
    try:
        lists = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return frozenset()
    own = {int(child) for listed in lists for child in listed.split() if _runs(child)}
    return frozenset(own.union(*map(_children, own)))


def _runs(pid: str) -> bool:
    """Whether a process is more than an entry that its parent has not looked at yet (proc_pid_stat(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def _begin_again(log: Path) -> None:
    """Empty a log. Whoever writes to it appends, so goes on at the new end, and is never kept waiting."""
    with suppress(OSError):  # a full disk is no reason to keep it
        shutil.copyfile(log, f"{log}.1")
    os.truncate(log, 0)


def _die_with_parent() -> None:
    """Let a service end with a supervisor that is killed; runs between fork and exec."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
