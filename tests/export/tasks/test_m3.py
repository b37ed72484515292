"""The reference of export/tasks/m3.py is proven here against another one, which works on texts and dictionaries.

Both are written after FlagEmbedding, github.com/FlagOpen/FlagEmbedding: this one after M3Embedder.encode and
compute_score (inference/embedder/encoder_only/m3.py). The package itself needs transformers 4 and datasets.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from export.errors import SourceError
from export.manifest import ModelSpec
from export.packing.rows import PackedRows
from export.runtime.contract import (
    EMBEDDING,
    LATE_INTERACTION,
    QUERY_VECTORS,
    SCORE,
    SPARSE_INDICES,
    SPARSE_WEIGHTS,
    TOKEN_VECTORS,
)
from export.sources.resolve import resolve
from export.tasks import m3
from export.tasks.load import load_towers
from export.tower import Tower
from loadtest.tools import tiny

TEXTS = ["sea <s> shells", "A conch is a sea snail, a sea snail with a shell.", *tiny.TEXTS[:2]]
QUERY = "which <s> snail?"
"""Both have a first token that is not the first."""


def spec(source: Path, **keys: Any) -> ModelSpec:
    return ModelSpec(name="tiny", task="text-embedding", source=str(source), **keys)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_m3(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="module")
def tower(source: Path) -> Tower:
    given = spec(source)
    (found,) = load_towers(given, resolve(given))
    return found


def library(source: Path, text: str) -> dict[str, Any]:
    """The vectors of FlagEmbedding: normalized dense and token vectors, and weights by token id."""
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source)
    layers = {}
    for name in ("sparse", "colbert"):
        state = torch.load(source / f"{name}_linear.pt", weights_only=True)
        layers[name] = torch.nn.Linear(tiny.WIDTH, len(state["bias"]))
        layers[name].load_state_dict(state)
    given = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**given).last_hidden_state[0]
        vectors = functional.normalize(layers["colbert"](hidden[1:]), dim=-1)
        weights = torch.relu(layers["sparse"](hidden))[:, 0]
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    words: dict[int, float] = defaultdict(float)
    for weight, token in zip(weights.tolist(), given["input_ids"][0].tolist(), strict=True):
        if token not in unused and weight > 0:
            words[token] = max(weight, words[token])
    return {"dense": functional.normalize(hidden[0], dim=-1), "words": dict(words), "tokens": vectors}


def ids(tower: Tower, text: str) -> list[int]:
    assert tower.vocabulary is not None
    found: list[int] = tower.vocabulary.tokenizer.encode(text).ids
    return found


def terms(found: Mapping[str, Tensor]) -> dict[int, float]:
    """Those above 0, the largest weight of each."""
    words: dict[int, float] = defaultdict(float)
    for token, weight in zip(found[SPARSE_INDICES].tolist(), found[SPARSE_WEIGHTS].tolist(), strict=True):
        if weight > 0:
            words[token] = max(weight, words[token])
    return dict(words)


def assert_is(found: Mapping[str, Tensor], query: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """The outputs of one pair are those of FlagEmbedding."""
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    close(functional.normalize(found[EMBEDDING], dim=-1), document["dense"])
    assert terms(found) == pytest.approx(document["words"], abs=1e-5)
    for name, side in ((TOKEN_VECTORS, document), (QUERY_VECTORS, query)):
        counted = found[name][found[name].any(-1)]
        close(functional.normalize(counted, dim=-1), side["tokens"])
    score = (query["tokens"] @ document["tokens"].T).amax(1).mean()
    close(found[SCORE], score[None])


def test_one_pass_gives_what_flag_embedding_does(source: Path, tower: Tower) -> None:
    assert tower.role == LATE_INTERACTION
    query = library(source, QUERY)
    asked, texts = ids(tower, QUERY), [ids(tower, text) for text in TEXTS]
    with torch.inference_mode():
        outputs = tower.head(tiny.padded([asked] * len(texts)), tiny.padded(texts))
        for i, text in enumerate(TEXTS):
            expected = library(source, text)
            assert_is(tower.reference((np.array(asked), np.array(texts[i]))), query, expected)
            assert_is({name: values[i] for name, values in outputs.items()}, query, expected)


def test_rows_that_a_host_lays_out_give_the_same(source: Path) -> None:
    (tower,) = m3.load(spec(source, backend="torch"), source)
    asked, text = ids(tower, QUERY), ids(tower, TEXTS[0])
    rows = PackedRows.of([torch.tensor(asked), torch.tensor(text), torch.tensor(text)])
    rows = PackedRows(
        rows.ids, rows.place, rows.row, rows.starts, rows.longest, queries=torch.tensor([0, 0]), longest_query=16
    )
    begin, end = len(asked), len(asked) + len(text)
    with torch.inference_mode():
        outputs = tower.head(rows)
    found = {
        name: values[0, begin:end] if values.shape[0] == 1 else values[0]
        for name, values in outputs.items()
        if name != QUERY_VECTORS
    }
    found[QUERY_VECTORS] = outputs[QUERY_VECTORS][0, :begin]
    assert_is(found, library(source, QUERY), library(source, TEXTS[0]))


def test_folder_without_both_layers_is_an_embedding_model(tmp_path: Path) -> None:
    plain = tiny.write_m3(tmp_path)
    (plain / "sparse_linear.pt").unlink()
    (tower,) = load_towers(given := spec(plain), resolve(given))
    assert [output.name for output in tower.outputs] == [EMBEDDING]


@pytest.mark.parametrize(
    "stored",
    [
        torch.nn.Linear(7, 1).state_dict(),
        torch.nn.Linear(tiny.WIDTH, 1, bias=False).state_dict(),
        {"weight": torch.zeros(0, tiny.WIDTH), "bias": torch.zeros(0)},
        {"weight": torch.zeros(1).expand(10_000, tiny.WIDTH), "bias": torch.zeros(10_000)},
        {"weight": torch.zeros(1, tiny.WIDTH), "bias": torch.zeros(())},
        torch.zeros(1, tiny.WIDTH),
    ],
    ids=["another width", "no bias", "no rows", "weights that are not stored", "a number", "no layer"],
)
def test_file_of_another_layer_is_refused(tmp_path: Path, stored: object) -> None:
    source = tiny.write_m3(tmp_path)
    torch.save(stored, source / "sparse_linear.pt")
    with pytest.raises(
        SourceError, match=r"^\[tiny\] source: sparse_linear.pt must hold the weight \[1 to 262144, 32\]"
    ):
        m3.load(spec(source), source)


def test_other_modules_and_layers_are_refused(tmp_path: Path) -> None:
    source = tiny.write_m3(tmp_path)
    for precision in ("int8", "auto"):
        with pytest.raises(SourceError, match=rf"^\[tiny\] precision: {precision} is not supported"):
            m3.load(spec(source, precision=precision), source)
    layers = (source / "sparse_linear.pt").read_bytes()
    (source / "sparse_linear.pt").write_bytes((source / "colbert_linear.pt").read_bytes())
    with pytest.raises(SourceError, match=r"^\[tiny\] source: sparse_linear.pt gives 32 weights of a token, not 1$"):
        m3.load(spec(source), source)
    (source / "sparse_linear.pt").write_bytes(layers)
    tiny.revise(source / "1_Pooling" / "config.json", pooling_mode="mean")
    with pytest.raises(SourceError, match=r"^\[tiny\] source: it has sparse_linear.pt and colbert_linear.pt, but not"):
        m3.load(spec(source), source)
