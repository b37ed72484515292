"""Programs compiled by AOTInductor on the machine that serves them, and whether they fit that machine.

Entries of the torch backend hold a copy of this file.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from .freshness import file_hash, staleness
from .program import IMAGES, PROGRAM, WEIGHTS

COMPILED = "compiled.pt2"
COMPILED_IMAGES = "compiled-images.pt2"
FORMS: Mapping[str, str] = {PROGRAM: COMPILED, IMAGES: COMPILED_IMAGES}
"""The compiled form of each program."""
RECORD = "compiled.json"
FLAGS: Mapping[str, Any] = {"aot_inductor.package_constants_in_so": False}
"""Settings of the compiler. The weights stay in their own file: the eager program needs them too."""
NAMES = {"torch": "torch", "device": "the device", "capability": "the device's capability"}


def compile_program(program: ExportedProgram, path: Path) -> None:
    """Compile a program for the device that it is on. What it raises depends on torch's version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of its own code
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(FLAGS))


def current_key(folder: Path, device: torch.device) -> dict[str, Any]:
    """Everything that decides whether compiled programs still fit.

    Args:
        folder: the program's.
        device: where it runs.

    Raises:
        FileNotFoundError: there is no program.
    """
    if device.type == "cpu":
        name, capability = "cpu", torch.backends.cpu.get_cpu_capability()
    else:  # pragma: needs a GPU
        name = torch.cuda.get_device_name(device)
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    key = {
        "torch": torch.__version__,
        "device": name,
        "capability": capability,
        "program": file_hash(folder / PROGRAM),
        "weights": file_hash(folder / WEIGHTS),
        "flags": dict(FLAGS),
        "compiled program": _hash_if_there(folder / COMPILED),
    }
    if (folder / IMAGES).is_file():
        key["program for images"] = file_hash(folder / IMAGES)
        key["compiled program for images"] = _hash_if_there(folder / COMPILED_IMAGES)
    return key


def _hash_if_there(path: Path) -> str | None:
    return file_hash(path) if path.is_file() else None


def write_record(folder: Path, key: Mapping[str, Any]) -> None:
    """Say what compiled programs were built from."""
    (folder / RECORD).write_text(json.dumps(key, indent=2) + "\n")


def compiled_staleness(folder: Path, device: torch.device) -> str | None:
    """Why programs must be compiled again, or None if the compiled ones fit."""
    compiled = folder / COMPILED
    key = current_key(folder, device) if compiled.is_file() else {}  # gigabytes of weights take seconds to hash
    return staleness(compiled, folder / RECORD, key, NAMES)


def load_compiled(
    path: Path, program: ExportedProgram, device: torch.device
) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """Load a compiled program with the weights of the one that it was compiled from.

    Raises:
        RuntimeError: it does not load here.
    """
    # Without torch's own synchronisation of threads, which a CUDA graph could not record.
    model = torch._inductor.aoti_load_package(
        str(path), run_single_threaded=True, device_index=-1 if device.type == "cpu" else device.index
    )
    known = {**program.state_dict, **program.constants}
    names = model.get_constant_fqns()
    if not known.keys() >= set(names):
        raise RuntimeError("it was compiled from another program")
    held = {name: known[name].detach() for name in names}
    model.load_constants(held, check_full_update=True, user_managed=True)

    def run(inputs: list[Tensor], _: object = held) -> Sequence[Tensor]:  # the weights live as long as the function
        results: Sequence[Tensor] = model.loader.run(inputs)
        return results

    return run
