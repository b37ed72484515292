"""Every family is exact; `make parity` prints how exact, on every backend.

Here each is exported as the CPU and the plain ONNX graph, and the other graphs take turns: all of them for all families
take a quarter of an hour.
"""

from pathlib import Path

import pytest

from loadtest.experiments.parity import CASES, RUNS, Case, Run, measure
from loadtest.reports.parity import table

ALWAYS, IN_TURNS = RUNS[:2], RUNS[2:]


@pytest.mark.parametrize(
    ("case", "extra"),
    [(case, IN_TURNS[i % len(IN_TURNS)]) for i, case in enumerate(CASES)],
    ids=lambda one: f"{one.label} {one.task}" if isinstance(one, Case) else "-".join(one),
)
def test_every_family_is_exact(case: Case, extra: Run, tmp_path: Path) -> None:
    found = measure(case, [*ALWAYS, extra], tmp_path)  # raises where a graph is beyond its tolerance
    for one in found:
        assert set(one.errors) >= {("python", "fp32"), *ALWAYS[1:], extra}
        assert one.errors["python", "fp32"] < 1e-5
        assert one.errors["onnxruntime", "fp32"] < 1e-5
    assert table(found).count("\n") == 2 + len(found)
