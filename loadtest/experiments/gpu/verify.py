"""Compares the measured entries as they are now, compiled or not, with the reference's outputs that the export stored.

The export compares the program before it is compiled, and `python -m export.plans` what it has compiled. This is the
last look before anything is timed, by the engine as Triton's backend uses it: each case alone, and all rows together.
"""

import numpy as np

from export.errors import ParityError
from export.plans.compile import UNLIMITED
from export.plans.gate import CASES, SPEC, read_cases
from export.plans.measures import MEASURES
from export.plans.profiles import read_spec
from export.runtime.contract import read_rows
from loadtest.experiments.gpu.engine import Conch
from loadtest.experiments.gpu.plan import Model, Plan
from loadtest.experiments.gpu.results import Exact, LeaveOut, Results


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
    """The largest error of the main output in any batch."""
    conch = Conch(plan, plan.entry(model))
    engine, output = conch.engine, conch.engine.outputs[0].name
    spec, cases = read_spec(plan.entry(model) / SPEC), read_cases(plan.entry(model) / CASES)
    batches = [read_rows(case.inputs, engine.fields, UNLIMITED) for case in cases]
    expected = np.concatenate([case.expected[output] for case in cases])
    alone = np.concatenate([conch.run(rows) for rows in batches])
    together = conch.run([row for rows in batches for row in rows])
    limit = spec.limits[output]
    worst = float(np.max([MEASURES[limit.measure](expected, actual).max() for actual in (alone, together)]))
    role = "not compiled" if engine.uncompiled else "compiled"
    return Exact(model.name, role, engine.precision, limit.measure, worst, limit.tolerance.worst)
