"""Writes what `export.plans` reads of an entry, to build its plan or to compile its program."""

from pathlib import Path

import torch

from export.manifest import ModelSpec
from export.packing.memory import max_batch_size
from export.plans.gate import CASES, SPEC, Case, save_cases
from export.plans.profiles import PlanSpec, Profile, image_profiles, length_buckets, text_profiles, write_spec
from export.runtime.contract import Row, Tokens, padded
from export.tower import Tower
from export.verification.runners import request
from export.verification.tolerances import limits

CASE_ROWS = 4
"""Rows of one case, if a batch may have so many."""
CASE_TOKENS = 512
"""Tokens of the longest row of a case that has vectors of tokens: those of longer rows would take 100 MB."""


def write(spec: ModelSpec, tower: Tower, folder: Path) -> None:
    """Write plan.json and parity.npz into an entry."""
    write_spec(PlanSpec(_profiles(spec, tower), limits(tower, spec.computes_in, spec.backend)), folder / SPEC)
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
        found = [tower.reference(row) for row in rows]
    fields = [i for i, field in enumerate(tower.fields) if isinstance(field, Tokens)]
    longest = max((row[i].size for row in rows for i in fields), default=0)
    return Case(
        request(rows, tower.fields),
        {
            output.name: padded([one[output.name].numpy() for one in found])
            for output in tower.outputs
            if output.per == "row" or longest <= CASE_TOKENS
        },
    )
