"""The catalog of served models. It is read from Triton, so newly loaded models are served without a restart."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Literal, get_args

from gateway.contract import (
    BATCH_TOKENS,
    CLASSIFIER,
    CROSS_ENCODER,
    EMBEDDING,
    GRIDS,
    IMAGE_EMBEDDING,
    LATE_INTERACTION,
    PATCHES,
    PREFIXES,
    RERANK_ROLES,
    ROLES,
    SPARSE_WEIGHTS,
    TEXT_EMBEDDING,
    TOKENS,
    AnySizeParameters,
    ImageParameters,
    Parameters,
    TextParameters,
    outputs,
    read,
    width,
)
from gateway.errors import ModelNotFound, NotReady, quoted
from gateway.images.preparation import Preparation
from gateway.images.processors import AnyProcessor
from gateway.text.chat import Chat
from gateway.text.loader import TokenizerLoader
from gateway.text.tokenizer import TextTokenizer
from gateway.triton import ModelConfig, Output, Triton

log = logging.getLogger(__name__)

Offer = Literal["dense", "sparse", "multi_vector", "rerank", "classify"]
"""What clients may ask a model for: a kind of vectors, the relevance of documents, or labels."""
OFFERS: frozenset[Offer] = frozenset(get_args(Offer))
OFFERED_BY: Mapping[Offer, str] = {"dense": EMBEDDING, "sparse": SPARSE_WEIGHTS, "multi_vector": TOKENS}
"""The output that a model needs for each kind of vectors."""
VECTORS: frozenset[Offer] = frozenset(OFFERED_BY)
"""The kinds of vectors."""
GONE_S = 10.0
"""How long an unloaded model is reported as not ready before it is unknown: it may be loaded again."""
MAX_PROBLEM = 500
"""Maximum length of a logged problem in characters: it may quote an entry of megabytes."""


@dataclass(frozen=True)
class TritonModel:
    """A model in Triton: all of a public model, or its part for texts or images."""

    name: str
    """Public name."""
    triton_name: str
    role: str
    outputs: Mapping[str, Output]
    """By their names in `contract.OUTPUTS`, in that order."""
    max_batch_size: int
    generation: int = field(default=0, compare=False, kw_only=True)
    """Tells its results from those of every other model, and of this one in another state; 0 if that is not known, so
    that results must not be kept."""

    @cached_property
    def width(self) -> int:
        """The dimensions of its vectors, else the columns of its score, else 0."""
        return width(self.outputs)

    @cached_property
    def offers(self) -> frozenset[Offer]:
        """What clients may ask it for."""
        offers: set[Offer] = {offer for offer, output in OFFERED_BY.items() if output in self.outputs}
        if self.role in RERANK_ROLES:
            offers.add("rerank")
        if self.role in {CLASSIFIER, CROSS_ENCODER}:
            offers.add("classify")
        return frozenset(offers)


@dataclass(frozen=True)
class ImageReading:
    """How a text model reads the images between its texts."""

    token: int
    """The id that stands for each merged patch."""
    processor: AnyProcessor
    most: int
    """Maximum number of images of an item."""


@dataclass(frozen=True)
class TextModel(TritonModel):
    """A Triton model whose input is token ids."""

    max_tokens: int
    vocabulary_size: int
    tokenizer: TextTokenizer
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Text that the model expects before inputs of a kind, by the name of the kind, such as "query"."""
    default_prompt: str = ""
    """The prompt of inputs that name no kind."""
    instructed: Mapping[str, str] = field(default_factory=dict)
    """Maps each prompt that contains an instruction to its form with the placeholder INSTRUCTION."""
    activation: str = "none"
    """How the logits of a cross-encoder or classifier become scores; a name in ACTIVATIONS."""
    positive_class: int = 0
    """The column of a cross-encoder's logits that measures relevance."""
    labels: tuple[str, ...] = ()
    """Names of the columns of a cross-encoder's or classifier's logits."""
    max_query_tokens: int | None = None
    """Query length at which a late-interaction model truncates, as in its training; None if it does not."""
    tokens_pooling: Literal["none", "mean"] = "none"
    """"mean" if the embedding is the mean of the output `tokens`, before normalization."""
    prefix: str = ""
    """The optional input that the model has, one of PREFIXES, or empty."""
    variants: tuple[str, ...] = ()
    """Names of all variants of the public model, the default first; empty if it has none."""
    variant: str = ""
    """The name of this variant."""
    length_buckets: tuple[int, ...] = ()
    """The padded lengths that the model accepts, ascending; empty if it accepts all."""
    batch_tokens: int = BATCH_TOKENS
    """Maximum number of tokens in one Triton request, unless a single row has more."""
    chat: Chat | None = None
    """The template that items are put into, if the model was trained with one."""
    images: ImageReading | None = None
    """None if the model reads only texts; otherwise there is a chat template."""


