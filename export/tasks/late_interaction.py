"""Late interaction: multi-vector models such as ColBERT, and the token vectors of any embedding model."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.util import mean_maxsim
from torch import Tensor
from torch.nn import functional

from export.errors import SourceError
from export.loading.models import Model, check_module, loading, model_options
from export.manifest import ModelSpec
from export.packing.encoder import RowEncoder
from export.packing.heads import LateInteraction
from export.packing.rows import Rows
from export.runtime.contract import (
    DOCUMENT,
    LATE_INTERACTION,
    QUERY,
    QUERY_VECTORS,
    SCORE,
    TOKEN_VECTORS,
    Array,
    Output,
    Parameters,
    Row,
)
from export.runtime.inputs import Expansion
from export.tasks import pages
from export.tasks.vocabulary import vocabulary
from export.tower import Tower, Vocabulary
from export.verification import samples

TOKENS = "token_embeddings"
"""The value that every module of a multi-vector model reads and writes."""
MULTI_VECTOR = ("MultiVectorEncoder", "ColBERT")
"""The `model_type` of sentence-transformers 6, and that of PyLate."""
PYLATE = frozenset({"query_length", "query_prefix", "do_query_expansion"})
"""Keys of config_sentence_transformers.json by which a folder is PyLate's, whose first versions wrote no model_type."""
PLAIN_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
"""The `modality_config` of a transformer that is given a text as it is, without a chat around it, and nothing else."""
SETTINGS = frozenset({"text", "common"})
"""The `processing_kwargs` by which a tokenizer is called in another way."""
RETRIEVAL = "ForRetrieval"
"""The end of the names of transformers' classes that give a vector of each token, such as ColPaliForRetrieval."""
STANFORD = "HF_ColBERT"
"""The architecture that Stanford's code saves."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The modules of a multi-vector model after its transformer."""

    steps: Sequence[torch.nn.Module]
    """Modules on token vectors, in order, without the final normalization: the score uses cosines."""
    skipped: Mapping[str, Sequence[int]]
    """Token ids that do not count, by task: "query" and "document"."""
    counts_expansion: bool
    """Whether a query's expansion counts even where no token attends to it."""


def load(spec: ModelSpec, folder: Path) -> list[Tower]:
    """Load a multi-vector folder of sentence-transformers 6, PyLate or Stanford's ColBERT, or any encoder.

    Raises:
        SourceError: it cannot be loaded, has modules that are no graph, or expands queries as rows cannot be.
    """
    reference = _reference(spec, folder)
    reference.eval().requires_grad_(requires_grad=False)
    transformer, parts = reference[0], _parts(spec, reference)
    if pages.reads_pages(reference):
        return pages.load(spec, reference, _Projection(parts.steps), parts.skipped)
    limit = transformer.document_length or transformer.max_seq_length
    words = vocabulary(spec, reference.tokenizer, transformer.auto_model, limit)
    expansion = _expansion(spec, reference, words)
    encoder = RowEncoder(transformer.auto_model, spec.backend)
    most = _most_of_query(transformer, words)
    with torch.inference_mode():
        width = _vectors(reference, np.array([0]), "document", None).shape[1]

    # An expansion that neither counts nor is attended to changes nothing.
    matters = expansion if expansion is not None and (parts.counts_expansion or expansion.attended) else None

    def expand(rows: Rows) -> Rows:
        return rows if matters is None else rows.expanded(matters.length, matters.token, attended=matters.attended)

    def compare(row: Row) -> Mapping[str, Tensor]:
        query, document = row
        queries, documents = (
            _vectors(reference, query, "query", expansion),
            _vectors(reference, document, "document", None),
        )
        score = mean_maxsim([queries[queries.any(1)]], [documents[documents.any(1)]])[0]
        return {SCORE: score, TOKEN_VECTORS: documents, QUERY_VECTORS: queries}

    prompts = {task: reference.prompts[task] for task in ("query", "document")}
    parameters: Parameters = {"prompts": prompts if any(prompts.values()) else {}}
    if most is not None:
        parameters["max_query_tokens"] = most
    return [
        Tower(
            name=spec.name,
            role=LATE_INTERACTION,
            fields=(QUERY, DOCUMENT),
            head=LateInteraction(encoder, _Projection(parts.steps), expand, parts.skipped),
            outputs=(
                Output(SCORE, (1,)),
                Output(TOKEN_VECTORS, (width,), "token"),
                Output(QUERY_VECTORS, (width,), "query token"),
            ),
            reference=compare,
            samples=lambda: samples.paired_rows(words, most),
            vocabulary=words,
            packed=encoder.packed,
            expansion=matters,
            parameters=parameters,
        )
    ]


