"""What must come out of a plan or a compiled program: batches with the reference's outputs, which the export wrote."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ParityError
from export.plans.measures import MEASURES, Vectors
from export.plans.profiles import PlanSpec, Shape

SPEC = "plan.json"
CASES = "parity.npz"
EXPECTED = "expected"

Inputs = Mapping[str, NDArray[np.generic]]
"""All tensors of a request by name."""


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


def compare_outputs(spec: PlanSpec, cases: Sequence[Case], names: Sequence[str], outputs: Iterable[Vectors]) -> float:
    """Compare the outputs with the reference's.

    Args:
        spec: of the plan.
        cases: what was computed.
        names: what a sentence calls each case.
        outputs: of each case.

    Returns:
        The largest error.

    Raises:
        ParityError: a case, or the mean of all, is beyond the tolerance.
    """
    found = []
    for case, name, output in zip(cases, names, outputs, strict=True):
        where = f"gate: {name}"
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
    with path.open("rb") as file, np.load(file) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            cases.setdefault(int(number), {})[name] = arrays[key]
    return [Case(arrays, arrays.pop(EXPECTED).astype(np.float32)) for _, arrays in sorted(cases.items())]
