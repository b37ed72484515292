"""Readiness: every model must have answered an inference recently."""

import asyncio
import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from gateway.board import READY, Board
from gateway.catalog import Catalog, ImageModel, TextModel, TritonModel
from gateway.contract import SEGMENTS
from gateway.drain import Drain
from gateway.errors import GatewayError
from gateway.images.preparation import Patches, Pixels
from gateway.images.processors import black
from gateway.scheduling.admission import Queues
from gateway.scheduling.threads import Threads
from gateway.service.caller import Caller
from gateway.service.image_batches import infer_images
from gateway.service.shared_calls import SharedCalls
from gateway.service.text_batches import FIELDS, infer_texts
from gateway.triton import Triton

log = logging.getLogger(__name__)

Code = Literal["stopping", "triton_unreachable", "no_models", "model_unresponsive"]
PERIOD_S = 1.0
START_S = 5.0
"""How long the first check may delay the start."""
FRESH_S = 4.0
"""A model is ready for this long after an answer. Triton's own readiness is not enough: Triton 2.51 still reports a
model as ready after its process has died."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the gateway is not ready."""

    code: Code
    reason: str
    """For people; programs use the code."""


class Monitor:
    """Refreshes the catalog every second, and probes the models that no request has used meanwhile.

    A worker checks its own connections to Triton. What models answer it learns from all workers: so an idle model gets
    one probe per second, however many workers there are.
    """

    def __init__(
        self,
        triton: Triton,
        catalog: Catalog,
        queues: Queues,
        threads: Threads,
        drain: Drain,
        board: Board | None = None,
    ) -> None:
        self._triton = triton
        self._catalog = catalog
        self._queues = queues
        self._drain = drain
        self._board = board or Board()
        self._ready = self._board.row(READY)
        self._caller = Caller(SharedCalls(triton), Queues(triton.timeout_s), threads)  # its own: probes never wait
        self._is_live = False
        self._has_checked = asyncio.Event()
        self._probes: dict[str, asyncio.Task[None]] = {}

    def problem(self) -> Problem | None:
        """Why the gateway is not ready, or None if it is."""
        if self._drain.began_at is not None:
            return Problem("stopping", "the server is stopping")
        if not self._is_live:
            return Problem("triton_unreachable", "Triton is not responding")
        if not self._catalog.models:
            return Problem("no_models", "Triton has no model that this gateway can serve")
        stale = dict.fromkeys(
            triton_model.name for triton_model in self._catalog.triton_models if not self.is_ready(triton_model)
        )
        return Problem("model_unresponsive", f"no recent answer from {', '.join(stale)}") if stale else None

    def is_ready(self, triton_model: TritonModel) -> bool:
        """Whether a model has answered recently. The work in flight extends the time allowed."""
        expected_s = self._queues.get(triton_model.triton_name).expected_s
        return self._answered_within(triton_model, FRESH_S + min(expected_s, self._triton.timeout_s))

    async def first_check(self) -> None:
        """Wait until Triton has been asked once, for START_S at most.

        A worker that accepted connections before would refuse requests while another is ready.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await self._has_checked.wait()

    async def run(self) -> None:
        """Check every second until cancelled; no exception stops this."""
        before: Problem | None = Problem("triton_unreachable", "not checked yet")
        while True:
            try:
                await self._check()
                before = self._tell(before)
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # Rust panics are not Exceptions
                log.exception("checking Triton failed")
            self._has_checked.set()
            await asyncio.sleep(PERIOD_S)

    def _tell(self, before: Problem | None) -> Problem | None:
        """Publish the current problem, log it if it differs from the previous one, and return it."""
        now = self.problem()
        self._board.own[self._ready] = now is None
        if now != before:
            log.log(logging.WARNING if now else logging.INFO, "%s", f"not ready: {now.reason}" if now else "ready")
        return now

    async def _check(self) -> None:
        self._is_live = await self._triton.is_live()
        if self._is_live:
            with suppress(GatewayError):  # Triton may have stopped since the check
                await self._catalog.refresh()
            for triton_model in self._catalog.triton_models:
                self._announce(triton_model)
            self._send_probes()

    def _send_probes(self) -> None:
        """Probe each model that has not answered recently and has no probe pending."""
        for triton_model in self._catalog.triton_models:
            waiting = self._probes.get(triton_model.triton_name)
            if (waiting is None or waiting.done()) and not self._answered_within(triton_model, PERIOD_S):
                self._probes[triton_model.triton_name] = asyncio.create_task(self._probe(triton_model))

    async def _probe(self, triton_model: TritonModel) -> None:
        """Send a row of one token, or a black image. The first output stands for all."""
        try:
            if isinstance(triton_model, TextModel):
                row = tuple([0] for _ in SEGMENTS[triton_model.role])
                await infer_texts(self._caller, triton_model, [row], {FIELDS[next(iter(triton_model.outputs))]})
            elif isinstance(triton_model, ImageModel):
                image = black(triton_model.preparation)
                await infer_images(self._caller, triton_model, 1, lambda _: _given(image))
            self._announce(triton_model)
        except GatewayError as exc:
            log.debug("probe of %s: %s", triton_model.triton_name, exc)  # problem() reports it if it lasts

    def _answered_within(self, triton_model: TritonModel, seconds: float) -> bool:
        own = self._triton.answered_at.get(triton_model.triton_name, -math.inf)
        told = filter(None, self._board.values(self._row(triton_model)))  # 0 until a worker tells
        return time.monotonic() - max(own, *told, -math.inf) < seconds

    def _announce(self, triton_model: TritonModel) -> None:
        """Tell the other workers when a model has answered; the monotonic clock is the same for all."""
        answered_at = self._triton.answered_at.get(triton_model.triton_name)
        if answered_at is not None:
            self._board.own[self._row(triton_model)] = answered_at

    def _row(self, triton_model: TritonModel) -> int:
        """Lasts, because a model lives on when the worker that it answered has died."""
        return self._board.row(f"answered {triton_model.triton_name}", lasts=True)


async def _given(image: Pixels | Patches) -> Pixels | Patches:
    return image
