import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import CrossEncoder, MultiVectorEncoder

from export.errors import SourceError
from export.packing import families
from export.sources import inspection
from export.sources.inspection import Inspection, inspect
from export.tasks import image_text
from loadtest.tools import tiny, tiny_pages, tiny_tiles, tiny_vision

BERT = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 32}
PLAIN = {"pooling": "mean"}


def look(folder: Path, **given: object) -> Inspection:
    return inspect("a", folder, given)


def found(folder: Path, **given: object) -> dict[str, object]:
    """The values that are no guesses."""
    return {key: one.value for key, one in look(folder, **given).keys.items() if not one.is_guess}


def write(folder: Path, config: Mapping[str, Any], front: str = "", text: str = "") -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text(f"---\n{front}\n---\n{text}")
    return folder


def test_folder_of_sentence_transformers_embeds_text(tmp_path: Path) -> None:
    inspected = look(tiny.write_embedding(tmp_path, dense=True))
    assert set(inspected.keys) == {"task"}
    assert inspected.keys["task"].value == "text-embedding"
    assert inspected.keys["task"].evidence.endswith("modules Transformer, Pooling (mean), Dense, Normalize")
    assert not inspected.keys["task"].is_guess


def test_folders_that_the_library_saves_tell_what_saved_them(tmp_path: Path) -> None:
    reranker = CrossEncoder(str(tiny.write_cross_encoder(tmp_path / "classifier")), device="cpu")
    decoder = CrossEncoder(str(tiny.write_decoder_reranker(tmp_path / "decoder")), device="cpu")
    late = MultiVectorEncoder(str(tiny.write_plain(tmp_path / "plain")), device="cpu")
    for name, model in (("a", reranker), ("b", decoder), ("c", late)):
        model.save_pretrained(str(tmp_path / name))
    tasks = [found(tmp_path / name)["task"] for name in ("a", "b", "c")]
    assert tasks == ["cross-encoder", "cross-encoder", "multi-vector"]


