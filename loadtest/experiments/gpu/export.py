"""Exports the parity table's families and the measured models for the torch backend, and proves them on this device."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from export.entry import is_built
from export.errors import ExportError, ParityError
from export.manifest import ModelSpec
from export.repository import build
from loadtest.experiments.gpu.plan import Plan, spec
from loadtest.experiments.gpu.results import Built, Exact, LeaveOut, Results
from loadtest.experiments.parity import CASES, Case, role_of, write

WORKERS = 8
"""Families exported at a time, at most."""


def run(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    """Export all."""
    results.families, results.built = [], []
    _models(plan, results, leave_out)
    _families(plan, results, leave_out)


def _models(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    for model in plan.models:
        if not model.is_trained:
            leave_out(f"weights of {model.name}", "random: its speed is real, its vectors mean nothing")
        started = time.perf_counter()
        table = spec(plan, model)
        if is_built(table, plan.repository):
            print(f"{model.name} is exported")
            continue
        (entry,) = build(table, plan.repository, lambda stage: print(stage, flush=True))
        seconds = time.perf_counter() - started
        results.built.append(Built(model.name, "export", seconds, ""))
        print(f"{model.name} exported in {seconds:.0f} s, {entry.proof['bytes'] / 2**20:.0f} MiB")


def _families(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    """Several at a time in processes, since most of an export is Python.

    Raises:
        ParityError: some failed; the others are in the results.
    """
    failed = 0
    cases = [case for case in CASES if not plan.families or case.label in plan.families]
    cores = len(os.sched_getaffinity(0))
    workers = min(WORKERS, cores, len(cases))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (max(1, cores // workers),)) as pool:
        for case, found in zip(cases, pool.map(_family, cases, [plan] * len(cases)), strict=True):
            if isinstance(found, str):
                leave_out(f"{case.label}, {case.task}", found)
                failed += 1
                continue
            results.families += found
            print(
                *(f"{one.label}, {one.role}, {one.precision}: {one.worst:.1e} of {one.limit:g}" for one in found),
                sep="\n",
            )
    if failed:
        raise ParityError(f"{failed} of {len(cases)} families failed")


def _family(case: Case, plan: Plan) -> list[Exact] | str:
    """What the proof of a family says, or why it failed."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return _proven(case, plan, Path(scratch))
        except ExportError as exc:
            return str(exc)


def _proven(case: Case, plan: Plan, scratch: Path) -> list[Exact]:
    table = ModelSpec(**write(case, scratch / "source"), backend="torch", precision=plan.precision)
    return [
        exact
        for entry in build(table, scratch / "repository", lambda _: None)
        for exact in exacts(case.label, role_of(case, entry), entry.proof["parity"])
    ]


def exacts(label: str, role: str, parities: Sequence[Mapping[str, Any]]) -> list[Exact]:
    """The largest error of each precision in a proof."""
    largest: dict[str, Mapping[str, Any]] = {}
    for parity in parities:
        precision = parity["precision"]
        largest[precision] = max(parity, largest.get(precision, parity), key=lambda one: one["worst"])
    return [
        Exact(label, role, precision, one["measure"], one["worst"], one["tolerance"]["worst"])
        for precision, one in largest.items()
    ]
