import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from export import config_pbtxt
from export.manifest import Backend, ModelSpec, Task, load
from export.runtime.contract import GRIDS, PATCHES, Limits, read_rows
from export.runtime.vision import Vision
from export.sources.resolve import resolve
from export.tasks.load import load_towers
from export.tower import Tower
from loadtest.tools import tiny
from tests.serving import REPOSITORY

Model = tuple[ModelSpec, Tower]

REVISION = "1"
"""Of the source."""


@pytest.fixture(scope="module")
def towers(bert: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """A tower of each role, with its table."""
    folder = tmp_path_factory.mktemp("sources")
    sources: dict[Task, Path] = {
        "text-embedding": Path(bert.source),
        "cross-encoder": tiny.write_cross_encoder(folder / "cross-encoder"),
        "multi-vector": tiny.write_colbert(folder / "late-interaction", pylate=True),
        "image-text": tiny.write_image_text(folder / "image-text", "CLIP"),
    }
    specs = [ModelSpec(name="tiny", task=task, source=str(source)) for task, source in sources.items()]
    found = [(spec, tower) for spec in specs for tower in load_towers(spec, resolve(spec))]
    return {tower.role if tower.name == "tiny" else tower.name: (spec, tower) for spec, tower in found}


def parsed(model: Model, backend: Backend = "python", **keys: Any) -> pb.ModelConfig:
    spec, tower = model
    changed = msgspec.structs.replace(spec, backend=backend, **keys)
    return text_format.Parse(config_pbtxt.render(changed, tower, REVISION), pb.ModelConfig())


def parameters(rendered: pb.ModelConfig) -> dict[str, str]:
    return {name: parameter.string_value for name, parameter in rendered.parameters.items()}


@pytest.mark.parametrize("name", load())
def test_committed_config_is_what_the_manifest_renders(name: str) -> None:
    spec = load()[name]
    sources = resolve(spec)
    for tower in load_towers(spec, sources):
        rendered = config_pbtxt.render(spec, tower, sources.main.revision)
        assert (REPOSITORY / tower.name / "config.pbtxt").read_text() == rendered


@pytest.mark.parametrize("backend", ["python", "torch", "onnxruntime", "tensorrt"])
def test_inputs_and_outputs_are_the_towers(towers: dict[str, Model], backend: Backend) -> None:
    ids, length, column = (pb.TYPE_INT64, [-1]), (pb.TYPE_INT32, [1]), (pb.TYPE_INT32, [1])
    pixels = (pb.TYPE_UINT8, [3, tiny.IMAGE, tiny.IMAGE])
    expected = {
        "text-embedding": (
            {"input_ids": ids, "length": length},
            [("embedding", [tiny.WIDTH]), ("tokens", [-1, tiny.WIDTH])],
        ),
        "cross-encoder": ({"input_ids": ids, "length": length, "first_length": column}, [("score", [1])]),
        "late-interaction": (
            {"query_ids": ids, "query_length": length, "document_ids": ids, "document_length": length},
            [("score", [1]), ("tokens", [-1, 8]), ("query_tokens", [-1, 8])],
        ),
        "tiny-text": ({"input_ids": ids, "length": length}, [("embedding", [24])]),
        "tiny-image": ({"pixels": pixels}, [("embedding", [24])]),
    }
    for name, (inputs, outputs) in expected.items():
        rendered = parsed(towers[name], backend)
        assert (rendered.name, rendered.backend) == (towers[name][1].name, "python" if backend == "torch" else backend)
        assert {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in rendered.input} == inputs
        assert [(tensor.name, list(tensor.dims)) for tensor in rendered.output] == outputs
        assert {tensor.data_type for tensor in rendered.output} == {pb.TYPE_FP32}


@pytest.mark.parametrize(
    ("backend", "ragged"),
    [
        ("python", {"query_ids", "document_ids"}),
        ("torch", {"query_ids", "document_ids"}),
        ("onnxruntime", {"query_ids", "document_ids"}),
        ("tensorrt", set()),
    ],
)
def test_ids_alone_are_ragged_where_the_backend_takes_that(
    towers: dict[str, Model], backend: Backend, ragged: set[str]
) -> None:
    rendered = parsed(towers["late-interaction"], backend)
    assert {tensor.name for tensor in rendered.input if tensor.allow_ragged_batch} == ragged
    assert not any(tensor.allow_ragged_batch for tensor in parsed(towers["tiny-image"], backend).input)


def test_dynamic_batching_has_neither_delay_nor_queue_policy(towers: dict[str, Model]) -> None:
    rendered = parsed(towers["text-embedding"])
    assert rendered.HasField("dynamic_batching")
    assert rendered.dynamic_batching == pb.ModelDynamicBatching()


def test_python_entries_run_once_on_the_processor(towers: dict[str, Model]) -> None:
    rendered = parsed(towers["text-embedding"])
    (group,) = rendered.instance_group
    assert (group.count, group.kind, rendered.max_batch_size) == (1, pb.ModelInstanceGroup.KIND_CPU, 64)
    assert not rendered.batch_input  # the engine makes it of what model.py hands over


def test_onnxruntime_is_told_the_stored_length_of_every_row(towers: dict[str, Model]) -> None:
    rendered = parsed(towers["late-interaction"], "onnxruntime")
    assert [
        (one.kind, list(one.target_name), list(one.source_input), one.data_type) for one in rendered.batch_input
    ] == [
        (pb.BatchInput.BATCH_ITEM_SHAPE_FLATTEN, ["query_stride"], ["query_ids"], pb.TYPE_INT32),
        (pb.BatchInput.BATCH_ITEM_SHAPE_FLATTEN, ["document_stride"], ["document_ids"], pb.TYPE_INT32),
    ]
    assert not parsed(towers["tiny-image"], "onnxruntime").batch_input
    scattered = [(one.kind, list(one.target_name), list(one.source_input)) for one in rendered.batch_output]
    assert scattered == [(pb.BatchOutput.BATCH_SCATTER_WITH_INPUT_SHAPE, ["tokens"], ["document_ids"])]


@pytest.mark.parametrize(("role", "tf32"), [("text-embedding", "0"), ("tiny-image", "1")])
def test_onnxruntime_keeps_its_memory_and_searches_no_convolutions(
    towers: dict[str, Model], role: str, tf32: str
) -> None:
    rendered = parsed(towers[role], "onnxruntime")
    (cuda,) = rendered.optimization.execution_accelerators.gpu_execution_accelerator
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": tf32})
    assert added(towers[role], "onnxruntime") == {
        "cudnn_conv_algo_search": "1",  # heuristic
        "enable_mem_pattern": "0",
        "intra_op_thread_count": "1",
    }


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_backends_read_every_key_that_is_written_for_them(towers: dict[str, Model], backend: Backend) -> None:
    read = tomllib.loads(Path(__file__).with_name("backend_keys.toml").read_text())[backend]
    for model in towers.values():
        assert_read(added(model, backend), read["parameters"])
        rendered = parsed(model, backend)
        for accelerator in rendered.optimization.execution_accelerators.gpu_execution_accelerator:
            assert_read(accelerator.parameters, read["cuda"])
            assert not set(accelerator.parameters) & set(read["replaced"])


def assert_read(written: Mapping[str, str], read: Mapping[str, list[str]]) -> None:
    """Each key is one that the backend reads, with a value that it understands."""
    for key, value in written.items():
        assert key in read
        assert not read[key] or value in read[key]


def added(model: Model, backend: Backend) -> dict[str, str]:
    """The parameters that the backend alone reads."""
    others = parameters(parsed(model)).keys() | {"length_buckets"}  # the gateway's
    return {name: value for name, value in parameters(parsed(model, backend)).items() if name not in others}


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_gpu_backends_run_on_every_gpu_unless_the_table_names_some(towers: dict[str, Model], backend: Backend) -> None:
    (group,) = parsed(towers["text-embedding"], backend).instance_group
    assert (group.count, group.kind, list(group.gpus)) == (1, pb.ModelInstanceGroup.KIND_GPU, [])
    (group,) = parsed(towers["text-embedding"], backend, instances=2, gpus=(1, 3)).instance_group
    assert (group.count, group.kind, list(group.gpus)) == (2, pb.ModelInstanceGroup.KIND_GPU, [1, 3])


def test_torch_runs_on_every_gpu_or_on_the_cpu_unless_the_table_names_gpus(towers: dict[str, Model]) -> None:
    (group,) = parsed(towers["text-embedding"], "torch").instance_group
    assert (group.count, group.kind, list(group.gpus)) == (1, pb.ModelInstanceGroup.KIND_AUTO, [])
    (group,) = parsed(towers["text-embedding"], "torch", instances=2, gpus=(1, 3)).instance_group
    assert (group.count, group.kind, list(group.gpus)) == (2, pb.ModelInstanceGroup.KIND_GPU, [1, 3])


def test_tensorrt_serves_its_plan_with_a_profile_for_every_bucket(towers: dict[str, Model]) -> None:
    rendered = parsed(towers["text-embedding"], "tensorrt")
    (group,) = rendered.instance_group
    assert rendered.default_model_filename == "model.plan"
    assert (group.kind, list(group.profile)) == (pb.ModelInstanceGroup.KIND_GPU, ["0", "1", "2"])
    assert parameters(rendered)["length_buckets"] == "32,64,100"
    assert parameters(rendered)["execution_context_allocation_strategy"] == "ON_PROFILE_CHANGE"
    image = parsed(towers["tiny-image"], "tensorrt")
    assert list(image.instance_group[0].profile) == ["0"]
    assert "length_buckets" not in parameters(image)


@pytest.mark.parametrize(("max_tokens", "rows"), [(100, 512), (512, 128), (2048, 32), (8192, 6), (40000, 1)])
def test_gpu_takes_fewer_long_rows_since_all_are_padded_to_the_longest(
    towers: dict[str, Model], max_tokens: int, rows: int
) -> None:
    spec, tower = towers["text-embedding"]
    assert tower.vocabulary is not None
    long = replace(tower, vocabulary=replace(tower.vocabulary, max_tokens=max_tokens))
    assert parsed((spec, long), "tensorrt").max_batch_size == rows
    assert parsed((spec, long), "onnxruntime").max_batch_size == rows
    assert parsed((spec, long), "python").max_batch_size == 64
    assert parsed((spec, long), "torch").max_batch_size == 1024


def test_pictures_are_hundreds_of_tokens_each(towers: dict[str, Model]) -> None:
    backends: list[Backend] = ["python", "torch", "onnxruntime", "tensorrt"]
    assert [parsed(towers["tiny-image"], backend).max_batch_size for backend in backends] == [64, 1024, 64, 64]


@pytest.mark.parametrize(("max_tokens", "fp32", "fp16"), [(512, 128, 128), (2048, 8, 12), (8192, 4, 4)])
def test_gpu_takes_as_many_rows_as_there_is_memory_for_the_scores_of_their_heads(
    tmp_path: Path, max_tokens: int, fp32: int, fp16: int
) -> None:
    source = tiny.write_embedding(tmp_path, num_attention_heads=16)
    spec = ModelSpec(name="tiny", task="text-embedding", source=str(source))
    (tower,) = load_towers(spec, resolve(spec))
    assert tower.vocabulary is not None
    long = (spec, replace(tower, vocabulary=replace(tower.vocabulary, max_tokens=max_tokens)))
    assert parsed(long, "onnxruntime", precision="fp32").max_batch_size == fp32
    assert parsed(long, "tensorrt", precision="fp16").max_batch_size == fp16


def test_everything_that_is_said_of_a_model_is_a_parameter(towers: dict[str, Model]) -> None:
    keys: dict[str, Any] = {
        "aliases": ("a", "b"),
        "default": True,
        "dimensions": (8, 16),
        "license": "MIT",
        "source": "owner/model",
    }
    written = parameters(parsed(towers["text-embedding"], **keys))
    assert re.fullmatch("[0-9a-f]{32}", written.pop("digest"))
    assert written == {
        "role": "text-embedding",
        "aliases": "a,b",
        "default": "true",
        "dimensions": "8,16",
        "max_tokens": "100",
        "vocabulary_size": str(len(tiny.wordpiece())),
        "tokens_pooling": "mean",
        "graph": "model.onnx",
        "source": "owner/model",
        "license": "MIT",
    }


def test_parameters_leave_out_what_is_not_said(towers: dict[str, Model]) -> None:
    # Nor is the path of a local folder, which means nothing elsewhere.
    assert set(parameters(parsed(towers["text-embedding"], "tensorrt"))) == {
        "role",
        "max_tokens",
        "vocabulary_size",
        "tokens_pooling",
        "length_buckets",
        "execution_context_allocation_strategy",
        "digest",
    }


def test_digest_tells_results_apart_and_no_copies(towers: dict[str, Model]) -> None:
    spec, tower = towers["text-embedding"]

    def digest(revision: str = REVISION, **keys: Any) -> str:
        config = config_pbtxt.render(msgspec.structs.replace(spec, **keys), tower, revision)
        return parameters(text_format.Parse(config, pb.ModelConfig()))["digest"]

    assert digest() == digest(precision=spec.computes_in) == digest(image_source="/anywhere")
    others = [digest("2"), digest(precision="fp32"), digest(backend="onnxruntime"), digest(pooling="cls")]
    assert len({digest(), *others}) == 1 + len(others)


def test_parameters_of_the_tower_are_among_them(towers: dict[str, Model]) -> None:
    assert parameters(parsed(towers["cross-encoder"]))["activation"] == "sigmoid"
    assert "[unused0]" in parameters(parsed(towers["late-interaction"]))["prompts"]
    image = parameters(parsed(towers["tiny-image"]))
    assert (image["role"], image["name"], image["image_height"]) == ("image-embedding", "tiny", "32")
    assert "max_tokens" not in image


@pytest.mark.parametrize(
    ("backend", "precision", "expected"),
    [
        ("python", None, {"graph": "model.onnx"}),
        ("python", "fp32", {"graph": "model.onnx", "precision": "f32"}),
        ("python", "int8", {"graph": "model.xml"}),
        ("torch", None, {"graph": "program.pt2", "precision": "fp16"}),
        ("torch", "bf16", {"graph": "program.pt2", "precision": "bf16"}),
        ("onnxruntime", "fp16", {}),
        ("tensorrt", "fp32", {}),
    ],
)
def test_model_py_is_told_its_graph_and_precision(
    towers: dict[str, Model], backend: Backend, precision: str | None, expected: dict[str, str]
) -> None:
    found = parameters(parsed(towers["text-embedding"], backend, precision=precision))
    assert {name: value for name, value in found.items() if name in {"graph", "precision"}} == expected


def test_warmup_is_one_row_of_each_input(towers: dict[str, Model]) -> None:
    for model in towers.values():
        rendered, tensors = parsed(model), config_pbtxt.warmup(model[1])
        (sample,) = rendered.model_warmup
        assert sample.batch_size == 1
        assert {name: (list(one.dims), one.input_data_file) for name, one in sample.inputs.items()} == {
            name: (list(array.shape), name) for name, array in tensors.items()
        }
        assert {tensor.name: tensor.data_type for tensor in rendered.input} == {
            name: one.data_type for name, one in sample.inputs.items()
        }


@pytest.mark.parametrize(("max_tokens", "tokens"), [(256, 32), (16, 16)])
def test_warmup_rows_are_not_empty_and_within_the_limit(towers: dict[str, Model], max_tokens: int, tokens: int) -> None:
    _, tower = towers["cross-encoder"]
    assert tower.vocabulary is not None
    tensors = config_pbtxt.warmup(replace(tower, vocabulary=replace(tower.vocabulary, max_tokens=max_tokens)))
    assert [(name, array.dtype) for name, array in tensors.items()] == [
        ("input_ids", np.dtype(np.int64)),
        ("length", np.dtype(np.int32)),
        ("first_length", np.dtype(np.int32)),
    ]
    assert (len(tensors["input_ids"]), tensors["length"].tolist()) == (tokens, [tokens])
    assert 1 <= tensors["first_length"][0] <= tokens


def test_rows_with_images_have_any_number_of_patches_and_are_warmed_up_with_one(towers: dict[str, Model]) -> None:
    spec, tower = towers["text-embedding"]
    seeing = replace(tower, fields=(*tower.fields, PATCHES, GRIDS), vision=Vision(token=7, merge=2, patch_bytes=48))
    rendered = parsed((spec, seeing), "torch")
    inputs = {
        tensor.name: (tensor.data_type, list(tensor.dims), tensor.allow_ragged_batch) for tensor in rendered.input
    }
    assert inputs["patches"] == (pb.TYPE_UINT8, [-1, 48], True)
    assert inputs["grids"] == (pb.TYPE_INT32, [-1, 2], True)
    assert {"image_token": "7", "image_merge": "2"}.items() <= parameters(rendered).items()
    batch = {name: array[None] for name, array in config_pbtxt.warmup(seeing).items()}
    ((ids, patches, grids),) = read_rows(batch, seeing.fields, Limits(32, 100, image_token=7, image_merge=2))
    assert (ids[-1], patches.shape, grids.tolist()) == (7, (4, 48), [[2, 2]])
    assert list(rendered.model_warmup[0].inputs["grids"].dims) == [1, 2]


def test_images_of_any_size_alone_are_warmed_up_with_one(towers: dict[str, Model]) -> None:
    spec, tower = towers["tiny-image"]
    seeing = replace(tower, fields=(PATCHES, GRIDS), vision=Vision(token=-1, merge=1, patch_bytes=48))
    rendered = parsed((spec, seeing), "torch")
    assert [tensor.name for tensor in rendered.input] == ["patches", "grids"]
    assert "image_token" not in parameters(rendered)
    batch = {name: array[None] for name, array in config_pbtxt.warmup(seeing).items()}
    ((patches, grids),) = read_rows(batch, seeing.fields, Limits())
    assert (patches.shape, grids.tolist()) == ((1, 48), [[1, 1]])