@pytest.mark.parametrize(
    "write",
    [tiny_pages.write_colpali, tiny_pages.write_colqwen2, tiny_pages.write_chat, tiny_tiles.write_colmodernvbert],
)
def test_retrievers_of_pages_need_torch(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    folder = write(tmp_path)
    assert found(folder) == {"task": "multi-vector", "backend": "torch"}
    assert found(folder, backend="python") == {"task": "multi-vector"}


@pytest.mark.parametrize(
    "write", [tiny_vision.write_embedding, tiny_tiles.write_modernvbert, tiny_tiles.write_embedding_gemma2]
)
def test_models_of_texts_and_images_need_torch(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    assert found(write(tmp_path)) == {"task": "text-embedding", "backend": "torch"}


def test_rerankers_of_texts_and_images_need_torch(tmp_path: Path) -> None:
    assert found(tiny_vision.write_reranker(tmp_path)) == {"task": "cross-encoder", "backend": "torch"}


@pytest.mark.parametrize("settings", [True, False])
def test_splade_tells_by_its_modules(tmp_path: Path, settings: bool) -> None:
    folder = tiny.write_splade(tmp_path)
    if not settings:
        (folder / "config_sentence_transformers.json").unlink()
    assert found(folder) == {"task": "sparse"}


@pytest.mark.parametrize("settings", [True, False])
def test_routes_of_an_inference_free_model_are_its_variants(tmp_path: Path, settings: bool) -> None:
    folder = tiny.write_inference_free(tmp_path)
    if not settings:
        (folder / "config_sentence_transformers.json").unlink()
    assert found(folder) == {"task": "sparse", "variants": ["document", "query"]}


def test_routes_are_no_variants_of_a_task_that_has_none(tmp_path: Path) -> None:
    folder = tiny.write_inference_free(tmp_path)
    tiny.revise(folder / "config_sentence_transformers.json", model_type="MultiVectorEncoder")
    assert found(folder) == {"task": "multi-vector"}


def test_masked_language_model_is_sparse_if_its_card_says_so(tmp_path: Path) -> None:
    plain = write(tmp_path, BERT | {"architectures": ["BertForMaskedLM"]}, "tags: [splade]")
    task = look(plain).keys["task"]
    assert (task.value, task.is_guess) == ("sparse", True)
    with pytest.raises(SourceError, match=r"^\[a\] source: its card says .* BertModel is no masked language model"):
        look(write(tmp_path, BERT, "tags: [splade]"))


def test_sparse_autoencoder_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_embedding(tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["type"] = "sentence_transformers.sparse_encoder.modules.SparseAutoEncoder"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(SourceError, match=r"^\[a\] source: it makes sparse vectors of dense ones"):
        look(folder)


def test_bge_m3_embeds_text(tmp_path: Path) -> None:
    assert found(tiny.write_m3(tmp_path)) == {"task": "text-embedding"}


@pytest.mark.parametrize(
    ("front", "task", "is_guess"),
    [
        ("", "classification", True),
        ("pipeline_tag: text-classification", "classification", False),
        ("pipeline_tag: text-ranking", "cross-encoder", False),
    ],
)
def test_classifier_of_several_classes_gives_labels_unless_it_ranks(
    tmp_path: Path, front: str, task: str, is_guess: bool
) -> None:
    config = BERT | {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "x", "1": "y"}}
    folder = write(tmp_path, config, front)
    given = {"positive_class": "y"} if task == "cross-encoder" else {}
    inferred = look(folder, **given).keys["task"]
    assert (inferred.value, inferred.is_guess) == (task, is_guess)
    assert look(folder, positive_class="x").keys["task"].value == "cross-encoder"


@pytest.mark.parametrize(
    ("more", "front", "is_guess"),
    [
        ({}, "", False),
        ({"problem_type": "regression"}, "pipeline_tag: text-classification", True),
        ({"problem_type": "regression"}, "pipeline_tag: text-ranking", False),
    ],
)
def test_classifier_of_one_class_scores_pairs_which_is_a_guess_of_regression(
    tmp_path: Path, more: Mapping[str, Any], front: str, is_guess: bool
) -> None:
    config = BERT | {"architectures": ["BertForSequenceClassification"], "num_labels": 1, **more}
    inferred = look(write(tmp_path, config, front)).keys["task"]
    assert (inferred.value, inferred.is_guess) == ("cross-encoder", is_guess)


def test_colbert_of_either_kind_is_late_interaction(tmp_path: Path) -> None:
    for pylate in (True, False):
        folder = tiny.write_colbert(tmp_path / str(pylate), pylate=pylate)
        assert found(folder)["task"] == "multi-vector"


@pytest.mark.parametrize("name", ["CLIP", "ChineseCLIP", "SigLIP", "SigLIP 2"])
def test_checkpoint_of_two_towers_is_image_text(tmp_path: Path, name: str) -> None:
    assert found(tiny.write_image_text(tmp_path, name)) == {"task": "image-text"}


def test_image_text_is_what_the_task_takes() -> None:
    assert set(inspection.IMAGE_TEXT) == set(image_text._TEXT_KINDS)


def test_models_of_texts_and_images_are_what_is_packed() -> None:
    assert set(inspection.TOGETHER) == set(families.FAMILIES)


def test_model_of_texts_and_images_without_modules_is_what_its_card_says(tmp_path: Path) -> None:
    config = {"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "vision_config": {}}
    with pytest.raises(SourceError, match=r"^\[a\] task: set --task text-embedding if it embeds texts and images: "):
        look(write(tmp_path, config, "pipeline_tag: image-text-to-text"))
    with pytest.raises(SourceError, match=r"as a reranker has to be a folder that sentence-transformers saved"):
        look(write(tmp_path, config, "pipeline_tag: text-ranking"))
    embedder = {"task": "text-embedding", "backend": "torch"}
    assert found(write(tmp_path, config, "pipeline_tag: sentence-similarity"), pooling="lasttoken") == embedder


def test_modules_tell_the_task_where_no_class_is_named(tmp_path: Path) -> None:
    folder = tiny.write_embedding(tmp_path)
    (folder / "config_sentence_transformers.json").unlink()
    assert found(folder)["task"] == "text-embedding"


def test_transformer_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    (tmp_path / "0_Transformer").mkdir()
    write(tmp_path / "0_Transformer", BERT | {"matryoshka_dimensions": [64, 16, 8]})
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert found(tmp_path) == {"task": "text-embedding", "dimensions": [16, 8]}


@pytest.mark.parametrize(
    ("config", "front", "task"),
    [
        (BERT | {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "x"}}, "", "cross-encoder"),
        (BERT, "pipeline_tag: sentence-similarity", "text-embedding"),
        (BERT | {"architectures": ["BertForMaskedLM"]}, "pipeline_tag: feature-extraction", "text-embedding"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "pipeline_tag: text-ranking", "cross-encoder"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "tags: [reranker]", "cross-encoder"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "pipeline_tag: feature-extraction", "text-embedding"),
    ],
)
def test_class_and_card_tell_the_task(tmp_path: Path, config: dict[str, Any], front: str, task: str) -> None:
    assert found(write(tmp_path, config, front), **PLAIN)["task"] == task


@pytest.mark.parametrize(
    ("config", "front", "task"),
    [
        (BERT, "", "text-embedding"),
        ({"architectures": ["T5EncoderModel"]}, "", "text-embedding"),
        ({"model_type": "bert"}, "", "text-embedding"),
        (BERT, "tags: [ColBERT]", "multi-vector"),
    ],
)
def test_what_little_tells_is_a_guess_and_said_to_be(
    tmp_path: Path, config: dict[str, Any], front: str, task: str
) -> None:
    inspected = look(write(tmp_path, config, front), **PLAIN)
    assert (inspected.keys["task"].value, inspected.keys["task"].is_guess) == (task, True)
    assert inspected.open[0] == f"task: {task} is a guess from {inspected.keys['task'].evidence}"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"architectures": ["Qwen3ForCausalLM"]},
            "generates text, and README.md does not describe an embedding model or a reranker",
        ),
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "generates text, and README.md does not describe an embedding model or a reranker",
        ),
        (
            {"architectures": ["T5ForConditionalGeneration"]},
            "does not fit any of the tasks text-embedding, sparse",
        ),
        (
            {"architectures": ["BertForTokenClassification"]},
            "does not fit any of the tasks text-embedding, sparse",
        ),
        (
            {"model_type": "vit", "image_size": 224},
            "a model of type 'vit' takes images or audio; only chinese_clip, clip, ",
        ),
        ({"model_type": "blip", "vision_config": {}}, "a model of type 'blip' takes images or audio; only"),
    ],
)
def test_what_no_task_serves_is_refused(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    with pytest.raises(SourceError, match=r"^\[a\] source: ") as caught:
        look(write(tmp_path, config))
    assert reason in str(caught.value)


def test_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "vidore/colqwen2-base"}')
    with pytest.raises(SourceError, match="holds an adapter without its base; merge both"):
        inspect("tiny", tmp_path, {})


