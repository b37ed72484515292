"""The model repository that most experiments serve: models of each kind, exported when they are first needed."""

from pathlib import Path

from export.entry import is_built
from export.manifest import ModelSpec, load
from export.repository import build
from export.sources.resolve import resolve
from loadtest.tools.workloads import EMBEDDING_MODEL, IMAGE_MODEL, RERANK_MODEL

FOLDER = Path(".baseline")
"""Of all that is compared, and of infinity-emb, where `make bench` has installed it."""
REPOSITORY = FOLDER / "repository"
MAX_TOKENS = 256
"""Of EMBEDDING_MODEL."""


def prepare() -> None:
    """Export what is not there yet."""
    for spec in (load()[EMBEDDING_MODEL], load()[IMAGE_MODEL], cross_encoder()):
        export(spec, REPOSITORY)


def export(spec: ModelSpec, repository: Path) -> None:
    """Export a model unless it is there."""
    if not is_built(spec, repository):
        print(f"export {spec.name} to {repository}")
        build(spec, repository, progress=lambda _: None)


def source(name: str) -> Path:
    """The folder that a model is taken from, for Conch and for what it is compared with."""
    return FOLDER / "cross-encoder" if name == RERANK_MODEL else resolve(load()[EMBEDDING_MODEL]).folder


def cross_encoder() -> ModelSpec:
    """The table of a cross-encoder whose scores mean nothing, since its last layer is random: it takes what any takes.

    Infinity-emb has no late interaction, and there is no trained cross-encoder without a download.
    """
    where = source(RERANK_MODEL)
    if not where.exists():
        # Imported here, since it takes seconds: once the model is there, nothing needs torch.
        import torch  # noqa: PLC0415
        from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415

        torch.manual_seed(0)
        trunk = source(EMBEDDING_MODEL)
        model = AutoModelForSequenceClassification.from_pretrained(trunk, num_labels=1)
        tokenizer = AutoTokenizer.from_pretrained(trunk, model_max_length=512)
        model.save_pretrained(where)
        tokenizer.save_pretrained(where)
    return ModelSpec(name=RERANK_MODEL, task="cross-encoder", source=str(where.resolve()))
