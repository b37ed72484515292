"""The tasks that a model can be exported for, a module each: a source's folder to the towers that it becomes."""

from collections.abc import Callable, Mapping
from pathlib import Path

from export.manifest import ModelSpec, Task
from export.tasks import cross_encoder, image_text, late_interaction, text_embedding
from export.tower import Tower

TASKS: Mapping[Task, Callable[[ModelSpec, Path], list[Tower]]] = {
    "cross-encoder": cross_encoder.load,
    "image-text": image_text.load,
    "late-interaction": late_interaction.load,
    "text-embedding": text_embedding.load,
}
