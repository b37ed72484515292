"""Whether the gateway is ready: every model must have answered an inference recently."""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gateway.catalog import Catalog, ImageModel, TextModel, TritonModel
from gateway.contract import SEGMENTS
from gateway.drain import Drain
from gateway.errors import GatewayError
from gateway.images.pool import Pixels
from gateway.scheduling.admission import Lines
from gateway.scheduling.threads import Threads
from gateway.service import image_batches, text_batches
from gateway.service.caller import Caller
from gateway.triton import Triton

log = logging.getLogger(__name__)

Code = Literal["stopping", "triton_unreachable", "no_models", "model_unresponsive"]
PERIOD_S = 1.0
FRESH_S = 4.0
"""How long an answer proves a model alive. Triton's own "ready" proves nothing: 2.51 keeps saying so of a model whose
process is dead."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the gateway is not ready."""

    code: Code
    reason: str
    """For people. Programs decide by the code."""


class Monitor:
    """Keeps the catalog current, and once a second probes the models that nobody else has called."""

    def __init__(self, triton: Triton, catalog: Catalog, lines: Lines, threads: Threads, drain: Drain) -> None:
        self._triton = triton
        self._catalog = catalog
        self._lines = lines
        self._drain = drain
        self._caller = Caller(triton, Lines(triton.timeout_s), threads)  # lines of its own, where nobody waits
        self._is_live = False
        self._probes: dict[str, asyncio.Task[None]] = {}

    def problem(self) -> Problem | None:
        """Why the gateway is not ready, or None if it is."""
        if self._drain.began_at is not None:
            return Problem("stopping", "the server is stopping")
        if not self._is_live:
            return Problem("triton_unreachable", "Triton is not responding")
        if not self._catalog.models:
            return Problem("no_models", "Triton serves no model that Conch exported")
        stale = dict.fromkeys(
            triton_model.name for triton_model in self._triton_models() if not self.is_well(triton_model)
        )
        return Problem("model_unresponsive", f"no recent answer from {', '.join(stale)}") if stale else None

    def is_well(self, triton_model: TritonModel) -> bool:
        """Whether a model has answered lately. One that has much to do may be silent for longer."""
        patience_s = FRESH_S + min(self._lines.of(triton_model.triton_name).expected_s, self._triton.timeout_s)
        return self._answered_within(triton_model, patience_s)

    async def run(self) -> None:
        """Watch until cancelled, whatever happens: the gateway is as ready as the last look says."""
        before: Problem | None = Problem("triton_unreachable", "not checked yet")
        while True:
            try:
                await self._look()
                before = self._tell(before)
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # panics of Rust are no Exception
                log.exception("checking Triton failed")
            await asyncio.sleep(PERIOD_S)

    def _tell(self, before: Problem | None) -> Problem | None:
        """Log the problem if it has changed; returns it."""
        now = self.problem()
        if now != before:
            log.log(logging.WARNING if now else logging.INFO, "%s", f"not ready: {now.reason}" if now else "ready")
        return now

    async def _look(self) -> None:
        self._is_live = await self._triton.is_live()
        if self._is_live:
            with suppress(GatewayError):  # gone between the two questions
                await self._catalog.refresh()
            self._send_probes()

    def _triton_models(self) -> list[TritonModel]:
        return [triton_model for model in self._catalog.models for triton_model in model.triton_models]

    def _send_probes(self) -> None:
        """Send each model a row of one token or a black image, unless it answers others or still owes the last one."""
        for triton_model in self._triton_models():
            waiting = self._probes.get(triton_model.triton_name)
            if (waiting is None or waiting.done()) and not self._answered_within(triton_model, PERIOD_S):
                self._probes[triton_model.triton_name] = asyncio.create_task(self._probe(triton_model))

    async def _probe(self, triton_model: TritonModel) -> None:
        try:
            if isinstance(triton_model, TextModel):
                await text_batches.run(self._caller, triton_model, [tuple([0] for _ in SEGMENTS[triton_model.role])])
            elif isinstance(triton_model, ImageModel):
                size = (3, triton_model.preparation.height, triton_model.preparation.width)
                await image_batches.run(self._caller, triton_model, 1, lambda _: _black(size))
        except GatewayError as exc:
            log.debug("probe of %s: %s", triton_model.triton_name, exc)  # problem() tells when it matters

    def _answered_within(self, triton_model: TritonModel, seconds: float) -> bool:
        answered_at = self._triton.answered_at.get(triton_model.triton_name)
        return answered_at is not None and time.monotonic() - answered_at < seconds


async def _black(size: tuple[int, int, int]) -> Pixels:
    return np.zeros(size, np.uint8)
