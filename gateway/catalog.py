"""What is served: read out of Triton, so that a model loaded there is served here without a restart."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.contract import ImageParameters, Parameters, TextParameters, read
from gateway.errors import ModelNotFound, NotReady, quoted
from gateway.images.preparation import Preparation
from gateway.text.loader import Vocabularies
from gateway.text.tokenizer import TextTokenizer
from gateway.triton import ModelConfig, Triton

log = logging.getLogger(__name__)

GONE_S = 10.0
"""How long a model that Triton serves no longer is missed before it is unknown: it may be loaded again."""
MAX_COMPLAINT = 500
"""Characters. What a complaint quotes of an entry may be megabytes."""

TEXT_EMBEDDING, IMAGE_EMBEDDING = "text-embedding", "image-embedding"
EMBEDDING_ROLES = frozenset({TEXT_EMBEDDING, IMAGE_EMBEDDING})
RERANK_ROLES = frozenset({"late-interaction", "cross-encoder"})
PREFIXES = ("first_length", "prompt_length")
"""Inputs, INT32 [b, 1]: how many tokens of a row are its first segment, or its prompt, which is not pooled."""


@dataclass(frozen=True, slots=True)
class Tower:
    """One Triton model: all of what clients call a model, or the side of it that takes texts or images."""

    name: str
    """What clients call the model."""
    triton_name: str
    role: str
    output: str
    width: int
    """Numbers a row of the output: an embedding's dimensions, a cross-encoder's classes, 1 for a score."""
    max_batch_size: int


@dataclass(frozen=True, slots=True)
class TextTower(Tower):
    """One whose rows are token ids."""

    max_tokens: int
    vocabulary_size: int
    tokenizer: TextTokenizer
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What it was trained to find in front of texts of some kind, such as "query"."""
    default_prompt: str = ""
    """What goes in front of texts of no special kind."""
    instructed: Mapping[str, str] = field(default_factory=dict)
    """Those prompts that have a place for an instruction, to the same with INSTRUCTION there."""
    activation: str = "none"
    """How a cross-encoder's logits become scores."""
    positive_class: int = 0
    """The column of its logits that stands for relevance."""
    max_query_tokens: int | None = None
    """At which late interaction cuts a query, as the model was trained; None where it does not."""
    prefix: str = ""
    """What it asks of each row, one of PREFIXES: how many tokens at the front stand apart. Most ask nothing."""
    variants: tuple[str, ...] = ()
    """Where the model has a Triton model for each of several purposes, the names of all, the default first."""
    variant: str = ""
    """Its own name among them."""
    length_buckets: tuple[int, ...] = ()
    """The only lengths of rows that it takes, ascending, where it does not take all."""


@dataclass(frozen=True, slots=True)
class ImageTower(Tower):
    """One whose rows are images."""

    preparation: Preparation
    patches: int
    """What it divides an image into, and an image counts for in `usage`."""


@dataclass(frozen=True, slots=True)
class Model:
    """What clients can name: one tower, or one for texts and one for images into the same space."""

    name: str
    aliases: tuple[str, ...]
    default: bool
    """Whether it answers requests of its kind that name no model."""
    created: int
    """Seconds since 1970 when this gateway first saw it."""
    dimensions: tuple[int, ...]
    """Shorter sizes that its embeddings may be cut to, as it was trained for them."""
    text_weight: float
    """What the text counts in an item with text and image, of 1."""
    text: TextTower | None = None
    """The default one, where there are variants."""
    image: ImageTower | None = None
    variants: Mapping[str, TextTower] = field(default_factory=dict)
    """By name."""

    @property
    def towers(self) -> tuple[Tower, ...]:
        """All of them, each once."""
        texts = self.variants.values() or (self.text,)
        return tuple(tower for tower in (*texts, self.image) if tower is not None)

    @property
    def width(self) -> int:
        """Numbers a row of the output, which is the same for both towers."""
        return self.towers[0].width

    @property
    def role(self) -> str:
        """What it does: a tower's role, or "image-text"."""
        return "image-text" if self.text and self.image else self.towers[0].role


@dataclass(frozen=True, slots=True)
class _Known:
    """A tower, what its entry says, and when it was seen first."""

    parameters: Parameters
    created: int
    tower: TextTower | ImageTower


