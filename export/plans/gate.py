"""What must come out of a plan or a compiled program: batches with the reference's outputs, which the export wrote."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ParityError
from export.plans.measures import MEASURES, Values, Vectors, compared
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
    expected: Mapping[str, NDArray[np.generic]]
    """The reference's outputs by name, [b, width], or [b, L, width] of tokens."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of the inputs."""
        return {name: array.shape for name, array in self.inputs.items()}


def compare_outputs(
    spec: PlanSpec, cases: Sequence[Case], names: Sequence[str], outputs: Iterable[Mapping[str, Values]]
) -> dict[str, float]:
    """Compare the outputs with the reference's.

    Args:
        spec: of the plan.
        cases: what was computed.
        names: what a sentence calls each case.
        outputs: of each case, by name.

    Returns:
        The largest error of each output.

    Raises:
        ParityError: a case, or the mean of all, is beyond the tolerance.
    """
    found: dict[str, list[Vectors]] = {}
    for case, name, given in zip(cases, names, outputs, strict=True):
        where, actual = f"gate: {name}", compared(given)
        for output, expected in compared(case.expected).items():
            limit = spec.limits[output]
            shapes = [(len(values), values[0].shape[-1]) for values in (expected, actual[output])]
            if shapes[0] != shapes[1]:
                raise ParityError(f"{where}: expected {output} of shape {shapes[0]}, got {shapes[1]}")
            errors = MEASURES[limit.measure](expected, actual[output]).ravel()
            worst = float(errors.max(initial=0))
            if not limit.tolerance.admits(worst, 0):
                raise ParityError(
                    f"{where}: {output}: {limit.measure} error {worst:.2g}, {limit.tolerance.worst:g} allowed"
                )
            found.setdefault(output, []).append(errors)
    for output, parts in found.items():
        limit, errors = spec.limits[output], np.concatenate(parts)
        mean = float(errors.mean()) if errors.size else 0.0
        if not limit.tolerance.admits(0, mean):
            raise ParityError(
                f"gate: {output}: mean {limit.measure} error {mean:.2g}, {limit.tolerance.mean:g} allowed"
            )
    return {output: float(np.concatenate(parts).max(initial=0)) for output, parts in found.items()}


def describe_errors(spec: PlanSpec, worst: Mapping[str, float]) -> str:
    """The largest error of each output, in words."""
    return "; ".join(
        f"{output}: {spec.limits[output].measure} error {error:.2g} at worst,"
        f" {spec.limits[output].tolerance.worst:g} allowed"
        for output, error in worst.items()
    )


def save_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write parity.npz: the arrays of case 0 are named `0/<input>` and `0/expected/<output>`, and so on."""
    arrays = {
        f"{i}/{name}": array
        for i, case in enumerate(cases)
        for name, array in (
            *case.inputs.items(),
            *((f"{EXPECTED}/{output}", values) for output, values in case.expected.items()),
        )
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its one named argument is not among them


def read_cases(path: Path) -> list[Case]:
    """Read what `save_cases` wrote."""
    inputs: dict[int, dict[str, NDArray[np.generic]]] = {}
    expected: dict[int, dict[str, NDArray[np.generic]]] = {}
    with path.open("rb") as file, np.load(file) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            kind, _, output = name.partition("/")
            part = expected if kind == EXPECTED else inputs
            part.setdefault(int(number), {})[output or name] = arrays[key]
    return [Case(inputs[number], expected[number]) for number in sorted(inputs)]
