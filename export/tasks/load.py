"""Loads a model's sources as its task wants."""

from collections.abc import Callable, Mapping
from pathlib import Path

from export.manifest import ModelSpec, Task
from export.sources.resolve import Sources
from export.tasks import classification, cross_encoder, image_text, late_interaction, m3, sparse, text_embedding
from export.tower import Tower

_TASKS: Mapping[Task, Callable[[ModelSpec, Path], list[Tower]]] = {
    "classification": classification.load,
    "cross-encoder": cross_encoder.load,
    "multi-vector": late_interaction.load,
    "sparse": sparse.load,
    "text-embedding": lambda spec, folder: (m3 if m3.is_m3(folder) else text_embedding).load(spec, folder),
}


def load_towers(spec: ModelSpec, sources: Sources) -> list[Tower]:
    """The towers that a model becomes.

    Raises:
        SourceError: a source cannot be loaded, or is not of the table's task.
    """
    if spec.task == "image-text":
        return image_text.load(spec, sources.folder, sources.image_folder)
    return _TASKS[spec.task](spec, sources.folder)
