"""Builds the TensorRT plan of an entry and compares its outputs with the reference's.

The export wrote into the entry what to build (plan.json, model.onnx) and what the outputs must be (parity.npz).
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.errors import ExportError
from export.plans.gate import CASES, SPEC, Case, compare_outputs, describe_errors, read_cases
from export.plans.profiles import PlanSpec, Profile, graph_hash, read_spec
from export.plans.toolkit import PlanError, Toolkit, format_shapes
from export.runtime.freshness import staleness

GRAPH = "model.onnx"
PLAN = "model.plan"
KEY = "plan.key"
"""What the plan was built from, in JSON."""
NAMES = {"tensorrt": "TensorRT", "compute_capability": "the GPU's compute capability"}
"""What a sentence calls the parts of the key that it tells."""


def timing_cache(repository: Path, toolkit: Toolkit) -> Path:
    """The file beside a repository that keeps the measured times of kernels from build to build."""
    repository = repository.resolve()  # "." has no name
    return repository.with_name(f"{repository.name}.tensorrt-{toolkit.version}.cache")


def is_current(folder: Path, toolkit: Toolkit) -> bool:
    """Whether an entry has a plan, built from its graph and profiles as they are, by this TensorRT for this GPU."""
    try:
        return staleness(folder / "1" / PLAN, folder / "1" / KEY, current_key(folder, toolkit), NAMES) is None
    except (FileNotFoundError, ExportError):
        return False


def build_plan(folder: Path, toolkit: Toolkit, times: Path, progress: Callable[[str], None]) -> None:
    """Build an entry's plan and verify it, unless the one that it has is current.

    Args:
        folder: the entry.
        toolkit: TensorRT on the GPU that will serve.
        times: the file of the timing cache, which is written too.
        progress: called with each stage.

    Raises:
        ExportError: a stage failed; the entry has no plan then.
    """
    version = folder / "1"
    try:
        spec, cases, key = read_spec(folder / SPEC), read_cases(folder / CASES), current_key(folder, toolkit)
    except FileNotFoundError as exc:
        raise PlanError(f"read: {exc.filename} is missing: export the entry for TensorRT first") from exc
    reason = staleness(version / PLAN, version / KEY, key, NAMES)
    if reason is None:
        progress(f"plan {folder.name}: up to date")
        return
    progress(f"plan {folder.name}: {reason}: building {len(spec.profiles)} profiles, which takes minutes")
    (version / KEY).unlink(missing_ok=True)
    (version / PLAN).unlink(missing_ok=True)
    worst = _build_verified(folder, toolkit, times, spec, cases)
    (version / KEY).write_text(json.dumps(key, indent=2) + "\n")
    progress(f"plan {folder.name}: built: {describe_errors(spec, worst)}")


def _build_verified(
    folder: Path, toolkit: Toolkit, times: Path, spec: PlanSpec, cases: Sequence[Case]
) -> dict[str, float]:
    """Put the plan into its place once it is verified, and return the largest error of each output."""
    version, indices = folder / "1", assign(spec.profiles, cases)
    # In the entry, from where it moves at once; Triton looks into folders named by a number only.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plan-") as scratch:
        fresh = Path(scratch) / PLAN
        toolkit.build(version / GRAPH, spec, fresh, times)
        outputs = toolkit.run(fresh, ((index, case.inputs) for index, case in zip(indices, cases, strict=True)))
        names = [
            f"profile {index} with {format_shapes(case.shapes)}" for index, case in zip(indices, cases, strict=True)
        ]
        worst = compare_outputs(spec, cases, names, outputs)
        fresh.replace(version / PLAN)
    return worst


def current_key(folder: Path, toolkit: Toolkit) -> dict[str, Any]:
    """Everything that decides whether a plan still fits: the content of plan.key if it were built now.

    Raises:
        FileNotFoundError: the entry is not one for TensorRT.
    """
    key = {
        "tensorrt": toolkit.version,
        "compute_capability": toolkit.compute_capability,
        "graph": graph_hash(folder / "1" / GRAPH),
        "profiles": [asdict(profile) for profile in read_spec(folder / SPEC).profiles],
    }
    content: dict[str, Any] = json.loads(json.dumps(key))  # as it is read: without tuples
    return content


def assign(profiles: Sequence[Profile], cases: Sequence[Case]) -> list[int]:
    """The profile to run each case with.

    Raises:
        PlanError: a case fits no profile, or a profile, whose kernels are its own, has no case.
    """
    indices = []
    for case in cases:
        fitting = [index for index, profile in enumerate(profiles) if profile.admits(case.shapes)]
        if not fitting:
            raise PlanError(f"read: no profile of {SPEC} takes {format_shapes(case.shapes)} of {CASES}")
        indices.append(fitting[0])
    if untried := set(range(len(profiles))) - set(indices):
        raise PlanError(f"read: no case of {CASES} tries profile {min(untried)} of {SPEC}")
    return indices