def test_task_that_is_given_is_not_inferred(tmp_path: Path) -> None:
    folder = write(tmp_path, {"architectures": ["Qwen3ForCausalLM"]})
    assert look(folder, task="cross-encoder").keys == {}


@pytest.mark.parametrize(
    ("config", "text", "pooling", "evidence"),
    [
        (BERT, "def mean_pooling(model_output):", "mean", "the text of README.md"),
        ({"architectures": ["Qwen3Model"], "model_type": "qwen3"}, "", "lasttoken", "Qwen3Model, a decoder"),
        ({"architectures": ["Qwen3Model"], "model_type": "qwen3"}, "cls pooling", "cls", "the text of README.md"),
    ],
)
def test_pooling_of_a_plain_folder_is_a_guess(
    tmp_path: Path, config: dict[str, Any], text: str, pooling: str, evidence: str
) -> None:
    inspected = look(write(tmp_path, config, text=text))
    guess = inspected.keys["pooling"]
    assert (guess.value, guess.evidence, guess.is_guess) == (pooling, evidence, True)
    assert f"pooling: {pooling} is a guess from {evidence}" in inspected.open


@pytest.mark.parametrize(
    ("config", "text", "reason"),
    [
        (BERT, "", "README.md does not say it"),
        (BERT, "mean pooling, or cls pooling", "README.md speaks of cls and mean"),
        ({"model_type": "llama", "is_causal": False}, "", "README.md does not say it"),
    ],
)
def test_pooling_that_nothing_tells_is_asked_for(
    tmp_path: Path, config: dict[str, Any], text: str, reason: str
) -> None:
    with pytest.raises(SourceError, match=r"^\[a\] pooling: set --pooling to one of cls, ") as caught:
        look(write(tmp_path, config, text=text))
    assert str(caught.value).endswith(f"there is no modules.json, and {reason}")


@pytest.mark.parametrize("more", [{}, {"num_labels": 2}, {"num_labels": "x"}, {"id2label": 3}])
def test_classes_of_no_names_are_named_as_transformers_does(tmp_path: Path, more: dict[str, Any]) -> None:
    config = {"architectures": ["BertForSequenceClassification"], **more}
    with pytest.raises(SourceError, match=r"one of LABEL_0, LABEL_1; or set --task classification"):
        look(write(tmp_path, config), task="cross-encoder")


