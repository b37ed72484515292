"""What attention takes: by the numbers, and in the memory of a process."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from export.graphs import trace
from export.manifest import Backend, ModelSpec
from export.packing.attention import RowAttention, Sight
from export.packing.encoder import RowEncoder
from export.packing.layout import Layout
from export.packing.memory import BATCH_BYTES, SLICE_BYTES, Attention
from export.runtime.contract import Row
from export.sources.resolve import resolve
from export.tasks.load import load_towers
from export.tower import Tower
from export.verification.runners import OnnxRuntime
from loadtest.tools import tiny
from tests.export.outputs import assert_close, referenced

HEADS = 16
TOKENS = 2048
SCORES = HEADS * TOKENS**2 * 4
"""Bytes of one row, 256 MiB."""


def long(spec: ModelSpec, backend: Backend, max_tokens: int) -> tuple[ModelSpec, Tower]:
    """A model that takes rows of so many tokens, on a backend."""
    spec = msgspec.structs.replace(spec, backend=backend)
    (tower,) = load_towers(spec, resolve(spec))
    assert tower.vocabulary is not None
    return spec, replace(tower, vocabulary=replace(tower.vocabulary, max_tokens=max_tokens))


@pytest.mark.parametrize("backend", ["python", "torch"])
def test_fused_attention_keeps_no_scores(bert: ModelSpec, backend: Backend) -> None:
    attention = Attention.of(*long(bert, backend, 8192))
    assert attention == Attention(cell_bytes=0, slices=1)
    assert attention.rows(8192, BATCH_BYTES) is None


@pytest.mark.parametrize(("max_tokens", "slices"), [(512, 1), (4096, 1), (8192, 2), (32768, 32)])
def test_scores_of_long_rows_are_computed_in_slices(bert: ModelSpec, max_tokens: int, slices: int) -> None:
    fp32 = msgspec.structs.replace(bert, precision="fp32")
    assert Attention.of(*long(fp32, "onnxruntime", max_tokens)) == Attention(4 * 12, slices)


def test_fp16_takes_less(bert: ModelSpec) -> None:
    assert Attention.of(*long(bert, "tensorrt", 512)).cell_bytes == 4 * 8


def test_queries_and_documents_share_a_packed_batch(tmp_path: Path) -> None:
    source = tiny.write_colbert(tmp_path / "source", pylate=True)
    spec = ModelSpec(name="tiny", task="multi-vector", source=str(source), precision="fp32")
    assert Attention.of(*long(spec, "onnxruntime", 512)).cell_bytes == 2 * 4 * 12
    assert Attention.of(*long(spec, "tensorrt", 512)).cell_bytes == 4 * 12


def test_images_and_scores_that_are_a_models_own_are_not_sliced(bert: ModelSpec, tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path / "source", "MPNet")
    own = ModelSpec(name="tiny", task="text-embedding", source=str(source), precision="fp32")
    assert Attention.of(*long(own, "onnxruntime", 8192)) == Attention(4 * 12, 1)
    spec, tower = long(bert, "onnxruntime", 8192)
    assert Attention.of(spec, replace(tower, vocabulary=None)) == Attention()


@given(st.integers(1, 200), st.integers(1, 9000), st.integers(1, 9000))
def test_rows_fit_and_one_more_would_not(heads: int, most: int, tokens: int) -> None:
    attention = Attention(heads * 12, math.ceil(heads * 12 * most**2 / SLICE_BYTES))
    longest = min(tokens, most)
    row = heads * 12 * math.ceil(longest / attention.slices) * longest
    rows = attention.rows(longest, BATCH_BYTES)
    assert rows is not None
    assert rows == 1 or rows * row <= BATCH_BYTES
    assert (rows + 1) * row > BATCH_BYTES


@settings(deadline=None)  # not a matter of time
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    slices=st.integers(2, 9),
    causal=st.booleans(),
    window=st.sampled_from((None, 3)),
    softcap=st.sampled_from((None, 2.0)),
    biased=st.booleans(),
    packed=st.booleans(),
)
def test_slices_together_are_the_whole(
    lengths: list[int],
    slices: int,
    causal: bool,
    window: int | None,
    softcap: float | None,
    biased: bool,
    packed: bool,
) -> None:
    length, width = torch.tensor(lengths), max(lengths)
    attended = torch.arange(width)[None] < length[:, None]
    layout = Layout.of(length) if packed else None
    batch, tokens = (1, sum(lengths)) if packed else (len(lengths), width)
    numbers = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=numbers)

    query, key, value = random(batch, 4, tokens, 8), random(batch, 2, tokens, 8), random(batch, 2, tokens, 8)
    bias = random(1, 4, width, width) if biased else None
    whole, sliced = (
        RowAttention(attended, layout, n)(query, key, value, Sight(causal, window), 0.3, softcap=softcap, bias=bias)
        for n in (1, slices)
    )
    torch.testing.assert_close(sliced, whole)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Tower:
    """One layer whose only weight is the scores of its rows."""
    source = tiny.write_plain(
        tmp_path_factory.mktemp("long"),
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        max_position_embeddings=TOKENS,
    )
    spec = ModelSpec(name="tiny", task="text-embedding", source=str(source), pooling="mean", max_tokens=TOKENS)
    return load_towers(spec, resolve(spec))[0]


def traced(tower: Tower, folder: Path, slices: int) -> Path:
    trace.trace(tower, folder / "model.onnx", ragged=True, slices=slices)
    return folder / "model.onnx"


RUNNERS = {
    "onnxruntime": 'OnnxRuntime(path, FIELDS[:1], OUTPUTS, "fp32", ragged=True)',
    "openvino": 'OpenVino(path, "fp32")',
}
TAKEN = """
import sys
from pathlib import Path
import numpy as np
from export.verification.runners import OnnxRuntime, OpenVino
from export.runtime.contract import FIELDS, Output

OUTPUTS = [Output("embedding", (16,)), Output("tokens", (16,), "token")]

def most():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10

path = Path(sys.argv[1])
runner = {runner}
runner.run([(np.full(3, 5, np.int64),)])
before = most()
runner.run([(np.full({tokens}, 5, np.int64),)])
print(most() - before)
"""


def taken(runner: str, path: Path) -> int:
    """Bytes that a row of TOKENS tokens takes beyond a short one, in a process that has had nothing before."""
    script = TAKEN.format(runner=RUNNERS[runner], tokens=TOKENS)
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_of_a_long_row_is_that_of_a_slice(tower: Tower, tmp_path: Path) -> None:
    paths = [tmp_path / str(slices) for slices in (1, 8)]
    for path in paths:
        path.mkdir()
    whole, sliced = (taken("onnxruntime", traced(tower, path, int(path.name))) for path in paths)
    assert whole > 2 * SCORES
    assert sliced < SCORES


def test_openvino_never_has_the_scores_whole(tower: Tower, tmp_path: Path) -> None:
    assert taken("openvino", traced(tower, tmp_path, 1)) < SCORES / 2


def test_slices_of_a_graph_are_exact_at_any_length(tower: Tower, tmp_path: Path) -> None:
    runner = OnnxRuntime(traced(tower, tmp_path, 8), tower.fields, tower.outputs, "fp32", ragged=True)
    rows: list[Row] = [(np.arange(5, 5 + length) % 300,) for length in (1, 3, 8, 9, 100)]
    assert_close(runner.run(rows)["embedding"], referenced(tower, rows))


def test_encoder_knows_its_heads() -> None:
    assert RowEncoder(tiny.base("BERT").eval(), "python").heads == 4
