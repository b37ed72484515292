"""Late interaction of texts with pages: multi-vector models whose documents are images, such as ColPali and ColQwen.

A query is a text, and a document is an image, a text or both: whatever the model's own processor makes rows of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import mean_maxsim
from torch import Tensor

from export.errors import SourceError
from export.loading.models import Model
from export.manifest import ModelSpec
from export.packing.families import RETRIEVERS, family
from export.packing.heads import LateInteraction
from export.packing.vision import VisionEncoder
from export.rerankers import INSTRUCTION
from export.runtime.contract import (
    DOCUMENT,
    GRIDS,
    LATE_INTERACTION,
    PATCHES,
    QUERY,
    QUERY_VECTORS,
    SCORE,
    TOKEN_VECTORS,
    Output,
    Parameters,
    Row,
)
from export.tasks import chat
from export.tasks.chat import CONTENT, Content, ImageText
from export.tasks.images import PATCHES as PLACE
from export.tasks.vision_rows import VisionRows, reads_images
from export.tower import Tower
from export.verification import samples

AUGMENTED = 10
"""Times that processors repeat a token behind a query: room for the model to expand it (arXiv 2407.01449)."""
QUERY_SIDE, DOCUMENT_SIDE = "query", "document"
"""The sides of a search, by their names in sentence-transformers."""


@dataclass(frozen=True, slots=True)
class Sides:
    """The templates of queries and documents. They hold all special tokens of a row."""

    query: str
    """With {content} and perhaps {instruction}."""
    document: str
    """The same."""
    images: ImageText
    instruction: str = ""
    """What stands for {instruction} by default."""
    document_text: str = ""
    """The template of documents that are texts, where it is another one. Then no document has texts beside an image."""

    @property
    def has_instruction(self) -> bool:
        """Whether both sides have a place for one."""
        return INSTRUCTION in self.query and INSTRUCTION in self.document

    @property
    def parameter(self) -> Mapping[str, Any]:
        """The parameter `chat` of an entry."""
        found = {
            "query": self.query,
            "document": self.document,
            "document_text": self.document_text,
            "instruction": self.instruction,
            "image": self.images.written,
            "patch": self.images.patch,
        }
        return {name: text for name, text in found.items() if text}

    def of_query(self, text: str, instruction: str = "") -> str:
        """The text of a query's row."""
        return self._rendered(self.query, text, instruction)

    def of_document(self, content: chat.Read, instruction: str = "") -> str:
        """The text of a document's row."""
        is_text = self.document_text and all(isinstance(part, str) for part in content)
        return self._rendered(self.document_text if is_text else self.document, self.images.of(content), instruction)

    def _rendered(self, template: str, content: str, instruction: str) -> str:
        before, after = template.replace(INSTRUCTION, instruction or self.instruction).split(CONTENT)
        return before + content + after


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows of a query and a document."""

    sides: Sides
    rows: VisionRows

    def row(self, query: str, document: Content) -> Row:
        """The row of a pair, as the gateway makes it."""
        read = self.rows.read(document)
        return (self.rows.ids(self.sides.of_query(query)), *self.rows.row(self.sides.of_document(read), read))

    def samples(self, spec: ModelSpec) -> list[Row]:
        """Texts of many lengths and pages of many shapes, under short and long queries."""
        words = self.rows.words
        queries = [samples.text(place, size) for place, size in enumerate((5, 40, 2 * words.max_tokens))]
        texts: list[Content] = [[samples.text(place, 3 * size)] for place, size in enumerate(samples.lengths(words))]
        images: list[Content] = list(samples.contents())
        if self.sides.document_text:
            images = [[image] for image in samples.pictures()]
        found = [
            self._cut(self.row(queries[place % len(queries)], document))
            for place, document in enumerate([*texts, *images])
        ]
        kept = [row for row in found if len(row[1]) <= words.max_tokens]
        if not any(len(row[3]) for row in kept):
            raise SourceError(f"[{spec.name}] max_tokens: {words.max_tokens} tokens are too few for images")
        return kept

    def _cut(self, row: Row) -> Row:
        """The same with a text that is not too long."""
        query, document, *images = row
        most = self.rows.words.max_tokens
        own = document if len(images[1]) else document[:most]
        return (query[:most], own, *images)


def reads_pages(reference: Model) -> bool:
    """Whether a multi-vector model of sentence-transformers reads images."""
    return _is_retriever(reference[0]) or reads_images(reference[0])


def _is_retriever(first: Model) -> bool:
    """Whether it is one of transformers' *ForRetrieval classes."""
    return isinstance(first, Transformer) and first.transformer_task == "retrieval"


