"""The error measure and the tolerances of each role, and the results of comparisons."""

from collections.abc import Mapping
from dataclasses import dataclass

from export.manifest import Backend, Precision
from export.plans.measures import MEASURES, Tolerance, Vectors


@dataclass(frozen=True, slots=True)
class Measure:
    """The comparison of a role's outputs with the reference's."""

    name: str
    """One of MEASURES."""
    tolerances: Mapping[Precision, Tolerance]
    rounded: Tolerance
    """That of torch's bf16: all values have 8 bits of mantissa, where OpenVINO keeps those that matter in fp32."""

    def tolerance(self, precision: Precision, backend: Backend) -> Tolerance:
        """The limits of outputs that a backend computes in a precision."""
        return self.rounded if (backend, precision) == ("torch", "bf16") else self.tolerances[precision]

    def errors(self, expected: Vectors, actual: Vectors) -> Vectors:
        """The errors of outputs [N, width]: [N] or [N, width]."""
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
# bf16 has 8 bits of mantissa, a step of 1/256. The sigmoid behind makes a quarter of the difference.
_LOGIT = Measure(
    "logit",
    {"fp32": Tolerance(1e-3, 1e-3), "bf16": Tolerance(5e-2, 2e-2), "fp16": Tolerance(1e-2, 1e-2)},
    rounded=Tolerance(5e-2, 2e-2),
)
MEASURE_OF: Mapping[str, Measure] = {
    "text-embedding": _COSINE,
    "image-embedding": _COSINE,
    # Means of cosines: all of a row's tokens have to be off for these to be.
    "late-interaction": Measure(
        "score",
        {"fp32": Tolerance(1e-3, 1e-3), "bf16": Tolerance(1e-2, 1e-2), "fp16": Tolerance(2e-3, 2e-3)},
        rounded=Tolerance(1e-2, 1e-2),
    ),
    "cross-encoder": _LOGIT,
    "classifier": _LOGIT,
}
"""The measure of each role, by the name of the role."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The errors of one comparison, and their limits."""

    model: str
    """Its name in Triton."""
    precision: Precision
    batches: str
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
