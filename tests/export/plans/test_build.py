import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from export.entry import is_built
from export.errors import ParityError
from export.manifest import ModelSpec
from export.plans.build import assign
from export.plans.gate import save_cases
from export.plans.measures import Limit, Tolerance
from export.plans.profiles import PlanSpec, text_profiles, write_spec
from export.plans.toolkit import PlanError
from export.repository import build
from loadtest.tools.tiny import write_embedding
from tests.export.machine import Machine
from tests.export.plans.cases import case, shaped

PROFILES = text_profiles(("input_ids",), ("length",), (4, 8), max_batch=3)
SPEC = PlanSpec(PROFILES, {"embedding": Limit("cosine", Tolerance(1e-3, 1e-3))})


class Serving(Machine):
    """One with an entry to build a plan for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.entry = folder / "models" / "tiny"
        (self.entry / "1").mkdir(parents=True)
        table = np.random.default_rng(7).normal(size=(50, 4)).astype(np.float32)
        self.write_graph(table)
        write_spec(SPEC, self.entry / "plan.json")
        save_cases(self.entry / "parity.npz", [case(table, 2, 3), case(table, 3, 8)])

    def write_graph(self, table: NDArray[np.float32]) -> None:
        model = parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]>'
            "g (int64[b, l] input_ids, int32[b, 1] length) => (float[b, 4] embedding) {"
            " rows = Gather(table, input_ids) mean = ReduceMean<axes = [1], keepdims = 0>(rows)"
            " count = Cast<to = 1>(length) embedding = Mul(mean, count) }"
        )
        model.graph.initializer.append(numpy_helper.from_array(table, "table"))
        onnx.save(model, self.entry / "1" / "model.onnx")

    def plan(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "export.plans", str(self.entry)]
        environment = {"PATH": str(self.path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def files(self) -> set[str]:
        return {str(file.relative_to(self.entry)) for file in self.entry.rglob("*")}


EXPORTED = {"1", "1/model.onnx", "parity.npz", "plan.json"}
BUILT = EXPORTED | {"1/model.plan", "1/plan.key"}


@pytest.fixture
def machine(tmp_path: Path) -> Serving:
    return Serving(tmp_path)


def test_plan_is_built_proven_and_found_again(machine: Serving) -> None:
    first = machine.plan()
    assert first.returncode == 0, first.stderr
    building, built = first.stdout.splitlines()
    assert building == "plan tiny: there is no model.plan yet: building 2 profiles, which takes minutes"
    assert re.fullmatch(r"plan tiny: built: embedding: cosine error [\d.e-]+ at worst, 0\.001 allowed", built)
    assert machine.files() == BUILT
    assert [path.name for path in machine.entry.parent.iterdir()] == ["tiny"]
    key = json.loads((machine.entry / "1" / "plan.key").read_text())
    assert (key["tensorrt"], key["compute_capability"]) == ("10.13.3", "9.0")
    assert machine.plan().stdout == "plan tiny: up to date\n"


def test_each_case_is_tried_with_its_profile(machine: Serving) -> None:
    machine.plan()
    tried = [call for call in machine.calls() if any("--loadEngine" in argument for argument in call)]
    assert [call[1:3] for call in tried] == [
        ["--useProfile=0", "--shapes=input_ids:2x3,length:2x1"],
        ["--useProfile=1", "--shapes=input_ids:3x8,length:3x1"],
    ]


@pytest.mark.parametrize(
    ("version", "gpu", "sentence"),
    [
        ("110400", "9.0", "TensorRT was 10.13.3 and is 11.4.0"),
        ("101303", "8.9", "the GPU's compute capability was 9.0 and is 8.9"),
    ],
)
def test_another_machine_builds_anew_and_says_why(machine: Serving, version: str, gpu: str, sentence: str) -> None:
    machine.plan()
    machine.equip(version, gpu)
    again = machine.plan()
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"plan tiny: {sentence}: building")


@pytest.mark.parametrize("error", ["9", "float('nan')"])
def test_failed_gate_leaves_no_plan(machine: Serving, error: str) -> None:
    machine.plan()
    machine.equip(version="110400", error=error)
    failed = machine.plan()
    assert failed.returncode == 1
    assert failed.stderr.startswith(
        "plan tiny: gate: profile 0 with input_ids:2x3,length:2x1: embedding: cosine error "
    )
    assert failed.stderr.endswith(", 0.001 allowed\n")
    assert machine.files() == EXPORTED


def test_failed_build_is_one_sentence(machine: Serving) -> None:
    machine.equip(broken=True)
    failed = machine.plan()
    assert failed.returncode == 1
    assert failed.stderr == "plan tiny: build: trtexec failed: [11/24/2026] [E] no kernel for this node\n"
    assert machine.files() == EXPORTED


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("trtexec", "start: TensorRT is not installed: run this in the serving image, on a machine with a GPU"),
        ("nvidia-smi", "start: no GPU found: run this on the machine that will serve"),
    ],
)
def test_wrong_machine_is_refused_in_one_sentence(machine: Serving, missing: str, sentence: str) -> None:
    (machine.path / missing).unlink()
    failed = machine.plan()
    assert failed.returncode == 1
    assert failed.stderr == f"plan tiny: {sentence}\n"


@pytest.mark.parametrize("missing", ["plan.json", "parity.npz", "1/model.onnx"])
def test_entry_that_is_not_for_tensorrt_is_refused(machine: Serving, missing: str) -> None:
    (machine.entry / missing).unlink()
    failed = machine.plan()
    assert failed.returncode == 1
    assert failed.stderr.endswith(f"{missing} is missing: export the entry for TensorRT first\n")


def test_case_that_no_profile_takes_is_refused() -> None:
    with pytest.raises(PlanError, match=r"no profile of plan\.json takes input_ids:4x4,length:4x1"):
        assign(PROFILES, [shaped(input_ids=(4, 4), length=(4, 1))])


def test_profile_without_a_case_is_refused() -> None:
    with pytest.raises(PlanError, match=r"no case of parity\.npz tries profile 0"):
        assign(PROFILES, [shaped(input_ids=(1, 8), length=(1, 1))])


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    source = str(write_embedding(tmp_path / "source"))
    return ModelSpec(name="tiny", task="text-embedding", source=source, backend="tensorrt")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_entry_without_a_plan_is_built_where_there_is_no_tensorrt(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    build(spec, tmp_path / "repository", lambda _: None)
    assert is_built(spec, tmp_path / "repository")


def test_export_goes_on_to_the_plan_where_it_can(
    machine: Serving, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    monkeypatch.setenv("PATH", "")
    build(spec, repository, print)
    monkeypatch.setenv("PATH", str(machine.path))
    assert not is_built(spec, repository)
    build(spec, repository, print)
    assert is_built(spec, repository)
    assert {"1/model.plan", "1/plan.key"} < contents(repository / "tiny").keys()
    timing_cache = f"--timingCacheFile={tmp_path}/repository.tensorrt-10.13.3.cache"
    assert sum(timing_cache in call for call in machine.calls()) == 1


def test_export_whose_plan_fails_leaves_the_repository_as_it_was(
    machine: Serving, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    monkeypatch.setenv("PATH", str(machine.path))
    build(spec, repository, print)
    before = contents(repository)
    machine.equip(gpu="8.9", error="9")
    assert not is_built(spec, repository)
    with pytest.raises(ParityError, match=r"\[tiny\] gate: profile 0 with "):
        build(spec, repository, print)
    assert contents(repository) == before
    assert {path.name for path in tmp_path.glob(".export-*")} == {".export-repository.lock"}
