"""Every family is exact on every backend; `make parity` prints how exact."""

from pathlib import Path

import pytest

from tests.export.parity import CASES, COLUMNS, RUNS, Case, measure, table


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.label} {case.task}")
def test_every_family_is_exact_on_every_backend(case: Case, tmp_path: Path) -> None:
    found = measure(case, RUNS, tmp_path)  # raises where a graph is beyond its tolerance
    for one in found:
        assert set(one.errors) >= set(COLUMNS) - {("python", "bf16")}
        assert one.errors["python", "fp32"] < 1e-5
        assert one.errors["onnxruntime", "fp32"] < 1e-5
    assert table(found).count("\n") == 2 + len(found)
