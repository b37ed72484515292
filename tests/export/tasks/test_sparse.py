import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from sentence_transformers import SparseEncoder
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from torch import Tensor

from export.errors import SourceError
from export.manifest import ModelSpec
from export.packing.sparse import Splade
from export.runtime.contract import SPARSE_INDICES, SPARSE_WEIGHTS, TEXT_EMBEDDING
from export.tasks import sparse
from export.tower import Tower
from loadtest.tools import tiny

TEXTS = ["a shell", "A conch is a sea snail, and its shell a trumpet.", *tiny.TEXTS[:3]]
VARIANTS = ("document", "query")


def spec(source: Path, **keys: Any) -> ModelSpec:
    return ModelSpec(name="tiny", task="sparse", source=str(source), **keys)


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_splade(tmp_path_factory.mktemp("splade"))


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_inference_free(tmp_path_factory.mktemp("free"))


def load(source: Path, **keys: Any) -> Tower:
    (tower,) = sparse.load(spec(source, **keys), source)
    return tower


def dense(found: Mapping[str, Tensor], words: int) -> Tensor:
    """Terms as a vector of the vocabulary, an index that occurs several times with its largest weight."""
    return torch.zeros(words).scatter_reduce(
        0, found[SPARSE_INDICES].long(), found[SPARSE_WEIGHTS], reduce="amax", include_self=False
    )


def assert_same_terms(tower: Tower, expected: Tensor) -> None:
    """Head and reference both are what sentence-transformers makes of the texts."""
    given = tiny.rows(tower, *TEXTS)
    words = expected.shape[1]
    with torch.inference_mode():
        outputs = tower.head(given)
        for i, (ids, n) in enumerate(zip(given.ids, given.length, strict=True)):
            by_head = dense({name: values[i] for name, values in outputs.items()}, words)
            by_reference = dense(tower.reference((ids[:n].numpy(),)), words)
            for vector in (by_head, by_reference):
                torch.testing.assert_close(vector, expected[i], atol=1e-5, rtol=1e-5)


def test_texts_have_the_terms_of_sentence_transformers(splade: Path) -> None:
    tower = load(splade)
    assert tower.role == TEXT_EMBEDDING
    assert_same_terms(tower, SparseEncoder(str(splade), device="cpu").encode(TEXTS, convert_to_sparse_tensor=False))
    # K has room for half as many again as any sample has.
    longest = max(len(tower.reference(row)[SPARSE_INDICES]) for row in tower.samples())
    ((kept,), (also,)) = (output.shape for output in tower.outputs)
    assert kept == also
    assert kept % 64 == 0
    assert longest * 1.5 <= kept < longest * 1.5 + 64


def test_samples_are_computed_by_the_library_once(splade: Path) -> None:
    tower = load(splade)
    row = tower.samples()[0]
    assert tower.reference(row) is tower.reference(row)


def test_plan_of_tensorrt_keeps_no_more_words_than_it_can(tmp_path: Path) -> None:
    plan, program = (spec(tmp_path, backend=backend) for backend in ("tensorrt", "torch"))
    assert sparse.kept_terms(program, 30_522, None, 3_000) == 4_544
    assert sparse.kept_terms(plan, 30_522, None, 3_000) == 3_840
    assert sparse.kept_terms(plan, 30_522, 9_999, 3_840) == 3_840
    assert sparse.kept_terms(plan, 30_522, None, 300) == sparse.kept_terms(program, 30_522, None, 300)
    with pytest.raises(
        SourceError, match=r"^\[tiny\] backend: texts have up to 3841 words, but TensorRT keeps at most"
    ):
        sparse.kept_terms(plan, 30_522, None, 3_841)


def test_plain_masked_language_model_is_pooled_as_the_library_does(tmp_path: Path) -> None:
    source = tiny.write_masked(tmp_path, "RoBERTa")
    tower = load(source)
    assert isinstance(tower.head, Splade)
    assert_same_terms(tower, SparseEncoder(str(source), device="cpu").encode(TEXTS, convert_to_sparse_tensor=False))


