"""Writes what `export.plans` reads of an entry, to build its plan or to compile its program."""

from pathlib import Path

import numpy as np
import torch

from export.manifest import ModelSpec
from export.packing.memory import max_batch_size
from export.plans.gate import CASES, SPEC, Case, save_cases
from export.plans.profiles import PlanSpec, Profile, image_profiles, length_buckets, text_profiles, write_spec
from export.runtime.contract import Row, Tokens
from export.tower import Tower
from export.verification.runners import request
from export.verification.tolerances import MEASURE_OF

CASE_ROWS = 4
"""Rows of one case, if a batch may have so many."""


def write(spec: ModelSpec, tower: Tower, folder: Path) -> None:
    """Write plan.json and parity.npz into an entry."""
    measure = MEASURE_OF[tower.role.name]
    plan = PlanSpec(_profiles(spec, tower), measure.name, measure.tolerance(spec.computes_in, spec.backend))
    write_spec(plan, folder / SPEC)
    batches = _batches(tower, max_batch_size(spec, tower))
    if spec.backend == "torch" and tower.vocabulary is not None:  # which computes rows of all lengths together
        batches.append([row for batch in batches for row in batch])
    save_cases(folder / CASES, [_case(tower, rows) for rows in batches])


def _profiles(spec: ModelSpec, tower: Tower) -> tuple[Profile, ...]:
    if spec.backend == "torch":  # its sizes are free
        return ()
    batch = max_batch_size(spec, tower)
    if tower.vocabulary is None:
        _, height, width = tower.samples()[0][0].shape
        return image_profiles(height, width, batch)
    ids = [field.ids for field in tower.fields if isinstance(field, Tokens)]
    columns = [name for field in tower.fields for name in field.inputs if name not in ids]
    return text_profiles(ids, columns, length_buckets(tower.vocabulary.max_tokens), batch)


def _batches(tower: Tower, max_batch: int) -> list[list[Row]]:
    """The rows to compare on, a few together of those that share a bucket, so that every profile has some."""
    rows, most = tower.samples(), min(CASE_ROWS, max_batch)
    if tower.vocabulary is None:
        return [list(rows[:most])]
    last = max(i for i, field in enumerate(tower.fields) if isinstance(field, Tokens))
    batches: dict[int, list[Row]] = {bucket: [] for bucket in length_buckets(tower.vocabulary.max_tokens)}
    for row in rows:
        batches[next(bucket for bucket in batches if len(row[last]) <= bucket)].append(row)
    return [batch[-most:] for batch in batches.values() if batch]


def _case(tower: Tower, rows: list[Row]) -> Case:
    with torch.inference_mode():
        expected = np.stack([tower.reference(row).numpy() for row in rows])
    return Case(request(rows, tower.fields), expected)