def _reference(spec: ModelSpec, folder: Path) -> Model:
    """The source as sentence-transformers' MultiVectorEncoder runs it, in fp32.

    Any other folder is one whose token vectors are normalized and all count.

    Raises:
        SourceError: it cannot be loaded, is of another kind, or weights are missing.
    """
    settings = _json(folder / "config_sentence_transformers.json")
    kind = settings.get("model_type", "SentenceTransformer")
    is_stanford = _is_stanford(folder)
    modules = (folder / "modules.json").is_file()
    if kind not in ("SentenceTransformer", *MULTI_VECTOR):
        raise SourceError(f"[{spec.name}] source: it is a {kind}, whose token vectors cannot be compared")
    if (folder / "artifact.metadata").is_file() and not is_stanford and not settings:
        raise SourceError(
            f"[{spec.name}] source: it has the artifact.metadata of a ColBERT, but config.json names no {STANFORD}"
            " among its architectures"
        )
    is_own = is_multi_vector(folder)
    if is_own and not modules and not is_stanford and not _is_retriever(folder):
        raise SourceError(f"[{spec.name}] source: it has the settings of a multi-vector model, but no modules.json")
    options = model_options(spec)
    code: dict[str, Any] = {"trust_remote_code": spec.allow_remote_code, "local_files_only": True}
    with loading(spec, folder=folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_own:
            reference: Model = MultiVectorEncoder(str(folder), device="cpu", model_kwargs=options, **code)
        elif modules:
            plain: Model = SentenceTransformer(str(folder), device="cpu", model_kwargs=options, **code)
            reference = _plain(plain[0], plain.prompts)
        else:
            transformer = Transformer(
                str(folder), model_kwargs=options | code, processor_kwargs=code, config_kwargs=code
            )
            reference = _plain(transformer, {})
    check_module(spec, reference[0], folder / next(iter(_places(folder)), ""), ("linear.",) if is_stanford else ())
    layers = [module for module in reference if type(module) is Dense]
    for place, layer in zip(_places(folder, ".Dense"), layers, strict=False):  # an embedding model's are left out
        check_module(spec, layer, folder / place)
    return reference


def is_multi_vector(folder: Path) -> bool:
    """Whether a folder was saved by a library of multi-vector models."""
    settings = _json(folder / "config_sentence_transformers.json")
    return (
        settings.get("model_type") in MULTI_VECTOR
        or bool(PYLATE & settings.keys())
        or _is_stanford(folder)
        or _is_retriever(folder)
    )


def _is_retriever(folder: Path) -> bool:
    """Whether transformers saved it of a class for the retrieval of pages."""
    names = _json(folder / "config.json").get("architectures") or []
    return any(name.endswith(RETRIEVAL) for name in names)


def _is_stanford(folder: Path) -> bool:
    return STANFORD in (_json(folder / "config.json").get("architectures") or [])


def _places(folder: Path, kind: str = "") -> list[str]:
    """The paths of a folder's modules, or of those of one kind."""
    file = folder / "modules.json"
    entries = json.loads(file.read_text()) if file.is_file() else []
    return [entry["path"] for entry in entries if entry["type"].endswith(kind)]


def _plain(transformer: Model, prompts: Mapping[str, str]) -> Model:
    """A multi-vector model of an embedding model's first module."""
    sides = {
        "query": prompts.get("query") or "",
        "document": next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), ""),
    }
    if isinstance(transformer, Transformer):
        transformer.modality_config.pop("message", None)  # its chat template is not for texts to compare
    modules = [transformer, MultiVectorMask(), Normalize(TOKENS)]
    return MultiVectorEncoder(modules=modules, prompts=sides, device="cpu")


