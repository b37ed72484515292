"""Every family is exact; `make parity` measures how exact, on every backend.

Here the backends take turns: all of them for all families take a quarter of an hour. tests/generations also exports
for CPUs. Families that read images beside texts, which only torch serves, take half a minute each. Tests of their
towers trace one of each kind, and tests/end_to_end/test_seeing.py exports and serves some.
"""

from pathlib import Path

import msgspec
import pytest

from loadtest.experiments.parity import CASES, RESULTS, RUNS, Case, Results, Run, measure
from loadtest.reports.parity import table


@pytest.mark.parametrize(
    ("case", "run"),
    [(case, RUNS[i % len(RUNS)]) for i, case in enumerate(case for case in CASES if len(case.backends) > 1)],
    ids=lambda one: f"{one.label} {one.task}" if isinstance(one, Case) else "-".join(filter(None, one)),
)
def test_every_family_is_exact(case: Case, run: Run, tmp_path: Path) -> None:
    found = measure(case, [run], tmp_path)  # raises where a graph is beyond its tolerance
    for one in found:
        assert any(key.startswith(" ".join(filter(None, run))) for key in one.errors)
        assert all(error < 1e-5 for key, error in one.errors.items() if key.endswith("fp32"))
    assert table(found).count("\n") == 2 + len(found)


def test_page_shows_every_family_as_it_is_stored() -> None:
    stored = msgspec.json.decode(RESULTS.read_bytes(), type=Results).found
    assert {one.label for one in stored} == {case.label for case in CASES}
    assert all({"torch fp16", "torch bf16"} & one.errors.keys() for one in stored)  # none is served in fp32 on a GPU
    assert table(stored) in Path("docs/models.md").read_text()