@dataclass(frozen=True)
class ImageModel(TritonModel):
    """A Triton model whose input is images."""

    preparation: Preparation | AnyProcessor
    patches: int
    """Patches per image, or the most that an image may have; those it has are reported in `usage` as tokens."""


@dataclass(frozen=True)
class Model:
    """A public model: one Triton model, one per variant, or one for texts and one for images in one vector space."""

    name: str
    aliases: tuple[str, ...]
    default: bool
    """Whether it answers requests that name no model."""
    created: int
    """Unix time at which this gateway first saw it."""
    dimensions: tuple[int, ...]
    """Sizes to which its embeddings may be shortened (Matryoshka)."""
    text_weight: float
    """Weight of the text, 0..1, in the embedding of an item with text and image."""
    text: TextModel | None = None
    """The default variant, if there are variants."""
    image: ImageModel | None = None
    variants: Mapping[str, TextModel] = field(default_factory=dict)
    """Text models by the name of the variant."""

    @cached_property
    def triton_models(self) -> tuple[TritonModel, ...]:
        """All Triton models of this model."""
        texts = self.variants.values() or (self.text,)
        return tuple(triton_model for triton_model in (*texts, self.image) if triton_model is not None)

    @property
    def width(self) -> int:
        """As of each of its Triton models."""
        return self.triton_models[0].width

    @cached_property
    def offers(self) -> frozenset[Offer]:
        """What clients may ask it for: of texts, what all variants compute."""
        texts = self.variants.values() or filter(None, [self.text])
        of_texts = [text_model.offers for text_model in texts]
        of_images = self.image.offers if self.image is not None else frozenset[Offer]()
        return frozenset.intersection(*of_texts) | of_images if of_texts else of_images

    @property
    def accepts_images(self) -> bool:
        """Whether all of its variants take images, or it has a Triton model for them."""
        texts = [*(self.variants.values() or filter(None, [self.text]))]
        return self.image is not None or bool(texts and all(text_model.images for text_model in texts))

    @property
    def role(self) -> str:
        """The role of its Triton model, or "image-text" if it has one for texts and one for images."""
        return "image-text" if self.text and self.image else self.triton_models[0].role


@dataclass(frozen=True, slots=True)
class _Entry:
    """A valid entry, as it was last read."""

    config: ModelConfig
    parameters: Parameters
    created: int
    triton_model: TextModel | ImageModel