class Catalog:
    """The models of one Triton, as of the last refresh."""

    def __init__(self, triton: Triton, repository: Path) -> None:
        self._triton = triton
        self._vocabularies = Vocabularies(repository)
        self._known: dict[str, _Known] | None = None
        self.models: list[Model] = []
        """All of them, by name."""
        self._gone: dict[str, tuple[Model, float]] = {}
        self._complaints: dict[str, str] = {}

    async def refresh(self) -> None:
        """Ask Triton what it serves.

        Raises:
            GatewayError: it does not answer; the catalog stays as it was.
        """
        configs = [
            config
            for config in sorted(await self._triton.models(), key=lambda config: config.name)
            if config.parameters.get("role") in EMBEDDING_ROLES | RERANK_ROLES  # or else it is somebody else's
        ]
        known: dict[str, _Known] = {}
        models: dict[str, Model] = {}
        complaints: dict[str, str] = {}
        # At the same time: one whose file cannot be read keeps no other waiting.
        tasks = [asyncio.create_task(self._know(config)) for config in configs]
        await asyncio.gather(*tasks, return_exceptions=True)
        for config, task in zip(configs, tasks, strict=True):
            try:
                fresh = task.result()
                models[fresh.tower.name] = _joined(models.get(fresh.tower.name), fresh)
                known[config.name] = fresh
            except Exception as exc:  # noqa: BLE001 - a bad entry, whatever is wrong with it, must not hide the others
                complaints[config.name] = f"{type(exc).__name__}: {exc}"[:MAX_COMPLAINT]
        for name in [name for name, model in models.items() if _missing(model)]:
            complaints[name] = f"its variants {', '.join(_missing(models.pop(name)))} are not served"
        for name, complaint in complaints.items() - self._complaints.items():
            log.warning("model %s is left out: %s", name, complaint)
        self._vocabularies.keep({config.name for config in configs})
        now = time.monotonic()
        gone = {model.name: (model, now) for model in self.models} | self._gone
        self._gone = {name: one for name, one in gone.items() if name not in models and now - one[1] < GONE_S}
        self._known, self._complaints = known, complaints
        self.models = [models[name] for name in sorted(models)]

    async def _know(self, config: ModelConfig) -> _Known:
        before = (self._known or {}).get(config.name)
        given: Parameters
        tower: TextTower | ImageTower
        if config.parameters["role"] == IMAGE_EMBEDDING:
            given = read(config, ImageParameters)
            tower = _image_tower(config, given)
        else:
            given = read(config, TextParameters)
            tower = _text_tower(config, given, await self._vocabularies.of(config.name, given.template))
        if before is not None and (before.parameters, before.tower) == (given, tower):
            return before
        return _Known(given, before.created if before is not None else int(time.time()), tower)

    def find(self, name: str | None, roles: frozenset[str]) -> Model:
        """The model that clients mean by a name or alias, or the default one.

        Raises:
            ModelNotFound: there is none of these roles; names those that there are.
            NotReady: Triton has not been reached yet, or serves the model no longer since a moment.
        """
        if self._known is None:
            raise NotReady("Triton has not been reached yet")
        served = _of_roles(self.models, roles)
        found = _named(name, served)
        if found is not None:
            return found
        gone = _named(name, _of_roles([model for model, _ in self._gone.values()], roles))
        if gone is not None:
            raise NotReady(f"model {gone.name!r} is not loaded")
        wanted = f"no model {quoted(name)}" if name is not None else "no default model"
        names = ", ".join(model.name for model in served) or "none"
        raise ModelNotFound(f"there is {wanted} for this endpoint; served here: {names}", param="model")


def _of_roles(models: Iterable[Model], roles: frozenset[str]) -> list[Model]:
    return [model for model in models if any(tower.role in roles for tower in model.towers)]


def _named(name: str | None, models: Sequence[Model]) -> Model | None:
    for model in models:
        if model.default if name is None else name == model.name:
            return model
    # A name is its model's, whatever others are called besides.
    return next((model for model in models if name in model.aliases), None)


def _joined(other: Model | None, known: _Known) -> Model:
    """A model of one tower, or a model that has some already with one more.

    Raises:
        ValueError: the towers do not go together.
    """
    tower, given = known.tower, known.parameters
    if other is None:
        model = Model(
            name=tower.name,
            aliases=given.aliases,
            default=given.default,
            created=known.created,
            dimensions=given.dimensions,
            text_weight=given.text_weight,
        )
    else:
        first = other.towers[0]
        if not _go_together(other, tower):
            raise ValueError(f"its public name {tower.name!r} is taken by {first.triton_name}")
        if tower.width != first.width:
            raise ValueError(
                f"it has {tower.width} dimensions, and {first.triton_name}, its other tower, {first.width}"
            )
        model = other
    if isinstance(tower, ImageTower):
        return replace(model, image=tower)
    if tower.variant:
        model = replace(model, variants={**model.variants, tower.variant: tower})
    is_default = tower.variant == (*tower.variants, "")[0]
    return replace(model, text=tower) if is_default else model


def _go_together(model: Model, tower: TextTower | ImageTower) -> bool:
    """Whether a tower is the other side of a model, or one more of its variants."""
    first, *more = model.towers
    if isinstance(first, TextTower) and isinstance(tower, TextTower):
        return tower.variant in set(first.variants) - set(model.variants) and tower.variants == first.variants
    return not more and {first.role, tower.role} == {TEXT_EMBEDDING, IMAGE_EMBEDDING}


def _missing(model: Model) -> list[str]:
    """The variants that a model does not have, though another says that it should."""
    return [name for one in list(model.variants.values())[:1] for name in one.variants if name not in model.variants]


def _text_tower(config: ModelConfig, given: TextParameters, tokenizer: TextTokenizer) -> TextTower:
    prompts = given.prompts
    return TextTower(
        name=given.name,
        triton_name=config.name,
        role=config.parameters["role"],
        output=config.output,
        width=given.width,
        max_batch_size=given.max_batch_size,
        max_tokens=given.max_tokens,
        vocabulary_size=given.vocabulary_size,
        tokenizer=tokenizer,
        prompts=prompts,
        default_prompt=prompts[given.default_prompt] if given.default_prompt is not None else "",
        instructed={prompts[name]: form for name, form in given.instructed_prompts.items()},
        activation=given.activation,
        positive_class=given.positive_class,
        max_query_tokens=given.max_query_tokens,
        prefix=next((name for name in PREFIXES if name in config.inputs), ""),
        variants=given.variants,
        variant=given.variant,
        length_buckets=tuple(sorted(given.length_buckets)),
    )


def _image_tower(config: ModelConfig, given: ImageParameters) -> ImageTower:
    return ImageTower(
        name=given.name,
        triton_name=config.name,
        role=config.parameters["role"],
        output=config.output,
        width=given.width,
        max_batch_size=given.max_batch_size,
        preparation=given.preparation,
        patches=given.image_patches,
    )
