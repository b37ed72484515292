"""The model repository that most experiments serve: models of each kind, exported when they are first needed."""

from pathlib import Path

from export.entry import is_built
from export.manifest import ModelSpec, load
from export.repository import build
from loadtest.tools import baseline
from loadtest.tools.workloads import EMBEDDING_MODEL, IMAGE_MODEL

REPOSITORY = baseline.FOLDER / "repository"
MAX_TOKENS = 256
"""Of EMBEDDING_MODEL."""


def prepare() -> None:
    """Export what is not there yet."""
    for spec in (load()[EMBEDDING_MODEL], load()[IMAGE_MODEL], baseline.cross_encoder()):
        export(spec, REPOSITORY)


def export(spec: ModelSpec, repository: Path) -> None:
    """Export a model unless it is there."""
    if not is_built(spec, repository):
        print(f"export {spec.name} to {repository}")
        build(spec, repository, progress=lambda _: None)
