import dataclasses
import json
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from peft import PeftModel
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    BoW,
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
)
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM

from export.errors import SourceError
from export.manifest import Backend, ModelSpec
from export.runtime.contract import PROMPT_LENGTH, TEXT, TEXT_EMBEDDING, write_parameters
from export.sources.resolve import resolve
from export.tasks import text_embedding
from export.tower import Tower
from loadtest.tools import tiny
from tests.export.outputs import main

TEXTS = ["a shell", "A conch is a sea snail, and its shell a trumpet.", *tiny.TEXTS[:3]]


def spec(source: Path) -> ModelSpec:
    return ModelSpec(name="tiny", task="text-embedding", source=str(source))


def load(given: ModelSpec) -> Tower:
    (tower,) = text_embedding.load(given, Path(given.source))
    return tower


def assert_same_vectors(tower: Tower, reference: SentenceTransformer) -> None:
    """Head and reference both are what sentence-transformers makes of the texts, less the normalization."""
    expected = reference.encode(TEXTS, convert_to_tensor=True)
    given = tiny.rows(tower, *TEXTS)
    with torch.inference_mode():
        by_head = main(tower, tower.head(given))
        by_reference = [
            main(tower, tower.reference((ids[:n].numpy(),))) for ids, n in zip(given.ids, given.length, strict=True)
        ]
    for vectors in (by_head, torch.stack(by_reference)):
        torch.testing.assert_close(torch.nn.functional.normalize(vectors), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "dense", "width"),
    [("mean", False, 32), ("cls", False, 32), (("mean", "max"), False, 64), (("lasttoken", "cls"), True, 16)],
)
def test_folder_of_sentence_transformers_gives_its_vectors(
    pooling: str | tuple[str, ...], dense: bool, width: int, tmp_path: Path
) -> None:
    source = tiny.write_embedding(tmp_path, pooling=pooling, dense=dense)
    tower = load(spec(source))
    assert (tower.name, tower.role, tower.width) == ("tiny", TEXT_EMBEDDING, width)
    assert_same_vectors(tower, SentenceTransformer(str(source), device="cpu"))


