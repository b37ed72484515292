"""Runs batches in the background: each worker those of the API keys whose lock it holds, one batch of a key at a time.

A batch ends between requests: when all are done, when it is cancelled, when its time is over, or when the server stops.
In the last case, the worker that finds it next goes on.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import ParamSpec, TypeVar

import msgspec
from msgspec import Struct, structs

from gateway.drain import Drain
from gateway.errors import NoSuchObject
from gateway.jobs import lines
from gateway.jobs.lines import Line, LineError, LineResponse, Result, Results
from gateway.jobs.store import Batch, Owner, Problem, Progress, Status, Store, StoredFile

log = logging.getLogger(__name__)

SCAN_S = 1.0
"""How often to look for batches, and how often a running one makes its results durable and tells its progress."""
CLEAN_S = 3600.0
MAX_BATCHES = 4
"""Batches that a worker runs at a time, each of another key."""
AT_ONCE = 32
"""Requests of a batch that are computed at a time."""
BYTES_AT_ONCE = 4 * 2**20
"""Bytes of these requests, unless it is only one."""
READ_AT_ONCE = 64
"""Lines that are read at a time."""
WAIT_STATUSES = frozenset({429, 503})
"""The server is busy, or not ready: the request is repeated until the batch ends."""
RETRY_STATUSES = frozenset({499, 500, 502, 504})
"""The request failed, which may have been by chance."""
MAX_ATTEMPTS = 4
"""Attempts of such a request."""
NOT_FOUND_S = 60.0
"""For how long after the start of the server an unknown model may yet be loaded."""
LOOK_S = 0.5
"""How often a batch that waits looks whether it is to end."""

Given = ParamSpec("Given")
Done = TypeVar("Done")

EXPIRED = LineError("batch_expired", "this request could not be computed before the completion window ended")


class Answer(Struct, frozen=True):
    """The answer to a request."""

    status: int
    request_id: str
    body: bytes
    is_json: bool


class Pauses(Struct, frozen=True):
    """How long to wait, in seconds."""

    first: float = 0.5
    """Before a request is repeated for the first time. Each further pause is twice as long."""
    most: float = 30.0
    """Before a request is repeated, at most."""
    disk: float = 5.0
    """After the disk was full."""


Execute = Callable[[str, str, bytes], Awaitable[Answer]]
"""Sends a request in the background, given the API key to charge, the endpoint and the body."""


class Runner:
    """Runs the batches of a store."""

    def __init__(
        self,
        store: Store,
        execute: Execute,
        drain: Drain,
        is_ready: Callable[[], bool],
        delay_s: Callable[[str], float],
        max_line_bytes: int,
        pauses: Pauses = Pauses(),  # noqa: B008 - it is frozen
    ) -> None:
        """Begin with none.

        Args:
            store: has the batches.
            execute: sends a request.
            drain: whether the server is stopping. It waits for the requests in flight.
            is_ready: whether requests can be answered at all.
            delay_s: how long a key must wait because of its quota.
            max_line_bytes: the longest line of an input file.
            pauses: how long to wait after a failure.
        """
        self.store = store
        self.execute = execute
        self.drain = drain
        self.is_ready = is_ready
        self.delay_s = delay_s
        self.max_line_bytes = max_line_bytes
        self.pauses = pauses
        self.started_at = time.monotonic()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cleaned_at = 0.0

    @property
    def running(self) -> int:
        """The number of batches that this worker runs."""
        return len(self._running)

    async def run(self) -> None:
        """Run batches until cancelled; no exception stops this."""
        try:
            while True:
                try:
                    if self.drain.began_at is None:
                        await self._start()
                except Exception:
                    log.exception("looking for batches failed")
                await asyncio.sleep(SCAN_S)
        finally:
            running = [*self._running.values()]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _start(self) -> None:
        if time.monotonic() - self._cleaned_at > CLEAN_S or not self._cleaned_at:
            self._cleaned_at = time.monotonic()
            await asyncio.to_thread(self._clean)
        if self.running == MAX_BATCHES:
            return
        for owner, lock in await asyncio.to_thread(self._lock_some, MAX_BATCHES - self.running, {*self._running}):
            task = asyncio.create_task(self._work(owner, lock))
            self._running[owner.key] = task

    def _lock_some(self, most: int, except_for: set[str]) -> list[tuple[Owner, int]]:
        """Lock keys that have unfinished batches."""
        waiting = (owner for owner in self.store.owners() if owner.key not in except_for and any(owner.unfinished()))
        locked = ((owner, lock) for owner in waiting if (lock := owner.lock()) is not None)
        return [*islice(locked, most)]

    def _clean(self) -> None:
        for owner in self.store.owners():
            lock = owner.lock()
            if lock is not None:
                try:
                    owner.clean()
                finally:
                    os.close(lock)

    async def _work(self, owner: Owner, lock: int) -> None:
        """Run the batches of a key, the oldest first."""
        try:
            while self.drain.began_at is None:
                waiting = await asyncio.to_thread(lambda: next(owner.unfinished(), None))
                if waiting is None:
                    break
                await _Run(self, owner, *waiting).run()
        except Exception:
            log.exception("a batch failed; it is tried again")
            await asyncio.sleep(self.pauses.disk)
        finally:
            os.close(lock)
            del self._running[owner.key]


class _Run:
    """Runs one batch."""

    def __init__(
        self, runner: Runner, owner: Owner, batch: Batch, progress: Progress, *, ends_others: bool = True
    ) -> None:
        """Take a batch; `ends_others` meanwhile ends those behind it whose end is due."""
        self._runner = runner
        self._ends_others = ends_others
        self._owner = owner
        self._batch = batch
        self._progress = progress
        self._is_cancelled = False
        self._told_at = 0.0
        self._room = 0

    @property
    def _end(self) -> Status | None:
        """Why to start no further request; "in_progress" if the server is stopping."""
        if self._is_cancelled:
            return "cancelled"
        if time.time() >= self._batch.expires_at:
            return "expired"
        return "in_progress" if self._runner.drain.began_at is not None else None

    async def run(self) -> None:
        """Run the batch until it is finished, or the server is stopping.

        Raises:
            OSError: the disk fails, or is full even for the state of a batch.
        """
        owner, batch = self._owner, self._batch
        self._is_cancelled = await asyncio.to_thread(owner.cancelled_at, batch.id) is not None
        try:
            await asyncio.to_thread(owner.check_content, batch.input_file_id)
            if self._progress.status == "validating":
                problems = await self._validate()
                if problems:
                    await self._fail(problems)
                    return
            paths = owner.content(batch.output_file_id), owner.content(batch.error_file_id)
            with await _in_thread(Results, *paths) as results:
                await self._compute(results)
                await self._close(results)
        except NoSuchObject:
            await self._fail([Problem("input_file_not_found", "the input file was deleted, or has expired")])

    async def _validate(self) -> list[Problem]:
        """Check the input file, and return what is wrong with it."""
        batch = self._batch
        path = self._owner.content(batch.input_file_id)
        total, problems = await asyncio.to_thread(lines.check, path, batch.endpoint, self._runner.max_line_bytes)
        if not problems:
            self._progress.status = "in_progress"
            self._progress.total = total
            self._progress.in_progress_at = int(time.time())
            await self._tell()
        return problems

    async def _fail(self, problems: list[Problem]) -> None:
        self._progress.problems = problems
        await self._finish("failed")

    async def _compute(self, results: Results) -> None:
        """Compute the requests that have no result yet, until all have one or there is a reason to end."""
        path = self._owner.content(self._batch.input_file_id)
        pending = (one for one in lines.read(path, self._runner.max_line_bytes) if one.number not in results.done)
        upcoming: deque[Line] = deque()
        has_more = True
        tasks: dict[asyncio.Task[Result | None], int] = {}
        try:
            while True:
                await self._look(results)
                if not upcoming and has_more:
                    upcoming.extend(await asyncio.to_thread(_take, pending))
                    has_more = bool(upcoming)
                if self._end is not None or not upcoming:
                    if not tasks:
                        break
                elif self._may_start():
                    while upcoming and _has_room(tasks, upcoming[0]):
                        line = upcoming.popleft()
                        tasks[asyncio.create_task(self._result(line))] = len(line.content)
                        await asyncio.sleep(0)  # requests get their turn
                if not tasks:
                    await asyncio.sleep(LOOK_S)
                    continue
                done, _ = await asyncio.wait(tasks, timeout=SCAN_S, return_when=asyncio.FIRST_COMPLETED)
                found = [result for task in done if (result := task.result()) is not None]
                for task in done:
                    del tasks[task]
                await self._write(results, found)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _may_start(self) -> bool:
        return self._runner.is_ready() and not self._runner.delay_s(self._owner.key)

    async def _result(self, line: Line) -> Result | None:
        """The result of a request; None if the batch ends before there is one."""
        request, drain, pauses = line.request, self._runner.drain, self._runner.pauses
        pause_s, failures = pauses.first, 0
        while True:
            drain.in_flight += 1
            try:
                answer = await self._runner.execute(self._owner.key, self._batch.endpoint, bytes(request.body))
            finally:
                drain.in_flight -= 1
            failures += answer.status in RETRY_STATUSES
            if not self._repeats(answer.status, failures):
                break
            if not await self._pause(pause_s):
                return None
            pause_s = min(pauses.most, 2 * pause_s)
        if not answer.is_json:
            error = LineError("not_json", "the answer is not JSON; ask for another format")
            return Result(line.number, request.custom_id, is_success=False, error=error)
        response = LineResponse(answer.status, answer.request_id, msgspec.Raw(answer.body))
        return Result(line.number, request.custom_id, is_success=answer.status == 200, response=response)

    def _repeats(self, status: int, failures: int) -> bool:
        """Whether to send a request again."""
        if status == 404:
            return time.monotonic() - self._runner.started_at < NOT_FOUND_S
        return status in WAIT_STATUSES or (status in RETRY_STATUSES and failures < MAX_ATTEMPTS)

    async def _pause(self, seconds: float) -> bool:
        """Wait; returns False as soon as the batch is to end."""
        until = time.monotonic() + seconds
        while self._end is None and (left := until - time.monotonic()) > 0:  # noqa: ASYNC110 - no event tells the end
            await asyncio.sleep(min(left, LOOK_S))
        return self._end is None

    async def _write(self, results: Results, found: Sequence[Result]) -> None:
        """Write results. While there is no room, wait, unless the batch is to end: the requests have no result then."""
        while found:
            problem = await self._try_to_write(results, found)
            if problem is None:
                self._progress.problems = []
                return
            if self._end is not None:
                return
            if not self._progress.problems:
                log.warning("batch %s waits: %s", self._batch.id, problem)
            self._progress.problems = [Problem("disk_full", f"waiting for room on the disk: {problem}")]
            await asyncio.sleep(self._runner.pauses.disk)
            with suppress(OSError):
                await self._look(results)

    async def _try_to_write(self, results: Results, found: Sequence[Result]) -> str | None:
        """Write results, or return why that is not possible now."""
        if self._room <= 0:
            return "the files of batches have reached their limit; delete files that are not needed"
        try:
            await _in_thread(results.add, found, self._batch.id)
        except OSError as exc:
            return exc.strerror or type(exc).__name__
        return None

    async def _look(self, results: Results) -> None:
        """Every SCAN_S: make the results durable, tell the progress, and look for a reason to end."""
        if time.monotonic() - self._told_at < SCAN_S:
            return
        self._told_at = time.monotonic()
        await _in_thread(results.sync)
        self._room = await asyncio.to_thread(self._owner.room)
        self._progress.completed, self._progress.failed = results.succeeded, results.failed
        self._is_cancelled = await asyncio.to_thread(self._owner.cancelled_at, self._batch.id) is not None
        await self._tell()
        if self._ends_others:
            for batch, progress in await asyncio.to_thread(self._owner.due):
                if batch.id != self._batch.id:
                    await _Run(self._runner, self._owner, batch, progress, ends_others=False).run()

    async def _tell(self) -> None:
        await asyncio.to_thread(self._owner.set_progress, self._batch.id, structs.replace(self._progress))

    async def _close(self, results: Results) -> None:
        """Finish the batch, if there is a reason to. Repeating this after a crash does no harm."""
        progress, batch = self._progress, self._batch
        is_complete = results.succeeded + results.failed == progress.total
        end: Status | None = "completed" if is_complete else self._end
        await _in_thread(results.sync)
        progress.completed, progress.failed = results.succeeded, results.failed
        if end is None or end == "in_progress":
            await self._tell()
            return
        progress.status = "finalizing"
        progress.finalizing_at = progress.finalizing_at or int(time.time())
        await self._tell()
        if end == "expired":
            await _in_thread(self._expire, results)
            progress.failed = results.failed
        sizes = results.sizes
        for file_id, size, kind in zip(
            (batch.output_file_id, batch.error_file_id), sizes, ("output", "error"), strict=True
        ):
            await asyncio.to_thread(self._publish, file_id, f"{batch.id}_{kind}.jsonl", size)
        progress.has_output, progress.has_errors = (size > 0 for size in sizes)
        await self._finish(end)

    def _expire(self, results: Results) -> None:
        """Write the requests that were not computed in time as errors."""
        path = self._owner.content(self._batch.input_file_id)
        pending = (one for one in lines.read(path, self._runner.max_line_bytes) if one.number not in results.done)
        while some := _take(pending):
            expired = [Result(one.number, one.request.custom_id, is_success=False, error=EXPIRED) for one in some]
            results.add(expired, self._batch.id)
        results.sync()

    def _publish(self, file_id: str, name: str, size: int) -> None:
        """Make a file of results visible; remove it if it is empty."""
        if not size:
            self._owner.content(file_id).unlink(missing_ok=True)
            return
        now = int(time.time())
        expires_at = now + self._batch.output_lasts_s
        self._owner.add_file(StoredFile(file_id, name, "batch_output", size, now, expires_at))

    async def _finish(self, status: Status) -> None:
        progress = self._progress
        progress.status, progress.finished_at = status, int(time.time())
        if status != "failed":
            progress.problems = []
        await self._tell()
        fields = {
            "batch": self._batch.id,
            "path": self._batch.endpoint,
            "status": status,
            "completed": progress.completed,
            "failed": progress.failed,
            "duration_s": progress.finished_at - self._batch.created_at,
        }
        log.info("batch", extra={"fields": fields})


async def _in_thread(work: Callable[Given, Done], *args: Given.args, **options: Given.kwargs) -> Done:
    """Do work on files in a thread. It is not left alone with them: if this is cancelled, it ends after the work."""
    done = asyncio.ensure_future(asyncio.to_thread(work, *args, **options))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise


def _take(pending: Iterator[Line]) -> list[Line]:
    """The next lines."""
    taken: list[Line] = []
    size = 0
    for line in pending:
        taken.append(line)
        size += len(line.content)
        if len(taken) == READ_AT_ONCE or size >= BYTES_AT_ONCE:
            break
    return taken


def _has_room(tasks: "dict[asyncio.Task[Result | None], int]", line: Line) -> bool:
    """Whether to compute another request now."""
    return not tasks or (len(tasks) < AT_ONCE and sum(tasks.values()) + len(line.content) <= BYTES_AT_ONCE)
