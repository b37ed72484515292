"""The contract with a model repository: the roles, tensors and parameters of an entry (docs/repository-entry.md).

Parameters come from Triton and are validated here. `export/runtime/contract.py` is the writing side; the two share no
code.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta
from PIL.Image import Resampling

from gateway.images.preparation import Preparation
from gateway.images.processors import AnyProcessor
from gateway.scores import ACTIVATIONS
from gateway.text.chat import Chat
from gateway.text.tokenizer import INSTRUCTION, Template
from gateway.triton import ModelConfig, Output

TEXT_EMBEDDING, IMAGE_EMBEDDING = "text-embedding", "image-embedding"
LATE_INTERACTION, CROSS_ENCODER, CLASSIFIER = "late-interaction", "cross-encoder", "classifier"
EMBEDDING_ROLES = frozenset({TEXT_EMBEDDING, IMAGE_EMBEDDING})
RERANK_ROLES = frozenset({LATE_INTERACTION, CROSS_ENCODER})
CLASSIFIER_ROLES = frozenset({CLASSIFIER})
ROLES = EMBEDDING_ROLES | RERANK_ROLES | CLASSIFIER_ROLES

SEGMENTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    TEXT_EMBEDDING: (("input_ids", "length"),),
    CROSS_ENCODER: (("input_ids", "length"),),
    CLASSIFIER: (("input_ids", "length"),),
    LATE_INTERACTION: (("query_ids", "query_length"), ("document_ids", "document_length")),
}
"""Inputs of text models by role, one pair per segment of a row: token ids, INT64 [b, L], padded with 0, and their
lengths, INT32 [b, 1]."""
PREFIXES = ("first_length", "prompt_length")
"""Optional inputs of text models, INT32 [b, 1]: the number of leading tokens of a row that belong to the first segment
(cross-encoders, classifiers), or to the prompt, which is not pooled (embedding models)."""
EMBEDDING: Final = "embedding"
SCORE: Final = "score"
SPARSE_INDICES: Final = "sparse_indices"
SPARSE_WEIGHTS: Final = "sparse_weights"
TOKENS: Final = "tokens"
QUERY_TOKENS: Final = "query_tokens"
VECTORS = (EMBEDDING, SPARSE_INDICES, SPARSE_WEIGHTS, TOKENS)
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    TEXT_EMBEDDING: VECTORS,
    IMAGE_EMBEDDING: (EMBEDDING,),
    CROSS_ENCODER: (SCORE,),
    CLASSIFIER: (SCORE,),
    LATE_INTERACTION: (SCORE, *VECTORS, QUERY_TOKENS),
}
"""Outputs that an entry may have, by role. The first is the main one: the first output of a config has this meaning if
its name is none of these."""
PIXELS = "pixels"
"""The input of image models: RGB, UINT8 [b, 3, H, W]."""
PATCHES, GRIDS = "patches", "grids"
"""Inputs of models that take images of any size: the patches of each row's images, UINT8 [b, P, B], and the height and
width of each image in patches, INT32 [b, I, 2]; both padded with 0, with P and I at least 1."""
BATCH_TOKENS = 2048
"""The default of the parameter `batch_tokens`."""

Kind = TypeVar("Kind", bound="Parameters")

Name = Annotated[str, Meta(pattern=r"\A[^,<>\s\x00-\x1f\x7f]{1,256}\Z")]
"""A public name of a model. It appears in responses, log lines and metric labels."""
Names = Annotated[tuple[Name, ...], Meta(max_length=256)]
Count = Annotated[int, Meta(ge=1, le=2**20)]
"""A number of tokens, patches or dimensions. No model has more than a million."""
Edge = Annotated[int, Meta(ge=1, le=4096)]
"""Height or width of the model's input image, in pixels."""
Prompt = Annotated[str, Meta(max_length=2**16)]
Label = Annotated[str, Meta(max_length=1024)]
MAX_IMAGES = 1024
"""The most images that an entry may accept in one item."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of all entries."""

    width: Annotated[int, Meta(ge=0, le=2**20)]
    """From the outputs in config.pbtxt: the dimensions of the vectors, else the columns of the score, else 0."""
    max_batch_size: Annotated[int, Meta(ge=1)]
    """From config.pbtxt itself."""
    name: Name
    aliases: Names = ()
    default: bool = False
    dimensions: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    text_weight: Annotated[float, Meta(ge=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        for size in self.dimensions:
            if size > self.width:
                raise ValueError(f"dimensions contains {size}, but the model has only {self.width} dimensions")


class TextParameters(Parameters, frozen=True, kw_only=True):
    """Parameters of models whose input is token ids."""

    max_tokens: Count
    vocabulary_size: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    batch_tokens: Count = BATCH_TOKENS
    prompts: dict[str, Prompt] = {}
    default_prompt: str | None = None
    instructed_prompts: dict[str, Prompt] = {}
    template: Template | None = None
    activation: str = "none"
    positive_class: int = 0
    labels: Annotated[tuple[Label, ...], Meta(max_length=2**16)] = ()
    max_query_tokens: int | None = None
    variants: Names = ()
    variant: str = ""
    length_buckets: tuple[Count, ...] = ()
    tokens_pooling: Literal["none", "mean"] = "none"
    chat: Chat | None = None
    image_token: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    image_processor: AnyProcessor | None = None
    max_images: Annotated[int, Meta(ge=1, le=MAX_IMAGES)] = 32
    digest: Annotated[str, Meta(max_length=256)] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        if self.default_prompt is not None and self.default_prompt not in self.prompts:
            yield f"default_prompt {self.default_prompt!r} is not in prompts"
        for name, form in self.instructed_prompts.items():
            if name not in self.prompts or form.count(INSTRUCTION) != 1:
                yield f"instructed_prompts {name!r} must be a name in prompts and contain {INSTRUCTION} exactly once"
        if self.activation not in ACTIVATIONS:
            yield f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}"
        if not 0 <= self.positive_class < max(self.width, 1):
            yield f"positive_class must be between 0 and {self.width - 1}, not {self.positive_class}"
        if self.labels and len(self.labels) != self.width:
            yield f"labels must have {self.width} names, one for each value of the output, not {len(self.labels)}"
        if self.max_query_tokens is not None and not 1 <= self.max_query_tokens <= self.max_tokens:
            yield f"max_query_tokens must be between 1 and max_tokens ({self.max_tokens}), not {self.max_query_tokens}"
        if self.variant not in (self.variants or ("",)):
            yield f"variant {self.variant!r} is not in variants"
        if self.length_buckets and max(self.length_buckets) < self.max_tokens:
            yield f"length_buckets must reach max_tokens ({self.max_tokens}), but end at {max(self.length_buckets)}"
        yield from self._image_problems()

    def _image_problems(self) -> Iterator[str]:
        if self.image_processor is None:
            return
        if self.image_token is None or self.image_token >= self.vocabulary_size:
            yield f"image_processor needs image_token, an id of the vocabulary, not {self.image_token}"
        if self.chat is None or not self.chat.image:
            yield "image_processor needs chat with image and patch"


class ImageParameters(Parameters, frozen=True, kw_only=True):
    """Parameters of models whose input is images."""

    image_height: Edge
    image_width: Edge
    image_resize: dict[Literal["shortest_edge", "height", "width"], Edge]
    image_resample: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
    image_patches: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.image_resize) not in ({"shortest_edge"}, {"height", "width"}):
            raise ValueError(
                f"image_resize must have shortest_edge, or height and width, not {', '.join(self.image_resize)}"
            )
        shorter = self.image_resize.get("shortest_edge", 0)
        height, width = self.image_resize.get("height", shorter), self.image_resize.get("width", shorter)
        if height < self.image_height or width < self.image_width:
            raise ValueError("image_resize must not be smaller than image_height and image_width")

    @property
    def preparation(self) -> Preparation:
        """The preprocessing of an image."""
        edges = self.image_resize
        return Preparation(
            height=self.image_height,
            width=self.image_width,
            resize=edges["shortest_edge"] if "shortest_edge" in edges else (edges["height"], edges["width"]),
            resample=Resampling[self.image_resample.upper()],
        )