def test_plain_folder_needs_a_pooling_and_gets_it(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    with pytest.raises(
        SourceError, match=r"^\[tiny\] pooling: required, since the source does not set it \(modules\.json\)$"
    ):
        load(spec(source))
    tower = load(replace(spec(source), pooling="weightedmean"))
    modules = [Transformer(str(source)), Pooling(tiny.WIDTH, "weightedmean"), Normalize()]
    assert_same_vectors(tower, SentenceTransformer(modules=modules, device="cpu"))


def test_weights_of_half_precision_are_computed_in_fp32(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    AutoModel.from_pretrained(source).half().save_pretrained(source)
    tower = load(replace(spec(source), pooling="mean"))
    assert {weight.dtype for weight in tower.head.parameters()} == {torch.float32}


def test_limit_is_what_the_folder_says_unless_the_table_does(tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path)  # with max_seq_length = 100 and 128 positions
    limits = [load(given).vocabulary for given in (spec(source), replace(spec(source), max_tokens=20))]
    assert [vocabulary and vocabulary.max_tokens for vocabulary in limits] == [100, 20]


def test_limit_of_a_folder_that_has_none_is_its_positions(tmp_path: Path) -> None:
    # Two of RoBERTa's 128 are padding's.
    source = tiny.write_plain(tmp_path, "RoBERTa")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    plain = replace(spec(source), pooling="cls")
    vocabulary = load(plain).vocabulary
    assert vocabulary is not None
    assert vocabulary.max_tokens == 126
    with pytest.raises(SourceError, match=r"^\[tiny\] max_tokens: 127, but the model has 126 positions$"):
        load(replace(plain, max_tokens=127))


def test_tokenizer_neither_pads_nor_cuts(tmp_path: Path) -> None:
    vocabulary = load(spec(tiny.write_embedding(tmp_path))).vocabulary
    assert vocabulary is not None
    short, long = vocabulary.tokenizer.encode_batch(["a", "a shell " * 200])
    assert (len(short.ids), len(long.ids) > 400) == (3, True)
    assert vocabulary.size == len(tiny.wordpiece())


def with_settings(source: Path, **settings: object) -> Path:
    file = source / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return source


def test_prompts_and_the_default_one_are_parameters(tmp_path: Path) -> None:
    prompts = {"query": "Suche: ", "document": "", "passage": "„Text“: "}
    source = with_settings(tiny.write_embedding(tmp_path), prompts=prompts, default_prompt_name="query")
    parameters = load(spec(source)).parameters
    assert parameters["prompts"] == {"query": "Suche: ", "passage": "„Text“: "}
    assert parameters["default_prompt"] == "query"


def test_default_prompt_that_is_empty_is_none(tmp_path: Path) -> None:
    source = with_settings(
        tiny.write_embedding(tmp_path), prompts={"query": "query: ", "document": ""}, default_prompt_name="document"
    )
    assert load(spec(source)).parameters["default_prompt"] == ""


def test_prompts_of_the_table_are_the_references_too(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": "passage: "}
    named = replace(spec(tiny.write_embedding(tmp_path)), prompts=prompts)
    assert write_parameters(load(named).parameters) == {"prompts": json.dumps(prompts), "tokens_pooling": "mean"}
    reference = text_embedding.pipeline(named, Path(named.source))
    assert np.array_equal(reference.encode("a", prompt_name="query"), reference.encode("query: a"))


def test_prompts_that_the_source_says_are_not_said_again(tmp_path: Path) -> None:
    source = with_settings(tiny.write_embedding(tmp_path), prompts={"query": "Suche: "})
    with pytest.raises(SourceError, match=r"^\[tiny\] prompts: the source has its own \(config_sentence_transformers"):
        load(replace(spec(source), prompts={"query": "query: "}))


def test_model_without_prompts_has_none(tmp_path: Path) -> None:
    parameters = load(spec(tiny.write_embedding(tmp_path))).parameters
    assert {key: parameters.get(key) for key in ("prompts", "default_prompt", "instructed_prompts")} == {
        "prompts": {},
        "default_prompt": "",
        "instructed_prompts": {},
    }


@pytest.mark.parametrize("source", ["mean", "cls", "dense", "truncated", "no prompt"])
def test_tokens_are_those_of_sentence_transformers_where_the_embedding_is_their_mean(
    source: str, tmp_path: Path
) -> None:
    match source:
        case "no prompt":
            pooling = Pooling(tiny.WIDTH, "mean", include_prompt=False)
            folder = with_settings(saved(tmp_path, pooling), prompts=tiny.PROMPTS)
        case "truncated":
            folder = with_settings(tiny.write_embedding(tmp_path), truncate_dim=16)
        case _:
            mode = "cls" if source == "cls" else "mean"
            folder = tiny.write_embedding(tmp_path, pooling=mode, dense=source == "dense")
    tower = load(spec(folder))
    if source in ("cls", "dense"):
        assert [output.name for output in tower.outputs] == ["embedding"]
        assert "tokens_pooling" not in tower.parameters
        return
    assert tower.parameters["tokens_pooling"] == "mean"
    reference = SentenceTransformer(str(folder), device="cpu")
    rows, expected = tiny.rows(tower, *TEXTS), reference.encode(TEXTS, output_value="token_embeddings")
    skipped = 5 if source == "no prompt" else 0
    if skipped:
        rows = dataclasses.replace(rows, prompt_length=torch.tensor([skipped] * len(TEXTS)))
    with torch.inference_mode():
        outputs = tower.head(rows)
    for tokens, embedding, own in zip(outputs["tokens"], outputs["embedding"], expected, strict=True):
        assert not tokens[:skipped].any()
        torch.testing.assert_close(tokens[skipped : len(own)], own[skipped:, : tower.width], atol=1e-5, rtol=1e-5)
        assert not tokens[len(own) :].any()
        torch.testing.assert_close(tokens.sum(0) / (len(own) - skipped), embedding, atol=1e-5, rtol=1e-5)


def test_prompt_is_left_out_of_the_vector_as_sentence_transformers_does(tmp_path: Path) -> None:
    source = tiny.write_modules(tmp_path, "no prompt")
    tower = load(spec(source))
    assert tower.fields == (TEXT, PROMPT_LENGTH)
    reference = SentenceTransformer(str(source), device="cpu")
    prompt = tiny.PROMPTS["query"]
    for text in TEXTS:
        expected = reference.encode([text], prompt_name="query", convert_to_tensor=True)
        given = tiny.rows(tower, prompt + text)
        alone = len(tiny.wordpiece()(prompt).input_ids) - 1  # less its [SEP]
        with torch.inference_mode():
            by_head = main(tower, tower.head(dataclasses.replace(given, prompt_length=torch.tensor([alone]))))
            by_reference = main(tower, tower.reference((given.ids[0].numpy(), np.array(alone, np.int32))))[None]
        torch.testing.assert_close(by_head, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(by_reference, expected, atol=1e-5, rtol=1e-5)


def test_model_without_prompts_asks_for_the_length_of_none(tmp_path: Path) -> None:
    source = with_settings(tiny.write_modules(tmp_path, "no prompt"), prompts={})
    assert load(spec(source)).fields == (TEXT,)


@pytest.mark.parametrize("dimensions", [(8, 31), (1,)])
def test_matryoshka_sizes_are_shorter_than_the_vector(dimensions: tuple[int, ...], tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path)
    assert load(replace(spec(source), dimensions=dimensions)).width == 32
    with pytest.raises(SourceError, match=r"dimensions: \[.*32\], but the model has 32$"):
        load(replace(spec(source), dimensions=(*dimensions, 32)))


def saved(folder: Path, *modules: torch.nn.Module) -> Path:
    transformer = Transformer(str(tiny.write_plain(folder / "plain")))
    SentenceTransformer(modules=[transformer, *modules], device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.mark.parametrize("kind", [kind for kind in tiny.MODULES if kind != "no prompt"])
def test_modules_are_computed_in_their_order(kind: str, tmp_path: Path) -> None:
    source = tiny.write_modules(tmp_path, kind)
    tower = load(spec(source))
    reference = SentenceTransformer(str(source), device="cpu")
    expected = torch.nn.functional.normalize(reference.encode(TEXTS, convert_to_tensor=True))
    given = tiny.rows(tower, *TEXTS)
    with torch.inference_mode():
        vectors = main(tower, tower.head(given))
    torch.testing.assert_close(torch.nn.functional.normalize(vectors), expected, atol=1e-5, rtol=1e-5)


def test_layers_are_weighed_only_where_the_transformer_gives_them(tmp_path: Path) -> None:
    # As in sentence-transformers, whose WeightedLayerPooling then does nothing.
    source = tiny.write_modules(tmp_path, "WeightedLayerPooling")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"output_hidden_states": False}))
    tower = load(spec(source))
    expected = SentenceTransformer(str(source), device="cpu").encode(TEXTS, convert_to_tensor=True)
    with torch.inference_mode():
        torch.testing.assert_close(main(tower, tower.head(tiny.rows(tower, *TEXTS))), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["python", "tensorrt"])
def test_static_embedding_is_the_mean_of_its_table(backend: Backend, tmp_path: Path) -> None:
    source = tiny.write_static(tmp_path)
    tower = load(replace(spec(source), backend=backend))
    assert tower.vocabulary is not None
    assert tower.vocabulary.tokenizer.encode("a shell").special_tokens_mask.count(1) == 0
    assert (tower.packed, tower.vocabulary.max_tokens) == (backend == "python", 8192)
    assert_same_vectors(tower, SentenceTransformer(str(source), device="cpu"))


def test_static_embedding_is_cut_where_its_tokenizer_cuts(tmp_path: Path) -> None:
    source = tiny.write_static(tmp_path)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_truncation(24)
    tokenizer.save(str(source / "tokenizer.json"))
    vocabulary = load(spec(source)).vocabulary
    assert vocabulary is not None
    assert (vocabulary.max_tokens, vocabulary.tokenizer.truncation) == (24, None)


def test_tokenizer_with_more_tokens_than_the_table_is_refused(tmp_path: Path) -> None:
    source = tiny.write_static(tmp_path)
    table = load_file(source / "model.safetensors")["embedding.weight"]
    save_file({"embedding.weight": table[:-9].contiguous()}, source / "model.safetensors")
    with pytest.raises(SourceError, match=r"ids up to \d+, but the table ends at \d+$"):
        load(spec(source))


def test_vectors_are_cut_to_the_size_that_the_folder_says(tmp_path: Path) -> None:
    source = with_settings(tiny.write_embedding(tmp_path), truncate_dim=16)
    tower = load(replace(spec(source), dimensions=(8,)))
    assert tower.width == 16
    reference = SentenceTransformer(str(source), device="cpu")
    expected = torch.nn.functional.normalize(reference.encode(TEXTS, convert_to_tensor=True))
    with torch.inference_mode():
        vectors = main(tower, tower.head(tiny.rows(tower, *TEXTS)))
    torch.testing.assert_close(torch.nn.functional.normalize(vectors), expected, atol=1e-5, rtol=1e-5)
    assert load(spec(with_settings(source, truncate_dim=64))).width == 32  # more than there are


@pytest.mark.parametrize("size", [0, -3, "16", True, 1.5])
def test_size_that_is_no_number_of_dimensions_is_refused(size: object, tmp_path: Path) -> None:
    source = with_settings(tiny.write_embedding(tmp_path), truncate_dim=size)
    with pytest.raises(SourceError, match=rf"^\[tiny\] source: truncate_dim is {size!r}, but must be a number of dim"):
        load(spec(source))


def test_transformer_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path, pooling="cls")
    (source / "0_Transformer").mkdir()
    for file in {*source.glob("*.safetensors"), *source.glob("*config.json"), *source.glob("tokenizer*")}:
        file.rename(source / "0_Transformer" / file.name)
    modules = json.loads((source / "modules.json").read_text())
    modules[0] |= {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (source / "modules.json").write_text(json.dumps(modules))
    assert resolve(spec(source)).folder == source
    assert_same_vectors(load(spec(source)), SentenceTransformer(str(source), device="cpu"))
    weights = load_file(source / "0_Transformer" / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, source / "0_Transformer" / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match=r"weights are missing: encoder\.layer\.1\.output\.dense\.weight"):
        load(spec(source))


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("CrossEncoder", "use task cross-encoder"),
        ("MultiVectorEncoder", "use task multi-vector"),
        ("SparseEncoder", "use task sparse"),
    ],
)
def test_other_kinds_of_sentence_transformers_are_refused(kind: str, advice: str, tmp_path: Path) -> None:
    source = with_settings(tiny.write_embedding(tmp_path), model_type=kind)
    with pytest.raises(SourceError, match=rf"^\[tiny\] source: it is a {kind} of sentence-transformers: {advice}$"):
        load(spec(source))