class Catalog:
    """The served models, as of the last refresh."""

    def __init__(self, triton: Triton, repository: Path, *, tells_apart: bool = False) -> None:
        """Begin with no model.

        Args:
            triton: the servers.
            repository: the folder of entries, for their tokenizers.
            tells_apart: whether models need a `generation`. This takes asking all servers, not only one.
        """
        self._triton = triton
        self._tells_apart = tells_apart
        self._generations = count(1)
        self._tokenizers = TokenizerLoader(repository)
        self._entries: dict[str, _Entry] | None = None
        self.models: list[Model] = []
        """Sorted by name."""
        self._gone: dict[str, tuple[Model, float]] = {}
        self._problems: dict[str, str] = {}

    @property
    def triton_models(self) -> list[TritonModel]:
        """The Triton models of all served models."""
        return [triton_model for model in self.models for triton_model in model.triton_models]

    async def refresh(self) -> None:
        """Update the models to those that are ready in Triton.

        Raises:
            GatewayError: Triton does not answer; the catalog is unchanged.
        """
        configs = [
            config
            for config in sorted(await self._triton.models(), key=lambda config: config.name)
            if config.parameters.get("role") in ROLES  # others are not entries of this contract
        ]
        unclear = await self._triton.differing(configs) if self._tells_apart else {config.name for config in configs}
        entries: dict[str, _Entry] = {}
        models: dict[str, Model] = {}
        problems: dict[str, str] = {}
        # Concurrently: a file that hangs must not delay other models.
        tasks = [asyncio.create_task(self._read(config, is_clear=config.name not in unclear)) for config in configs]
        await asyncio.gather(*tasks, return_exceptions=True)
        for config, task in zip(configs, tasks, strict=True):
            try:
                fresh = task.result()
                models[fresh.triton_model.name] = _merged(models.get(fresh.triton_model.name), fresh)
                entries[config.name] = fresh
            except Exception as exc:  # noqa: BLE001 - no fault of one entry may affect the others
                problems[config.name] = f"{type(exc).__name__}: {exc}"[:MAX_PROBLEM]
        for name in [name for name, model in models.items() if _missing(model)]:
            problems[name] = f"variants not served: {', '.join(_missing(models.pop(name)))}"
        for name, problem in problems.items() - self._problems.items():
            log.warning("model %s is not served: %s", name, problem)
        self._tokenizers.retain({config.name for config in configs})
        now = time.monotonic()
        gone = {model.name: (model, now) for model in self.models} | self._gone
        self._gone = {name: one for name, one in gone.items() if name not in models and now - one[1] < GONE_S}
        self._entries, self._problems = entries, problems
        self.models = [models[name] for name in sorted(models)]

    async def _read(self, config: ModelConfig, *, is_clear: bool) -> _Entry:
        before = (self._entries or {}).get(config.name)
        parameters: Parameters
        triton_model: TextModel | ImageModel
        if config.parameters["role"] == IMAGE_EMBEDDING:
            parameters = of_images = _image_parameters(config)
            triton_model = _image_model(config, of_images)
        else:
            parameters = read(config, TextParameters)
            chat = parameters.chat
            trusted = (chat.image + chat.patch) if chat is not None else ""
            tokenizer = await self._tokenizers.load(config.name, parameters.template, trusted)
            triton_model = _text_model(config, parameters, tokenizer)
        is_clear = is_clear and bool(config.parameters.get("digest"))
        if (
            before is not None
            and (before.config, before.triton_model) == (config, triton_model)
            and bool(before.triton_model.generation) == is_clear
        ):
            return before
        if is_clear:
            triton_model = replace(triton_model, generation=next(self._generations))
        return _Entry(config, parameters, before.created if before is not None else int(time.time()), triton_model)

    def find(self, name: str | None, offers: Set[Offer], default_offers: Set[Offer] = frozenset()) -> Model:
        """Find a model by name or alias, or the default model.

        Args:
            name: a name or alias; None for the default model.
            offers: the model offers at least one of these.
            default_offers: the default model offers all of these, if any does.

        Raises:
            ModelNotFound: there is none; the message lists the models to choose from.
            NotReady: Triton has not responded yet, or the model was unloaded within the last GONE_S.
        """
        if self._entries is None:
            raise NotReady("Triton has not responded yet")

        def suitable(models: Iterable[Model]) -> list[Model]:
            return [model for model in models if offers & model.offers]

        served = suitable(self.models)
        found = _named(name, served)
        if name is None:
            found = _named(None, [model for model in served if default_offers <= model.offers]) or found
        if found is not None:
            return found
        gone = _named(name, suitable(model for model, _ in self._gone.values()))
        if gone is not None:
            raise NotReady(f"model {gone.name!r} is not loaded")
        wanted = f"no model {quoted(name)}" if name is not None else "no default model"
        names = ", ".join(model.name for model in served) or "none"
        raise ModelNotFound(f"there is {wanted} for this endpoint; served here: {names}", param="model")


def _named(name: str | None, models: Sequence[Model]) -> Model | None:
    if name is None:
        # A reranker that also offers vectors or labels is their default only if there is no other.
        defaults = sorted((model for model in models if model.default), key=lambda model: model.role in RERANK_ROLES)
        return next(iter(defaults), None)
    # Names take precedence over aliases.
    named = next((model for model in models if name == model.name), None)
    return named or next((model for model in models if name in model.aliases), None)


def _merged(other: Model | None, entry: _Entry) -> Model:
    """Add a Triton model to a public model, which is created if it is None.

    Raises:
        ValueError: the Triton models cannot form one public model.
    """
    triton_model, parameters = entry.triton_model, entry.parameters
    if other is None:
        model = Model(
            name=triton_model.name,
            aliases=parameters.aliases,
            default=parameters.default,
            created=entry.created,
            dimensions=parameters.dimensions,
            text_weight=parameters.text_weight,
        )
    else:
        first = other.triton_models[0]
        if not _is_compatible(other, triton_model):
            raise ValueError(f"its public name {triton_model.name!r} is already used by {first.triton_name}")
        if (
            isinstance(first, TextModel)
            and isinstance(triton_model, TextModel)
            and not other.offers & triton_model.offers
        ):
            raise ValueError(f"it has no output that {first.triton_name} of the same model also has")
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


