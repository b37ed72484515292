"""Processors of models that read texts and images, without videos.

A processor of transformers that reads videos too cannot be made without torchvision, whose build must match that of
torch. Importing this module leaves videos out of all processors; images are then read with Pillow.
"""

import inspect
from typing import Any

from transformers import EmbeddingGemma2Processor, ProcessorMixin

VIDEOS = "video_processor"

_of = inspect.getattr_static(ProcessorMixin, "get_attributes").__func__


def _without_videos(cls: type[ProcessorMixin]) -> list[str]:
    return [name for name in _of(cls) if name != VIDEOS]


_ProcessorMixin: Any = ProcessorMixin
_ProcessorMixin.get_attributes = classmethod(_without_videos)


_init: Any = ProcessorMixin.__init__


def _init_without_videos(self: ProcessorMixin, *parts: Any, **named: Any) -> None:  # noqa: ANN401
    named.pop(VIDEOS, None)
    _init(self, *parts, **named)


_ProcessorMixin.__init__ = _init_without_videos
# EmbeddingGemma 2's processor asks for one.
_AskingProcessor: Any = EmbeddingGemma2Processor
_AskingProcessor.__init__.__defaults__ = (None, *_AskingProcessor.__init__.__defaults__)
