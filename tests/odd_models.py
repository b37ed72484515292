"""Entries for what the default models leave untested: answers that no healthy export gives, and kinds they are not of.

Each is a real Triton model on the real python backend, with the tokenizer of the default one.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

MODEL = """
import time
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            length = np.from_dlpack(triton.get_input_tensor_by_name(request, "length"))
            result = np.ones((len(length), 384), np.float32)
            is_canary = length.max() < 2
            if not is_canary:
                {behaviour}
            answers.append(triton.InferenceResponse([triton.Tensor.from_dlpack("embedding", result)]))
        return answers
"""

ECHO = """
import json
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        (output,) = config["output"]
        self.output, self.width = output["name"], int(output["dims"][-1])

    def execute(self, requests):
        answers = []
        for request in requests:
            tensors = {name: np.from_dlpack(triton.get_input_tensor_by_name(request, name)) for name in self.inputs}
            segments = [name for name in self.inputs if name.endswith("ids")]
            total = sum(tensors[name].sum(1, keepdims=True) for name in segments)
            stored = np.full_like(total, sum(tensors[name].shape[1] for name in segments))
            first = tensors.get("first_length", stored)
            result = np.concatenate([total / 1e5, first / 100], 1)[:, :self.width].astype(np.float32)
            answers.append(triton.InferenceResponse([triton.Tensor.from_dlpack(self.output, result)]))
        return answers
"""
"""Answers each row with the sum of its ids / 100,000, then the length of its first segment, or the stored length where
it is not told that, / 100."""

FORMULA = """
import json
import numpy as np
import triton_python_backend_utils as triton

SKIPPED, EXPANDED = 1012, 8

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.terms = next((int(out["dims"][0]) for out in config["output"] if out["name"] == "sparse_weights"), 0)

    def execute(self, requests):
        answers = []
        for request in requests:
            computed = self.compute({
                name: np.from_dlpack(triton.get_input_tensor_by_name(request, name)) for name in self.inputs
            })
            wanted = [
                triton.Tensor.from_dlpack(name, np.ascontiguousarray(computed[name]))
                for name in request.requested_output_names()
            ]
            answers.append(triton.InferenceResponse(wanted))
        return answers

    def compute(self, given):
        *query, ids, length = given.values()
        counts = np.arange(ids.shape[1]) < length
        weights = (counts * (ids % 5) / 4).astype(np.float32)
        terms = self.terms if self.terms > 0 else ids.shape[1]
        computed = {
            "embedding": self.vectors(ids, counts).sum(1),
            "tokens": self.vectors(ids, counts & (ids != SKIPPED)),
            "sparse_indices": np.pad(ids, ((0, 0), (0, terms)))[:, :terms].astype(np.int32),
            "sparse_weights": np.pad(weights, ((0, 0), (0, terms)))[:, :terms],
        }
        if query:
            total = query[0].sum(1, keepdims=True) + ids.sum(1, keepdims=True)
            expanded = np.pad(query[0], ((0, 0), (0, EXPANDED)))
            counts = np.arange(expanded.shape[1]) < np.maximum(query[1], EXPANDED)
            computed["query_tokens"] = self.vectors(expanded, counts)
            computed["score"] = (total / 1e5).astype(np.float32)
        return computed

    def vectors(self, ids, counts):
        place = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        parts = [ids / 1000, place, ids % 7 - 3, place % 3 - 1, ids * 0 + 1, ids % 2, -place, ids % 3]
        return np.stack(parts, 2).astype(np.float32) * counts[..., None].astype(np.float32)
