"""Renders config.pbtxt: what Triton needs to run an entry, and what the gateway needs to know about it."""

import hashlib
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from export.manifest import Backend, ModelSpec
from export.packing.memory import max_batch_size
from export.plans.profiles import length_buckets
from export.runtime.contract import (
    GRIDS,
    IMAGE_EMBEDDING,
    PATCHES,
    Array,
    Field,
    Grids,
    Parameters,
    Patches,
    Prefix,
    Tokens,
    text_field,
    write_parameters,
)
from export.runtime.engine import HINTS
from export.runtime.execution import Execution
from export.runtime.program import PROGRAM
from export.tower import Tower
from export.verification.runners import cuda_options

WARMUP_TOKENS = 32
EDITION = 1
"""Raise it when a change of the exporter changes what entries return by more than their tolerances, as when the
reference itself was wrong: then the gateway must not answer from what it kept of the entry before."""
TYPES: Mapping[str, int] = {
    "float32": pb.TYPE_FP32,
    "int32": pb.TYPE_INT32,
    "int64": pb.TYPE_INT64,
    "uint8": pb.TYPE_UINT8,
}
"""Triton's types by numpy's names."""
CUDA_NUMBERS: Mapping[str, Mapping[str, str]] = {
    "cudnn_conv_algo_search": {"EXHAUSTIVE": "0", "HEURISTIC": "1", "DEFAULT": "2"},
}
"""CUDA options that Triton's ONNX Runtime backend takes from a config's parameters, as numbers. As soon as a config has
any parameters, it ignores what the accelerator says of these (src/onnxruntime.cc, `ModelState::LoadModel`)."""
SESSION_OPTIONS: Mapping[str, str] = {
    "enable_mem_pattern": "0",
    "intra_op_thread_count": "1",
}
"""ONNX Runtime would keep a plan of the memory for every combination of input shapes, and a thread for every core."""


def render(spec: ModelSpec, tower: Tower, revision: str) -> str:
    """The text of config.pbtxt, given the revision of the model's main source."""
    tensors = warmup(tower)
    config = pb.ModelConfig(
        name=tower.name,
        backend=spec.backend,
        max_batch_size=max_batch_size(spec, tower),
        input=[tensor for field in tower.fields for tensor in _inputs(spec, field, tensors)],
        output=[
            pb.ModelOutput(name=output.name, data_type=TYPES[np.dtype(output.dtype).name], dims=output.dims)
            for output in tower.outputs
        ],
        # No delay: what arrives while one batch runs makes the next. And no queue policy: with one, Triton 2.51 forms a
        # batch only when an instance waits for it, and looks for one only at the next arrival or after half a second.
        # 64-row requests, eight at a time: 400 rows/s with a policy, 1,600 without.
        dynamic_batching=pb.ModelDynamicBatching(),
        model_warmup=[
            pb.ModelWarmup(
                name="warmup",
                batch_size=1,
                inputs={
                    name: pb.ModelWarmup.Input(data_type=TYPES[data.dtype.name], dims=data.shape, input_data_file=name)
                    for name, data in tensors.items()
                },
            )
        ],
        parameters={
            key: pb.ModelParameter(string_value=value)
            for key, value in write_parameters(_parameters(spec, tower, revision)).items()
        },
    )
    _BACKENDS[spec.backend](config, spec, tower)
    text: str = text_format.MessageToString(config)
    return text


def _inputs(spec: ModelSpec, field: Field, tensors: Mapping[str, Array]) -> list[pb.ModelInput]:
    """A field's inputs. Rows of token ids may differ in length where the backend takes that, and in their images."""
    inputs = [
        pb.ModelInput(name=name, data_type=TYPES[tensors[name].dtype.name], dims=tensors[name].shape)
        for name in field.inputs
    ]
    if isinstance(field, Tokens):
        inputs[0].dims[:] = [-1]
        inputs[0].allow_ragged_batch = spec.backend != "tensorrt"
    if isinstance(field, Patches | Grids):
        inputs[0].dims[:] = [-1, tensors[field.name].shape[1]]
        inputs[0].allow_ragged_batch = True
    return inputs


def warmup(tower: Tower) -> dict[str, Array]:
    """The tensors of one warm-up request by input, without the batch dimension.

    Triton does not call a model ready before it has answered them. They are files of the entry, since the zeros that
    Triton can make up would be rows of length 0.
    """
    tensors: dict[str, Array] = {}
    most = tower.vocabulary.max_tokens if tower.vocabulary else 0
    tokens = min(WARMUP_TOKENS, most)
    for field in tower.fields:
        if isinstance(field, Tokens):
            tensors[field.ids] = np.zeros(tokens, np.int64)
            tensors[field.length] = np.array([tokens], np.int32)
        elif isinstance(field, Prefix):
            tensors[field.name] = np.array([1], np.int32)
        elif tower.vision is None:
            tensors[field.name] = tower.samples()[0][0]
    return tensors | _warmup_image(tower, tensors)


