import dataclasses

import numpy as np
import pytest
from google.protobuf import text_format
from msgspec.structs import replace
from tritonclient.grpc import model_config_pb2 as pb

from export import config, tower
from export.manifest import ModelSpec, load
from export.source import resolve
from export.tower import TextTower
from tests.serving import REPOSITORY


@pytest.fixture(scope="module")
def text_tower(minilm: ModelSpec) -> TextTower:
    return tower.load(minilm, resolve(minilm).folder)


def parsed(spec: ModelSpec, text_tower: TextTower) -> pb.ModelConfig:
    return text_format.Parse(config.render(spec, text_tower), pb.ModelConfig())


@pytest.mark.parametrize("name", load())
def test_committed_config_is_what_the_manifest_renders(name: str, text_tower: TextTower) -> None:
    assert (REPOSITORY / name / "config.pbtxt").read_text() == config.render(load()[name], text_tower)


def test_ids_are_ragged_and_lengths_are_not(minilm: ModelSpec, text_tower: TextTower) -> None:
    ids, length = parsed(minilm, text_tower).input
    assert (ids.name, ids.data_type, list(ids.dims), ids.allow_ragged_batch) == ("input_ids", pb.TYPE_INT64, [-1], True)
    assert (length.name, length.data_type, list(length.dims)) == ("length", pb.TYPE_INT32, [1])
    assert not length.allow_ragged_batch


def test_late_interaction_takes_two_segments_and_gives_one_score(text_tower: TextTower) -> None:
    rendered = parsed(load()["minilm-late-interaction"], text_tower)
    assert [tensor.name for tensor in rendered.input] == [
        "query_ids",
        "query_length",
        "document_ids",
        "document_length",
    ]
    assert list(rendered.output[0].dims) == [1]


def test_parameters_leave_out_what_is_not_said(minilm: ModelSpec, text_tower: TextTower) -> None:
    bare = replace(minilm, aliases=(), default=False, licence=None, source="/some/folder")
    assert set(parsed(bare, text_tower).parameters) == {"role", "max_tokens", "vocabulary_size"}


def test_matryoshka_dimensions_become_a_parameter(minilm: ModelSpec, text_tower: TextTower) -> None:
    rendered = parsed(replace(minilm, dimensions=(64, 128)), text_tower)
    assert rendered.parameters["dimensions"].string_value == "64,128"


@pytest.mark.parametrize(("max_tokens", "expected"), [(256, 32), (16, 16)])
def test_warmup_rows_are_not_empty_and_within_the_limit(
    minilm: ModelSpec, text_tower: TextTower, max_tokens: int, expected: int
) -> None:
    tensors = config.warmup(minilm, dataclasses.replace(text_tower, max_tokens=max_tokens))
    assert tensors["length"].dtype == np.int32
    assert tensors["length"][0] == len(tensors["input_ids"]) == expected