def _is_compatible(model: Model, triton_model: TextModel | ImageModel) -> bool:
    """Whether a Triton model is the other modality of a model, or another of its variants."""
    first, *more = model.triton_models
    if isinstance(first, TextModel) and isinstance(triton_model, TextModel):
        return (
            triton_model.variant in set(first.variants) - set(model.variants)
            and triton_model.variants == first.variants
        )
    return not more and {first.role, triton_model.role} == {TEXT_EMBEDDING, IMAGE_EMBEDDING}


def _missing(model: Model) -> list[str]:
    """The variants that the first variant lists and the model does not have."""
    return [name for one in list(model.variants.values())[:1] for name in one.variants if name not in model.variants]


def _text_model(config: ModelConfig, parameters: TextParameters, tokenizer: TextTokenizer) -> TextModel:
    prompts, found = parameters.prompts, outputs(config)
    if parameters.tokens_pooling != "none":
        for name in (EMBEDDING, TOKENS):
            if name not in found:
                raise ValueError(f"tokens_pooling is {parameters.tokens_pooling}, but there is no output {name}")
    return TextModel(
        chat=_chat(config, parameters),
        images=_images(config, parameters, tokenizer),
        name=parameters.name,
        triton_name=config.name,
        role=config.parameters["role"],
        outputs=found,
        max_batch_size=parameters.max_batch_size,
        max_tokens=parameters.max_tokens,
        vocabulary_size=parameters.vocabulary_size,
        tokenizer=tokenizer,
        prompts=prompts,
        default_prompt=prompts[parameters.default_prompt] if parameters.default_prompt is not None else "",
        instructed={prompts[name]: form for name, form in parameters.instructed_prompts.items()},
        activation=parameters.activation,
        positive_class=parameters.positive_class,
        labels=_labels(config.parameters["role"], parameters),
        max_query_tokens=parameters.max_query_tokens,
        prefix=next((name for name in PREFIXES if name in config.inputs), ""),
        variants=parameters.variants,
        variant=parameters.variant,
        length_buckets=tuple(sorted(parameters.length_buckets)),
        tokens_pooling=parameters.tokens_pooling,
        batch_tokens=parameters.batch_tokens,
    )


def _chat(config: ModelConfig, parameters: TextParameters) -> Chat | None:
    """The chat template of an entry, with the texts that its role needs."""
    chat, role = parameters.chat, config.parameters["role"]
    needed = {TEXT_EMBEDDING: ("text",), LATE_INTERACTION: ("query", "document")}.get(role, ())
    missing = [name for name in needed if chat is not None and not getattr(chat, name)]
    if missing:
        raise ValueError(f"chat has no {' and no '.join(missing)}")
    return chat


def _images(config: ModelConfig, parameters: TextParameters, tokenizer: TextTokenizer) -> ImageReading | None:
    """How an entry reads images; None if it does not."""
    chat, token, processor = parameters.chat, parameters.image_token, parameters.image_processor
    if chat is None or token is None or processor is None:
        return None
    absent = [name for name in (PATCHES, GRIDS) if name not in config.inputs]
    if absent:
        raise ValueError(f"image_processor is given, but there is no input {absent[0]}")
    if tokenizer.encode_trusted(chat.patch) != [token]:
        raise ValueError(f"the patch {chat.patch!r} of chat is not the token {token}, the image_token")
    if config.parameters["role"] == CROSS_ENCODER and parameters.template is None:
        raise ValueError("image_processor needs a template")
    return ImageReading(token, processor, parameters.max_images)


def _labels(role: str, parameters: TextParameters) -> tuple[str, ...]:
    """The entry's own labels, or those that transformers makes up."""
    if role not in {CROSS_ENCODER, CLASSIFIER}:
        return ()
    return parameters.labels or tuple(f"LABEL_{i}" for i in range(parameters.width))


def _image_parameters(config: ModelConfig) -> ImageParameters | AnySizeParameters:
    if "image_processor" in config.parameters:
        return read(config, AnySizeParameters)
    return read(config, ImageParameters)


def _image_model(config: ModelConfig, parameters: ImageParameters | AnySizeParameters) -> ImageModel:
    return ImageModel(
        name=parameters.name,
        triton_name=config.name,
        role=config.parameters["role"],
        outputs=outputs(config),
        max_batch_size=parameters.max_batch_size,
        preparation=parameters.preparation,
        patches=parameters.image_patches,
    )
