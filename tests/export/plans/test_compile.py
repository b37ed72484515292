import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.errors import ParityError
from export.manifest import ModelSpec
from export.pipeline import write_graph
from export.plans.compile import compile_entry, compile_verified
from export.plans.gate import Case, read_cases, save_cases
from export.plans.measures import Limit, Tolerance
from export.plans.profiles import PlanSpec, read_spec, write_spec
from export.plans.sweep import sweep
from export.plans.toolkit import PlanError
from export.runtime.compiled import compiled_staleness, current_key, write_record
from export.runtime.contract import Limits, read_rows
from export.runtime.execution import Execution
from export.runtime.program import PROGRAM, load
from export.runtime.torch_engine import Engine
from export.tasks import text_embedding
from export.verification import plan_inputs
from loadtest.tools import tiny_vision
from tests.export.outputs import computed
from tests.export.runtime.programs import KINDS, write

KIND = KINDS["text"]
CPU = torch.device("cpu")
LESS = tiny_vision.Sizes(
    {"num_hidden_layers": 1}, tiny_vision.VISION | {"depth": 2, "deepstack_visual_indexes": [0]}, most_tokens=200
)
"""Of a model that takes less time to compile."""
EXPORTED = {"1", "1/program.json", "1/program.pt2", "1/program.safetensors", "parity.npz", "plan.json"}
BUILT = EXPORTED | {"1/compiled.json", "1/compiled.pt2", "1/execution.json"}
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch compiles for CPUs with g++: apt-get install g++"
)

needs_plain_path = pytest.mark.skipif(
    len(torch.__file__.split()) > 1,
    reason="torch's compiler breaks at white space in its own path, which only the command avoids: use another folder",
)


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    graph = write(KIND, folder / "1")
    rows = KIND.rows([3, 9])
    ids, length = np.zeros((2, 9), np.int64), np.array([[3], [9]], np.int32)
    for row, (values,) in zip(ids, rows, strict=True):
        row[: len(values)] = values
    save_cases(
        folder / "parity.npz",
        [Case({"input_ids": ids, "length": length}, {"embedding": computed(Engine(graph), rows)})],
    )
    write_spec(PlanSpec((), {"embedding": Limit("cosine", Tolerance(1e-6, 1e-6))}), folder / "plan.json")
    return folder


def files(entry: Path) -> set[str]:
    return {str(file.relative_to(entry)) for file in entry.rglob("*")}


