"""What is served: read out of Triton, so that a model loaded there is served here without a restart."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ModelNotFound, NotReady
from gateway.tokenize import TextTokenizer
from gateway.triton import ModelConfig, Triton

log = logging.getLogger(__name__)

EMBEDDING_ROLES = frozenset({"text-embedding"})
RERANK_ROLES = frozenset({"late-interaction"})

REFRESH_ON_MISS_S = 1.0
"""How often, at the most, an unknown name makes the catalog ask Triton again."""


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


class Catalog:
    """The models of one Triton."""

    def __init__(self, triton: Triton, repository: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._triton = triton
        self._repository = repository
        self._clock = clock
        self._refreshed_at: float | None = None
        self._known: dict[str, tuple[ModelConfig, float, Model]] = {}

    @property
    def models(self) -> list[Model]:
        """All of them, by name."""
        return [model for _, _, model in sorted(self._known.values(), key=lambda known: known[2].name)]

    async def refresh(self) -> None:
        """Ask Triton what it serves.

        Raises:
            GatewayError: it does not answer; the catalog stays as it was.
        """
        self._known = {
            config.name: known for config in await self._triton.models() if (known := self._know(config)) is not None
        }
        self._refreshed_at = self._clock()

    def _know(self, config: ModelConfig) -> tuple[ModelConfig, float, Model] | None:
        """Keep what is known of an unchanged model, since its tokenizer takes long to load."""
        file = self._repository / config.name / "tokenizer.json"
        try:
            changed_at = file.stat().st_mtime
            known = self._known.get(config.name)
            if known is not None and known[:2] == (config, changed_at):
                return known
            created = known[2].created if known is not None else int(time.time())
            return config, changed_at, _model(config, TextTokenizer.from_file(file), created)
        except KeyError:
            return None  # somebody else's model: it has none of our parameters
        except Exception as exc:  # noqa: BLE001 - tokenizers raises bare ones, and one bad entry must not hide the others
            log.warning("model %s is left out: %s", config.name, exc)
            return None

    async def find(self, name: str | None, roles: frozenset[str]) -> Model:
        """The model that clients mean by a name or alias, or the default one.

        Raises:
            ModelNotFound: there is none of these roles; names those that there are.
            NotReady: Triton has not been reached yet.
        """
        model = self._find(name, roles)
        if model is None and self._may_refresh():
            await self.refresh()
            model = self._find(name, roles)
        if model is not None:
            return model
        if self._refreshed_at is None:
            raise NotReady("Triton has not been reached yet")
        served = ", ".join(model.name for model in self.models if model.role in roles) or "none"
        wanted = f"no model {name!r}" if name is not None else "no default model"
        raise ModelNotFound(f"there is {wanted} for this endpoint; served here: {served}", param="model")

    def _may_refresh(self) -> bool:
        return self._refreshed_at is None or self._clock() - self._refreshed_at > REFRESH_ON_MISS_S

    def _find(self, name: str | None, roles: frozenset[str]) -> Model | None:
        for model in self.models:
            if model.role in roles and (model.default if name is None else name in (model.name, *model.aliases)):
                return model
        return None


def _model(config: ModelConfig, tokenizer: TextTokenizer, created: int) -> Model:
    """Read a config's parameters; KeyError without the ones that every entry has."""
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
