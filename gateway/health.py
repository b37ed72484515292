"""Whether the gateway can do its work: a model counts as alive when it has answered an inference lately."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from gateway.catalog import Catalog, Model
from gateway.errors import GatewayError
from gateway.service import rows
from gateway.triton import Triton

log = logging.getLogger(__name__)

PERIOD_S = 1.0
FRESH_S = 4.0
"""How long an answer proves a model alive. Triton's own "ready" proves nothing: 2.51 keeps saying so of a model whose
process is dead."""


class Monitor:
    """Keeps the catalog true and asks models that nobody else does for an inference, once a second."""

    def __init__(self, triton: Triton, catalog: Catalog) -> None:
        self._triton = triton
        self._catalog = catalog
        self._server_ready = False
        self._canaries: dict[str, asyncio.Task[None]] = {}

    def problem(self) -> str | None:
        """Why the gateway is not ready, or None if it is."""
        if not self._server_ready:
            return "Triton is not ready"
        if not self._catalog.models:
            return "Triton serves no model of ours"
        stale = [model.name for model in self._catalog.models if not self._answered_within(model, FRESH_S)]
        return f"no answer lately from {', '.join(stale)}" if stale else None

    async def run(self) -> None:
        """Watch until cancelled."""
        before: str | None = ""
        while True:
            try:
                await self._look()
            except Exception:
                log.exception("the look at Triton failed")
            now = self.problem()
            if now != before:
                log.log(logging.WARNING if now else logging.INFO, "%s", f"not ready: {now}" if now else "ready")
                before = now
            await asyncio.sleep(PERIOD_S)

    async def _look(self) -> None:
        self._server_ready = await self._triton.is_ready()
        if self._server_ready:
            with suppress(GatewayError):  # gone between the two questions
                await self._catalog.refresh()
            self._send_canaries(self._catalog.models)

    def _send_canaries(self, models: Sequence[Model]) -> None:
        """Send each model a row of one token, unless it answers others or still owes the last one."""
        for model in models:
            waiting = self._canaries.get(model.triton_name)
            if (waiting is None or waiting.done()) and not self._answered_within(model, PERIOD_S):
                self._canaries[model.triton_name] = asyncio.create_task(self._canary(model))

    async def _canary(self, model: Model) -> None:
        row: rows.Row = tuple([0] for _ in rows.SEGMENTS[model.role])
        try:
            await rows.run(self._triton, model, [row])
        except GatewayError as exc:
            log.debug("canary of %s: %s", model.triton_name, exc)  # problem() tells when it matters

    def _answered_within(self, model: Model, seconds: float) -> bool:
        answered_at = self._triton.answered_at.get(model.triton_name)
        return answered_at is not None and time.monotonic() - answered_at < seconds