"""
"""Computes every output by a formula of the ids and their places: 8 dimensions, queries of at least 8 tokens, and terms
whose weights are the remainder of the id by 5, / 4."""

TEMPLATE = {"prefix": "[CLS] query: {query} [SEP] document: ", "suffix": " [SEP]"}
INSTRUCTED = {"prefix": "[CLS] {instruction} query: {query} [SEP] document: ", "suffix": " [SEP]"}
INSTRUCT = {"query": "Instruct: find shells\nQuery: ", "document": "passage: "}
INSTRUCT_FORMS = {"query": "Instruct: {instruction}\nQuery: "}
PROMPTS = {"query": "question: ", "document": "passage: "}

BEHAVIOURS = {
    "nan": "result[0, 0] = np.nan",
    "short": "result = np.ascontiguousarray(result[:-1])",
    "narrow": "result = np.ascontiguousarray(result[:, :100])",
    "raising": "raise RuntimeError('a secret path')",
    "slow": "time.sleep(3)",
    "queueing": "time.sleep(0.5)",
    "nan-if-long": "result[length[:, 0] > 8] = np.nan",
    "raising-if-long": "assert length.max() <= 8",
}


def write_odd_repository(repository: Path, target: Path) -> Path:
    """Fill `target`: the models of `BEHAVIOURS`, a Matryoshka model, one of somebody else's, a broken one, echoes."""
    default = repository / "all-minilm-l6-v2"
    config = text_format.Parse((default / "config.pbtxt").read_text(), pb.ModelConfig())
    del config.parameters["aliases"]
    for name, behaviour in BEHAVIOURS.items():
        odd = pb.ModelConfig()
        odd.CopyFrom(config)
        odd.ClearField("model_warmup")
        del odd.parameters["default"]
        if name == "queueing":
            odd.dynamic_batching.default_queue_policy.max_queue_size = 1
            odd.max_batch_size = 1
        _write(target / name, odd, tokenizer=default / "tokenizer.json")
        (target / name / "1" / "model.py").write_text(MODEL.format(behaviour=behaviour))
    config.parameters["dimensions"].string_value = "64,128"
    _write(target / "matryoshka", config, tokenizer=default / "tokenizer.json")
    for folder in ("1", "warmup"):
        shutil.copytree(default / folder, target / "matryoshka" / folder, dirs_exist_ok=True)
    config.ClearField("model_warmup")
    for name, tokenizer in (("foreign", default / "tokenizer.json"), ("without-tokenizer", None)):
        if name == "foreign":
            config.ClearField("parameters")
        else:
            config.parameters["role"].string_value = "text-embedding"
            config.parameters["max_tokens"].string_value = "256"
            config.parameters["vocabulary_size"].string_value = "30522"
        _write(target / name, config, tokenizer)
        (target / name / "1" / "model.py").write_text(MODEL.format(behaviour="pass"))
    pair = ("input_ids", "length")
    _write_echo(target / "pair-score", default, "cross-encoder", pair, 1, activation="sigmoid", name="public-score")
    _write_echo(
        target / "pair-classes",
        default,
        "cross-encoder",
        (*pair, "first_length"),
        2,
        activation="softmax",
        positive_class="1",
    )
    _write_echo(target / "templated", default, "cross-encoder", pair, 1, template=json.dumps(TEMPLATE))
    template = json.dumps(TEMPLATE | {"instructed": INSTRUCTED})
    _write_echo(target / "templated-instructed", default, "cross-encoder", pair, 1, template=template)
    prompts, forms = json.dumps(INSTRUCT), json.dumps(INSTRUCT_FORMS)
    for name, role in (("embedding-instructed", "text-embedding"), ("pair-instructed", "cross-encoder")):
        told = {"prompts": prompts, "instructed_prompts": forms}
        told |= {"default_prompt": "query"} if role == "cross-encoder" else {}
        _write_echo(target / name, default, role, pair, 1, **told)
    _write_echo(target / "two-labels", default, "classifier", pair, 2, labels='["sea", "land"]', activation="softmax")
    prompts = json.dumps(PROMPTS)
    _write_echo(target / "prompted", default, "text-embedding", pair, 1, prompts=prompts, default_prompt="document")
    _write_echo(target / "bucketed", default, "text-embedding", pair, 2, length_buckets="16,64,256")
    late = ("query_ids", "query_length", "document_ids", "document_length")
    _write_echo(target / "prompted-late", default, "late-interaction", late, 1, prompts=prompts)
    _write_echo(target / "short-query", default, "late-interaction", late, 1, prompts=prompts, max_query_tokens="8")
    ragged = {"tokens": (-1, 8), "query_tokens": (-1, 8), "sparse_indices": (-1,), "sparse_weights": (-1,)}
    outputs = {"score": (1,), "embedding": (8,), **ragged}
    told = {"prompts": prompts, "max_query_tokens": "8", "dimensions": "4"}
    _write_formula(target / "every-output", default, "late-interaction", late, outputs, **told)
    outputs = {"sparse_indices": (4,), "sparse_weights": (4,)}
    _write_formula(target / "four-terms", default, "text-embedding", pair, outputs, default="true")
    outputs = {"embedding": (8,), "tokens": (-1, 8)}
    _write_formula(target / "mean", default, "text-embedding", pair, outputs, prompts=prompts, tokens_pooling="mean")
    return target


def _write_formula(
    entry: Path,
    donor: Path,
    role: str,
    inputs: tuple[str, ...],
    outputs: Mapping[str, tuple[int, ...]],
    **parameters: str,
) -> None:
    _write(entry, _config(role, inputs, outputs, **parameters), tokenizer=donor / "tokenizer.json")
    (entry / "1" / "model.py").write_text(FORMULA)


def _write_echo(entry: Path, default: Path, role: str, inputs: tuple[str, ...], width: int, **parameters: str) -> None:
    _write(entry, _config(role, inputs, {"echo": (width,)}, **parameters), tokenizer=default / "tokenizer.json")
    (entry / "1" / "model.py").write_text(ECHO)


def _config(
    role: str, inputs: tuple[str, ...], outputs: Mapping[str, tuple[int, ...]], **parameters: str
) -> pb.ModelConfig:
    parameters |= {"role": role, "max_tokens": "256", "vocabulary_size": "30522"}
    return pb.ModelConfig(
        backend="python",
        max_batch_size=64,
        input=[
            pb.ModelInput(name=name, data_type=pb.TYPE_INT64, dims=[-1], allow_ragged_batch=True)
            if name.endswith("ids")
            else pb.ModelInput(name=name, data_type=pb.TYPE_INT32, dims=[1])
            for name in inputs
        ],
        output=[
            pb.ModelOutput(name=name, data_type=pb.TYPE_INT32 if name == "sparse_indices" else pb.TYPE_FP32, dims=dims)
            for name, dims in outputs.items()
        ],
        instance_group=[pb.ModelInstanceGroup(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)],
        parameters={name: pb.ModelParameter(string_value=value) for name, value in parameters.items()},
    )


def _write(entry: Path, config: pb.ModelConfig, tokenizer: Path | None) -> None:
    (entry / "1").mkdir(parents=True)
    config.name = entry.name
    (entry / "config.pbtxt").write_text(text_format.MessageToString(config))
    if tokenizer is not None:
        shutil.copy(tokenizer, entry)
