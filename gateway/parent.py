"""Starts the workers, replaces those that die or hang, and stops or renews them one after the other."""

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from socket import socket
from types import FrameType

from gateway.board import BEATS, LISTENS, Board
from gateway.drain import RETIRE_S
from gateway.settings import Settings

log = logging.getLogger(__name__)

CHECK_S = 0.2
"""Interval of checks."""
HANG_S = 10.0
"""How long the event loop of a worker may stand still before the worker is killed. Only time in which the parent runs
counts: both may have been stopped."""
START_S = 60.0
"""The same until the event loop runs for the first time."""
ALIVE_S = 2.0
"""The heartbeat file is touched while no worker has stood still for longer."""
STOP_S = 3.0
"""Time to stop after the drain timeout: for errors, slow clients and cleanup."""
FIRST_DELAY_S, MAX_DELAY_S = 0.5, 10.0
"""Delays before a worker is started again that has lived for less than STABLE_S; each is twice the one before."""
STABLE_S = 10.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(eq=False, slots=True)
class _Worker:
    """A running worker."""

    process: "subprocess.Popen[bytes]"
    column: int
    started_at: float = field(default_factory=time.monotonic)
    beats: float = -1.0
    still_s: float = 0.0
    """For how long its event loop has stood still."""
    ends_by: float | None = None
    """When it is killed at the latest; None if it is not to end."""


