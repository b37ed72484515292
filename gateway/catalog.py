"""What is served: read out of Triton, so that a model loaded there is served here without a restart."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ModelNotFound, NotReady
from gateway.tokenize import TextTokenizer
from gateway.triton import ModelConfig, Triton

log = logging.getLogger(__name__)

EMBEDDING_ROLES = frozenset({"text-embedding"})
RERANK_ROLES = frozenset({"late-interaction"})


@dataclass(frozen=True, slots=True)
class Model:
    """One model that clients can name."""

    name: str
    """What clients call it, and its name in Triton."""
    aliases: tuple[str, ...]
    role: str
    default: bool
    """Whether it answers requests of its kind that name no model."""
    output: str
    width: int
    """Numbers a row of the output: an embedding's dimensions, 1 for a score."""
    dimensions: tuple[int, ...]
    """Shorter sizes that its embeddings may be cut to, as it was trained for them."""
    max_tokens: int
    vocabulary_size: int
    max_batch_size: int
    created: int
    """Seconds since 1970 when this gateway first saw it."""
    tokenizer: TextTokenizer


@dataclass(frozen=True, slots=True)
class _Known:
    """A model and what it was made from, to tell whether that has changed."""

    config: ModelConfig
    tokenizer_changed_at: float
    model: Model


class Catalog:
    """The models of one Triton, as of the last refresh."""

    def __init__(self, triton: Triton, repository: Path) -> None:
        self._triton = triton
        self._repository = repository
        self._known: dict[str, _Known] | None = None
        self._complaints: dict[str, str] = {}

    @property
    def models(self) -> list[Model]:
        """All of them, by name."""
        return [known.model for known in (self._known or {}).values()]

    async def refresh(self) -> None:
        """Ask Triton what it serves.

        Raises:
            GatewayError: it does not answer; the catalog stays as it was.
        """
        configs = await self._triton.models()
        known, complaints = {}, {}
        for config in sorted(configs, key=lambda config: config.name):
            if config.parameters.get("role") not in EMBEDDING_ROLES | RERANK_ROLES:
                continue  # somebody else's
            try:
                known[config.name] = await self._know(config)
            except Exception as exc:  # noqa: BLE001 - tokenizers raises it bare; a bad entry must not hide the others
                complaints[config.name] = f"{type(exc).__name__}: {exc}"
        for name, complaint in complaints.items() - self._complaints.items():
            log.warning("model %s is left out: %s", name, complaint)
        self._known, self._complaints = known, complaints

    async def _know(self, config: ModelConfig) -> _Known:
        file = self._repository / config.name / "tokenizer.json"
        changed_at = file.stat().st_mtime
        before = (self._known or {}).get(config.name)
        if before is not None and (before.config, before.tokenizer_changed_at) == (config, changed_at):
            return before
        created = before.model.created if before is not None else int(time.time())
        tokenizer = await asyncio.to_thread(TextTokenizer.from_file, file)  # large ones take a second
        return _Known(config, changed_at, _model(config, tokenizer, created))

    def find(self, name: str | None, roles: frozenset[str]) -> Model:
        """The model that clients mean by a name or alias, or the default one.

        Raises:
            ModelNotFound: there is none of these roles; names those that there are.
            NotReady: Triton has not been reached yet.
        """
        if self._known is None:
            raise NotReady("Triton has not been reached yet")
        served = [model for model in self.models if model.role in roles]
        for model in served:
            if model.default if name is None else name in (model.name, *model.aliases):
                return model
        wanted = f"no model {name!r}" if name is not None else "no default model"
        names = ", ".join(model.name for model in served) or "none"
        raise ModelNotFound(f"there is {wanted} for this endpoint; served here: {names}", param="model")


def _model(config: ModelConfig, tokenizer: TextTokenizer, created: int) -> Model:
    """Read a config's parameters."""
    parameters: Mapping[str, str] = config.parameters
    return Model(
        name=config.name,
        aliases=tuple(filter(None, parameters.get("aliases", "").split(","))),
        role=parameters["role"],
        default=parameters.get("default") == "true",
        output=config.output,
        width=config.width,
        dimensions=tuple(map(int, filter(None, parameters.get("dimensions", "").split(",")))),
        max_tokens=int(parameters["max_tokens"]),
        vocabulary_size=int(parameters["vocabulary_size"]),
        max_batch_size=config.max_batch_size,
        created=created,
        tokenizer=tokenizer,
    )
