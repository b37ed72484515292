"""Exports the parity table's families and the measured models for the torch backend, and proves them on this device."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from export.entry import is_built
from export.errors import ParityError
from export.manifest import ModelSpec
from export.repository import build
from loadtest.experiments.gpu.plan import Plan, spec
from loadtest.experiments.gpu.results import Built, Exact, LeaveOut, Results, reason
from loadtest.experiments.parity import CASES, Case, role_of, write

WORKERS = 8
"""Families exported at a time, at most."""


def run(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    """Export all.

    Raises:
        ParityError: some failed; the others are in the results.
    """
    results.families, results.built = [], []
    failed = [*_models(plan, results, leave_out), *_families(plan, results, leave_out)]
    if failed:
        raise ParityError(f"{len(failed)} exports failed: {', '.join(failed)}")


def _models(plan: Plan, results: Results, leave_out: LeaveOut) -> Iterator[str]:
    """Export the measured models, and yield those that fail."""
    for model in plan.models:
        if not model.is_trained:
            leave_out(f"weights of {model.name}", "random: its speed is real, its vectors mean nothing")
        started = time.perf_counter()
        table = spec(plan, model)
        if is_built(table, plan.repository):
            print(f"{model.name} is exported")
            continue
        try:
            (entry,) = build(table, plan.repository, lambda stage: print(stage, flush=True))
        except Exception as exc:  # noqa: BLE001 - others are exported all the same
            leave_out(model.name, reason(exc))
            yield model.name
            continue
        seconds = time.perf_counter() - started
        results.built.append(Built(model.name, "export", seconds, ""))
        print(f"{model.name} exported in {seconds:.0f} s, {entry.proof['bytes'] / 2**20:.0f} MiB")


def _families(plan: Plan, results: Results, leave_out: LeaveOut) -> Iterator[str]:
    """Export several families at a time in processes, since most of an export is Python, and yield those that fail."""
    cases = [case for case in CASES if not plan.families or case.label in plan.families]
    cores = len(os.sched_getaffinity(0))
    workers = min(WORKERS, cores, len(cases))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (max(1, cores // workers),)) as pool:
        for case, found in zip(cases, pool.map(_family, cases, [plan] * len(cases)), strict=True):
            if isinstance(found, str):
                leave_out(f"{case.label}, {case.task}", found)
                yield f"{case.label}, {case.task}"
                continue
            if not found:
                leave_out(f"{case.label}, {case.task}", f"transformers {version('transformers')} does not have it")
                continue
            results.families += found
            print(
                *(f"{one.label}, {one.role}, {one.precision}: {one.worst:.1e} of {one.limit:g}" for one in found),
                sep="\n",
            )


def _family(case: Case, plan: Plan) -> list[Exact] | str:
    """What the proof of a family says, nothing if it is not known here, or why it failed."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            keys = write(case, Path(scratch) / "source")
        except AttributeError:  # transformers has no such class
            return []
        try:
            return _proven(case, plan, keys, Path(scratch) / "repository")
        except Exception as exc:  # noqa: BLE001 - others are exported all the same
            return reason(exc)


def _proven(case: Case, plan: Plan, keys: Mapping[str, Any], repository: Path) -> list[Exact]:
    table = ModelSpec(**keys, backend="torch", precision=plan.precision)
    return [
        exact
        for entry in build(table, repository, lambda _: None)
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