def plan(entry: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "export.plans", str(entry), "--device", "cpu"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_program_is_compiled_proven_and_found_again(entry: Path) -> None:
    first = plan(entry)
    assert first.returncode == 0, first.stderr
    compiling, compiled = first.stdout.splitlines()
    assert compiling == "plan tiny: there is no compiled.pt2 yet: compiling, which takes minutes"
    assert compiled.startswith("plan tiny: compiled: embedding: cosine error ")
    assert compiled.endswith(" at worst, 1e-06 allowed")
    assert files(entry) == BUILT
    assert plan(entry).stdout == "plan tiny: up to date\n"
    engine = Engine(entry / "1" / "program.pt2")
    assert engine.description.startswith("fp32 on a CPU, compiled; up to ")
    assert engine.execution == Execution.read(entry / "1")
    rows = KIND.rows([1, 40, 3])
    alone = np.concatenate([computed(engine, [row]) for row in rows])
    np.testing.assert_allclose(computed(engine, rows), alone, atol=1e-6)


@pytest.fixture
def seeing(tmp_path: Path) -> Path:
    """The entry of a model that reads texts and images together, which has two programs."""
    source = tiny_vision.write_embedding(tmp_path / "source", sizes=LESS)
    table = ModelSpec(name="seeing", task="text-embedding", source=str(source), backend="torch", precision="fp32")
    (tower,) = text_embedding.load(table, source)
    folder = tmp_path / "seeing"
    write_graph(table, tower, folder / "1", lambda _: None)
    plan_inputs.write(table, tower, folder)
    return folder


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_programs_of_a_model_with_images_are_compiled_and_proven(seeing: Path) -> None:
    """What the compiled programs compute is compared with the reference's outputs, rows with images among them."""
    done = plan(seeing)
    assert done.returncode == 0, done.stderr
    assert "plan seeing: compiled: embedding: cosine error " in done.stdout
    assert files(seeing) == BUILT | {"1/images.pt2", "1/compiled-images.pt2"}
    engine = Engine(seeing / "1" / "program.pt2")
    assert engine.uncompiled is None
    (case, *_) = reversed(read_cases(seeing / "parity.npz"))
    assert engine.spec.vision is not None
    limits = Limits(2**31, 2**31, image_token=engine.spec.vision.token, image_merge=engine.spec.vision.merge)
    rows = read_rows(case.inputs, engine.fields, limits)
    alone = np.concatenate([computed(engine, [row]) for row in rows])
    np.testing.assert_allclose(computed(engine, rows), alone, atol=1e-6 * np.abs(alone).max())
    assert engine.counts.executions["eager"] == 0
    (seeing / "1" / "compiled-images.pt2").unlink()
    assert compiled_staleness(seeing / "1", CPU) == "the compiled program for images changed"


@needs_compiler
@needs_plain_path
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wrong_number_leaves_no_compiled_program(entry: Path) -> None:
    engine = Engine(entry / "1" / "program.pt2")
    broken = load(entry / "1", CPU)
    weight = broken.state_dict["encoder.tokens.weight"]
    weight.data = weight.flip(0)
    engine.exported[PROGRAM] = broken
    with pytest.raises(
        ParityError, match=r"^gate: input_ids:2x9,length:2x1: embedding: cosine error \S+, 1e-06 allowed$"
    ):
        compile_verified(entry, engine, read_spec(entry / "plan.json"), read_cases(entry / "parity.npz"))
    assert files(entry) == EXPORTED


@pytest.mark.slow
def test_failed_build_is_one_sentence_and_the_program_serves_on(entry: Path, tmp_path: Path) -> None:
    failed = plan(entry, CXX="/bin/false", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("plan tiny: build: torch cannot compile the program: ")
    assert "; the program serves without being compiled: embedding: cosine error " in failed.stderr
    assert files(entry) == EXPORTED
    assert "not compiled, because there is no compiled.pt2 yet" in Engine(entry / "1" / "program.pt2").description


def test_program_that_is_wrong_itself_is_refused(entry: Path) -> None:
    (case,) = read_cases(entry / "parity.npz")
    save_cases(entry / "parity.npz", [Case(case.inputs, {"embedding": case.expected["embedding"][::-1]})])
    with pytest.raises(ParityError, match=r"^gate: input_ids:2x9,length:2x1: embedding: cosine error"):
        compile_entry(entry, "cpu", print)
    assert files(entry) == EXPORTED


def test_program_of_another_torch_is_refused_in_one_sentence(entry: Path) -> None:
    program = entry / "1" / "program.pt2"
    program.write_bytes(program.read_bytes()[:-100])
    with pytest.raises(PlanError, match=r"^read: program.pt2 is damaged or missing; export the entry again$"):
        compile_entry(entry, "cpu", print)
    spec = entry / "1" / "program.json"
    spec.write_text(spec.read_text().replace(torch.__version__, "2.99.0"))
    with pytest.raises(PlanError, match=r"^read: torch \S+ cannot read the program that torch 2.99.0 saved; export"):
        compile_entry(entry, "cpu", print)


@pytest.mark.parametrize("name", ["plan.json", "parity.npz", "1/program.json", "1/program.safetensors"])
def test_damaged_file_is_refused_in_one_sentence(entry: Path, name: str) -> None:
    file = entry / name
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(PlanError, match=r"^read: .*damaged.* export the entry again$"):
        compile_entry(entry, "cpu", print)


@pytest.mark.parametrize("device", ["cuda:99", "cud", "cpu:1", "cuda:x", "meta"])
def test_device_that_is_not_there_is_refused(entry: Path, device: str) -> None:
    with pytest.raises(PlanError, match=rf"^start: there is no device {device}; there are cpu and \d+ of cuda$"):
        compile_entry(entry, device, print)


def test_entry_that_needs_nothing_is_told_so(tmp_path: Path) -> None:
    refused = plan(tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.endswith(": read: only entries for tensorrt and torch need this command\n")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tokens": 0, "rows": 1}', '{"tokens": "a"}', '{"new": 1}'])
def test_limits_that_cannot_be_read_are_the_defaults(entry: Path, content: str) -> None:
    (entry / "1" / "execution.json").write_text(content)
    assert Execution.read(entry / "1") == Execution()


def test_limits_of_another_device_do_not_apply(entry: Path) -> None:
    Execution(tokens=256).write(entry / "1")
    assert Engine(entry / "1" / "program.pt2").execution == Execution()


@pytest.mark.parametrize("content", ["", "[]", "null", "\x00\xff"])
def test_record_that_cannot_be_read_leaves_the_program_uncompiled(entry: Path, content: str) -> None:
    (entry / "1" / "compiled.pt2").touch()
    (entry / "1" / "compiled.json").write_text(content, "latin-1")
    assert compiled_staleness(entry / "1", CPU) == "it is not known what compiled.pt2 was built from"


def test_compiled_program_that_was_damaged_is_not_loaded(entry: Path) -> None:
    (entry / "1" / "compiled.pt2").write_bytes(b"built")
    write_record(entry / "1", current_key(entry / "1", CPU))
    (entry / "1" / "compiled.pt2").write_bytes(b"damaged")
    assert compiled_staleness(entry / "1", CPU) == "the compiled program changed"


@pytest.mark.parametrize("missing", ["plan.json", "parity.npz", "1/program.safetensors"])
def test_entry_that_is_not_for_torch_is_refused(entry: Path, missing: str) -> None:
    (entry / missing).unlink()
    with pytest.raises(PlanError, match=rf"{missing} is missing: export the entry for torch first$"):
        compile_entry(entry, "cpu", print)


def test_limits_of_a_pack_are_those_that_were_measured(entry: Path) -> None:
    engine = Engine(entry / "1" / "program.pt2")
    found = sweep(engine, KIND.rows([3, 9, 600]), tokens=(16, 64), numbers=(2, 8))
    assert found.tokens in {16, 64}
    assert found.rows in {2, 8}
    assert engine.execution == found


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("torch", "2.11.0", f"torch was 2.11.0 and is {torch.__version__}"),
        ("device", "NVIDIA H100", "the device was NVIDIA H100 and is cpu"),
        ("capability", "9.0", "the device's capability was 9.0 and is "),
        ("program", "ab", "the program changed"),
        ("weights", "ab", "the weights changed"),
        ("flags", {}, "the flags changed"),
    ],
)
def test_compiled_program_of_another_key_is_not_used(entry: Path, part: str, value: Any, reason: str) -> None:

    (entry / "1" / "compiled.pt2").touch()
    key = current_key(entry / "1", CPU)
    write_record(entry / "1", key)
    assert compiled_staleness(entry / "1", CPU) is None
    assert "not compiled, because torch does not load compiled.pt2" in Engine(entry / "1" / "program.pt2").description
    write_record(entry / "1", key | {part: value})
    engine = Engine(entry / "1" / "program.pt2")
    assert f"not compiled, because {reason}" in engine.description
    assert json.loads((entry / "1" / "compiled.json").read_text())[part] == value
