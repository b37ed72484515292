"""Compiles the torch programs of an entry where it will serve, and compares their outputs with the reference's.

The export wrote into the entry the programs, what its outputs must be (parity.npz), and the tolerance (plan.json).
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import torch

from export.errors import ExportError
from export.plans.gate import CASES, SPEC, Case, compare_outputs, describe_errors, read_cases
from export.plans.profiles import PlanSpec, read_spec
from export.plans.sweep import sweep
from export.plans.toolkit import PlanError, format_shapes
from export.runtime.compiled import COMPILED, FORMS, NAMES, RECORD, compile_program, current_key, write_record
from export.runtime.contract import OUTPUTS, Limits, Row, read_rows
from export.runtime.freshness import staleness
from export.runtime.program import PROGRAM, ProgramError
from export.runtime.torch_engine import Engine

UNLIMITED = Limits(2**31, 2**31)
"""The cases are the export's own."""


def compile_entry(folder: Path, device: str, progress: Callable[[str], None]) -> None:
    """Compile an entry's programs and verify them, unless the compiled ones are current.

    Args:
        folder: the entry.
        device: what will serve, such as "cuda:0".
        progress: called with each stage.

    Raises:
        ExportError: a stage failed; the program is not compiled then, and the sentence says whether it may serve so.
    """
    version, target = folder / "1", _device(device)
    try:
        spec, cases = read_spec(folder / SPEC), read_cases(folder / CASES)
        reason = staleness(version / COMPILED, version / RECORD, current_key(version, target), NAMES)
    except FileNotFoundError as exc:
        raise PlanError(f"read: {exc.filename} is missing: export the entry for torch first") from exc
    except (ValueError, BadZipFile) as exc:
        raise PlanError(f"read: {SPEC} or {CASES} is damaged: export the entry again") from exc
    if reason is None:
        progress(f"plan {folder.name}: up to date")
        return
    progress(f"plan {folder.name}: {reason}: compiling, which takes minutes")
    try:
        engine = Engine(version / PROGRAM, device=str(target))
    except ProgramError as exc:
        raise PlanError(f"read: {exc}") from exc
    eager = _verify(engine, spec, cases)
    try:
        worst = compile_verified(folder, engine, spec, cases)
    except ExportError as exc:
        raise PlanError(f"{exc}; the program serves without being compiled: {describe_errors(spec, eager)}") from exc
    sweep(engine, [row for case in cases for row in _rows(engine, case)]).write(version)
    write_record(version, current_key(version, target))
    progress(f"plan {folder.name}: compiled: {describe_errors(spec, worst)}")


def _device(name: str) -> torch.device:
    """A device that is here.

    Raises:
        PlanError: it is not.
    """
    kind, _, index = name.partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(kind, 0)
    if not (index or "0").isdecimal() or int(index or 0) >= count:
        raise PlanError(f"start: there is no device {name}; there are cpu and {torch.cuda.device_count()} of cuda")
    return torch.device("cpu" if kind == "cpu" else f"cuda:{index or 0}")


def compile_verified(folder: Path, engine: Engine, spec: PlanSpec, cases: Sequence[Case]) -> dict[str, float]:
    """Put the compiled programs into place once they are verified, and return the largest error of each output."""
    # In the entry, from where it moves at once; Triton looks into folders named by a number only.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plan-") as scratch:
        fresh = Path(scratch)
        try:
            compile_programs(engine, fresh)
        except Exception as exc:  # what the compiler raises depends on where it fails
            raise PlanError(f"build: torch cannot compile the program: {_first_line(exc)}") from exc
        worst = _verify(engine, spec, cases)
        for name in engine.exported:
            (fresh / FORMS[name]).replace(folder / "1" / FORMS[name])
    return worst


def compile_programs(engine: Engine, folder: Path) -> None:
    """Compile the programs of an engine into a folder, and let it compute by them. What it raises depends on torch."""
    for name, program in engine.exported.items():
        compile_program(program, folder / FORMS[name])
    engine.adopt(folder)


def _verify(engine: Engine, spec: PlanSpec, cases: Sequence[Case]) -> dict[str, float]:
    """Compare the engine's outputs with the reference's, and return the largest error of each."""
    try:
        outputs = [engine.run(_rows(engine, case), OUTPUTS) for case in cases]
    except RuntimeError as exc:
        raise PlanError(f"gate: the program fails: {_first_line(exc)}") from exc
    return compare_outputs(spec, cases, [format_shapes(case.shapes) for case in cases], outputs)


def _rows(engine: Engine, case: Case) -> list[Row]:
    vision = engine.spec.vision
    limits = UNLIMITED if vision is None else replace(UNLIMITED, image_token=vision.token, image_merge=vision.merge)
    return read_rows(case.inputs, engine.fields, limits)


def _first_line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {str(exc).strip().partition(chr(10))[0]}"
