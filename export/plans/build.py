"""Builds the TensorRT plan of an entry and compares its outputs with the reference's.

The export wrote into the entry what to build (plan.json, model.onnx) and what the outputs must be (parity.npz).
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError, ParityError
from export.plans.measures import MEASURES, Vectors
from export.plans.profiles import PlanSpec, Profile, Shape, cache_key, graph_hash, read_spec
from export.plans.toolkit import Inputs, PlanError, Toolkit, format_shapes

SPEC = "plan.json"
CASES = "parity.npz"
EXPECTED = "expected"
GRAPH = "model.onnx"
PLAN = "model.plan"
KEY = "plan.key"


@dataclass(frozen=True, slots=True)
class Case:
    """One batch and what must come out of it."""

    inputs: Inputs
    expected: Vectors
    """The reference's output, [b, width]."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of the inputs."""
        return {name: array.shape for name, array in self.inputs.items()}


@dataclass(frozen=True, slots=True)
class Key:
    """plan.key: what a plan was built from."""

    tensorrt: str
    compute_capability: str
    graph: str
    """SHA-256."""
    profiles: tuple[Profile, ...]

    def to_json(self) -> dict[str, Any]:
        """The content of the file: the parts, and their hash."""
        key = cache_key(self.tensorrt, self.compute_capability, self.graph, self.profiles)
        content: dict[str, Any] = json.loads(json.dumps({"key": key, **asdict(self)}))
        return content


def timing_cache(repository: Path, toolkit: Toolkit) -> Path:
    """The file beside a repository that keeps the measured times of kernels from build to build."""
    repository = repository.resolve()  # "." has no name
    return repository.with_name(f"{repository.name}.tensorrt-{toolkit.version}.cache")


def is_current(folder: Path, toolkit: Toolkit) -> bool:
    """Whether an entry has a plan, built from its graph and profiles as they are, by this TensorRT for this GPU."""
    try:
        return staleness(folder / "1", current_key(folder, toolkit)) is None
    except (FileNotFoundError, ExportError):
        return False


def build_plan(folder: Path, toolkit: Toolkit, times: Path, progress: Callable[[str], None]) -> None:
    """Build an entry's plan and verify it, unless the one that it has is current.

    Args:
        folder: the entry.
        toolkit: TensorRT on the GPU that will serve.
        times: the file of the timing cache, which is written too.
        progress: called with each stage.

    Raises:
        ExportError: a stage failed; the entry has no plan then.
    """
    version = folder / "1"
    try:
        spec, cases, key = read_spec(folder / SPEC), read_cases(folder / CASES), current_key(folder, toolkit)
    except FileNotFoundError as exc:
        raise PlanError(f"read: {exc.filename} is missing: export the entry for TensorRT first") from exc
    reason = staleness(version, key)
    if reason is None:
        progress(f"plan {folder.name}: up to date")
        return
    progress(f"plan {folder.name}: {reason}: building {len(spec.profiles)} profiles, which takes minutes")
    (version / KEY).unlink(missing_ok=True)
    (version / PLAN).unlink(missing_ok=True)
    worst = _build_verified(folder, toolkit, times, spec, cases)
    (version / KEY).write_text(json.dumps(key, indent=2) + "\n")
    progress(f"plan {folder.name}: built: {spec.measure} error {worst:.2g} at worst, {spec.tolerance.worst:g} allowed")


def _build_verified(folder: Path, toolkit: Toolkit, times: Path, spec: PlanSpec, cases: Sequence[Case]) -> float:
    """Put the plan into its place once it is verified, and return its largest error."""
    version, indices = folder / "1", assign(spec.profiles, cases)
    # In the entry, from where it moves at once; Triton looks into folders named by a number only.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plan-") as scratch:
        fresh = Path(scratch) / PLAN
        toolkit.build(version / GRAPH, spec, fresh, times)
        outputs = toolkit.run(fresh, ((index, case.inputs) for index, case in zip(indices, cases, strict=True)))
        worst = compare_outputs(spec, cases, indices, outputs)
        fresh.replace(version / PLAN)
    return worst