class Parent:
    """Keeps workers running until SIGINT or SIGTERM. SIGHUP replaces them one after the other.

    The workers inherit the listening sockets, so no connection is lost that no worker has accepted yet.
    """

    def __init__(self, settings: Settings, workers: int, sockets: Sequence[socket]) -> None:
        self._settings = settings
        self._board = Board.create(workers)
        self._sockets = sockets
        self._workers: list[_Worker] = []
        self._has_listened = False
        self._stopped_by: signal.Signals | None = None
        self._exit_code = 0
        self._delay_s = 0.0
        self._start_at = 0.0
        self._outdated: list[_Worker] = []
        """Workers that a SIGHUP has to replace."""
        self._replacement: _Worker | None = None
        """The one that has been started for the first of them."""
        self._touched_at = 0.0

    def run(self) -> int:
        """Run until all workers have ended. The exit code is that of the first worker if it could not start."""
        received, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup)  # Python writes the numbers of signals there
        for handled in SIGNALS:
            if handled != signal.SIGHUP or signal.getsignal(handled) != signal.SIG_IGN:  # as nohup makes it
                signal.signal(handled, _do_nothing)
        checked_at = time.monotonic()
        while True:
            # Not sigtimedwait: in CPython 3.11 it returns what it has not written if the process was stopped meanwhile.
            if select.select([received], [], [], CHECK_S)[0]:
                for number in os.read(received, 512):
                    self._handle(signal.Signals(number))
            now = time.monotonic()
            self._reap(now)
            self._watch(now, min(now - checked_at, 2 * CHECK_S))
            checked_at = now
            if self._stopped_by is None and not self._exit_code:
                self._start_missing(now)
                self._renew()
            elif not self._workers:
                break
            self._touch(now)
        if self._stopped_by is not None:  # ends the process as it would have without this handling
            signal.signal(self._stopped_by, signal.SIG_DFL)
            signal.raise_signal(self._stopped_by)
        return self._exit_code

    @property
    def _staying(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.ends_by is None]

    def _listens(self, worker: _Worker) -> bool:
        return self._board.column(worker.column)[self._board.row(LISTENS)] == 1

    def _handle(self, received: signal.Signals) -> None:
        if received == signal.SIGHUP:
            self._outdated = self._staying
            log.info("replacing %d workers, one after the other", len(self._outdated))
        elif received in (signal.SIGTERM, signal.SIGINT):
            self._stopped_by = received
            for one in self._sockets:  # the workers close theirs when they are done
                one.close()
            for worker in self._workers:
                self._end(worker, signal.SIGTERM)

    def _end(self, worker: _Worker, by: signal.Signals) -> None:
        worker.process.send_signal(by)
        if worker.ends_by is None:
            retire_s = RETIRE_S if by == signal.SIGHUP else 0.0
            worker.ends_by = time.monotonic() + retire_s + self._settings.drain_timeout_s + STOP_S

    def _start(self) -> _Worker | None:
        """Start a worker; None if the machine has no process, memory or file descriptor left for it."""
        taken = {worker.column for worker in self._workers}
        column = next(column for column in range(self._board.columns) if column not in taken)
        files = [one.fileno() for one in self._sockets]
        arguments = map(str, (os.getpid(), self._board.workers, self._board.file, column, *files))
        command = [sys.executable, "-m", "gateway", *arguments]
        try:
            process = subprocess.Popen(command, pass_fds=[*files, self._board.file])  # noqa: S603 - our own
        except OSError as exc:
            log.error("cannot start a worker: %s", exc)  # noqa: TRY400
            return None
        worker = _Worker(process, column)
        self._workers.append(worker)
        return worker

    def _start_missing(self, now: float) -> None:
        while len(self._staying) < self._board.workers and now >= self._start_at:
            if self._start() is None:
                self._start_at = now + FIRST_DELAY_S

    def _reap(self, now: float) -> None:
        for worker in list(self._workers):
            code = worker.process.poll()
            if code is None:
                self._has_listened = self._has_listened or self._listens(worker)
                continue
            self._workers.remove(worker)
            self._board.leave(worker.column)
            if worker in self._outdated:
                self._outdated.remove(worker)
            if worker.ends_by is None:
                self._died(worker, code, now)
        self._bury_orphans()

    def _bury_orphans(self) -> None:
        """Reap what is not a worker: in a container, this process inherits the image decoders of dead workers."""
        ours = {worker.process.pid for worker in self._workers}
        with suppress(ChildProcessError):  # there are no children
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in ours:
                os.waitpid(ended.si_pid, 0)

    def _died(self, worker: _Worker, code: int, now: float) -> None:
        if not self._has_listened:
            self._exit_code = code if code > 0 else 1
            for other in self._workers:
                self._end(other, signal.SIGKILL)
            return
        if worker is self._replacement:
            log.error("the replacement of a worker ended with code %d; the others are kept", code)
            self._replacement, self._outdated = None, []
            return
        self._delay_s = 0.0 if now - worker.started_at > STABLE_S else min(MAX_DELAY_S, 2 * self._delay_s)
        self._start_at = now + self._delay_s
        self._delay_s = self._delay_s or FIRST_DELAY_S / 2
        log.warning("worker %d ended with code %d; restarting it", worker.column, code)

    def _watch(self, now: float, seconds: float) -> None:
        """Kill what hangs, or does not end in time."""
        row = self._board.row(BEATS)
        for worker in self._workers:
            beats = self._board.column(worker.column)[row]
            has_begun = beats == beats  # noqa: PLR0124 - NaN until then
            worker.still_s = 0.0 if has_begun and beats != worker.beats else worker.still_s + seconds
            worker.beats = beats
            if worker.ends_by is not None:
                if now > worker.ends_by:
                    worker.process.kill()
            elif worker.still_s > (HANG_S if has_begun else START_S):
                log.error("worker %d does not respond; killing it", worker.column)
                worker.still_s = 0.0
                worker.process.kill()

    def _renew(self) -> None:
        """Replace the outdated workers one after the other: the new one must listen before the old one retires."""
        if self._replacement is None:
            if self._outdated and len(self._workers) == self._board.workers:
                self._replacement = self._start()
                if self._replacement is None:
                    self._outdated = []  # they are kept
        elif self._listens(self._replacement):
            self._replacement = None
            if self._outdated:
                self._end(self._outdated.pop(0), signal.SIGHUP)

    def _touch(self, now: float) -> None:
        file = self._settings.heartbeat_file
        is_alive = len(self._workers) >= self._board.workers and all(
            worker.still_s < ALIVE_S for worker in self._staying
        )
        if file is not None and now - self._touched_at >= 1 and (is_alive or self._stopped_by is not None):
            self._touched_at = now
            with suppress(OSError):  # a missing folder must not stop the server
                file.touch()


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal: its number is in the pipe already."""
