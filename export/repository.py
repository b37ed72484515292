"""The model repository. All entries of a model are verified first and then replaced together."""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.entry import Entry, Proofs, read_proofs
from export.manifest import ModelSpec
from export.sources.isolation import Progress, Run, here
from export.sources.resolve import resolve

SCRATCH = ".export-"


def build(spec: ModelSpec, repository: Path, progress: Progress, run: Run = here) -> list[Entry]:
    """Export, verify and write one model.

    Args:
        spec: the model's table.
        repository: the folder of entries; those of this model are replaced as a whole, once all are verified.
        progress: called with each stage before it begins.
        run: calls what reads the model, perhaps in another process, as `isolation.run` does.

    Raises:
        ExportError: a stage failed; the repository is as it was.
    """
    progress(f"load {spec.name}")
    sources = resolve(spec)
    repository.mkdir(parents=True, exist_ok=True)
    with scratch_folder(repository) as scratch:
        proofs: Proofs = run(_make, (spec, sources, scratch, repository), progress)
        replace_entries(list(proofs), scratch, repository)
    return [Entry(repository / name, proof) for name, proof in proofs.items()]


def check(spec: ModelSpec, repository: Path, progress: Progress, run: Run = here) -> list[Entry]:
    """Verify a built model again, and return its entries with what is measured now in their proofs.

    Takes what `build` takes, and writes nothing.

    Raises:
        ExportError: it is not built, or its outputs differ from the reference's.
    """
    proofs = read_proofs(spec, repository)
    progress(f"load {spec.name}")
    measured: Proofs = run(_measure, (spec, resolve(spec), proofs, repository), progress)
    return [Entry(repository / name, proof) for name, proof in measured.items()]


# The pipeline imports torch and transformers, which takes ten seconds. Only the process that reads a model imports it.


def _make(*arguments: Any) -> Proofs:  # noqa: ANN401
    from export import pipeline  # noqa: PLC0415

    return pipeline.make(*arguments)


def _measure(*arguments: Any) -> Proofs:  # noqa: ANN401
    from export import pipeline  # noqa: PLC0415

    return pipeline.measure(*arguments)


def _beside(repository: Path) -> Path:
    """The folder for scratch files that are later renamed into the repository.

    It is the repository's parent, since Triton loads every folder inside as a model. It is the repository itself if
    that is a separate volume or if the parent is not writable.
    """
    parent = repository.resolve().parent
    is_one = parent.stat().st_dev == repository.stat().st_dev
    return parent if is_one and os.access(parent, os.W_OK) else repository


@contextmanager
def scratch_folder(repository: Path) -> Iterator[Path]:
    """A scratch folder beside the repository. Other exports wait until it is closed.

    Scratch folders of killed exports are removed.
    """
    folder, name = _beside(repository), f"{SCRATCH}{repository.resolve().name}"
    with (folder / f"{name}.lock").open("w") as lock:  # a file: NFS locks no folders
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.iterdir():
            if re.fullmatch(rf"{re.escape(name)}-\w{{8}}", left.name):
                shutil.rmtree(left, ignore_errors=True)
        scratch = folder / f"{name}-{secrets.token_hex(4)}"
        try:
            scratch.mkdir(mode=0o700)  # in here, since an interrupt may follow at once
            yield scratch
        finally:
            # A file that a server still reads keeps its folder on NFS. The next export removes it.
            shutil.rmtree(scratch, ignore_errors=True)


def replace_entries(names: Sequence[str], scratch: Path, repository: Path) -> None:
    """Replace these entries. If one cannot be moved, none is replaced."""
    replaced = scratch / "old"
    replaced.mkdir()
    moved: list[str] = []
    try:
        for name in names:
            if (repository / name).exists():
                (repository / name).rename(replaced / name)
            moved.append(name)
            (scratch / name).rename(repository / name)
    except OSError:
        for name in moved:
            if (repository / name).exists():
                (repository / name).rename(replaced / f"new-{name}")
            if (replaced / name).exists():
                (replaced / name).rename(repository / name)
        raise