def _parts(spec: ModelSpec, reference: Model) -> Parts:
    """The modules after the transformer, in the order of modules.json.

    Raises:
        SourceError: a module is not one of those that a graph can have, or the vectors are not normalized at the end.
    """
    first, *rest = reference
    images = pages.reads_pages(reference)
    if (
        type(first) is not Transformer
        or (first.modality_config != PLAIN_TEXT and not images)
        or (SETTINGS | ({"image"} if images else set())) & first.processing_kwargs.keys()
    ):
        raise SourceError(
            f"[{spec.name}] source: its first module, {type(first).__name__}, is not a transformer for plain text only"
        )
    masks = [module for module in rest if type(module) is MultiVectorMask]
    steps = [module for module in rest if type(module) is not MultiVectorMask]
    for module in steps:
        names = {getattr(module, "module_input_name", None), getattr(module, "module_output_name", None)}
        if type(module) not in (Dense, Normalize) or names != {TOKENS}:
            raise SourceError(
                f"[{spec.name}] source: {type(module).__name__} is not supported; a multi-vector model may have"
                " Dense and Normalize on token_embeddings, and MultiVectorMask"
            )
    if images and first.transformer_task == "retrieval":
        steps.append(Normalize(TOKENS))  # the model's own
    if not steps or type(steps[-1]) is not Normalize:
        raise SourceError(f"[{spec.name}] source: its token vectors are not normalized at the end (Normalize)")
    if len(masks) > 1 or any(mask.keep_only_token_ids for mask in masks):
        raise SourceError(
            f"[{spec.name}] source: it has more than one MultiVectorMask, or one for the tokens of images only"
        )
    skipped = {
        task: sorted({id_ for mask in masks if task in mask.skiplist_tasks for id_ in _ids(mask)})
        for task in ("query", "document")
    }
    return Parts(steps[:-1], skipped, counts_expansion=bool(masks))


def _ids(mask: Model) -> list[int]:
    """The ids of a mask's words, as it has found them in the tokenizer."""
    found: list[int] = mask._skiplist_ids.tolist() if mask._skiplist_ids is not None else []
    return found


def _expansion(spec: ModelSpec, reference: Model, words: Vocabulary) -> Expansion | None:
    """The expansion of queries; None if there is none.

    Raises:
        SourceError: to more tokens than a row may have, or in front of their own tokens.
    """
    asked, tokenizer = reference[0].query_expansion, reference.tokenizer
    if asked is None:
        return None
    if asked["length"] > words.max_tokens:
        raise SourceError(
            f"[{spec.name}] source: queries are expanded to {asked['length']} tokens, more than the"
            f" {words.max_tokens} of a row"
        )
    if tokenizer.padding_side != "right":
        raise SourceError(f"[{spec.name}] source: queries are expanded on the left, which is not supported")
    if asked["token"] is not None:
        token = tokenizer.convert_tokens_to_ids(asked["token"])
    else:
        token = tokenizer.eos_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    return Expansion(QUERY.name, asked["length"], token, asked["attend"])


def _most_of_query(transformer: Model, words: Vocabulary) -> int | None:
    """The tokens at which a query is cut, where it is at fewer than a document."""
    most: int | None = transformer.query_length
    expansion = transformer.query_expansion
    if expansion is not None and expansion["strategy"] == "fixed":
        most = expansion["length"]
    return most if most is not None and most <= words.max_tokens else None


def _vectors(reference: Model, ids: Array, task: str, expansion: Expansion | None) -> Tensor:
    """The vectors of tokens, [L, D], by the reference's own modules: 0 for those that do not count.

    Its features are those of `Transformer.preprocess` for a text.
    """
    given = torch.from_numpy(ids)
    added = torch.zeros_like(given, dtype=torch.bool)
    attended = torch.ones_like(given)
    if expansion is not None:
        missing = max(0, expansion.length - len(ids))
        given = functional.pad(given, (0, missing), value=expansion.token)
        added = functional.pad(added, (0, missing), value=True)
        attended = functional.pad(attended, (0, missing), value=int(expansion.attended))
    features = {"input_ids": given, "attention_mask": attended, "query_expansion_positions": added}
    made = reference({name: value[None] for name, value in features.items()}, task=task)
    vectors: Tensor = made[TOKENS][0] * made["attention_mask"][0][:, None]
    return vectors


class _Projection(torch.nn.Module):
    """Modules of sentence-transformers on token vectors, one after the other: [..., D] to [..., E]."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.steps = torch.nn.ModuleList(modules)

    def forward(self, vectors: Tensor) -> Tensor:
        for step in self.steps:
            vectors = step({TOKENS: vectors})[TOKENS]
        return vectors


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return content if isinstance(content, dict) else {}
