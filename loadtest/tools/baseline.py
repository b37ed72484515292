"""infinity-emb, which is compared with: in a virtual environment of its own, with the same weights as Conch."""

import json
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from export.sources.isolation import Progress
from loadtest.tools.repository import FOLDER, cross_encoder, source
from loadtest.tools.servers import HOST, Server, free_ports, run
from loadtest.tools.workloads import EMBEDDING_MODEL, RERANK_MODEL

PYTHON = FOLDER / "venv" / "bin" / "python"
PACKAGES = ("infinity_emb", "torch", "onnxruntime", "optimum", "transformers")


def prepare(progress: Progress) -> None:
    """Write the models that are not there yet."""
    cross_encoder()
    for name, output in ((EMBEDDING_MODEL, "last_hidden_state"), (RERANK_MODEL, "logits")):
        if not graph(name).exists():
            progress(f"export {name} for infinity-emb")
            shutil.copytree(source(name), folder(name), dirs_exist_ok=True)
            _trace(name, output, graph(name))


class _Padded(torch.nn.Module):
    """A model's first output. torch's tracer gives a model all arguments by place, which transformers does not take."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        first: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)[0]
        return first


def _trace(name: str, output: str, path: Path) -> None:
    """Write a graph of padded batches, as optimum does; its own exporter does not run with this torch."""
    kind = AutoModel if output == "last_hidden_state" else AutoModelForSequenceClassification
    # ONNX Runtime knows attention by its plain operators.
    model = kind.from_pretrained(source(name), attn_implementation="eager").eval()
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {given: {0: "batch", 1: "sequence"} for given in inputs} | {output: {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants, which these are
        torch.onnx.export(
            _Padded(model),
            tuple(torch.ones(2, 16, dtype=torch.int64) for _ in inputs),
            path,
            input_names=inputs,
            output_names=[output],
            dynamic_axes=axes | ({output: {0: "batch", 1: "sequence"}} if output == "last_hidden_state" else {}),
            opset_version=17,
            dynamo=False,
        )


@contextmanager
def serve(engine: str, models: Mapping[str, Path]) -> Iterator[Server]:
    """Serve folders by public names.

    Args:
        engine: "torch" or "optimum", which is ONNX Runtime.
        models: folders by name.
    """
    (port,) = free_ports(1)
    command = [str(PYTHON.with_name("infinity_emb")), "v2", "--host", HOST, "--port", str(port), "--url-prefix", "/v1"]
    for name, folder in models.items():
        command += ["--model-id", str(folder.resolve()), "--served-model-name", name]
        command += ["--engine", engine, "--device", "cpu", "--pooling-method", "mean"]  # optimum does not read it
    quiet = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    log = FOLDER / f"{engine}.log"
    with run(f"infinity ({engine})", command, port, "/health", log, quiet, {"port": port}) as server:
        yield replace(server, models=frozenset(models))


def versions() -> dict[str, str]:
    """Of what matters in its virtual environment."""
    command = [str(PYTHON), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603 - our own command
    return {package["name"]: package["version"] for package in listed if package["name"] in PACKAGES}


def folder(name: str) -> Path:
    """The folder of a model that infinity-emb serves: in transformers' form, with an ONNX graph."""
    return FOLDER / "models" / name


def graph(name: str) -> Path:
    """Its ONNX graph, of padded batches."""
    return folder(name) / "model.onnx"
