import json
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize, Pooling, Transformer
from transformers import AutoModel

from export.errors import SourceError
from export.manifest import ModelSpec
from export.tasks import text_embedding
from export.tower import TEXT_EMBEDDING, Tower
from tests.export import tiny

TEXTS = ["a shell", "A conch is a sea snail, and its shell a trumpet.", *tiny.TEXTS[:3]]


def spec(source: Path) -> ModelSpec:
    return ModelSpec(name="tiny", task="text-embedding", source=str(source))


def load(given: ModelSpec) -> Tower:
    (tower,) = text_embedding.load(given, Path(given.source))
    return tower


def assert_same_vectors(tower: Tower, reference: SentenceTransformer) -> None:
    """Head and reference both are what sentence-transformers makes of the texts, less the normalisation."""
    expected = reference.encode(TEXTS, convert_to_tensor=True)
    given = tiny.rows(tower, *TEXTS)
    with torch.inference_mode():
        by_head = tower.head(given)
        by_reference = [tower.reference((ids[:n].numpy(),)) for ids, n in zip(given.ids, given.length, strict=True)]
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
    with pytest.raises(SourceError, match=r"^\[tiny\] pooling: must be named, since .* \(modules\.json\)$"):
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
    assert json.loads(parameters["prompts"]) == {"query": "Suche: ", "passage": "„Text“: "}
    assert parameters["default_prompt"] == "query"


def test_default_prompt_that_is_empty_is_none(tmp_path: Path) -> None:
    source = with_settings(
        tiny.write_embedding(tmp_path), prompts={"query": "query: ", "document": ""}, default_prompt_name="document"
    )
    assert load(spec(source)).parameters["default_prompt"] == ""


def test_prompts_of_the_table_are_the_references_too(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": "passage: "}
    named = replace(spec(tiny.write_embedding(tmp_path)), prompts=prompts)
    assert load(named).parameters == {"prompts": json.dumps(prompts), "default_prompt": ""}
    reference = text_embedding.pipeline(named, Path(named.source))
    assert np.array_equal(reference.encode("a", prompt_name="query"), reference.encode("query: a"))


def test_prompts_that_the_source_says_are_not_said_again(tmp_path: Path) -> None:
    source = with_settings(tiny.write_embedding(tmp_path), prompts={"query": "Suche: "})
    with pytest.raises(
        SourceError, match=r"^\[tiny\] prompts: the source names its own \(config_sentence_transformers"
    ):
        load(replace(spec(source), prompts={"query": "query: "}))


def test_model_without_prompts_has_none(tmp_path: Path) -> None:
    assert load(spec(tiny.write_embedding(tmp_path))).parameters == {"prompts": "", "default_prompt": ""}


def test_prompts_that_are_not_pooled_are_refused(tmp_path: Path) -> None:
    source = with_settings(tiny.write_embedding(tmp_path), prompts={"query": "query: "})
    pooling = source / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": False}))
    with pytest.raises(SourceError, match=r"^\[tiny\] source: its pooling leaves out the prompt"):
        load(spec(source))


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


def test_modules_that_are_not_known_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, Pooling(32, "mean"), LayerNorm(32))
    with pytest.raises(
        SourceError, match=r"only dense layers may stand between pooling and normalisation: .*LayerNorm"
    ):
        load(spec(source))


def test_transformer_without_a_pooling_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, Normalize(), Pooling(32, "mean"))
    with pytest.raises(SourceError, match="not a transformer followed by a pooling"):
        load(spec(source))


def test_folder_of_one_module_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, Pooling(32, "mean"))
    modules = json.loads((source / "modules.json").read_text())
    (source / "modules.json").write_text(json.dumps(modules[:1]))
    with pytest.raises(SourceError, match="not a transformer followed by a pooling"):
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
    with pytest.raises(SourceError, match=r"pooling: the source says it already"):
        load(replace(spec(source), pooling="mean"))