def test_saved_splade_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(tiny.config("BERT"))
    plain = tiny.write(tmp_path / "plain", model, tiny.wordpiece())
    modules = [Transformer(str(plain), transformer_task="fill-mask"), SpladePooling("max")]
    SparseEncoder(modules=modules, device="cpu").save(str(tmp_path / "model"))
    with pytest.raises(SourceError, match="it is a SparseEncoder of sentence-transformers"):
        load(spec(tmp_path / "model"))
    with_settings(tmp_path / "model", model_type="SentenceTransformer")  # as if converted
    with pytest.raises(SourceError, match="its Transformer is made for fill-mask and gives logits"):
        load(spec(tmp_path / "model"))


def test_classifier_is_refused(tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path)
    with pytest.raises(SourceError, match="BertForSequenceClassification is a classifier: use task cross-encoder"):
        load(replace(spec(source), pooling="mean"))


def test_modules_without_a_place_in_a_graph_are_named(tmp_path: Path) -> None:
    source = saved(tmp_path, CNN(32, 8), Pooling(24, "mean"))
    with pytest.raises(
        SourceError, match=r"module CNN is not one of Pooling, Dense, Dropout, LayerNorm, Normalize, We"
    ):
        load(spec(source))


def test_modules_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, LayerNorm(32), Pooling(32, "mean"))
    with pytest.raises(SourceError, match=r"do not fit together \(Transformer, LayerNorm, Pooling\): 'sentence_em"):
        load(spec(source))


