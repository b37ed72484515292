"""Without a GPU, so of the ways to TensorRT only the choice and trtexec's arguments and answers."""

from pathlib import Path

import numpy as np
import pytest
from onnx import parser, save

from export.plans.measures import Limit, Tolerance
from export.plans.profiles import PlanSpec, text_profiles
from export.plans.toolkit import PlanError, Trtexec, find_toolkit, is_here
from tests.export.machine import Machine

SPEC = PlanSpec(
    text_profiles(("input_ids",), ("length",), (4, 8), max_batch=3),
    {"embedding": Limit("cosine", Tolerance(1e-3, 1e-3))},
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.path))
    return machine


def test_toolkit_says_what_a_plan_will_depend_on(machine: Machine) -> None:
    machine.equip("110400", "8.9")
    toolkit = find_toolkit()
    assert is_here()
    assert (toolkit.version, toolkit.compute_capability) == ("11.4.0", "8.9")


@pytest.mark.parametrize(
    ("missing", "sentence"), [("trtexec", "start: TensorRT is not installed"), ("nvidia-smi", "start: no GPU found")]
)
def test_half_of_it_is_nothing(machine: Machine, missing: str, sentence: str) -> None:
    (machine.path / missing).unlink()
    assert not is_here()
    with pytest.raises(PlanError, match=sentence):
        find_toolkit()


@pytest.mark.parametrize(("version", "typed"), [("100400", True), ("110400", False)])
def test_build_command_has_every_profile_in_order(machine: Machine, version: str, typed: bool) -> None:
    machine.equip(version)
    tool = Trtexec(str(machine.path / "trtexec"), "9.0")
    arguments = tool.build_arguments(Path("model.onnx"), SPEC, Path("model.plan"), Path("times"))
    assert ("--stronglyTyped" in arguments) is typed
    assert {"--onnx=model.onnx", "--saveEngine=model.plan", "--timingCacheFile=times"} < set(arguments)
    assert arguments[-8:] == [
        "--profile=0",
        "--minShapes=input_ids:1x1,length:1x1",
        "--optShapes=input_ids:3x4,length:3x1",
        "--maxShapes=input_ids:3x4,length:3x1",
        "--profile=1",
        "--minShapes=input_ids:1x5,length:1x1",
        "--optShapes=input_ids:3x8,length:3x1",
        "--maxShapes=input_ids:3x8,length:3x1",
    ]


def test_outputs_come_back_in_shape_and_with_what_is_no_number(machine: Machine, tmp_path: Path) -> None:
    machine.equip(error="float('-inf')")
    graph = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[b, 2] x) => (float[b, 2] y) { y = Cast<to = 1>(x) }'
    )
    save(graph, tmp_path / "model.plan")
    (outputs,) = find_toolkit().run(tmp_path / "model.plan", [(0, {"x": np.arange(6).reshape(3, 2)})])
    np.testing.assert_array_equal(outputs["y"], np.array([[0, 1], [2, 3], [np.nan, 5]], np.float32))
