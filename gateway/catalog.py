"""What is served: read out of Triton, so that a model loaded there is served here without a restart."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.contract import (
    EMBEDDING_ROLES,
    IMAGE_EMBEDDING,
    PREFIXES,
    RERANK_ROLES,
    TEXT_EMBEDDING,
    ImageParameters,
    Parameters,
    TextParameters,
    read,
)
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


@dataclass(frozen=True, slots=True)
class TritonModel:
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
class TextModel(TritonModel):
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
class ImageModel(TritonModel):
    """One whose rows are images."""

    preparation: Preparation
    patches: int
    """What it divides an image into, and an image counts for in `usage`."""


@dataclass(frozen=True, slots=True)
class Model:
    """What clients can name: one Triton model, or one for texts and one for images that share a vector space."""

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
    text: TextModel | None = None
    """The default one, where there are variants."""
    image: ImageModel | None = None
    variants: Mapping[str, TextModel] = field(default_factory=dict)
    """By name."""

    @property
    def triton_models(self) -> tuple[TritonModel, ...]:
        """All of them, each once."""
        texts = self.variants.values() or (self.text,)
        return tuple(triton_model for triton_model in (*texts, self.image) if triton_model is not None)

    @property
    def width(self) -> int:
        """The size of an output row, the same for all of its Triton models."""
        return self.triton_models[0].width

    @property
    def role(self) -> str:
        """What it does: its Triton model's role, or "image-text"."""
        return "image-text" if self.text and self.image else self.triton_models[0].role


@dataclass(frozen=True, slots=True)
class _Known:
    """A Triton model, its parameters, and when it was first seen."""

    parameters: Parameters
    created: int
    triton_model: TextModel | ImageModel


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
                models[fresh.triton_model.name] = _joined(models.get(fresh.triton_model.name), fresh)
                known[config.name] = fresh
            except Exception as exc:  # noqa: BLE001 - a bad entry, whatever is wrong with it, must not hide the others
                complaints[config.name] = f"{type(exc).__name__}: {exc}"[:MAX_COMPLAINT]
        for name in [name for name, model in models.items() if _missing(model)]:
            complaints[name] = f"variants not served: {', '.join(_missing(models.pop(name)))}"
        for name, complaint in complaints.items() - self._complaints.items():
            log.warning("model %s is not served: %s", name, complaint)
        self._vocabularies.keep({config.name for config in configs})
        now = time.monotonic()
        gone = {model.name: (model, now) for model in self.models} | self._gone
        self._gone = {name: one for name, one in gone.items() if name not in models and now - one[1] < GONE_S}
        self._known, self._complaints = known, complaints
        self.models = [models[name] for name in sorted(models)]

    async def _know(self, config: ModelConfig) -> _Known:
        before = (self._known or {}).get(config.name)
        given: Parameters
        triton_model: TextModel | ImageModel
        if config.parameters["role"] == IMAGE_EMBEDDING:
            given = read(config, ImageParameters)
            triton_model = _image_model(config, given)
        else:
            given = read(config, TextParameters)
            triton_model = _text_model(config, given, await self._vocabularies.of(config.name, given.template))
        if before is not None and (before.parameters, before.triton_model) == (given, triton_model):
            return before
        return _Known(given, before.created if before is not None else int(time.time()), triton_model)

    def find(self, name: str | None, roles: frozenset[str]) -> Model:
        """The model that clients mean by a name or alias, or the default one.

        Raises:
            ModelNotFound: there is none of these roles; names those that there are.
            NotReady: Triton has not been reached yet, or serves the model no longer since a moment.
        """
        if self._known is None:
            raise NotReady("Triton has not responded yet")
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
    return [model for model in models if any(triton_model.role in roles for triton_model in model.triton_models)]


def _named(name: str | None, models: Sequence[Model]) -> Model | None:
    for model in models:
        if model.default if name is None else name == model.name:
            return model
    # A name is its model's, whatever others are called besides.
    return next((model for model in models if name in model.aliases), None)


def _joined(other: Model | None, known: _Known) -> Model:
    """A model with one Triton model, or a given model with one more.

    Raises:
        ValueError: the Triton models do not belong together.
    """
    triton_model, given = known.triton_model, known.parameters
    if other is None:
        model = Model(
            name=triton_model.name,
            aliases=given.aliases,
            default=given.default,
            created=known.created,
            dimensions=given.dimensions,
            text_weight=given.text_weight,
        )
    else:
        first = other.triton_models[0]
        if not _go_together(other, triton_model):
            raise ValueError(f"its public name {triton_model.name!r} is already used by {first.triton_name}")
        if triton_model.width != first.width:
            raise ValueError(
                f"it has {triton_model.width} dimensions, but {first.triton_name} of the same model has {first.width}"
            )
        model = other
    if isinstance(triton_model, ImageModel):
        return replace(model, image=triton_model)
    if triton_model.variant:
        model = replace(model, variants={**model.variants, triton_model.variant: triton_model})
    is_default = triton_model.variant == (*triton_model.variants, "")[0]
    return replace(model, text=triton_model) if is_default else model


def _go_together(model: Model, triton_model: TextModel | ImageModel) -> bool:
    """Whether a Triton model is the other modality of a model, or one more of its variants."""
    first, *more = model.triton_models
    if isinstance(first, TextModel) and isinstance(triton_model, TextModel):
        return (
            triton_model.variant in set(first.variants) - set(model.variants)
            and triton_model.variants == first.variants
        )
    return not more and {first.role, triton_model.role} == {TEXT_EMBEDDING, IMAGE_EMBEDDING}


def _missing(model: Model) -> list[str]:
    """The variants that a model does not have, though another says that it should."""
    return [name for one in list(model.variants.values())[:1] for name in one.variants if name not in model.variants]


def _text_model(config: ModelConfig, given: TextParameters, tokenizer: TextTokenizer) -> TextModel:
    prompts = given.prompts
    return TextModel(
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


def _image_model(config: ModelConfig, given: ImageParameters) -> ImageModel:
    return ImageModel(
        name=given.name,
        triton_name=config.name,
        role=config.parameters["role"],
        output=config.output,
        width=given.width,
        max_batch_size=given.max_batch_size,
        preparation=given.preparation,
        patches=given.image_patches,
    )
