"""What is served: read out of Triton, so that a model loaded there is served here without a restart."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gateway.errors import ModelNotFound, NotReady
from gateway.scores import ACTIVATIONS
from gateway.tokenize import Template, TextTokenizer
from gateway.triton import ModelConfig, Triton

log = logging.getLogger(__name__)

EMBEDDING_ROLES = frozenset({"text-embedding"})
RERANK_ROLES = frozenset({"late-interaction", "cross-encoder"})


@dataclass(frozen=True, slots=True)
class Model:
    """One model that clients can name."""

    name: str
    """What clients call it."""
    triton_name: str
    aliases: tuple[str, ...]
    role: str
    default: bool
    """Whether it answers requests of its kind that name no model."""
    output: str
    width: int
    """Numbers a row of the output: an embedding's dimensions, a cross-encoder's classes, 1 for a score."""
    dimensions: tuple[int, ...]
    """Shorter sizes that its embeddings may be cut to, as it was trained for them."""
    max_tokens: int
    vocabulary_size: int
    max_batch_size: int
    created: int
    """Seconds since 1970 when this gateway first saw it."""
    tokenizer: TextTokenizer
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What it was trained to find in front of texts of some kind, such as "query"."""
    default_prompt: str = ""
    """What goes in front of texts of no special kind."""
    activation: str = "none"
    """How a cross-encoder's logits become scores."""
    positive_class: int = 0
    """The column of its logits that stands for relevance."""
    takes_first_length: bool = False
    """Whether it asks how many tokens of a row are of the first segment."""
    length_buckets: tuple[int, ...] = ()
    """The only lengths of rows that it takes, ascending, where it does not take all."""


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
        return sorted((known.model for known in (self._known or {}).values()), key=lambda model: model.name)

    async def refresh(self) -> None:
        """Ask Triton what it serves.

        Raises:
            GatewayError: it does not answer; the catalog stays as it was.
        """
        configs = await self._triton.models()
        known: dict[str, _Known] = {}
        complaints: dict[str, str] = {}
        for config in sorted(configs, key=lambda config: config.name):
            if config.parameters.get("role") not in EMBEDDING_ROLES | RERANK_ROLES:
                continue  # somebody else's
            try:
                fresh = await self._know(config)
                _check_name(fresh.model, known)
                known[config.name] = fresh
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
        template = _template(config.parameters)
        tokenizer = await asyncio.to_thread(TextTokenizer.from_file, file, template)  # large ones take a second
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
            if model.default if name is None else name == model.name:
                return model
        for model in served:  # a name is its model's, whatever others are called besides
            if name in model.aliases:
                return model
        wanted = f"no model {name!r}" if name is not None else "no default model"
        names = ", ".join(model.name for model in served) or "none"
        raise ModelNotFound(f"there is {wanted} for this endpoint; served here: {names}", param="model")


def _check_name(model: Model, known: Mapping[str, _Known]) -> None:
    for other in known.values():
        if other.model.name == model.name:
            raise ValueError(f"its public name {model.name!r} is taken by {other.model.triton_name}")


def _model(config: ModelConfig, tokenizer: TextTokenizer, created: int) -> Model:
    """Read a config's parameters.

    Raises:
        ValueError, KeyError, msgspec.MsgspecError: one is missing, cannot be read or contradicts another.
    """
    parameters: Mapping[str, str] = config.parameters
    max_tokens = int(parameters["max_tokens"])
    prompts = msgspec.json.decode(parameters.get("prompts", "{}"), type=dict[str, str])
    default_prompt = parameters.get("default_prompt")
    if default_prompt is not None and default_prompt not in prompts:
        raise ValueError(f"default_prompt {default_prompt!r} is none of its prompts")
    activation = parameters.get("activation", "none")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    positive_class = int(parameters.get("positive_class", "0"))
    if not 0 <= positive_class < config.width:
        raise ValueError(f"positive_class {positive_class} is none of its {config.width} classes")
    length_buckets = tuple(sorted(_integers(parameters, "length_buckets")))
    if length_buckets and length_buckets[-1] < max_tokens:
        raise ValueError(f"length_buckets end at {length_buckets[-1]}, below its max_tokens of {max_tokens}")
    return Model(
        name=parameters.get("name", config.name),
        triton_name=config.name,
        aliases=tuple(filter(None, parameters.get("aliases", "").split(","))),
        role=parameters["role"],
        default=parameters.get("default") == "true",
        output=config.output,
        width=config.width,
        dimensions=_integers(parameters, "dimensions"),
        max_tokens=max_tokens,
        vocabulary_size=int(parameters["vocabulary_size"]),
        max_batch_size=config.max_batch_size,
        created=created,
        tokenizer=tokenizer,
        prompts=prompts,
        default_prompt=prompts[default_prompt] if default_prompt is not None else "",
        activation=activation,
        positive_class=positive_class,
        takes_first_length="first_length" in config.inputs,
        length_buckets=length_buckets,
    )


def _template(parameters: Mapping[str, str]) -> Template | None:
    text = parameters.get("template")
    return msgspec.json.decode(text, type=Template) if text is not None else None


def _integers(parameters: Mapping[str, str], name: str) -> tuple[int, ...]:
    return tuple(map(int, filter(None, parameters.get(name, "").split(","))))
