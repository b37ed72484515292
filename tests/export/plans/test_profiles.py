from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.errors import ExportError
from export.plans.measures import Limit, Tolerance
from export.plans.profiles import (
    BUCKETS,
    OPTIMAL_TOKENS,
    PlanSpec,
    Profile,
    Shapes,
    graph_hash,
    image_profiles,
    length_buckets,
    read_spec,
    text_profiles,
    write_spec,
)


@pytest.mark.parametrize(
    ("max_tokens", "buckets"),
    [(8, (8,)), (32, (32,)), (77, (32, 64, 77)), (256, (32, 64, 128, 256)), (8192, BUCKETS)],
)
def test_buckets_end_with_the_limit(max_tokens: int, buckets: tuple[int, ...]) -> None:
    assert length_buckets(max_tokens) == buckets


@given(max_tokens=st.integers(1, 10_000), max_batch=st.integers(1, 256), data=st.data())
def test_every_batch_fits_exactly_one_profile(max_tokens: int, max_batch: int, data: st.DataObject) -> None:
    profiles = text_profiles(("input_ids",), ("length",), length_buckets(max_tokens), max_batch)
    rows, tokens = data.draw(st.integers(1, max_batch)), data.draw(st.integers(1, max_tokens))
    shapes = {"input_ids": (rows, tokens), "length": (rows, 1)}
    assert sum(profile.admits(shapes) for profile in profiles) == 1
    assert not any(profile.admits(shapes | {"input_ids": (rows, max_tokens + 1)}) for profile in profiles)


@pytest.mark.parametrize(("bucket", "rows"), [(32, 64), (256, 32), (8192, 1), (10_000, 1)])
def test_tuned_batches_hold_a_bounded_number_of_tokens(bucket: int, rows: int) -> None:
    (profile,) = text_profiles(("input_ids",), ("length",), (bucket,), max_batch=64)
    assert profile.inputs["input_ids"] == Shapes((1, 1), (rows, bucket), (64, bucket))
    assert rows == 1 or rows * bucket <= OPTIMAL_TOKENS


def test_pairs_are_in_buckets_by_their_documents_alone() -> None:
    ids, columns = ("query_ids", "document_ids"), ("query_length", "document_length")
    first, second = text_profiles(ids, columns, (32, 64), max_batch=8)
    assert second.inputs == {
        "query_ids": Shapes((1, 1), (8, 32), (8, 64)),
        "document_ids": Shapes((1, 33), (8, 64), (8, 64)),
        "query_length": Shapes((1, 1), (8, 1), (8, 1)),
        "document_length": Shapes((1, 1), (8, 1), (8, 1)),
    }
    assert first.inputs["query_ids"] == second.inputs["query_ids"]


def test_images_have_one_profile() -> None:
    (profile,) = image_profiles(224, 224, max_batch=64)
    assert profile.inputs == {"pixels": Shapes((1, 3, 224, 224), (32, 3, 224, 224), (64, 3, 224, 224))}


@pytest.mark.parametrize("shapes", [{}, {"x": (2,)}, {"x": (2, 4), "y": (1,)}, {"x": (2, 9)}, {"x": (0, 4)}])
def test_other_inputs_and_ranks_are_not_admitted(shapes: dict[str, tuple[int, ...]]) -> None:
    profile = Profile({"x": Shapes((1, 4), (2, 8), (4, 8))})
    assert profile.admits({"x": (2, 4)})
    assert not profile.admits(shapes)


def test_spec_survives_its_file(tmp_path: Path) -> None:
    profiles = text_profiles(("input_ids",), ("length",), (32, 64), max_batch=4)
    spec = PlanSpec(
        profiles,
        {
            "embedding": Limit("cosine", Tolerance(2e-3, 1e-3)),
            "tokens": Limit("token cosine", Tolerance(1e-2, 1e-3)),
        },
        workspace_mib=1024,
    )
    write_spec(spec, tmp_path / "plan.json")
    assert read_spec(tmp_path / "plan.json") == spec


def test_plan_json_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"profiles": [], "tolerance": 0.001}')
    with pytest.raises(ExportError, match=r"another version of the export wrote plan\.json"):
        read_spec(tmp_path / "plan.json")


def test_hash_covers_the_graph_and_the_weights_beside_it(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"graph")
    hashes = {graph_hash(graph)}
    for weights in (b"weights", b"others"):
        (tmp_path / "model.onnx.data").write_bytes(weights)
        hashes.add(graph_hash(graph))
    graph.write_bytes(b"another")
    assert len(hashes | {graph_hash(graph)}) == 4