def test_limit_of_the_source_is_kept_and_cuts_nothing(tmp_path: Path) -> None:
    source = tiny.write_splade(tmp_path, max_active_dims=20)
    tower = load(source)
    assert [output.shape for output in tower.outputs] == [(21,), (21,)]
    library = SparseEncoder(str(source), device="cpu").encode(TEXTS, convert_to_sparse_tensor=False)
    assert_same_terms(tower, library)


def test_queries_of_an_inference_free_model_are_looked_up(free: Path) -> None:
    document, query = sparse.load(spec(free, variants=VARIANTS), free)
    library = SparseEncoder(str(free), device="cpu")
    assert [tower.name for tower in (document, query)] == ["tiny-document", "tiny-query"]
    assert query.parameters["variants"] == VARIANTS
    assert query.parameters["variant"] == "query"
    assert_same_terms(document, library.encode_document(TEXTS, convert_to_sparse_tensor=False))
    assert_same_terms(query, library.encode_query(TEXTS, convert_to_sparse_tensor=False))
    assert [output.per for output in query.outputs] == ["token", "token"]


def test_limit_of_looked_up_words_is_refused(free: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(free, tmp_path / "free"))
    tiny.revise(source / "config_sentence_transformers.json", max_active_dims=8)
    with pytest.raises(SourceError, match=r"^\[tiny\] source: max_active_dims, 8, is not supported where the words"):
        sparse.load(spec(source, variants=VARIANTS[1:]), source)


def test_routes_have_to_be_named(free: Path) -> None:
    with pytest.raises(SourceError, match=r"^\[tiny\] variants: must name those to serve, of query, document"):
        load(free)
    with pytest.raises(SourceError, match=r"^\[tiny\] variants: the source has no passage; it has query, document$"):
        load(free, variants=("passage",))


def test_prompts_are_the_sources_or_the_tables(splade: Path, tmp_path: Path) -> None:
    prompts = {"query": "search: "}
    assert load(splade, prompts=prompts).parameters["prompts"] == prompts
    source = Path(shutil.copytree(splade, tmp_path / "splade"))
    tiny.revise(source / "config_sentence_transformers.json", prompts=prompts)
    assert load(source).parameters["prompts"] == prompts
    with pytest.raises(SourceError, match=r"^\[tiny\] prompts: the source has its own"):
        load(source, prompts=prompts)
    tiny.revise(source / "sentence_bert_config.json", query_length=9)
    with pytest.raises(SourceError, match=r"^\[tiny\] source: its Transformer changes texts by query_length: 9$"):
        load(source)


def test_table_with_weights_below_zero_is_refused(free: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(free, tmp_path / "free"))
    file = next(source.rglob("query_0_*/model.safetensors"))
    for first in (-1.0, np.nan):
        weights = load_file(file)
        weights["weight"][0] = first
        save_file(weights, file)
        with pytest.raises(SourceError, match=r"^\[tiny\] source: its table has weights below 0 or NaN"):
            sparse.load(spec(source, variants=VARIANTS[1:]), source)


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"^\[tiny\] source: it is a SentenceTransformer of sentence-transformers, wh"
    ):
        load(tiny.write_embedding(tmp_path / "dense"))
    with pytest.raises(SourceError, match=r"^\[tiny\] source: BertModel is no masked language model, from which"):
        load(tiny.write_plain(tmp_path / "plain"))
    source = tiny.write_masked(tmp_path / "mlm")
    modules = [Transformer(str(source)), Pooling(tiny.WIDTH, "mean"), Dense(tiny.WIDTH, 16)]
    SparseEncoder(modules=modules, device="cpu").save(str(tmp_path / "other"))
    with pytest.raises(
        SourceError, match=r"^\[tiny\] source: a sparse encoder of Transformer, Pooling, Dense is not supported: it may"
    ):
        load(tmp_path / "other")


def test_limits_are_the_tables(free: Path) -> None:
    towers = sparse.load(replace(spec(free, variants=VARIANTS), max_tokens=40), free)
    assert [tower.vocabulary.max_tokens for tower in towers if tower.vocabulary] == [40, 40]
