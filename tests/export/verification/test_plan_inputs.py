import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from sentence_transformers import SentenceTransformer

from export.manifest import ModelSpec, Precision
from export.plans.build import assign
from export.plans.gate import CASES, SPEC, read_cases
from export.plans.measures import Limit, Tolerance
from export.plans.profiles import Shapes, read_spec
from export.sources.resolve import resolve
from export.tasks.load import load_towers
from export.verification import plan_inputs
from export.verification.plan_inputs import CASE_TOKENS
from loadtest.tools import tiny, tiny_pages


def written(spec: ModelSpec, folder: Path, tower: int = 0) -> Path:
    """What planning writes of a table's tower."""
    folder.mkdir(exist_ok=True)
    plan_inputs.write(spec, load_towers(spec, resolve(spec))[tower], folder)
    return folder


@pytest.fixture
def plans(bert: ModelSpec) -> ModelSpec:
    return replace(bert, backend="tensorrt")


def test_every_profile_has_a_few_rows_to_try_it_on(plans: ModelSpec, tmp_path: Path) -> None:
    written(plans, tmp_path)
    spec, cases = read_spec(tmp_path / SPEC), read_cases(tmp_path / CASES)
    assert len(spec.profiles) == 3  # up to 32, 64 and 100 tokens
    assert assign(spec.profiles, cases) == [0, 1, 2]
    assert all(1 <= len(case.expected["embedding"]) <= 4 for case in cases)


def test_every_profile_of_a_long_model_has_rows_to_try_it_on(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path / "source", max_position_embeddings=2048)
    spec = ModelSpec(
        name="tiny", task="text-embedding", source=str(source), backend="tensorrt", pooling="mean", max_tokens=2048
    )
    written(spec, tmp_path / "plan")
    profiles = read_spec(tmp_path / "plan" / SPEC).profiles
    assert set(assign(profiles, read_cases(tmp_path / "plan" / CASES))) == set(range(len(profiles)))


def test_cases_have_no_more_rows_than_a_batch(plans: ModelSpec, tmp_path: Path) -> None:
    (tower,) = load_towers(plans, resolve(plans))
    assert tower.vocabulary is not None
    long = dataclasses.replace(tower, vocabulary=dataclasses.replace(tower.vocabulary, max_tokens=40_000))
    plan_inputs.write(plans, long, tmp_path)
    assert {len(case.expected["embedding"]) for case in read_cases(tmp_path / CASES)} == {1}


def test_expected_vectors_are_those_of_sentence_transformers(plans: ModelSpec, tmp_path: Path) -> None:
    written(plans, tmp_path)
    transformer, pooling, *_ = SentenceTransformer(plans.source, device="cpu").eval()
    for case in read_cases(tmp_path / CASES):
        ids, length = (torch.from_numpy(case.inputs[name]) for name in ("input_ids", "length"))
        mask = torch.arange(ids.shape[1])[None] < length
        with torch.inference_mode():
            features = pooling(transformer({"input_ids": ids, "attention_mask": mask.long()}))
        expected = {name: values.astype(np.float32) for name, values in case.expected.items()}
        np.testing.assert_allclose(expected["embedding"], features["sentence_embedding"], atol=1e-5)
        tokens = features["token_embeddings"] * mask[..., None]
        np.testing.assert_allclose(expected["tokens"], tokens, atol=1e-5)


def test_vectors_of_the_tokens_of_long_rows_are_left_out(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path / "source", max_position_embeddings=1024)
    spec = ModelSpec(
        name="tiny", task="text-embedding", source=str(source), backend="tensorrt", pooling="mean", max_tokens=1024
    )
    written(spec, tmp_path / "plan")
    cases = read_cases(tmp_path / "plan" / CASES)
    assert {case.inputs["input_ids"].shape[1] <= CASE_TOKENS: set(case.expected) for case in cases} == {
        True: {"embedding", "tokens"},
        False: {"embedding"},
    }


@pytest.mark.parametrize(("precision", "tolerance"), [(None, 1e-3), ("fp16", 1e-3), ("fp32", 1e-4)])
def test_vectors_are_held_to_the_cosine_of_their_precision(
    plans: ModelSpec, precision: Precision | None, tolerance: float, tmp_path: Path
) -> None:
    written(replace(plans, precision=precision), tmp_path)
    spec = read_spec(tmp_path / SPEC)
    assert spec.limits["embedding"] == Limit("cosine", Tolerance(tolerance, tolerance))
    assert spec.limits["tokens"].measure == "token cosine"


def test_scores_are_held_to_a_difference_and_pairs_have_two_lengths(tmp_path: Path) -> None:
    source = tiny.write_colbert(tmp_path / "source", pylate=True)
    written(ModelSpec(name="tiny", task="multi-vector", source=str(source), backend="tensorrt"), tmp_path / "plan")
    spec = read_spec(tmp_path / "plan" / SPEC)
    assert spec.limits["score"] == Limit("score", Tolerance(2e-3, 2e-3))
    assert spec.limits.keys() == {"score", "tokens", "query_tokens"}
    cases = read_cases(tmp_path / "plan" / CASES)
    assert set(assign(spec.profiles, cases)) == {0, 1, 2}
    assert {name for case in cases for name in case.inputs} == {
        "query_ids",
        "query_length",
        "document_ids",
        "document_length",
    }


def test_pairs_with_segments_have_their_first_length(tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path / "source")
    written(ModelSpec(name="tiny", task="cross-encoder", source=str(source), backend="tensorrt"), tmp_path / "plan")
    (first, *_) = read_spec(tmp_path / "plan" / SPEC).profiles
    assert first.inputs["first_length"] == Shapes((1, 1), (256, 1), (512, 1))
    for case in read_cases(tmp_path / "plan" / CASES):
        assert np.less(case.inputs["first_length"], case.inputs["length"]).all()


def test_images_have_one_profile(tmp_path: Path) -> None:
    source = tiny.write_image_text(tmp_path / "source", "CLIP")
    spec = ModelSpec(name="tiny", task="image-text", source=str(source), backend="tensorrt")
    written(spec, tmp_path / "plan", tower=1)
    (profile,) = read_spec(tmp_path / "plan" / SPEC).profiles
    assert profile.inputs["pixels"].max == (64, 3, tiny.IMAGE, tiny.IMAGE)
    (case,) = read_cases(tmp_path / "plan" / CASES)
    assert case.inputs["pixels"].shape == (4, 3, tiny.IMAGE, tiny.IMAGE)


def test_vectors_of_pages_are_compared_however_many_bytes_their_patches_have(tmp_path: Path) -> None:
    source = str(tiny_pages.write_colqwen2(tmp_path / "source"))
    spec = ModelSpec(name="pages", task="multi-vector", source=source, backend="torch", max_tokens=CASE_TOKENS)
    written(spec, tmp_path / "plan")
    cases = read_cases(tmp_path / "plan" / CASES)
    assert any(case.inputs["grids"].any() for case in cases)
    assert all(case.expected.keys() == {"score", "tokens", "query_tokens"} for case in cases)
