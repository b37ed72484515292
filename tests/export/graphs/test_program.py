"""Programs of torch.export: what is in them, and what is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.errors import SourceError
from export.graphs import program
from export.manifest import ModelSpec, Task
from export.repository import build
from export.runtime import program as files
from export.runtime.inputs import Sizes
from export.runtime.program import ProgramSpec
from export.runtime.torch_engine import Engine
from export.sources.resolve import resolve
from export.tasks.load import load_towers
from export.tower import Tower
from loadtest.tools import tiny
from tests.export.outputs import computed, referenced

CPU = torch.device("cpu")


def tower(task: Task, source: Path, **keys: str) -> Tower:
    spec = ModelSpec(name="tiny", task=task, source=str(source), backend="torch", **keys)  # type: ignore[arg-type]
    return load_towers(spec, resolve(spec))[0]


SOURCES: dict[str, tuple[Task, Callable[[Path], Path]]] = {
    "ModernBERT, windows": ("text-embedding", lambda folder: tiny.write_embedding(folder, name="ModernBERT")),
    "Qwen3, grouped heads": ("text-embedding", lambda folder: tiny.write_embedding(folder, "Qwen3", "lasttoken")),
    "ModernBERT, late interaction": (
        "multi-vector",
        lambda folder: tiny.write_multi_vector(
            folder, name="ModernBERT", query_expansion={"strategy": "fixed", "length": 32}
        ),
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_no_tensor_grows_faster_than_the_tokens(name: str, tmp_path: Path) -> None:
    task, write = SOURCES[name]
    program.write(tower(task, write(tmp_path / "source")), tmp_path, "fp32")
    spec = ProgramSpec.read(tmp_path / files.SPEC)
    loaded = files.load(tmp_path, CPU)
    inputs = dict(zip(spec.inputs, loaded.graph_signature.user_inputs, strict=True))
    values = {node.name: node.meta["val"] for node in loaded.graph.nodes if isinstance(node.meta.get("val"), Tensor)}
    (tokens,) = values[inputs["ids"]].shape[0].node.expr.free_symbols
    (longest,) = values[inputs["longest"]].shape[0].node.expr.free_symbols
    for node, value in values.items():
        sizes = [size.node.expr for size in value.shape if isinstance(size, torch.SymInt)]
        of_tokens = [size for size in sizes if size.free_symbols]
        if node not in inputs.values():
            assert not any(longest in size.free_symbols for size in sizes), node
        assert sum(tokens in size.free_symbols for size in of_tokens) <= 1, node
        assert len(of_tokens) <= 1, node  # neither tokens by tokens nor rows by tokens
    assert not spec.padded
    assert spec.head_width == tiny.WIDTH // spec.heads


def test_program_that_pads_says_so(tmp_path: Path) -> None:
    program.write(tower("text-embedding", tiny.write_embedding(tmp_path / "source", name="T5")), tmp_path, "fp32")
    assert ProgramSpec.read(tmp_path / files.SPEC).padded


def test_weights_are_in_the_precision_and_tables_of_positions_are_not(tmp_path: Path) -> None:
    given = tower("text-embedding", tiny.write_embedding(tmp_path / "source", "Qwen3", "lasttoken"))
    program.write(given, tmp_path, "bf16")
    assert {weight.dtype for weight in load_file(tmp_path / files.WEIGHTS).values()} == {torch.bfloat16}
    constants = files.load(tmp_path, CPU).constants
    assert {value.dtype for name, value in constants.items() if name.endswith("inv_freq")} == {torch.float32}
    # What was converted is a copy.
    assert {weight.dtype for weight in given.head.state_dict().values()} == {torch.float32}


def test_pooler_that_a_model_holds_stays_in_fp32(tmp_path: Path) -> None:
    program.write(tower("cross-encoder", tiny.write_cross_encoder(tmp_path / "source")), tmp_path, "fp16")
    types = {name: weight.dtype for name, weight in load_file(tmp_path / files.WEIGHTS).items()}
    behind = {name for name, kind in types.items() if kind == torch.float32}
    assert {name for name in types if "pooler" in name or "classifier" in name} == behind
    assert len(behind) < len(types) / 2


def test_rows_together_are_what_they_are_alone(tmp_path: Path) -> None:
    given = tower("text-embedding", tiny.write_embedding(tmp_path / "source", name="ModernBERT"))
    engine = Engine(program.write(given, tmp_path, "fp32"))
    rows = given.samples()
    alone = np.concatenate([computed(engine, [row]) for row in rows])
    np.testing.assert_allclose(computed(engine, rows), alone, atol=1e-6)
    np.testing.assert_allclose(alone, referenced(given, rows), atol=1e-5)


@pytest.mark.parametrize("name", ["RoBERTa", "GPT-2"])
def test_bucket_may_have_more_tokens_than_a_row_has_positions(name: str, tmp_path: Path) -> None:
    pooling = "lasttoken" if name == "GPT-2" else "mean"
    given = tower("text-embedding", tiny.write_embedding(tmp_path / "source", name, pooling))
    engine = Engine(program.write(given, tmp_path, "fp32"))
    rows = given.samples()[:3]
    expected = computed(engine, rows)
    engine.prepare([Sizes(tokens=1024, rows=5, longest=512)])
    np.testing.assert_allclose(computed(engine, rows), expected, atol=1e-6)
    assert engine.counts.padding > 512


@pytest.mark.parametrize(("name", "causal"), [("BERT", False), ("Qwen3", True), ("Qwen3, bidirectional", False)])
def test_decoders_are_told_apart(name: str, causal: bool, tmp_path: Path) -> None:
    assert program.is_causal(tower("text-embedding", tiny.write_embedding(tmp_path, name=name))) is causal


def test_model_that_cannot_be_traced_is_refused_in_one_sentence(tmp_path: Path) -> None:
    class Asks(torch.nn.Module):
        def forward(self, rows: object) -> dict[str, Tensor]:
            hidden: Tensor = rows.ids  # type: ignore[attr-defined]
            return {"embedding": hidden if hidden.sum() > 0 else -hidden}

    given = tower("text-embedding", tiny.write_embedding(tmp_path / "source"))
    object.__setattr__(given, "head", Asks())
    with pytest.raises(SourceError, match=r"^\[tiny\] source: this architecture cannot be traced: [^\n]+$"):
        program.write(given, tmp_path, "fp32")


def test_model_beyond_the_range_of_fp16_is_served_in_bf16(tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    large = {
        name: value * 1e6 if "embeddings" in name and value.dim() > 1 else value for name, value in weights.items()
    }
    save_file(large, source / "model.safetensors", {"format": "pt"})
    spec = ModelSpec(name="tiny", task="text-embedding", source=str(source), backend="torch")
    (entry,) = build(spec, tmp_path / "repository", lambda _: None)
    assert entry.proof["precision"] == "bf16"
    assert entry.proof["rejected"]["fp16"].startswith("verify tiny in fp16, rows alone: embedding: cosine error nan")
    assert {one["precision"] for one in entry.proof["parity"]} == {"fp32", "bf16"}
    assert ProgramSpec.read(entry.folder / "1" / files.SPEC).precision == "bf16"
