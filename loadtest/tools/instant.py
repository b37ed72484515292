"""Models that compute nothing, on a real Triton: what is measured in front of them is the gateway alone."""

import math
import shutil
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from loadtest.tools.servers import REPOSITORY
from loadtest.tools.workloads import EMBEDDING_MODEL, RERANK_MODEL

VERSION = "1"
MODEL = """
import ctypes, json, time
import numpy as np
import triton_python_backend_utils as triton

set_destructor = ctypes.pythonapi.PyCapsule_SetDestructor
set_destructor.argtypes = (ctypes.py_object, ctypes.c_void_p)

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        (output,) = config["output"]
        self.input, self.output = config["input"][0]["name"], output["name"]
        shape = config["max_batch_size"], int(output["dims"][-1])
        self.vectors = np.random.default_rng(0).standard_normal(shape, np.float32)

    def execute(self, requests):
        time.sleep(sum(map(self.tokens, requests)) / TOKENS_PER_SECOND)
        return [triton.InferenceResponse([self.answer(request)]) for request in requests]

    def tokens(self, request):
        return int(np.from_dlpack(triton.get_input_tensor_by_name(request, "length")).sum())

    def answer(self, request):
        rows = triton.get_input_tensor_by_name(request, self.input).shape()[0]
        capsule = self.vectors[:rows].copy().__dlpack__()
        tensor = triton.Tensor.from_dlpack(self.output, capsule)
        set_destructor(capsule, None)  # as in export/runtime/model.py
        return tensor
"""


def write(repository: Path, tokens_per_second: float = math.inf) -> Path:
    """Fill a folder with an embedding model and a cross-encoder, and return it.

    They have the tokenizer, the limits and the width of the default model, which must be exported, and answer each row
    with random numbers: at once, or asleep for as long as a model with a certain speed would compute.
    """
    model = f'TOKENS_PER_SECOND = float("{tokens_per_second}")\n{MODEL}'
    default = REPOSITORY / EMBEDDING_MODEL
    config = text_format.Parse((default / "config.pbtxt").read_text(), pb.ModelConfig())
    config.ClearField("model_warmup")
    del config.output[1:], config.parameters["tokens_pooling"]
    _write(repository, default, config, model)
    config.name = RERANK_MODEL
    for parameter in ("aliases", "default"):
        del config.parameters[parameter]
    config.parameters["role"].string_value = "cross-encoder"
    config.output[0].dims[:] = [1]
    _write(repository, default, config, model)
    return repository


def _write(repository: Path, default: Path, config: pb.ModelConfig, model: str) -> None:
    entry = repository / config.name
    (entry / VERSION).mkdir(parents=True)
    (entry / VERSION / "model.py").write_text(model)
    (entry / "config.pbtxt").write_text(text_format.MessageToString(config))
    shutil.copy(default / "tokenizer.json", entry)
