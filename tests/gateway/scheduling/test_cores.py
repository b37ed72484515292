import os
from collections.abc import Callable
from pathlib import Path

import pytest

import export.runtime.cores
import gateway.scheduling.cores

ALL = len(os.sched_getaffinity(0))

pytestmark = pytest.mark.parametrize(
    "cores", [gateway.scheduling.cores.count, export.runtime.cores.count], ids=["gateway", "engine"]
)
"""Two programs that never import each other count in the same way."""
Count = Callable[[Path], int]


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ("max 100000", ALL),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("100001 100000", min(2, ALL)),
        ("1000000000 100000", ALL),
    ],
)
def test_container_limit_is_rounded_up_to_cores(cores: Count, tmp_path: Path, limit: str, count: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cores(tmp_path / "cpu.max") == count


def test_process_without_a_limit_may_use_its_affinity(cores: Count, tmp_path: Path) -> None:
    assert cores(tmp_path / "cpu.max") == ALL
