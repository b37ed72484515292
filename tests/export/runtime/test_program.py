import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export.passes import move_to_device_pass

from export.runtime.inputs import EMPTY, Layout, Pack
from export.runtime.program import ProgramError, ProgramSpec, load
from export.runtime.torch_engine import Engine
from tests.export.outputs import computed
from tests.export.runtime.programs import KINDS, write

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(KINDS["unseen"], tmp_path_factory.mktemp("entry"), "bf16")


def test_weights_lie_beside_the_program_in_its_precision(graph: Path) -> None:
    weights = load_file(graph.with_name("program.safetensors"))
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert sum(weight.nbytes for weight in weights.values()) > graph.stat().st_size / 2  # without them it is small
    program = load(graph.parent, CPU)
    assert {name: weight.dtype for name, weight in program.state_dict.items()} == dict.fromkeys(weights, torch.bfloat16)


def test_saving_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    kind = KINDS["text"]
    first, second = (Engine(write(kind, tmp_path / name)) for name in ("a", "b"))
    rows = kind.rows([3, 9])
    assert (computed(first, rows) == computed(second, rows)).all()


def test_specification_survives_its_file(graph: Path) -> None:
    spec = ProgramSpec.read(graph.with_name("program.json"))
    assert spec.precision == "bf16"
    assert spec.inputs == KINDS["unseen"].inputs
    assert spec.expansion == KINDS["unseen"].expansion
    assert spec.outputs == KINDS["unseen"].outputs


@pytest.mark.parametrize("change", [{"padded": None, "heads": None}, {"another": 1}])
def test_specification_of_another_form_is_refused(graph: Path, change: dict[str, int | None], tmp_path: Path) -> None:
    content = json.loads(graph.with_name("program.json").read_text()) | change
    (tmp_path / "program.json").write_text(
        json.dumps({name: value for name, value in content.items() if value is not None})
    )
    with pytest.raises(ProgramError, match=r"^another version of the export wrote program\.json; export the entry"):
        ProgramSpec.read(tmp_path / "program.json")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 of another version"])
def test_program_that_torch_cannot_read_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    graph = write(KINDS["image"], tmp_path)
    spec = json.loads((tmp_path / "program.json").read_text()) | {"torch": "2.99.0"}
    (tmp_path / "program.json").write_text(json.dumps(spec | {"expansion": None}))
    graph.write_bytes(content)
    sentence = f"torch {torch.__version__} cannot read the program that torch 2.99.0 saved; export "
    with pytest.raises(ProgramError, match=f"^{re.escape(sentence)}") as raised:
        Engine(graph)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", KINDS)
def test_no_operation_mixes_devices(name: str, tmp_path: Path) -> None:
    """Tensors without content can say that they are on a GPU that is not there."""
    kind = KINDS[name]
    program = load(write(kind, tmp_path).parent, CPU)
    pack = Pack(kind.fields, kind.rows([1, 5, 40]), kind.expansion)
    layout = Layout(kind.inputs, pack.sizes, (3, 5, 5))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():

        def there(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="cuda:0")

        for key, weight in program.state_dict.items():
            there_too = there(*weight.shape, dtype=weight.dtype)
            program._state_dict[key] = torch.nn.Parameter(there_too, requires_grad=False)
        given = [
            there(getattr(pack.sizes, each), 0, dtype=torch.float32)
            if each in EMPTY
            else there(*layout.sections[each][2], dtype=torch.uint8 if each == "pixels" else torch.int32)
            for each in kind.inputs
        ]
        outputs = move_to_device_pass(program, "cuda:0").module(check_guards=False)(*given)
    assert {output.device.type for output in outputs} == {"cuda"}
    assert [tuple(output.shape[1:]) for output in outputs] == [output.shape for output in kind.outputs]
