import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import mean_maxsim_pairwise
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

from export.errors import SourceError
from export.manifest import ModelSpec
from export.runtime.contract import DOCUMENT, LATE_INTERACTION, QUERY, write_parameters
from export.tasks import late_interaction
from export.tower import Tower
from gateway.text.tokenizer import TextTokenizer
from loadtest.tools import tiny
from tests.export.outputs import main

QUERIES = ["sea shells", "SEA, shells.", "what is brass? " * 12]
DOCUMENTS = ["A conch is a sea snail, or its shell.", "Brass, bronze.", "Brass is an alloy; of copper. " * 20]
CLS, SEP, MASK, UNUSED0, UNUSED1 = 2, 3, 4, 5, 6
ATTENDED = {"strategy": "min", "attend": True, "length": 12}


def spec(source: Path) -> ModelSpec:
    return ModelSpec(name="tiny", task="multi-vector", source=str(source))


def load(given: ModelSpec) -> Tower:
    (tower,) = late_interaction.load(given, Path(given.source))
    return tower


def limit(tower: Tower) -> int:
    assert tower.vocabulary is not None
    return tower.vocabulary.max_tokens


def ids(tower: Tower, side: str, texts: list[str]) -> list[list[int]]:
    """Of texts, as the gateway makes them for rerank."""
    assert tower.vocabulary is not None
    prompts = tower.parameters["prompts"]
    most = tower.parameters.get("max_query_tokens", limit(tower)) if side == "query" else limit(tower)
    tokenizer = TextTokenizer(tower.vocabulary.tokenizer)
    encoded = tower.vocabulary.tokenizer.encode_batch([prompts.get(side, "") + text for text in texts])
    return [tokenizer.truncate(one.ids, most) for one in encoded]


def scores(tower: Tower) -> Tensor:
    """By the head, of the texts' pairs; the tower's own reference must agree."""
    queries, documents = ids(tower, "query", QUERIES), ids(tower, "document", DOCUMENTS)
    with torch.inference_mode():
        by_head = main(tower, tower.head(tiny.padded(queries), tiny.padded(documents)))
        by_reference = [
            main(tower, tower.reference(tuple(map(np.array, pair)))) for pair in zip(queries, documents, strict=True)
        ]
    torch.testing.assert_close(by_head, torch.stack(by_reference), atol=1e-5, rtol=1e-5)
    return by_head[:, 0]


def library(source: Path) -> Tensor:
    """The mean over the query's tokens of what sentence-transformers finds, of texts."""
    model = MultiVectorEncoder(str(source), device="cpu", model_kwargs={"dtype": torch.float32})
    pairs = zip(QUERIES, DOCUMENTS, strict=True)
    sums = []
    for query, document in pairs:
        left, right = model.encode_query(query), model.encode_document(document)
        sums.append(model.similarity([left], [right])[0, 0] / len(left))
        torch.testing.assert_close(sums[-1:], [mean_maxsim_pairwise([left], [right])[0]])
    return torch.stack(sums)


def library_ids(source: Path, side: str, texts: list[str]) -> list[list[int]]:
    """Of texts, without what expands them."""
    model = MultiVectorEncoder(str(source), device="cpu")
    found = []
    for text in texts:
        features = model.preprocess([text], prompt=model.prompts[side], task=side)
        added = features.get("query_expansion_positions", torch.zeros_like(features["input_ids"]))
        found.append(features["input_ids"][added == 0].tolist())
    return found


