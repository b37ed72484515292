"""ONNX Runtime on a CPU computes fp16 in fp32; onnx's own evaluator rounds wherever the graph says so, and is slow."""

import shutil
import warnings
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper, parser
from onnx.external_data_helper import uses_external_data
from onnx.reference import ReferenceEvaluator
from onnxruntime import InferenceSession

from export.errors import SourceError
from export.graphs import trace
from export.graphs.fp16 import convert
from export.manifest import ModelSpec
from export.sources.resolve import resolve
from export.tasks.load import load_towers

Vectors = NDArray[np.float32]
Feed = dict[str, NDArray[np.generic]]

LENGTHS = (3, 4, 9, 22, 56, 128, 256)


@pytest.fixture(scope="module")
def graphs(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The default models' graphs, as they are and converted."""
    folder = tmp_path_factory.mktemp("half")
    pairs = {}
    for name in ("all-minilm-l6-v2", "minilm-late-interaction"):
        original = repository / name / "1" / "model.onnx"
        converted = Path(shutil.copytree(original.parent, folder / name)) / original.name
        convert(converted)
        pairs[name] = original, converted
    return pairs


def packed(random: np.random.Generator, lengths: list[int], prefix: str = "") -> Feed:
    length = np.array(lengths, np.int32)
    ids = random.integers(1000, 20000, length.sum())
    if prefix:
        return {f"{prefix}_ids": ids, f"{prefix}_stride": length, f"{prefix}_length": length[:, None]}
    return {"input_ids": ids, "row_stride": length, "length": length[:, None]}


def run(path: Path, feed: Feed) -> Vectors:
    result = InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    assert result.dtype == np.float32
    return result


def evaluate(path: Path, feed: Feed) -> list[Vectors]:
    """Computes in the types of the graph, as TensorRT would."""
    results = cast(list[Vectors], ReferenceEvaluator(str(path)).run(None, feed))
    assert all(result.dtype == np.float32 for result in results)
    return results


def cosines(left: Vectors, right: Vectors) -> Vectors:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    result: Vectors = (left * right).sum(1) / norms
    return result


def write(folder: Path, text: str, **constants: NDArray[np.float32]) -> Path:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def typed(path: Path) -> ModelProto:
    """The model with the types of all its tensors, which must agree."""
    onnx.checker.check_model(path)
    return onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)


def test_embeddings_of_all_lengths_are_those_of_fp32(graphs: dict[str, tuple[Path, Path]]) -> None:
    original, converted = graphs["all-minilm-l6-v2"]
    random = np.random.default_rng(7)
    for lengths in [*([length] for length in LENGTHS), list(LENGTHS)]:
        feed = packed(random, lengths)
        assert cosines(run(original, feed), run(converted, feed)).min() >= 0.99999


def test_embeddings_are_those_of_fp32_where_fp16_rounds(graphs: dict[str, tuple[Path, Path]]) -> None:
    original, converted = graphs["all-minilm-l6-v2"]
    feed = packed(np.random.default_rng(7), [3, 22, 56])
    assert cosines(run(original, feed), evaluate(converted, feed)[0]).min() >= 0.9999


def test_scores_of_all_lengths_are_those_of_fp32(graphs: dict[str, tuple[Path, Path]]) -> None:
    original, converted = graphs["minilm-late-interaction"]
    random = np.random.default_rng(7)
    queries = packed(random, [5, 5, 12, 12, 30, 30, 256], "query")
    feed = queries | packed(random, list(LENGTHS), "document")
    assert np.abs(run(original, feed) - run(converted, feed)).max() <= 1e-3


