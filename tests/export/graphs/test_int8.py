import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from numpy.typing import NDArray

from export.graphs import int8, trace
from export.plans.measures import cosine_errors, token_errors
from export.runtime.engine import Engine
from export.tower import Tower
from tests.export.outputs import computed, referenced


@pytest.fixture(scope="module")
def quantized(bert_tower: Tower, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    trace.trace(bert_tower, folder / "model.onnx", ragged=True)
    return int8.quantize(bert_tower, folder / "model.onnx")


def test_openvinos_files_take_the_place_of_the_onnx_graph(quantized: Path) -> None:
    assert quantized.name == "model.xml"
    assert sorted(file.name for file in quantized.parent.iterdir()) == ["model.bin", "model.xml"]


def weights(path: Path) -> Iterator[tuple[str, str]]:
    """The type that each product with weights stores them in, by the layer's name in the model."""
    for node in ov.Core().read_model(path).get_ops():
        if node.get_type_name() != "MatMul":
            continue
        source = node.input_value(1).get_node()
        while source.get_type_name() in {"Multiply", "Convert"}:
            source = source.input_value(0).get_node()
        if source.get_type_name() == "Constant":
            yield node.get_friendly_name(), source.get_element_type().get_type_name()


def test_products_are_in_int8_but_for_those_that_narrow(quantized: Path) -> None:
    types = dict(weights(quantized))
    assert len(types) == 3 * 6  # layers, of query, key, value, output and the two of the feed-forward
    narrowing = {name for name in types if "/output/dense/" in name and "/attention/" not in name}
    assert {types[name] for name in narrowing} == {"f32"}
    assert {types[name] for name in types.keys() - narrowing} == {"i8"}


def errors(tower: Tower, actual: NDArray[np.float32]) -> NDArray[np.float32]:
    return cosine_errors(referenced(tower, tower.samples()), actual)


def test_vectors_stay_close_to_the_references_whatever_rows_are_beside(quantized: Path, bert_tower: Tower) -> None:
    engine, rows = Engine(quantized, "f32"), list(bert_tower.samples())
    together = errors(bert_tower, computed(engine, rows))
    assert together.max() < 2e-2
    assert together.mean() < 5e-3
    assert together.max() > 1e-5  # or nothing has been rounded
    alone = errors(bert_tower, np.concatenate([computed(engine, [row]) for row in rows]))
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_vectors_of_tokens_stay_close_too(quantized: Path, bert_tower: Tower) -> None:
    rows = list(bert_tower.samples())
    with torch.inference_mode():
        expected = [bert_tower.reference(row)["tokens"].numpy() for row in rows]
    found = token_errors(expected, Engine(quantized, "f32").run(rows, ["tokens"])["tokens"])
    assert 1e-5 < found.max() < 5e-2


RUN = """
import sys
from pathlib import Path
import numpy as np
from export.runtime.engine import Engine
engine = Engine(Path(sys.argv[1]), "f32")
rows = np.load(sys.argv[2])
np.save(sys.argv[3], engine.run([(rows[name],) for name in rows.files], ["embedding"])["embedding"])
"""


def test_vectors_stay_close_on_processors_without_vnni(quantized: Path, bert_tower: Tower, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", *(ids for (ids,) in bert_tower.samples()))
    subprocess.run(
        [sys.executable, "-c", RUN, quantized, tmp_path / "rows.npz", tmp_path / "out.npy"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},  # no more than that; less where the machine has less
        check=True,
    )
    far = errors(bert_tower, np.load(tmp_path / "out.npy"))
    assert far.max() < 2e-2
    assert far.mean() < 5e-3
