"""Late interaction: ColBERT models, and the token vectors of any embedding model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

from export import samples
from export.encoder import RowEncoder
from export.errors import SourceError
from export.heads import LateInteraction
from export.loading import Model, load_model, load_tokenizer
from export.manifest import ModelSpec
from export.rows import Rows
from export.runtime.engine import Row
from export.tower import DOCUMENT, LATE_INTERACTION, QUERY, Tower, vocabulary

PUNCTUATION = tuple("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a late-interaction model reads texts."""

    projects: bool = False
    """Whether its own linear layer stands on the token vectors."""
    query_length: int = 0
    """Queries shorter than this are filled up with mask tokens; 0 for none."""
    attends_to_expansion: bool = False
    document_length: int | None = None
    query_prefix: str = ""
    document_prefix: str = ""
    skipped_words: Sequence[str] = ()


def load(spec: ModelSpec, folder: Path) -> list[Tower]:
    """Load a ColBERT folder (Stanford's or PyLate's), or any encoder.

    Raises:
        SourceError: it cannot be loaded, or expands queries without a mask token.
    """
    model = load_model(spec, AutoModel, folder)
    tokenizer = load_tokenizer(spec, folder)
    settings = _settings(folder)
    _add_prefixes(tokenizer, settings)
    words = vocabulary(spec, tokenizer, model, settings.document_length or _limit(folder, tokenizer))
    if settings.query_length and tokenizer.mask_token_id is None:
        raise SourceError(f"[{spec.name}] source: queries are expanded, but the tokenizer has no mask token")
    encoder = RowEncoder(model, packed=spec.backend != "tensorrt")
    if not 0 <= settings.query_length <= words.max_tokens:
        raise SourceError(
            f"[{spec.name}] source: queries are filled up to {settings.query_length} tokens, where a row may have"
            f" {words.max_tokens}"
        )
    projection = _projection(folder) if settings.projects else torch.nn.Identity()
    skipped = [id_ for word in settings.skipped_words if (id_ := tokenizer.convert_tokens_to_ids(word)) is not None]
    skipped = sorted({id_ for id_ in skipped if id_ != tokenizer.unk_token_id})

    def expand(rows: Rows) -> Rows:
        if not settings.query_length:
            return rows
        return rows.expanded(settings.query_length, tokenizer.mask_token_id, attended=settings.attends_to_expansion)

    def vectors(ids: Tensor, mask: Tensor) -> Tensor:
        hidden = model(input_ids=ids[None], attention_mask=mask[None]).last_hidden_state[0]
        return functional.normalize(projection(hidden), dim=-1)

    def score(row: Row) -> Tensor:
        query, document = (torch.from_numpy(ids) for ids in row)
        missing = max(0, settings.query_length - len(query))
        filled = torch.cat([query, torch.full((missing,), tokenizer.mask_token_id or 0)])
        mask = torch.cat([torch.ones_like(query), torch.full((missing,), int(settings.attends_to_expansion))])
        kept = torch.tensor([id_ not in skipped for id_ in document.tolist()])
        cosine = vectors(filled, mask) @ vectors(document, torch.ones_like(document))[kept].T
        return cosine.amax(1).mean()[None]

    prompts = {"query": settings.query_prefix, "document": settings.document_prefix}
    return [
        Tower(
            name=spec.name,
            role=LATE_INTERACTION,
            fields=(QUERY, DOCUMENT),
            head=LateInteraction(encoder, projection, expand, skipped),
            width=1,
            reference=score,
            samples=lambda: samples.paired_rows(words),
            vocabulary=words,
            packed=encoder.packed,
            parameters={"prompts": json.dumps(prompts) if any(prompts.values()) else ""},
        )
    ]


def _settings(folder: Path) -> Settings:
    """Read Stanford's artifact.metadata or PyLate's part of config_sentence_transformers.json, if there is one."""
    stanford = _read(folder / "artifact.metadata")
    if "query_maxlen" in stanford:
        return Settings(
            projects=True,
            query_length=stanford["query_maxlen"],
            attends_to_expansion=bool(stanford.get("attend_to_mask_tokens")),
            document_length=stanford.get("doc_maxlen"),
            query_prefix=stanford.get("query_token_id", "[unused0]"),
            document_prefix=stanford.get("doc_token_id", "[unused1]"),
            skipped_words=PUNCTUATION if stanford.get("mask_punctuation", True) else (),
        )
    pylate = _read(folder / "config_sentence_transformers.json")
    if "query_length" in pylate:
        return Settings(
            projects=True,
            query_length=pylate["query_length"] if pylate.get("do_query_expansion", True) else 0,
            attends_to_expansion=bool(pylate.get("attend_to_expansion_tokens")),
            document_length=pylate.get("document_length"),
            query_prefix=pylate.get("query_prefix") or "",
            document_prefix=pylate.get("document_prefix") or "",
            skipped_words=pylate.get("skiplist_words") or (),
        )
    prompts = pylate.get("prompts") or {}  # of an embedding model
    return Settings(
        query_prefix=prompts.get("query") or "",
        document_prefix=prompts.get("document") or prompts.get("passage") or "",
    )


def _add_prefixes(tokenizer: Model, settings: Settings) -> None:
    """Have the prefixes of ColBERT, which are tokens of its vocabulary, found in text."""
    known = tokenizer.get_vocab()
    for prefix in (settings.query_prefix, settings.document_prefix):
        if prefix in known:
            tokenizer.add_tokens(prefix, special_tokens=True)


def _limit(folder: Path, tokenizer: Model) -> int:
    """Tokens that an embedding model's folder says it takes."""
    own = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    return int(own or tokenizer.model_max_length)


def _projection(folder: Path) -> torch.nn.Module:
    """ColBERT's linear layer over the token vectors, if there is one: Stanford's beside the encoder, PyLate's after."""
    for file in (folder / "model.safetensors", folder / "1_Dense" / "model.safetensors"):
        if not file.is_file():
            continue
        with safe_open(file, "pt") as weights:
            if "linear.weight" not in weights.keys():  # noqa: SIM118 - it is no mapping
                continue
            weight = weights.get_tensor("linear.weight").float()
            has_bias = "linear.bias" in weights.keys()  # noqa: SIM118
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias)
            linear.weight.data = weight
            if has_bias:
                linear.bias.data = weights.get_tensor("linear.bias").float()
            return linear.eval()
    return torch.nn.Identity()


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return content
