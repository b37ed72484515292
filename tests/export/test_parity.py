"""Every family is exact; `make parity` measures how exact, on every backend.

Here each is exported as the CPU and the plain ONNX graph, and the other graphs take turns: all of them for all families
take a quarter of an hour.
"""

from pathlib import Path

import msgspec
import pytest

from loadtest.experiments.parity import CASES, RESULTS, RUNS, Case, Results, Run, measure
from loadtest.reports.parity import table

ALWAYS, IN_TURNS = RUNS[:2], RUNS[2:]


@pytest.mark.parametrize(
    ("case", "extra"),
    [(case, IN_TURNS[i % len(IN_TURNS)]) for i, case in enumerate(CASES)],
    ids=lambda one: f"{one.label} {one.task}" if isinstance(one, Case) else "-".join(filter(None, one)),
)
def test_every_family_is_exact(case: Case, extra: Run, tmp_path: Path) -> None:
    found = measure(case, [*ALWAYS, extra], tmp_path)  # raises where a graph is beyond its tolerance
    for one in found:
        assert set(one.errors) >= {"python fp32", "onnxruntime fp32"}
        assert any(key.startswith(" ".join(filter(None, extra))) for key in one.errors)
        assert one.errors["python fp32"] < 1e-5
        assert one.errors["onnxruntime fp32"] < 1e-5
    assert table(found).count("\n") == 2 + len(found)


def test_page_shows_every_family_as_it_is_stored() -> None:
    stored = msgspec.json.decode(RESULTS.read_bytes(), type=Results).found
    assert {one.label for one in stored} == {case.label for case in CASES}
    assert all({"torch fp16", "torch bf16"} & one.errors.keys() for one in stored)  # none is served in fp32 on a GPU
    assert table(stored) in Path("docs/models.md").read_text()
