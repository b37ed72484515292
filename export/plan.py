"""`python -m export.plan ENTRY`: builds the TensorRT plan of an entry on the GPU that will serve it, and proves it.

A plan works with one version of TensorRT and one kind of GPU, so it is made where it runs: inside the serving image,
before the server starts. Needed are numpy and either TensorRT's Python package or its `trtexec`. What the export wrote
into the entry says what to build (plan.json, model.onnx) and what must come out (parity.npz).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError, ParityError
from export.measures import Vectors, cosine_errors, score_errors
from export.profiles import COSINE, PlanSpec, Profile, Shape, cache_key, graph_hash, read_spec
from export.tensorrt import Inputs, PlanError, Toolkit, find_toolkit, format_shapes

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
        """Of the inputs."""
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


def main() -> int:
    """Run the command; the exit code is 1 where there is no plan that may be served."""
    parser = argparse.ArgumentParser(prog="python -m export.plan", description=__doc__)
    parser.add_argument("entry", type=Path, metavar="ENTRY", help="an entry's folder in the model repository")
    help_cache = "measured times of kernels, kept from build to build; by default beside the repository"
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help=help_cache)
    arguments = parser.parse_args()
    folder = arguments.entry.resolve()
    try:
        toolkit = find_toolkit()
        build(folder, toolkit, arguments.timing_cache or timing_cache(folder.parent, toolkit))
    except ExportError as exc:
        print(f"plan: {folder.name}: {exc}", file=sys.stderr)
        return 1
    return 0


def timing_cache(repository: Path, toolkit: Toolkit) -> Path:
    """The file beside a repository that keeps the measured times of kernels from build to build."""
    repository = repository.resolve()  # "." has no name
    return repository.with_name(f"{repository.name}.tensorrt-{toolkit.version}.cache")


def is_current(folder: Path, toolkit: Toolkit) -> bool:
    """Whether an entry has a plan, built from its graph and profiles as they are, by this TensorRT for this GPU."""
    try:
        return staleness(folder / "1", current_key(folder, toolkit)) is None
    except FileNotFoundError:
        return False


def build(folder: Path, toolkit: Toolkit, times: Path) -> None:
    """Make sure that an entry has a plan that fits and is proven.

    Args:
        folder: the entry's.
        toolkit: TensorRT on the GPU that will serve.
        times: the timing cache; written too.

    Raises:
        ExportError: with the stage; the entry has no plan then.
    """
    version = folder / "1"
    try:
        spec, cases, key = read_spec(folder / SPEC), read_cases(folder / CASES), current_key(folder, toolkit)
    except FileNotFoundError as exc:
        raise PlanError(f"read: {exc.filename} is missing: export the entry for TensorRT first") from exc
    reason = staleness(version, key)
    if reason is None:
        print(f"plan: {folder.name}: up to date")
        return
    print(f"plan: {folder.name}: {reason}: building {len(spec.profiles)} profiles, for minutes", flush=True)
    (version / KEY).unlink(missing_ok=True)
    (version / PLAN).unlink(missing_ok=True)
    value = _build_proven(folder, toolkit, times, spec, cases)
    (version / KEY).write_text(json.dumps(key, indent=2) + "\n")
    print(f"plan: {folder.name}: built, {spec.measure} {spec.tolerance:g}, measured {value:.6f}")


def _build_proven(folder: Path, toolkit: Toolkit, times: Path, spec: PlanSpec, cases: Sequence[Case]) -> float:
    """Put the plan into its place once it is proven, and return the measure of the worst case."""
    version, indices = folder / "1", assign(spec.profiles, cases)
    # In the entry, from where it moves at once; Triton looks into folders named by a number only.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plan-") as scratch:
        fresh = Path(scratch) / PLAN
        toolkit.build(version / GRAPH, spec, fresh, times)
        outputs = toolkit.run(fresh, ((index, case.inputs) for index, case in zip(indices, cases, strict=True)))
        value = prove(spec, cases, indices, outputs)
        fresh.replace(version / PLAN)
    return value


def current_key(folder: Path, toolkit: Toolkit) -> dict[str, Any]:
    """The content that plan.key has where an entry's plan is built now.

    Raises:
        FileNotFoundError: the entry is not one for TensorRT.
    """
    profiles = read_spec(folder / SPEC).profiles
    return Key(toolkit.version, toolkit.compute_capability, graph_hash(folder / "1" / GRAPH), profiles).to_json()


def staleness(version: Path, key: Mapping[str, Any]) -> str | None:
    """Why the plan in an entry's version folder must be built anew, or None where it was built from this key."""
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


def prove(spec: PlanSpec, cases: Sequence[Case], indices: Sequence[int], outputs: Iterable[Vectors]) -> float:
    """Hold the outputs against the reference.

    Returns:
        The measure of the worst case.

    Raises:
        ParityError: a case is beyond the tolerance.
    """
    values = []
    for case, index, output in zip(cases, indices, outputs, strict=True):
        value = _measured(spec.measure, case.expected, output)
        # NaN is never within it.
        if not (value >= spec.tolerance if spec.measure == COSINE else value <= spec.tolerance):
            raise ParityError(
                f"gate: profile {index} with {format_shapes(case.shapes)}: measured {value:.6f}, where"
                f" {spec.measure} {spec.tolerance:g} was due"
            )
        values.append(value)
    return min(values) if spec.measure == COSINE else max(values)


def _measured(measure: str, expected: Vectors, actual: Vectors) -> float:
    if actual.shape != expected.shape:
        return float("nan")
    if measure == COSINE:
        return 1 - float(cosine_errors(expected, actual).max())
    return float(score_errors(expected, actual).max())


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


if __name__ == "__main__":
    sys.exit(main())