def load(
    spec: ModelSpec, reference: Model, projection: torch.nn.Module, skipped: Mapping[str, Sequence[int]]
) -> list[Tower]:
    """The tower of a multi-vector model that reads images.

    Args:
        spec: its table.
        reference: the model as sentence-transformers runs it.
        projection: its modules on token vectors, without the final normalization, [..., D] to [..., E].
        skipped: token ids that do not count, by side.

    Raises:
        SourceError: it is of another kind, or is to be served by another backend than torch.
    """
    first = reference[0]
    is_retriever = _is_retriever(first)
    if first.query_expansion is not None:
        raise SourceError(f"[{spec.name}] source: has query_expansion, which models that read images do not support")
    rows = VisionRows.of(spec, first, first.document_length or first.max_seq_length)
    sides = _retriever_sides(spec, first) if is_retriever else _chat_sides(spec, first)
    pairs = Pairs(sides, rows)
    compare = _Reference(reference, rows, is_retriever)
    if is_retriever:
        encoder = VisionEncoder(first.model.vlm, rows.images.processor, family(RETRIEVERS, first.model))
        projection = torch.nn.Sequential(first.model.embedding_proj_layer, projection)
    else:
        encoder = rows.encoder(first.auto_model)
    if rows.token != encoder.vision.token:
        raise SourceError(f"[{spec.name}] source: the processor has token {rows.token} for images, the model another")
    _prove(spec, reference, pairs, compare)
    with torch.inference_mode():
        width = compare.vectors(pairs.row("a", ["a"])[1:], DOCUMENT_SIDE).shape[1]
    parameters: Parameters = {**rows.parameters, "chat": sides.parameter}
    if sides.document_text:
        parameters["max_images"] = 1
    if first.query_length is not None and first.query_length <= rows.words.max_tokens:
        parameters["max_query_tokens"] = first.query_length
    prompts = {side: reference.prompts.get(side) or "" for side in (QUERY_SIDE, DOCUMENT_SIDE)}
    if any(prompts.values()):
        if not sides.has_instruction:
            raise SourceError(f"[{spec.name}] source: has prompts, but its template has no place for an instruction")
        parameters["prompts"] = prompts
    return [
        Tower(
            name=spec.name,
            role=LATE_INTERACTION,
            fields=(QUERY, DOCUMENT, PATCHES, GRIDS),
            head=LateInteraction(encoder, projection, lambda rows: rows, skipped),
            outputs=(
                Output(SCORE, (1,)),
                Output(TOKEN_VECTORS, (width,), "token"),
                Output(QUERY_VECTORS, (width,), "query token"),
            ),
            reference=compare,
            samples=lambda: pairs.samples(spec),
            vocabulary=rows.words,
            packed=encoder.packed,
            vision=encoder.vision,
            parameters=parameters,
        )
    ]


@dataclass(frozen=True, slots=True)
class _Reference:
    """A model as sentence-transformers calls it, on what its processor makes of resized images."""

    model: Model
    rows: VisionRows
    is_retriever: bool

    def __call__(self, row: Row) -> Mapping[str, Tensor]:
        query, *document = row
        nothing = (document[1][:0], document[2][:0])
        queries = self.vectors((query, *nothing), QUERY_SIDE)
        documents = self.vectors(tuple(document), DOCUMENT_SIDE)
        score = mean_maxsim([queries[queries.any(1)]], [documents[documents.any(1)]])[0]
        return {SCORE: score, TOKEN_VECTORS: documents, QUERY_VECTORS: queries}

    def vectors(self, row: Row, side: str) -> Tensor:
        """The vectors of tokens, [L, D]: 0 for those that do not count."""
        made = self.model(self.features(row), task=side)
        vectors: Tensor = made["token_embeddings"][0] * made["attention_mask"][0][:, None]
        return vectors

    def features(self, row: Row) -> dict[str, Any]:
        """What sentence-transformers hands its modules."""
        features = self.rows.features(row)
        if not self.is_retriever:
            return features
        features["modality"] = "text"
        if features.pop("mm_token_type_ids", None) is not None:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        if "pixel_values" in features:
            pixels = features["pixel_values"]
            features |= {"modality": "image", "pixel_values": pixels[None] if pixels.dim() == 2 else pixels}
        return features


