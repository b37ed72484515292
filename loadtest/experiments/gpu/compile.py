"""Compiles the measured entries for this device, as a serving image does: `python -m export.plans ENTRY`."""

import subprocess
import sys
import time

from loadtest.experiments.gpu.plan import Plan
from loadtest.experiments.gpu.results import Built, LeaveOut, Results


def run(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    """Compile one after the other, since each also measures batches on the device."""
    results.built = [built for built in results.built if built.step != "compile"]
    for model in plan.models:
        started = time.perf_counter()
        command = [sys.executable, "-m", "export.plans", str(plan.entry(model))]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603
        print(done.stdout, end="", flush=True)
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        if done.returncode:
            leave_out(f"compiled {model.name}", last)
        else:
            results.built.append(Built(model.name, "compile", time.perf_counter() - started, last))
