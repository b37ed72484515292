"""Renders config.pbtxt: what Triton needs to run an entry, and what the gateway needs to know of it."""

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as pb

from export.manifest import ModelSpec
from export.tasks import TASKS
from export.tower import TextTower

MAX_BATCH_SIZE = 64
"""Rows in one execution. The engine cuts them into packs of its own, so that more would only lengthen the wait of the
first; fewer would leave the packs uneven."""
WARMUP_TOKENS = 32


def render(spec: ModelSpec, tower: TextTower) -> str:
    """The text of config.pbtxt."""
    task = TASKS[spec.task]
    config = pb.ModelConfig(
        name=spec.name,
        backend="python",
        max_batch_size=MAX_BATCH_SIZE,
        input=[
            tensor
            for segment in task.segments
            for tensor in (
                pb.ModelInput(name=segment.ids, data_type=pb.TYPE_INT64, dims=[-1], allow_ragged_batch=True),
                pb.ModelInput(name=segment.length, data_type=pb.TYPE_INT32, dims=[1]),
            )
        ],
        output=[pb.ModelOutput(name=task.output, data_type=pb.TYPE_FP32, dims=[task.width(tower)])],
        instance_group=[pb.ModelInstanceGroup(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)],
        # No delay: what arrives while one batch runs makes the next. And no queue policy: with one, Triton 2.51 forms a
        # batch only when an instance waits for it, is not told when one does, and looks again at the next arrival or
        # after half a second. 64-row requests, eight at a time: 400 rows/s with a policy, 1,600 without.
        dynamic_batching=pb.ModelDynamicBatching(),
        model_warmup=[
            pb.ModelWarmup(
                name="warmup",
                batch_size=1,
                inputs={name: _warmup_input(name, data) for name, data in warmup(spec, tower).items()},
            )
        ],
        parameters={name: pb.ModelParameter(string_value=value) for name, value in _parameters(spec, tower).items()},
    )
    text: str = text_format.MessageToString(config)
    return text


def warmup(spec: ModelSpec, tower: TextTower) -> dict[str, NDArray[np.int64] | NDArray[np.int32]]:
    """The tensors of one warm-up request by input, without the batch dimension.

    Triton does not call a model ready before it has answered them. They are files of the entry, since the zeros that
    Triton can make up would be rows of length 0.
    """
    tensors: dict[str, NDArray[np.int64] | NDArray[np.int32]] = {}
    tokens = min(WARMUP_TOKENS, tower.max_tokens)
    for segment in TASKS[spec.task].segments:
        tensors[segment.ids] = np.zeros(tokens, np.int64)
        tensors[segment.length] = np.array([tokens], np.int32)
    return tensors


def _warmup_input(name: str, data: NDArray[np.int64] | NDArray[np.int32]) -> pb.ModelWarmup.Input:
    data_type = pb.TYPE_INT64 if data.dtype == np.int64 else pb.TYPE_INT32
    return pb.ModelWarmup.Input(data_type=data_type, dims=data.shape, input_data_file=name)


def _parameters(spec: ModelSpec, tower: TextTower) -> dict[str, str]:
    """What the gateway and model.py read, and where the weights are from; absent where there is nothing to say."""
    parameters = {
        "role": spec.task,
        "aliases": ",".join(spec.aliases),
        "default": "true" if spec.default else "",
        "dimensions": ",".join(map(str, spec.dimensions)),
        "max_tokens": str(tower.max_tokens),
        "vocabulary_size": str(tower.vocabulary_size),
        "source": "" if spec.source.startswith("/") else spec.source,  # a path means nothing elsewhere
        "licence": spec.licence or "",
    }
    return {name: value for name, value in parameters.items() if value}