def _prove(spec: ModelSpec, reference: Model, pairs: Pairs, compare: _Reference) -> None:
    """Compare rows with what sentence-transformers makes of the same texts and images.

    Raises:
        SourceError: they differ, as for settings of a folder that are not read.
    """
    pages: list[Content] = [[image] for image in samples.pictures()[:3]]
    mixed: list[Content] = [] if pairs.sides.document_text else list(samples.contents()[:5])
    documents: list[Content] = [*pages, *mixed, *([text] for text in samples.ODD)]
    for place, document in enumerate(documents):
        query = samples.ODD[place % len(samples.ODD)]
        row = pairs.row(query, document)
        nothing = (row[2][:0], row[3][:0])
        given = (query, document[0] if len(document) == 1 else chat.message(document))
        for side, own, item in zip((QUERY_SIDE, DOCUMENT_SIDE), ((row[0], *nothing), row[1:]), given, strict=True):
            features = compare.features(own)
            with torch.inference_mode():
                made = read(reference, item, side)
            for name in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids"):
                if name in made and not torch.equal(features.get(name, torch.empty(0)), made[name]):
                    raise SourceError(f"[{spec.name}] source: sentence-transformers reads a {side} differently: {name}")


def read(reference: Model, item: Any, side: str) -> dict[str, Any]:  # noqa: ANN401 - text, image or message
    """What a model's library makes of a query or a document, before the model computes."""
    if not _is_misread(reference):
        made: dict[str, Any] = reference.preprocess([item], prompt=reference.prompts.get(side), task=side)
        return made
    processor = reference[0].processor
    own = (
        processor.process_queries([item], return_tensors="pt")
        if isinstance(item, str)
        else processor.process_images([item], return_tensors="pt")
    )
    return {**own, "modality": "text" if isinstance(item, str) else "image"}


def encode(reference: Model, item: Any, side: str) -> Tensor:  # noqa: ANN401
    """The vectors of a query's or a document's tokens that count, [L, D], by a model's library."""
    if not _is_misread(reference):
        call = reference.encode_query if side == QUERY_SIDE else reference.encode_document
        found: Tensor = call(item)
        return found
    with torch.inference_mode():
        made = reference(read(reference, item, side), task=side)
    vectors: Tensor = made["token_embeddings"][0][made["attention_mask"][0].bool()]
    return vectors


def _is_misread(reference: Model) -> bool:
    """Whether sentence-transformers calls its processor as others, which leaves out the text of an image."""
    return type(reference[0].processor).__name__ == "ColModernVBertProcessor"


def _chat_sides(spec: ModelSpec, first: Transformer) -> Sides:
    """The templates that a folder's chat template renders for both sides, of which sentence-transformers tells it."""
    own = first.processing_kwargs
    found = {}
    for side in (QUERY_SIDE, DOCUMENT_SIDE):
        options = {**own.get("chat_template", {}), **({"task": side} if first._chat_template_declares_task() else {})}
        first.processing_kwargs = {**own, "chat_template": options}
        try:
            found[side] = chat.of_messages(spec, first)
        finally:
            first.processing_kwargs = own
    query, document = found[QUERY_SIDE], found[DOCUMENT_SIDE]
    if query.instruction != document.instruction:
        raise SourceError(f"[{spec.name}] source: its chat template has an instruction for each side")
    return Sides(query.text, document.text, document.images, document.instruction)


def _colpali(processor: Model) -> Sides:
    begin = processor.tokenizer.bos_token
    query = f"{begin}{processor.query_prefix}{CONTENT}{processor.query_augmentation_token * AUGMENTED}\n"
    page = f"{CONTENT}{begin}{processor.visual_prompt_prefix}\n"
    return Sides(query, page, ImageText(PLACE, processor.image_token), document_text=query)


def _colqwen2(processor: Model) -> Sides:
    query = f"{processor.query_prefix}{CONTENT}{processor.query_augmentation_token * AUGMENTED}\n"
    page = processor.visual_prompt_prefix.replace(processor.image_token, CONTENT)
    return Sides(query, page, ImageText(PLACE, processor.image_token), document_text=query)


def _colmodernvbert(processor: Model) -> Sides:
    query = f"{processor.query_prefix}{CONTENT}{processor.query_augmentation_token * AUGMENTED}"
    page = processor.visual_prompt_prefix.replace(processor.image_token, CONTENT)
    return Sides(query, page, ImageText(PLACE, processor.image_token), document_text=query)


PROCESSORS: Mapping[str, Callable[[Model], Sides]] = {
    "ColModernVBertProcessor": _colmodernvbert,
    "ColPaliProcessor": _colpali,
    "ColQwen2Processor": _colqwen2,
}
"""The templates of processors without a chat template, by their class. They read any text as a query."""


def _retriever_sides(spec: ModelSpec, first: Transformer) -> Sides:
    processor: Model = first.processor
    name = type(processor).__name__
    if name not in PROCESSORS:
        raise SourceError(f"[{spec.name}] source: {name} is not supported, only {' and '.join(PROCESSORS)}")
    sides = PROCESSORS[name](processor)
    special = chat.special_tokens(first.tokenizer)
    texts = (special[0] + text + special[1] for text in (sides.query, sides.document, sides.document_text))
    query, document, text = texts
    return replace(sides, query=query, document=document, document_text=text)
