import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from export.errors import ParityError
from export.plans.gate import compare_outputs, describe_errors, read_cases, save_cases
from export.plans.measures import Limit, Tolerance
from export.plans.profiles import PlanSpec
from tests.export.plans.cases import case, shaped

NAMES = ["x:1", "x:2"]


@pytest.mark.parametrize(
    ("measure", "tolerance", "outputs", "worst"),
    [
        ("cosine", 0.01, [[[2, 2]], [[1, 1.1]]], 0.00113),
        ("score", 0.2, [[[1, 1.05]], [[0.9, 1]]], 0.1),
        ("cosine", 0.01, [[[2, 2]], [[1, 0]]], None),
        ("score", 0.2, [[[1, 1]], [[1, 1.3]]], None),
        ("logit", 0.2, [[[1, 1]], [[1, float("nan")]]], None),
    ],
)
def test_worst_case_decides(
    measure: str, tolerance: float, outputs: Iterable[list[list[float]]], worst: float | None
) -> None:
    spec = PlanSpec((), {"embedding": Limit(measure, Tolerance(tolerance, tolerance))})
    cases, arrays = [shaped(x=(1,))] * 2, [{"embedding": np.array(output, np.float32)} for output in outputs]
    if worst is None:
        sentence = rf"^gate: x:[12]: embedding: {measure} error \S+, {tolerance} allowed$"
        with pytest.raises(ParityError, match=sentence):
            compare_outputs(spec, cases, NAMES, arrays)
    else:
        found = compare_outputs(spec, cases, NAMES, arrays)
        assert found == {"embedding": pytest.approx(worst, abs=1e-5)}
        assert describe_errors(spec, found).startswith(
            f"embedding: {measure} error {found['embedding']:.2g} at worst, "
        )


def spec(tolerance: Tolerance) -> PlanSpec:
    return PlanSpec((), {"embedding": Limit("score", tolerance)})


def test_mean_of_all_cases_decides_too() -> None:
    cases, outputs = [shaped(x=(1,))] * 2, [{"embedding": np.array([[1, 1.1]], np.float32)}] * 2
    assert compare_outputs(spec(Tolerance(0.2, 0.06)), cases, NAMES, outputs)["embedding"] > 0
    with pytest.raises(ParityError, match=r"^gate: embedding: mean score error 0\.05, 0\.04 allowed$"):
        compare_outputs(spec(Tolerance(0.2, 0.04)), cases, NAMES, outputs)


def test_outputs_of_another_shape_are_refused() -> None:
    for shape in ((1, 3), (2, 2)):
        outputs = [{"embedding": np.ones(shape, np.float32)}]
        with pytest.raises(ParityError, match=rf"expected embedding of shape \(1, 2\), got {re.escape(str(shape))}$"):
            compare_outputs(spec(Tolerance(1, 1)), [shaped(x=(1,))], NAMES[:1], outputs)


def test_cases_survive_their_file(tmp_path: Path) -> None:
    table = np.eye(4, dtype=np.float32)
    cases = [case(table, 1 + i % 3, 1 + i) for i in range(11)]  # ten is after two
    save_cases(tmp_path / "parity.npz", cases)
    assert {"0/input_ids", "0/length", "0/expected/embedding"} < set(np.load(tmp_path / "parity.npz").files)
    for before, after in zip(cases, read_cases(tmp_path / "parity.npz"), strict=True):
        assert before.shapes == after.shapes
        assert after.inputs["length"].dtype == np.int32
        assert (before.inputs["input_ids"] == after.inputs["input_ids"]).all()
        assert (before.expected["embedding"] == after.expected["embedding"]).all()