def test_pipeline_without_a_transformer_is_refused(tmp_path: Path) -> None:
    SentenceTransformer(modules=[BoW(["a", "shell"])], device="cpu").save(str(tmp_path))
    with pytest.raises(SourceError, match="its first module is a BoW, not a Transformer or StaticEmbedding"):
        load(spec(tmp_path))


def test_texts_that_a_transformer_changes_are_refused(tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path)
    file = source / "sentence_bert_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"query_length": 8}))
    with pytest.raises(SourceError, match="its Transformer changes texts by query_length: 8"):
        load(spec(source))


def test_folder_of_one_module_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, Pooling(32, "mean"))
    modules = json.loads((source / "modules.json").read_text())
    (source / "modules.json").write_text(json.dumps(modules[:1]))
    with pytest.raises(SourceError, match=r"do not fit together \(Transformer\): 'sentence_embedding'"):
        load(spec(source))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    weights = load_file(source / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match=r"weights are missing: encoder\.layer\.1\.output\.dense\.weight"):
        load(replace(spec(source), pooling="mean"))


def test_folder_without_the_pooler_that_nothing_uses_is_taken(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    weights = {name: weight for name, weight in load_file(source / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    assert load(replace(spec(source), pooling="cls")).width == 32


def test_samples_are_rows_up_to_the_limit(tmp_path: Path) -> None:
    rows = load(replace(spec(tiny.write_embedding(tmp_path)), max_tokens=40)).samples()
    assert [len(ids) for (ids,) in rows] == [3, 4, 6, 9, 14, 22, 35, 40]
    assert max(int(np.max(ids)) for (ids,) in rows) < len(tiny.wordpiece())


def test_pooling_that_the_source_says_is_not_said_again(tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path, pooling="cls")
    with pytest.raises(SourceError, match=r"pooling: already set by the source"):
        load(replace(spec(source), pooling="mean"))


def test_routes_are_towers_that_are_one_model(tmp_path: Path) -> None:
    source = tiny.write_router(tmp_path)
    given = replace(spec(source), variants=("document", "query"))
    towers = text_embedding.load(given, source)
    assert [tower.name for tower in towers] == ["tiny-document", "tiny-query"] == list(given.triton_names)
    shared = {"name": "tiny", "variants": ("document", "query")}
    assert [shared.items() <= tower.parameters.items() for tower in towers] == [True, True]
    reference = SentenceTransformer(str(source), device="cpu")
    assert towers[0].parameters["variant"] == "document"
    for tower, encode in zip(towers, (reference.encode_document, reference.encode_query), strict=True):
        prompt = tiny.PROMPTS[tower.parameters["variant"]]
        assert_vectors(tower, [prompt + text for text in TEXTS], encode(TEXTS, convert_to_tensor=True))


def assert_vectors(tower: Tower, texts: list[str], expected: Tensor) -> None:
    given = tiny.rows(tower, *texts)
    with torch.inference_mode():
        by_head = main(tower, tower.head(given))
        by_reference = [
            main(tower, tower.reference((ids[:n].numpy(),))) for ids, n in zip(given.ids, given.length, strict=True)
        ]
    for vectors in (by_head, torch.stack(by_reference)):
        torch.testing.assert_close(torch.nn.functional.normalize(vectors), expected, atol=1e-5, rtol=1e-5)


def with_adapter(folder: Path, adapter: Path) -> Tensor:
    """The vectors of sentence-transformers and PEFT."""
    reference = SentenceTransformer(str(folder), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer: Any = reference[0]
        transformer.model = PeftModel.from_pretrained(transformer.auto_model, str(adapter))
    return reference.encode(TEXTS, convert_to_tensor=True)


def test_adapters_are_merged_into_a_tower_each(tmp_path: Path) -> None:
    source = tiny.write_adapters(tmp_path, ["retrieval_query", "separation"])
    towers = text_embedding.load(replace(spec(source), variants=("retrieval_query", "separation")), source)
    vectors = [SentenceTransformer(str(source), device="cpu").encode(TEXTS, convert_to_tensor=True)]
    for tower in towers:
        vectors.append(with_adapter(source, source / "adapters" / tower.parameters["variant"]))
        assert_vectors(tower, TEXTS, vectors[-1])
        assert not any("lora" in key for key, _ in tower.head.named_parameters())
    assert all((one - other).abs().max() > 0.01 for one, other in combinations(vectors, 2))


def test_adapter_beside_its_base_is_merged_wherever_it_says_that_its_base_is(tmp_path: Path) -> None:
    source = tiny.write_adapters(tmp_path / "a", [""])
    settings = json.loads((source / "adapter_config.json").read_text())
    (source / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "owner/elsewhere"}))
    plain = tiny.write_embedding(tmp_path / "b")
    assert_vectors(load(spec(source)), TEXTS, with_adapter(plain, source))


def test_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    source = tiny.write_adapters(tmp_path, [""])
    for file in ("config.json", "model.safetensors"):
        (source / file).unlink()
    with pytest.raises(SourceError, match=r"source: adapter_config.json is an adapter whose base model is not in"):
        load(spec(source))


def test_adapters_of_other_kinds_are_refused(tmp_path: Path) -> None:
    source = tiny.write_adapters(tmp_path, ["a"])
    file = source / "adapters" / "a" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": "PROMPT_TUNING"}))
    with pytest.raises(SourceError, match=r"adapter_config.json is of type PROMPT_TUNING, not LORA$"):
        load(replace(spec(source), variants=("a",)))


def test_weights_that_an_adapter_lacks_are_named(tmp_path: Path) -> None:
    source = tiny.write_adapters(tmp_path, ["a"])
    file = source / "adapters" / "a" / "adapter_model.safetensors"
    weights = load_file(file)
    del weights[min(weights)]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(SourceError, match=r"source: weights are missing: .*lora_A"):
        load(replace(spec(source), variants=("a",)))


def test_variants_must_be_named_where_there_are_some(tmp_path: Path) -> None:
    source = tiny.write_router(tmp_path)
    with pytest.raises(SourceError, match=r"variants: must name those to serve, of query, document, the default first"):
        load(spec(source))
    with pytest.raises(SourceError, match=r"variants: the source has no code; it has query, document$"):
        load(replace(spec(source), variants=("code",)))
    plain = tiny.write_embedding(tmp_path / "plain")
    with pytest.raises(SourceError, match=r"the source has no code; it has no routes and no adapters in folders$"):
        load(replace(spec(plain), variants=("code",)))


def test_routes_of_different_dimensions_are_refused(tmp_path: Path) -> None:
    transformer = Transformer(str(tiny.write_plain(tmp_path / "plain")))
    pooling = Pooling(32, "mean")
    router = Router.for_query_document([transformer, pooling, Dense(32, 8)], [transformer, pooling, Dense(32, 16)])
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "model"))
    given = replace(spec(tmp_path / "model"), variants=("query", "document"))
    with pytest.raises(SourceError, match="their vectors have different dimensions, 8 of query, 16 of document"):
        text_embedding.load(given, tmp_path / "model")