SOURCES: dict[str, Callable[[Path], Path]] = {
    "plain layers": tiny.write_multi_vector,
    "fixed": partial(tiny.write_multi_vector, query_expansion={"strategy": "fixed", "length": 12}, document_length=40),
    "attended": partial(tiny.write_multi_vector, query_expansion=ATTENDED, query_length=20),
    "at least": partial(tiny.write_multi_vector, query_expansion={"strategy": "min", "length": 12}),
    "other token": partial(
        tiny.write_multi_vector, query_expansion={"strategy": "fixed", "length": 12, "token": "[unused1]"}
    ),
    "lengths": partial(tiny.write_multi_vector, query_length=7, document_length=15),
    "ModernBERT": partial(
        tiny.write_multi_vector, name="ModernBERT", query_expansion={"strategy": "fixed", "length": 24}
    ),
    "Qwen3": partial(tiny.write_multi_vector, name="Qwen3", query_expansion=ATTENDED),
    "XLM-RoBERTa": partial(
        tiny.write_multi_vector, name="XLM-RoBERTa", query_expansion={"strategy": "fixed", "length": 24}
    ),
    "PyLate": tiny.write_pylate,
    "PyLate, added prefixes": partial(tiny.write_pylate, prefixes=("[Q] ", "[D] ")),
    "PyLate, three layers": partial(tiny.write_pylate, dense=3),
    "PyLate, attended": partial(tiny.write_pylate, attend_to_expansion_tokens=True),
    "PyLate, no expansion": partial(tiny.write_pylate, do_query_expansion=False, query_length=9),
    "PyLate, short": partial(tiny.write_pylate, query_length=12, document_length=20, skiplist_words=["…", ","]),
    "PyLate, prompts": partial(tiny.write_pylate, prompts={"query": "search: ", "document": "text: "}),
    "PyLate, first": partial(tiny.write_pylate, model_type=None, skiplist_words=None),
    "Stanford": tiny.write_stanford,
    "Stanford, other": partial(
        tiny.write_stanford, query_maxlen=20, doc_maxlen=50, mask_punctuation=False, attend_to_mask_tokens=False
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_texts_score_as_in_sentence_transformers(source: str, tmp_path: Path) -> None:
    folder = SOURCES[source](tmp_path)
    tower = load(spec(folder))
    assert (tower.role, tower.fields, tower.width) == (LATE_INTERACTION, (QUERY, DOCUMENT), 1)
    for side, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        assert ids(tower, side, texts) == library_ids(folder, side, texts)
    torch.testing.assert_close(scores(tower), library(folder), atol=1e-5, rtol=0)


@pytest.mark.parametrize("source", SOURCES)
def test_vectors_of_texts_are_those_of_sentence_transformers(source: str, tmp_path: Path) -> None:
    folder = SOURCES[source](tmp_path)
    tower = load(spec(folder))
    model = MultiVectorEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    queries, documents = ids(tower, "query", QUERIES), ids(tower, "document", DOCUMENTS)
    with torch.inference_mode():
        outputs = tower.head(tiny.padded(queries), tiny.padded(documents))
    for name, expected in (
        ("query_tokens", model.encode_query(QUERIES)),
        ("tokens", model.encode_document(DOCUMENTS)),
    ):
        for vectors, own in zip(outputs[name], expected, strict=True):
            counted = functional.normalize(vectors[vectors.any(1)])
            torch.testing.assert_close(counted, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("source", "query", "document"),
    [
        ("plain layers", None, 100),
        ("fixed", 12, 40),
        ("attended", 20, 100),
        ("at least", None, 100),
        ("lengths", 7, 15),
        ("PyLate", 32, 90),
        ("PyLate, no expansion", 9, 90),
        ("Stanford", 32, 90),
    ],
)
def test_queries_and_documents_have_lengths_of_their_own(
    source: str, query: int | None, document: int, tmp_path: Path
) -> None:
    tower = load(spec(SOURCES[source](tmp_path)))
    assert (tower.parameters.get("max_query_tokens"), limit(tower)) == (query, document)
    longest = max(len(row[0]) for row in tower.samples())
    assert longest == int(query or document // 2)


@pytest.mark.parametrize("layer", ["1_Dense", "2_Dense"])
@pytest.mark.parametrize("change", [{"activation_function": "torch.nn.ReLU"}, {"use_residual": False}])
def test_every_part_of_the_projection_matters(layer: str, change: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny.write_multi_vector(tmp_path)
    before = library(folder)
    tiny.revise(folder / layer / "config.json", **change)
    if "use_residual" in change:
        weights = load_file(folder / layer / "model.safetensors")
        weights.pop("residual.weight", None)  # of a layer as wide as its input there is none
        save_file(weights, folder / layer / "model.safetensors")
    after = scores(load(spec(folder)))
    torch.testing.assert_close(after, library(folder), atol=1e-5, rtol=0)
    assert (after - before).abs().max() > 1e-3


def write(folder: Path, *modules: torch.nn.Module, **settings: Any) -> Path:
    transformer = Transformer(str(tiny.write_plain(folder / "transformer")), **settings)
    MultiVectorEncoder(modules=[transformer, *modules], device="cpu").save(str(folder / "model"))
    return folder / "model"


def test_tokens_of_queries_can_be_left_out_too(tmp_path: Path) -> None:
    mask = MultiVectorMask([",", "."], skiplist_tasks=["query", "document"])
    folder = write(tmp_path, mask, Normalize(tiny.TOKENS), query_expansion={"strategy": "fixed", "length": 12})
    torch.testing.assert_close(scores(load(spec(folder))), library(folder), atol=1e-5, rtol=0)


@pytest.mark.parametrize("attend", [True, False])
def test_expansion_that_no_mask_counts(attend: bool, tmp_path: Path) -> None:
    expansion = {"strategy": "fixed", "length": 12, "attend": attend}
    folder = write(tmp_path, Normalize(tiny.TOKENS), query_expansion=expansion)
    torch.testing.assert_close(scores(load(spec(folder))), library(folder), atol=1e-5, rtol=0)


def test_document_of_which_no_token_counts_scores_least(tmp_path: Path) -> None:
    folder = write(tmp_path, MultiVectorMask(["[CLS]", "[SEP]", ","]), Normalize(tiny.TOKENS))
    tower = load(spec(folder))
    query, document = (tiny.padded([row]) for row in ids(tower, "query", ["sea"]) + ids(tower, "document", [","]))
    with torch.inference_mode():
        assert main(tower, tower.head(query, document)).tolist() == [[-1]]


@pytest.mark.parametrize("source", ["PyLate", "Stanford"])
def test_prefixes_are_prompts_and_one_token_each(source: str, tmp_path: Path) -> None:
    folder = SOURCES[source](tmp_path)
    # In BERT's own tokenizer they are words like any other, which text is never split into.
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if "unused" not in token["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    tower = load(spec(folder))
    assert ids(tower, "query", ["sea"])[0][:2] == [CLS, UNUSED0]
    assert ids(tower, "document", ["sea"])[0][:2] == [CLS, UNUSED1]
    torch.testing.assert_close(scores(tower), library(folder), atol=1e-5, rtol=0)


def test_lower_case_is_of_the_tokenizer(tmp_path: Path) -> None:
    folder = tiny.write_pylate(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    cased = ids(load(spec(folder)), "query", ["SEA"])
    tiny.revise(folder / "sentence_bert_config.json", do_lower_case=True)
    tower = load(spec(folder))
    assert ids(tower, "query", ["SEA"]) == ids(tower, "query", ["sea"]) != cased
    assert ids(tower, "query", QUERIES) == library_ids(folder, "query", QUERIES)


@pytest.mark.parametrize("name", ["BERT", "Qwen3"])
def test_any_encoder_scores_by_its_token_vectors(name: str, tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path, name)
    tower = load(spec(source))
    model = AutoModel.from_pretrained(source).eval()
    expected = []
    for pair in zip(QUERIES, DOCUMENTS, strict=True):
        inputs = [tiny.tokenizer(name)(text, return_tensors="pt", truncation=True, max_length=100) for text in pair]
        left, right = (model(**one).last_hidden_state[0] for one in inputs)
        expected.append(functional.cosine_similarity(left[:, None], right[None], dim=-1).amax(1).mean())
    torch.testing.assert_close(scores(tower), torch.stack(expected), atol=1e-5, rtol=0)
    assert write_parameters(tower.parameters) == {}


@pytest.mark.parametrize("document", ["document", "passage", "corpus"])
def test_prompts_of_an_embedding_model_are_taken_over(document: str, tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path)
    prompts = {"query": "query: ", document: "passage: ", "clustering": "cluster: "}
    tiny.revise(source / "config_sentence_transformers.json", prompts=prompts)
    tower = load(spec(source))
    assert tower.parameters["prompts"] == {"query": "query: ", "document": "passage: "}
    assert limit(tower) == 100  # of its tokenizer


def test_token_vectors_of_an_embedding_model_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path, dense=True)
    model = SentenceTransformer(str(source), device="cpu")
    left, right = (
        [functional.normalize(model.encode(text, output_value="token_embeddings"), dim=-1) for text in texts]
        for texts in (QUERIES, DOCUMENTS)
    )
    torch.testing.assert_close(scores(load(spec(source))), mean_maxsim_pairwise(left, right), atol=1e-5, rtol=0)


def test_transformer_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path)
    before = scores(load(spec(source)))
    own = source / "0_Transformer"
    own.mkdir()
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
    ):
        (source / name).rename(own / name)
    modules = json.loads((source / "modules.json").read_text())
    modules[0]["path"] = own.name
    (source / "modules.json").write_text(json.dumps(modules))
    torch.testing.assert_close(scores(load(spec(source))), before)


def test_limit_of_the_table_goes_before_the_folders(tmp_path: Path) -> None:
    source = tiny.write_colbert(tmp_path, pylate=True)
    assert limit(load(replace(spec(source), max_tokens=40))) == 40


def without_modules(folder: Path) -> Path:
    (folder / "modules.json").unlink()
    return folder


def without_architecture(folder: Path) -> Path:
    tiny.revise(folder / "config.json", architectures=["BertModel"])
    return folder


def of_kind(kind: str, folder: Path) -> Path:
    tiny.revise(folder / "config_sentence_transformers.json", model_type=kind)
    return folder


def padding_left(folder: Path) -> Path:
    tiny.revise(folder / "tokenizer_config.json", padding_side="left")
    return folder


def write_static(folder: Path) -> Path:
    static = StaticEmbedding(tiny.wordpiece().backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(folder))
    return folder


DENSE = partial(Dense, tiny.WIDTH, 8, module_input_name=tiny.TOKENS)
OTHER = "is not supported; a multi-vector model may have Dense and Normalize on token_embeddings, and MultiVectorMask"
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pooling": (
        lambda folder: write(folder, Normalize(tiny.TOKENS), MultiVectorMask(), HierarchicalTokenPooling(2.0)),
        f"HierarchicalTokenPooling {OTHER}",
    ),
    "other vectors": (
        lambda folder: write(folder, DENSE(), Normalize(), MultiVectorMask()),
        f"Normalize {OTHER}",
    ),
    "not normalized": (
        lambda folder: write(folder, Normalize(tiny.TOKENS), DENSE(), MultiVectorMask()),
        "its token vectors are not normalized at the end (Normalize)",
    ),
    "images": (
        lambda folder: write(folder, DENSE(), MultiVectorMask(keep_only_token_ids=[7]), Normalize(tiny.TOKENS)),
        "it has more than one MultiVectorMask, or one for the tokens of images only",
    ),
    "static": (
        write_static,
        "its first module, StaticEmbedding, is not a transformer for plain text only",
    ),
    "no modules": (
        lambda folder: without_modules(tiny.write_pylate(folder)),
        "it has the settings of a multi-vector model, but no modules.json",
    ),
    "no architecture": (
        lambda folder: without_architecture(tiny.write_stanford(folder)),
        "it has the artifact.metadata of a ColBERT, but config.json names no HF_ColBERT among its architectures",
    ),
    "sparse": (
        lambda folder: of_kind("SparseEncoder", tiny.write_embedding(folder)),
        "it is a SparseEncoder, whose token vectors cannot be compared",
    ),
    "expanded in front": (
        lambda folder: padding_left(tiny.write_pylate(folder)),
        "queries are expanded on the left, which is not supported",
    ),
    "expanded too far": (
        lambda folder: tiny.write_pylate(folder, document_length=31),
        "queries are expanded to 32 tokens, more than the 31 of a row",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_graph_is_refused_by_name(case: str, tmp_path: Path) -> None:
    make, reason = REFUSED[case]
    with pytest.raises(SourceError) as caught:
        load(spec(make(tmp_path)))
    assert str(caught.value) == f"[tiny] source: {reason}"


def test_expansion_without_a_token_for_it_is_refused(tmp_path: Path) -> None:
    source = tiny.write_pylate(tmp_path)
    tiny.revise(source / "tokenizer_config.json", mask_token=None, eos_token=None)
    with pytest.raises(SourceError, match=r"^\[tiny\] source: cannot be loaded: ValueError: query_expansion"):
        load(spec(source))


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    source = tiny.write_pylate(tmp_path)
    weights = load_file(source / "model.safetensors")
    lost = "encoder.layer.0.output.dense.weight"
    del weights[lost]
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match=f"weights are missing: {lost}"):
        load(spec(source))