def _warmup_image(tower: Tower, tensors: dict[str, Array]) -> dict[str, Array]:
    """An image of one merged patch, and its token at the end of the text."""
    if tower.vision is None:
        return {}
    side = tower.vision.merge
    image: dict[str, Array] = {
        PATCHES.name: np.zeros((side**2, tower.vision.patch_bytes), np.uint8),
        GRIDS.name: np.full((1, 2), side, np.int32),
    }
    if tower.vocabulary is not None:
        ids = text_field(tower.fields).ids
        image[ids] = np.append(tensors[ids][1:], tower.vision.token)
    return image


def _python(config: pb.ModelConfig, spec: ModelSpec, tower: Tower) -> None:  # noqa: ARG001 - all have one signature
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)


def _torch(config: pb.ModelConfig, spec: ModelSpec, tower: Tower) -> None:  # noqa: ARG001
    """Serve on the GPUs that the table names, or on all of them, or on the CPU if there is none (KIND_AUTO)."""
    config.backend = "python"
    kind = pb.ModelInstanceGroup.KIND_GPU if spec.gpus else pb.ModelInstanceGroup.KIND_AUTO
    config.instance_group.add(count=spec.instances, kind=kind, gpus=spec.gpus)


def _onnxruntime(config: pb.ModelConfig, spec: ModelSpec, tower: Tower) -> None:
    """Triton tells the graph the stored length of each row, and gives values of tokens the shape of the ids."""
    config.instance_group.add(count=spec.instances, kind=pb.ModelInstanceGroup.KIND_GPU, gpus=spec.gpus)
    for field in tower.fields:
        if isinstance(field, Tokens):
            config.batch_input.add(
                kind=pb.BatchInput.BATCH_ITEM_SHAPE_FLATTEN,
                target_name=[field.stride],
                data_type=pb.TYPE_INT32,
                source_input=[field.ids],
            )
    for output in tower.outputs:
        if output.per == "token":
            config.batch_output.add(
                kind=pb.BatchOutput.BATCH_SCATTER_WITH_INPUT_SHAPE,
                target_name=[output.name],
                source_input=[text_field(tower.fields).ids],
            )
    options = dict(cuda_options(tower.fields))
    for name, numbers in CUDA_NUMBERS.items():
        config.parameters[name].string_value = numbers[options.pop(name)]
    for name, value in SESSION_OPTIONS.items():
        config.parameters[name].string_value = value
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    accelerators.add(name="cuda", parameters=options)


def _tensorrt(config: pb.ModelConfig, spec: ModelSpec, tower: Tower) -> None:
    """All profiles in each instance: Triton takes the one that fits a batch's shape."""
    config.default_model_filename = "model.plan"
    profiles = len(length_buckets(tower.vocabulary.max_tokens)) if tower.vocabulary else 1
    config.instance_group.add(
        count=spec.instances,
        kind=pb.ModelInstanceGroup.KIND_GPU,
        gpus=spec.gpus,
        profile=map(str, range(profiles)),
    )
    # A profile's context has memory for its own shapes. By default, each has as much as the largest one needs.
    config.parameters["execution_context_allocation_strategy"].string_value = "ON_PROFILE_CHANGE"


_BACKENDS: Mapping[Backend, Callable[[pb.ModelConfig, ModelSpec, Tower], None]] = {
    "python": _python,
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "tensorrt": _tensorrt,
}


def _digest(spec: ModelSpec, revision: str) -> str:
    """Tells the results of an entry of texts from those of others: a hash of its model's table, precision and source.

    The files of the entry are not part of it, so that the config is the same wherever it is rendered. Entries with one
    digest compute the same vectors within the tolerances that each of them was verified with.
    """
    of_texts = msgspec.structs.replace(spec, precision=spec.computes_in, image_source=None, image_revision=None)
    return hashlib.sha256(msgspec.json.encode((EDITION, of_texts, revision))).hexdigest()[:32]


def _parameters(spec: ModelSpec, tower: Tower, revision: str) -> Parameters:
    """The parameters that the gateway and model.py read, and the source of the weights."""
    parameters: Parameters = {
        "role": tower.role,
        "aliases": spec.aliases,
        "default": spec.default,
        "dimensions": spec.dimensions,
        "license": spec.license or "",
    }
    source = spec.image_source if spec.image_source and tower.role == IMAGE_EMBEDDING else spec.source
    if not source.startswith("/"):  # a path means nothing elsewhere
        parameters["source"] = source
    if spec.text_weight is not None:
        parameters["text_weight"] = spec.text_weight
    if tower.vocabulary is not None:
        parameters["max_tokens"] = tower.vocabulary.max_tokens
        parameters["vocabulary_size"] = tower.vocabulary.size
        parameters["digest"] = _digest(spec, revision)
        if spec.backend == "tensorrt":
            parameters["length_buckets"] = length_buckets(tower.vocabulary.max_tokens)
    if spec.backend == "python":
        parameters["graph"] = "model.xml" if spec.computes_in == "int8" else "model.onnx"
        parameters["precision"] = HINTS[spec.computes_in] or ""
    elif spec.backend == "torch":
        parameters["graph"] = PROGRAM
        if tower.vocabulary is not None:
            parameters["batch_tokens"] = Execution().tokens
        if tower.vision is not None:
            parameters["image_merge"] = tower.vision.merge
            if tower.vision.token >= 0:
                parameters["image_token"] = tower.vision.token
        parameters["precision"] = spec.computes_in
    return {**parameters, **tower.parameters}
