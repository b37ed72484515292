"""Entries that a healthy export never makes: what the gateway must bear all the same.

Each is a real Triton model on the real python backend, with the tokenizer of the default one.
"""

import shutil
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

BEHAVIOURS = {
    "nan": "result[0, 0] = np.nan",
    "short": "result = np.ascontiguousarray(result[:-1])",
    "narrow": "result = np.ascontiguousarray(result[:, :100])",
    "raising": "raise RuntimeError('a secret path')",
    "slow": "time.sleep(3)",
    "queueing": "time.sleep(0.5)",
}


def write_odd_repository(repository: Path, target: Path) -> Path:
    """Fill `target` with the models of `BEHAVIOURS`, a Matryoshka model, one of somebody else's and a broken one."""
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
    return target


def _write(entry: Path, config: pb.ModelConfig, tokenizer: Path | None) -> None:
    (entry / "1").mkdir(parents=True)
    config.name = entry.name
    (entry / "config.pbtxt").write_text(text_format.MessageToString(config))
    if tokenizer is not None:
        shutil.copy(tokenizer, entry)
