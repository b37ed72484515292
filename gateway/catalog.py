"""What is served: read out of Triton, so that a model loaded there is served here without a restart."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from PIL.Image import Resampling

from gateway.errors import ModelNotFound, NotReady
from gateway.pixels import Preparation
from gateway.scores import ACTIVATIONS
from gateway.tokenize import INSTRUCTION, Template, TextTokenizer
from gateway.triton import ModelConfig, Triton

log = logging.getLogger(__name__)

GONE_S = 10.0
"""How long a model that Triton serves no longer is missed before it is unknown: it may be loaded again."""

TEXT_EMBEDDING, IMAGE_EMBEDDING = "text-embedding", "image-embedding"
EMBEDDING_ROLES = frozenset({TEXT_EMBEDDING, IMAGE_EMBEDDING})
PREFIXES = ("first_length", "prompt_length")
"""Inputs, INT32 [b, 1]: how many tokens of a row are its first segment, or its prompt, which is not pooled."""
RERANK_ROLES = frozenset({"late-interaction", "cross-encoder"})


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
    """A tower and what it was made from, to tell whether that has changed."""

    config: ModelConfig
    tokenizer_changed_at: float
    created: int
    tower: TextTower | ImageTower


class Catalog:
    """The models of one Triton, as of the last refresh."""

    def __init__(self, triton: Triton, repository: Path) -> None:
        self._triton = triton
        self._repository = repository
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
        configs = await self._triton.models()
        known: dict[str, _Known] = {}
        models: dict[str, Model] = {}
        complaints: dict[str, str] = {}
        for config in sorted(configs, key=lambda config: config.name):
            if config.parameters.get("role") not in EMBEDDING_ROLES | RERANK_ROLES:
                continue  # somebody else's
            try:
                fresh = await self._know(config)
                models[fresh.tower.name] = _joined(models.get(fresh.tower.name), fresh)
                known[config.name] = fresh
            except Exception as exc:  # noqa: BLE001 - tokenizers raises it bare; a bad entry must not hide the others
                complaints[config.name] = f"{type(exc).__name__}: {exc}"
        for name in [name for name, model in models.items() if _missing(model)]:
            complaints[name] = f"its variants {', '.join(_missing(models.pop(name)))} are not served"
        for name, complaint in complaints.items() - self._complaints.items():
            log.warning("model %s is left out: %s", name, complaint)
        now = time.monotonic()
        gone = {model.name: (model, now) for model in self.models} | self._gone
        self._gone = {name: one for name, one in gone.items() if name not in models and now - one[1] < GONE_S}
        self._known, self._complaints = known, complaints
        self.models = [models[name] for name in sorted(models)]

    async def _know(self, config: ModelConfig) -> _Known:
        file = self._repository / config.name / "tokenizer.json"
        is_image = config.parameters["role"] == IMAGE_EMBEDDING
        changed_at = 0.0 if is_image else file.stat().st_mtime
        before = (self._known or {}).get(config.name)
        if before is not None and (before.config, before.tokenizer_changed_at) == (config, changed_at):
            return before
        created = before.created if before is not None else int(time.time())
        if is_image:
            return _Known(config, changed_at, created, _image_tower(config))
        template = _template(config.parameters)
        tokenizer = await asyncio.to_thread(TextTokenizer.from_file, file, template)  # large ones take a second
        return _Known(config, changed_at, created, _text_tower(config, tokenizer))

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
        wanted = f"no model {name!r}" if name is not None else "no default model"
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
        ValueError: the towers do not go together, or a parameter cannot be read.
    """
    tower, parameters = known.tower, known.config.parameters
    if other is None:
        model = Model(
            name=tower.name,
            aliases=tuple(filter(None, parameters.get("aliases", "").split(","))),
            default=parameters.get("default") == "true",
            created=known.created,
            dimensions=_integers(parameters, "dimensions"),
            text_weight=float(parameters.get("text_weight", "0.5")),
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


def _text_tower(config: ModelConfig, tokenizer: TextTokenizer) -> TextTower:
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
    forms = msgspec.json.decode(parameters.get("instructed_prompts", "{}"), type=dict[str, str])
    for name, form in forms.items():
        if name not in prompts or form.count(INSTRUCTION) != 1:
            raise ValueError(f"instructed_prompts {name!r} is none of its prompts, or has not one {INSTRUCTION}")
    activation = parameters.get("activation", "none")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    positive_class = int(parameters.get("positive_class", "0"))
    if not 0 <= positive_class < config.width:
        raise ValueError(f"positive_class {positive_class} is none of its {config.width} classes")
    max_query_tokens = int(parameters["max_query_tokens"]) if "max_query_tokens" in parameters else None
    if max_query_tokens is not None and not 1 <= max_query_tokens <= max_tokens:
        raise ValueError(f"max_query_tokens is {max_query_tokens}, not 1 to its max_tokens of {max_tokens}")
    variants = tuple(filter(None, parameters.get("variants", "").split(",")))
    variant = parameters.get("variant", "")
    if variant not in (variants or ("",)):
        raise ValueError(f"variant {variant!r} is none of its variants")
    length_buckets = tuple(sorted(_integers(parameters, "length_buckets")))
    if length_buckets and length_buckets[-1] < max_tokens:
        raise ValueError(f"length_buckets end at {length_buckets[-1]}, below its max_tokens of {max_tokens}")
    return TextTower(
        name=parameters.get("name", config.name),
        triton_name=config.name,
        role=parameters["role"],
        output=config.output,
        width=config.width,
        max_batch_size=config.max_batch_size,
        max_tokens=max_tokens,
        vocabulary_size=int(parameters["vocabulary_size"]),
        tokenizer=tokenizer,
        prompts=prompts,
        default_prompt=prompts[default_prompt] if default_prompt is not None else "",
        instructed={prompts[name]: form for name, form in forms.items()},
        activation=activation,
        positive_class=positive_class,
        max_query_tokens=max_query_tokens,
        prefix=next((name for name in PREFIXES if name in config.inputs), ""),
        variants=variants,
        variant=variant,
        length_buckets=length_buckets,
    )


def _image_tower(config: ModelConfig) -> ImageTower:
    """Read a config's parameters.

    Raises:
        ValueError, KeyError: one is missing or cannot be read.
    """
    parameters = config.parameters
    edges = {name: int(length) for name, length in (edge.split("=") for edge in parameters["image_resize"].split(","))}
    return ImageTower(
        name=parameters.get("name", config.name),
        triton_name=config.name,
        role=parameters["role"],
        output=config.output,
        width=config.width,
        max_batch_size=config.max_batch_size,
        preparation=Preparation(
            height=int(parameters["image_height"]),
            width=int(parameters["image_width"]),
            resize=edges["shortest_edge"] if "shortest_edge" in edges else (edges["height"], edges["width"]),
            resample=Resampling[parameters["image_resample"].upper()],
        ),
        patches=int(parameters["image_patches"]),
    )


def _template(parameters: Mapping[str, str]) -> Template | None:
    text = parameters.get("template")
    return msgspec.json.decode(text, type=Template) if text is not None else None


def _integers(parameters: Mapping[str, str], name: str) -> tuple[int, ...]:
    return tuple(map(int, filter(None, parameters.get(name, "").split(","))))
