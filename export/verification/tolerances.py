"""The error measures and the tolerances of outputs, and the results of comparisons."""

from collections.abc import Mapping
from dataclasses import dataclass

from export.manifest import Backend, Precision
from export.plans.measures import MEASURES, SPARSE, Limit, Tolerance, Values, Vectors
from export.runtime.contract import (
    CLASSIFIER,
    CROSS_ENCODER,
    EMBEDDING,
    LATE_INTERACTION,
    QUERY_VECTORS,
    SCORE,
    TOKEN_VECTORS,
    Role,
)
from export.tower import Tower


@dataclass(frozen=True, slots=True)
class Measure:
    """The comparison of an output with the reference's."""

    name: str
    """One of MEASURES."""
    tolerances: Mapping[Precision, Tolerance]
    rounded: Tolerance
    """That of torch's bf16: all values have 8 bits of mantissa, where OpenVINO keeps those that matter in fp32."""

    def tolerance(self, precision: Precision, backend: Backend) -> Tolerance:
        """The limits of outputs that a backend computes in a precision."""
        return self.rounded if (backend, precision) == ("torch", "bf16") else self.tolerances[precision]

    def errors(self, expected: Values, actual: Values) -> Vectors:
        """The errors, of any shape."""
        return MEASURES[self.name](expected, actual)


_COSINE = Measure(
    "cosine",
    {
        "fp32": Tolerance(1e-4, 1e-4),
        "bf16": Tolerance(1e-4, 1e-4),
        "fp16": Tolerance(1e-3, 1e-3),
        "int8": Tolerance(2e-2, 5e-3),
    },
    rounded=Tolerance(1e-3, 1e-3),
)
# One token of thousands may be small, and is then off by more than any mean of tokens.
_TOKENS = Measure(
    "token cosine",
    {
        "fp32": Tolerance(1e-4, 1e-4),
        "bf16": Tolerance(1e-2, 1e-3),
        "fp16": Tolerance(1e-2, 1e-3),
        "int8": Tolerance(2e-1, 2e-2),
    },
    rounded=Tolerance(1e-2, 1e-3),
)
# Logits: bf16 has 8 bits of mantissa, a step of 1/256. The sigmoid behind makes a quarter of the difference.
_LOGITS = Measure(
    "logit",
    {"fp32": Tolerance(1e-3, 1e-3), "bf16": Tolerance(5e-2, 2e-2), "fp16": Tolerance(1e-2, 1e-2)},
    rounded=Tolerance(5e-2, 2e-2),
)
MEASURES_OF: Mapping[str, Measure] = {
    EMBEDDING: _COSINE,
    TOKEN_VECTORS: _TOKENS,
    QUERY_VECTORS: _TOKENS,
    SPARSE: Measure(
        "weight",
        {"fp32": Tolerance(1e-3, 1e-3), "bf16": Tolerance(5e-2, 2e-2), "fp16": Tolerance(1e-2, 1e-2)},
        rounded=Tolerance(5e-2, 2e-2),
    ),
}
"""The measure of each output except scores, by what is compared."""
SCORES_OF: Mapping[Role, Measure] = {
    # Means of cosines: all of a row's tokens have to be off for these to be.
    LATE_INTERACTION: Measure(
        "score",
        {"fp32": Tolerance(1e-3, 1e-3), "bf16": Tolerance(1e-2, 1e-2), "fp16": Tolerance(2e-3, 2e-3)},
        rounded=Tolerance(1e-2, 1e-2),
    ),
    CROSS_ENCODER: _LOGITS,
    CLASSIFIER: _LOGITS,
}
"""The measure of the scores of each role."""


def measure(role: Role, output: str) -> Measure:
    """The measure of an output of a role, or of `sparse`."""
    return SCORES_OF[role] if output == SCORE else MEASURES_OF[output]


def limits(tower: Tower, precision: Precision, backend: Backend) -> dict[str, Limit]:
    """The measures and tolerances of what is compared of a tower's outputs."""
    names = {SPARSE if output.name.startswith(SPARSE) else output.name: None for output in tower.outputs}
    found = {name: measure(tower.role, name) for name in names}
    return {name: Limit(one.name, one.tolerance(precision, backend)) for name, one in found.items()}


@dataclass(frozen=True, slots=True)
class Parity:
    """The errors of one comparison, and their limits."""

    model: str
    """Its name in Triton."""
    precision: Precision
    batches: str
    output: str
    measure: str
    worst: float
    mean: float
    tolerance: Tolerance

    @property
    def holds(self) -> bool:
        """Whether both are within the tolerance."""
        return self.tolerance.admits(self.worst, self.mean)


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of all compared rows in batches together, on this machine."""

    model: str
    precision: Precision
    per_second: float
    unit: str
    """The counted unit: "tokens" or "images"."""
