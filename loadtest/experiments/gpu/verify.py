"""Compares the measured entries as they are now, compiled or not, with the reference's outputs that the export stored.

The export compares the program before it is compiled, and `python -m export.plans` what it has compiled. This is the
last look before anything is timed, by the engine as Triton's backend uses it: each case alone, and all rows together.
"""

import numpy as np

from export.entry import read_proofs
from export.errors import ParityError
from export.plans.build import CASES, read_cases
from export.plans.measures import MEASURES
from export.runtime.contract import Limits, read_rows
from loadtest.experiments.gpu.engine import Conch
from loadtest.experiments.gpu.plan import Model, Plan, spec
from loadtest.experiments.gpu.results import Exact, LeaveOut, Results

ANY = Limits(max_tokens=1 << 30, vocabulary_size=1 << 30)


def run(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    """Compare all models.

    Raises:
        ParityError: one is beyond its tolerance.
    """
    results.verified = []
    for model in plan.models:
        if not (plan.entry(model) / CASES).is_file():
            leave_out(model.name, f"its entry has no {CASES}")
            continue
        found = _compare(plan, model)
        results.verified.append(found)
        print(f"{model.name}, {found.role}, {found.precision}: {found.worst:.1e} of {found.limit:g}")
        if not found.worst <= found.limit:
            raise ParityError(f"{model.name}: {found.measure} error {found.worst:.2g}, {found.limit:g} allowed")


def _compare(plan: Plan, model: Model) -> Exact:
    engine = Conch(plan, plan.entry(model)).engine
    cases = read_cases(plan.entry(model) / CASES)
    batches = [read_rows(case.inputs, engine.fields, ANY) for case in cases]
    expected = np.concatenate([case.expected for case in cases])
    alone = np.concatenate([engine.run(rows) for rows in batches])
    together = engine.run([row for rows in batches for row in rows])
    parity = read_proofs(spec(plan, model), plan.repository)[model.name]["parity"][-1]
    errors = MEASURES[parity["measure"]]
    worst = float(np.max([errors(expected, actual).max() for actual in (alone, together)]))
    role = "not compiled" if engine.uncompiled else "compiled"
    return Exact(model.name, role, engine.precision, parity["measure"], worst, parity["tolerance"]["worst"])
