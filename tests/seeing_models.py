"""Entries that read texts and images together and answer by a formula of what they were sent.

Each is a real Triton model on the real python backend, with the tokenizer of `tests.gateway.service.vision`.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tests.gateway.service.vision import CHAT, PAD, PROCESSOR, SPECIAL, TEMPLATE, tokenizer

FORMULA = """
import json
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.inputs = [tensor["name"] for tensor in config["input"]]

    def execute(self, requests):
        answers = []
        for request in requests:
            given = {name: np.from_dlpack(triton.get_input_tensor_by_name(request, name)) for name in self.inputs}
            computed = self.compute(given)
            answers.append(triton.InferenceResponse([
                triton.Tensor.from_dlpack(name, np.ascontiguousarray(computed[name], np.float32))
                for name in request.requested_output_names()
            ]))
        return answers

    def compute(self, given):
        *query, ids, length, patches, grids = given.values()
        counts = np.arange(ids.shape[1]) < length
        seen = patches.astype(np.int64).sum((1, 2))[:, None] / 1e5
        shapes = (grids * [[[3, 1]]]).sum((1, 2))[:, None] / 1e2
        read = (ids * (1 + np.arange(ids.shape[1]) % 5) * counts).sum(1, keepdims=True) / 1e4
        vector = np.concatenate([read, seen, shapes, np.ones_like(read)], 1)
        own = np.broadcast_to(seen, ids.shape).copy()
        for row, of_row in enumerate(patches.astype(np.int64).sum(2)):
            place = np.flatnonzero((ids[row] == PAD) & counts[row])
            own[row, place] = of_row[: len(place) * 4].reshape(-1, 4).sum(1) / 1e4  # a merged patch has four
        tokens = np.stack([ids % 7 / 3, own, ids * 0 + 1], 2) * counts[..., None]
        score = read + seen + shapes
        computed = {"embedding": vector, "tokens": tokens}
        if query:
            score = score + query[0].sum(1, keepdims=True) / 1e4
            computed["query_tokens"] = np.stack([query[0] % 3, query[0] % 5 - 2, query[0] % 2 + 1], 2)
        return computed | {"score": score}
"""
PAIR = ("input_ids", "length")
LATE = ("query_ids", "query_length", "document_ids", "document_length")


def write_seeing_repository(target: Path) -> Path:
    """Fill `target` with an embedding model, a cross-encoder and a late-interaction model."""
    late = {"score": (1,), "tokens": (-1, 3), "query_tokens": (-1, 3)}
    chat = msgspec.json.encode(CHAT).decode()
    of_pages = msgspec.json.encode(msgspec.structs.replace(CHAT, text="")).decode()
    template = msgspec.json.encode({"prefix": TEMPLATE.prefix, "suffix": TEMPLATE.suffix}).decode()
    _write(target / "seeing", "text-embedding", PAIR, {"embedding": (4,)}, chat=chat, default="true")
    _write(target / "judging", "cross-encoder", PAIR, {"score": (1,)}, chat=chat, template=template, default="true")
    _write(target / "pages", "late-interaction", LATE, late, chat=of_pages)
    return target


def _write(
    entry: Path, role: str, texts: tuple[str, ...], outputs: Mapping[str, tuple[int, ...]], **parameters: str
) -> None:
    parameters |= {
        "role": role,
        "max_tokens": "256",
        "vocabulary_size": "1000",
        "image_token": str(SPECIAL.index(PAD)),
        "image_processor": msgspec.json.encode(PROCESSOR).decode(),
        "max_images": "4",
    }
    inputs = [
        pb.ModelInput(name=name, data_type=pb.TYPE_INT64, dims=[-1], allow_ragged_batch=True)
        if name.endswith("ids")
        else pb.ModelInput(name=name, data_type=pb.TYPE_INT32, dims=[1])
        for name in texts
    ]
    inputs.append(pb.ModelInput(name="patches", data_type=pb.TYPE_UINT8, dims=[-1, 48], allow_ragged_batch=True))
    inputs.append(pb.ModelInput(name="grids", data_type=pb.TYPE_INT32, dims=[-1, 2], allow_ragged_batch=True))
    config = pb.ModelConfig(
        name=entry.name,
        backend="python",
        max_batch_size=64,
        input=inputs,
        output=[pb.ModelOutput(name=name, data_type=pb.TYPE_FP32, dims=dims) for name, dims in outputs.items()],
        instance_group=[pb.ModelInstanceGroup(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)],
        dynamic_batching=pb.ModelDynamicBatching(max_queue_delay_microseconds=1000),
        parameters={name: pb.ModelParameter(string_value=value) for name, value in parameters.items()},
    )
    (entry / "1").mkdir(parents=True)
    (entry / "config.pbtxt").write_text(text_format.MessageToString(config))
    (entry / "1" / "model.py").write_text(FORMULA.replace("PAD", str(SPECIAL.index(PAD))))
    tokenizer().save(str(entry / "tokenizer.json"))