class AnySizeParameters(Parameters, frozen=True, kw_only=True):
    """Parameters of models whose input is images of any size."""

    image_processor: AnyProcessor

    @property
    def preparation(self) -> AnyProcessor:
        """The preprocessing of an image."""
        return self.image_processor

    @property
    def image_patches(self) -> int:
        """The most patches of an image."""
        return self.image_processor.max_patches


def _split(text: str) -> list[str]:
    return list(filter(None, text.split(",")))


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.partition("=")[::2] for pair in text.split(","))


PARSERS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("aliases", "dimensions", "variants", "length_buckets"), _split),
    **dict.fromkeys(
        ("prompts", "instructed_prompts", "template", "labels", "chat", "image_processor"), msgspec.json.decode
    ),
    "image_resize": _pairs,
}
"""Parsers of parameters with more than one value. Triton's parameters are strings."""


def outputs(config: ModelConfig) -> dict[str, Output]:
    """The outputs of an entry by their names in OUTPUTS, in that order.

    Raises:
        ValueError: one is missing, or its type or shape is wrong; the message names it.
    """
    names = OUTPUTS[config.parameters["role"]]
    given = {output.name: output for output in config.outputs}
    if config.outputs and names[0] not in given and config.outputs[0].name not in names:
        given[names[0]] = config.outputs[0]
    found = {name: given[name] for name in names if name in given}
    for problem in _output_problems(found, names[0]):
        raise ValueError(problem)
    return found