@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "minilm-late-interaction"])
def test_types_agree_and_sensitive_operators_are_fed_fp32(name: str, graphs: dict[str, tuple[Path, Path]]) -> None:
    original, converted = graphs[name]
    before_size, after_size = (path.with_name("model.onnx.data").stat().st_size for path in (original, converted))
    assert after_size < 0.51 * before_size
    before, after = onnx.load(original), typed(converted)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert (after.opset_import, after.ir_version) == (before.opset_import, before.ir_version)
    types = {value.name: value.type.tensor_type.elem_type for value in after.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    fed = {op: set[int]() for op in ("LayerNormalization", "ReduceSum", "Erf", "MatMul")}
    for node in after.graph.node:
        if node.op_type in fed:
            fed[node.op_type].update(types[tensor] for tensor in node.input)
    assert fed.pop("MatMul") == {TensorProto.FLOAT16}
    assert fed.pop("ReduceSum") <= {TensorProto.FLOAT, TensorProto.INT64}
    assert fed == {"LayerNormalization": {TensorProto.FLOAT}, "Erf": {TensorProto.FLOAT}}


@pytest.mark.parametrize("ragged", [True, False])
def test_attention_has_only_its_mask_between_its_products(bert: ModelSpec, ragged: bool, tmp_path: Path) -> None:
    # TensorRT fuses nothing else (docs.nvidia.com/deeplearning/tensorrt, Fused Attention).
    spec = msgspec.structs.replace(bert, backend="onnxruntime" if ragged else "tensorrt")
    (tower,) = load_towers(spec, resolve(spec))
    trace.trace(tower, tmp_path / "model.onnx", ragged=ragged)
    convert(tmp_path / "model.onnx")
    graph = typed(tmp_path / "model.onnx").graph
    makers = {name: node for node in graph.node for name in node.output}
    users = {name: node for node in graph.node for name in node.input}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 3  # layers
    for softmax in softmaxes:
        mask = makers[softmax.input[0]]
        before = [makers[name].op_type for name in mask.input if name in makers]
        assert (mask.op_type, "MatMul" in before) == ("Where", True)
        assert users[softmax.output[0]].op_type == "MatMul"


class Normalized(torch.nn.Module):
    """A linear layer between two RMSNorms, as transformers writes them."""

    def __init__(self, *, by_product: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.by_product = by_product
        self.embedding = torch.nn.Parameter(torch.randn(50, 64) * 400)
        self.linear = torch.nn.Linear(64, 64)
        self.scale = torch.nn.Parameter(torch.rand(64) + 0.5)

    def norm(self, hidden: torch.Tensor) -> torch.Tensor:
        squares = hidden * hidden if self.by_product else hidden.pow(2)
        return self.scale * (hidden * torch.rsqrt(squares.mean(-1, keepdim=True) + 1e-6))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Take int64 [N], and norm fp16 values whose squares would overflow."""
        hidden = self.embedding[ids]
        return self.norm(hidden + 500 * self.linear(self.norm(hidden)))


@pytest.mark.parametrize("by_product", [False, True])
def test_squares_beyond_fp16_are_computed_in_fp32(by_product: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ids = torch.arange(50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that this exporter has a successor
        torch.onnx.export(
            Normalized(by_product=by_product).eval(), (ids,), path, input_names=["ids"], opset_version=17, dynamo=False
        )
    feed: Feed = {"ids": ids.numpy()}
    expected = run(path, feed)
    convert(path)
    typed(path)
    assert cosines(expected, evaluate(path, feed)[0]).min() >= 0.9999


def test_positions_keep_their_exact_angles(tmp_path: Path) -> None:
    rotary = (
        "g (int64[t, 1] position) => (float[t, 4] angle)"
        "{ number = Cast<to = 1>(position) turned = MatMul(number, frequency) angle = Sin(turned) }"
    )
    path = write(tmp_path, rotary, frequency=np.array([[1, 0.1, 0.01, 0.001]], np.float32))
    feed: Feed = {"position": np.array([[3], [2049], [8191]])}
    expected = run(path, feed)
    convert(path)
    assert np.abs(expected - evaluate(path, feed)[0]).max() < 1e-5


def test_mask_of_the_lowest_number_still_masks(tmp_path: Path) -> None:
    masked = (
        "g (float[2, 8] query) => (float[2, 3] weight) <float lowest = {-3.4028235e38}>"
        "{ score = MatMul(query, key) hidden = Cast<to = 1>(flag) bias = Mul(hidden, lowest)"
        " biased = Add(score, bias) blocked = Add(biased, table) weight = Softmax(blocked) }"
    )
    table = np.array([0, 0, -np.inf], np.float32)
    path = write(tmp_path, masked, key=np.full((8, 3), -100, np.float32), table=table)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([False, True, False]), "flag"))
    onnx.save(model, path)
    convert(path)
    (weights,) = evaluate(path, {"query": np.ones((2, 8), np.float32)})
    assert weights.tolist() == [[1, 0, 0]] * 2


def test_weight_beyond_fp16_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    text = "g (float[n, 2] x) => (float[n, 2] y) { y = MatMul(x, heavy) }"
    path = write(tmp_path, text, heavy=np.array([[1, 2], [3, -70000]], np.float32))
    before = path.read_bytes()
    with pytest.raises(SourceError, match="heavy: 70000 is beyond the range of fp16, 65504"):
        convert(path)
    assert path.read_bytes() == before


def test_output_of_a_product_is_fp32(tmp_path: Path) -> None:
    text = "g (float[n, 2] x) => (float[n, 2] y, float[n, 2] z) { y = MatMul(x, w) z = Neg(y) }"
    path = write(tmp_path, text, w=np.eye(2, dtype=np.float32))
    convert(path)
    typed(path)
    first, second = evaluate(path, {"x": np.array([[1, 0.1]], np.float32)})
    assert first.tolist() == [[1, np.float16(0.1)]]
    assert second.tolist() == [[-1, -np.float16(0.1)]]


def test_weights_of_their_own_file_stay_beside_the_graph(graphs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    original, inside = graphs["all-minilm-l6-v2"]
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load(original), path, save_as_external_data=True, location="weights.bin")
    convert(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    model = onnx.load(path, load_external_data=False)
    weights = sum(
        tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer if uses_external_data(tensor)
    )
    assert weights > 40
    feed = packed(np.random.default_rng(7), [3, 22])
    assert (run(path, feed) == run(inside, feed)).all()


def test_branches_are_refused(tmp_path: Path) -> None:
    branched = (
        "g (bool flag, float[2] x) => (float[2] y) { y = If(flag)"
        " <then_branch = a () => (float[2] p) { p = Neg(x) }, else_branch = b () => (float[2] q) { q = Abs(x) }> }"
    )
    with pytest.raises(SourceError, match=r"If .*branches and loops"):
        convert(write(tmp_path, branched))