def test_class_that_means_relevant_is_asked_for(tmp_path: Path) -> None:
    folder = tiny.write_cross_encoder(tmp_path, labels=3)
    with pytest.raises(
        SourceError,
        match=r"positive_class: .* --positive-class to the label .*, one of LABEL_0, LABEL_1, LABEL_2; or set ",
    ):
        look(folder, task="cross-encoder")
    inspected = look(folder, positive_class="LABEL_1")
    assert inspected.keys["task"].value == "cross-encoder"
    assert not inspected.keys["task"].is_guess


@pytest.mark.parametrize(
    ("config", "text", "dimensions"),
    [
        (BERT, "matryoshka_dims = [32, 16, 8]", [16, 8]),
        (BERT | {"matryoshka_dimensions": [8, 16]}, "matryoshka_dims = [4]", [16, 8]),
        (BERT | {"matryoshka_dims": [True, "8", -1, 64]}, "", None),
    ],
)
def test_matryoshka_sizes_are_those_below_the_models_own(
    tmp_path: Path, config: dict[str, Any], text: str, dimensions: list[int] | None
) -> None:
    assert found(write(tmp_path, config, text=text), **PLAIN).get("dimensions") == dimensions


def test_size_of_a_model_is_what_comes_out_of_its_last_module(tmp_path: Path) -> None:
    folder = tiny.write_embedding(tmp_path, dense=True)  # from 32 to 16
    with (folder / "README.md").open("a") as card:
        card.write("matryoshka_dims: [32, 16, 8]")
    assert found(folder)["dimensions"] == [8]


def test_matryoshka_without_sizes_is_told_of(tmp_path: Path) -> None:
    inspected = look(write(tmp_path, BERT, text="Matryoshka Representation Learning"), **PLAIN)
    assert any(sentence.startswith("dimensions: README.md speaks of Matryoshka") for sentence in inspected.open)


def test_prompts_come_from_examples_where_the_source_names_none(tmp_path: Path) -> None:
    folder = tiny.write_embedding(tmp_path)
    (folder / "README.md").write_text("['query: how', 'passage: As']")
    guess = look(folder).keys["prompts"]
    assert (guess.value, guess.is_guess) == ({"query": "query: ", "document": "passage: "}, True)
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings | {"prompts": {"query": "q: "}}))
    assert "prompts" not in look(folder).keys


def test_license_is_the_cards_and_asked_for_otherwise(tmp_path: Path) -> None:
    assert found(write(tmp_path, BERT, "license: mit"), **PLAIN)["license"] == "mit"
    inspected = look(write(tmp_path, BERT), **PLAIN)
    assert "license" not in inspected.keys
    assert inspected.open[-1].startswith("license: README.md names none")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\ud800"])
def test_file_that_is_no_json_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, errors="surrogatepass")
    with pytest.raises(SourceError, match=r"^\[a\] source: config\.json is not JSON: "):
        look(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", [1]),
        ("config.json", {"architectures": 5, "model_type": []}),
        ("config.json", {"architectures": ["BertModel"], "model_type": {}}),
        ("config.json", {"architectures": [None], "id2label": 3, "matryoshka_dims": 7}),
        ("modules.json", [{"type": 5, "path": 5}, 7]),
        ("modules.json", [{"type": "a.Transformer", "path": "../out"}, {"type": "b.Pooling", "path": "/etc"}]),
        ("config_sentence_transformers.json", {"model_type": ["x"], "prompts": 5}),
        ("artifact.metadata", [5]),
    ],
)
def test_values_of_odd_types_are_no_fault(tmp_path: Path, file: str, content: object) -> None:
    write(tmp_path, BERT)
    (tmp_path / file).write_text(json.dumps(content))
    if content == [1]:
        with pytest.raises(SourceError, match=r"holds no config\.json and no modules\.json"):
            look(tmp_path, **PLAIN)
    else:
        assert look(tmp_path, **PLAIN).keys["task"].value == "text-embedding"


def test_pipe_in_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, BERT)
    os.mkfifo(tmp_path / "config_sentence_transformers.json")
    assert look(tmp_path, **PLAIN).keys["task"].value == "text-embedding"


def test_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(inspection.MOST_BYTES + 1)
    with pytest.raises(SourceError, match=r"^\[a\] source: config\.json is larger than 64 MiB$"):
        look(tmp_path)