def current_key(folder: Path, toolkit: Toolkit) -> dict[str, Any]:
    """The content of plan.key if the plan of an entry were built now.

    Raises:
        FileNotFoundError: the entry is not one for TensorRT.
    """
    profiles = read_spec(folder / SPEC).profiles
    return Key(toolkit.version, toolkit.compute_capability, graph_hash(folder / "1" / GRAPH), profiles).to_json()


def staleness(version: Path, key: Mapping[str, Any]) -> str | None:
    """Why the plan in an entry's version folder must be built again, or None if it was built from this key."""
    if not (version / PLAN).is_file():
        return "there is no plan yet"
    try:
        old = json.loads((version / KEY).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return "it is not known what the plan was built from"
    if old.get("key") == key["key"]:
        return None
    reasons = [
        f"{what} was {old.get(part)} and is {key[part]}"
        for part, what in (("tensorrt", "TensorRT"), ("compute_capability", "the GPU's compute capability"))
        if old.get(part) != key[part]
    ]
    reasons += [f"the {part} changed" for part in ("graph", "profiles") if old.get(part) != key[part]]
    return " and ".join(reasons) or "the key's form changed"


def assign(profiles: Sequence[Profile], cases: Sequence[Case]) -> list[int]:
    """The profile to run each case with.

    Raises:
        PlanError: a case fits no profile, or a profile, whose kernels are its own, has no case.
    """
    indices = []
    for case in cases:
        fitting = [index for index, profile in enumerate(profiles) if profile.admits(case.shapes)]
        if not fitting:
            raise PlanError(f"read: no profile of {SPEC} takes {format_shapes(case.shapes)} of {CASES}")
        indices.append(fitting[0])
    if untried := set(range(len(profiles))) - set(indices):
        raise PlanError(f"read: no case of {CASES} tries profile {min(untried)} of {SPEC}")
    return indices


def compare_outputs(spec: PlanSpec, cases: Sequence[Case], indices: Sequence[int], outputs: Iterable[Vectors]) -> float:
    """Compare the outputs with the reference's.

    Returns:
        The largest error.

    Raises:
        ParityError: a case, or the mean of all, is beyond the tolerance.
    """
    found = []
    for case, index, output in zip(cases, indices, outputs, strict=True):
        where = f"gate: profile {index} with {format_shapes(case.shapes)}"
        if output.shape != case.expected.shape:
            raise ParityError(f"{where}: expected outputs of shape {case.expected.shape}, got {output.shape}")
        errors = MEASURES[spec.measure](case.expected, output).ravel()
        if not spec.tolerance.admits(float(errors.max()), 0):
            raise ParityError(f"{where}: {spec.measure} error {errors.max():.2g}, {spec.tolerance.worst:g} allowed")
        found.append(errors)
    worst, mean = float(np.concatenate(found).max()), float(np.concatenate(found).mean())
    if not spec.tolerance.admits(worst, mean):
        raise ParityError(f"gate: mean {spec.measure} error {mean:.2g}, {spec.tolerance.mean:g} allowed")
    return worst


def save_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write parity.npz: the arrays of case 0 are named `0/<input>` and `0/expected`, and so on."""
    arrays = {
        f"{i}/{name}": array
        for i, case in enumerate(cases)
        for name, array in (*case.inputs.items(), (EXPECTED, case.expected))
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its one named argument is not among them


def read_cases(path: Path) -> list[Case]:
    """Read what `save_cases` wrote."""
    cases: dict[int, dict[str, NDArray[np.generic]]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            cases.setdefault(int(number), {})[name] = arrays[key]
    return [Case(arrays, arrays.pop(EXPECTED).astype(np.float32)) for _, arrays in sorted(cases.items())]