def _output_problems(found: Mapping[str, Output], main: str) -> Iterator[str]:
    if not found or (main == SCORE and SCORE not in found):
        yield f"it has no output {main}"
    for name, output in found.items():
        datatype = "INT32" if name == SPARSE_INDICES else "FP32"
        if output.datatype != datatype:
            yield f"output {output.name} is {output.datatype}; it must be {datatype}"
        *lengths, last = output.dims or (0,)
        if len(lengths) != (name in {TOKENS, QUERY_TOKENS}):
            shape = "[length, dimensions]" if name in {TOKENS, QUERY_TOKENS} else "one dimension"
            yield f"output {output.name} has dims {[*output.dims]}; it must have {shape}"
        if not 1 <= last <= 2**20 and not (last == -1 and name in {SPARSE_INDICES, SPARSE_WEIGHTS}):
            yield f"output {output.name} has dims {[*output.dims]}; the last must be 1 to {2**20}"
    sparse = [found[name].dims if name in found else None for name in (SPARSE_INDICES, SPARSE_WEIGHTS)]
    if sparse[0] != sparse[1]:
        yield f"outputs {SPARSE_INDICES} and {SPARSE_WEIGHTS} must have the same dims"
    if QUERY_TOKENS in found and (TOKENS not in found or found[TOKENS].dims[-1] != found[QUERY_TOKENS].dims[-1]):
        yield f"output {QUERY_TOKENS} needs an output {TOKENS} with the same number of dimensions"


def width(outputs: Mapping[str, Output]) -> int:
    """The dimensions of an entry's vectors, else the columns of its score, else 0."""
    return next((outputs[name].dims[-1] for name in (EMBEDDING, TOKENS, SCORE) if name in outputs), 0)


def read(config: ModelConfig, kind: type[Kind]) -> Kind:
    """Read and validate the parameters of a config.

    Raises:
        ValueError: a parameter is missing, malformed, out of range or contradicts another one; the message names it.
    """
    if "/" in config.name or config.name in {".", ".."}:
        raise ValueError("its name is not a valid folder name")
    given: dict[str, Any] = {"name": config.name}
    for name, text in config.parameters.items():
        try:
            given[name] = PARSERS.get(name, str)(text)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise ValueError(f"{name}: {exc}") from exc
    given |= {"width": width(outputs(config)), "max_batch_size": config.max_batch_size}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as exc:
        reason, _, place = str(exc).partition(" - at ")
        where = place.replace("`", "").replace("$.", "")
        raise ValueError(f"{where}: {reason}" if where else reason) from exc
