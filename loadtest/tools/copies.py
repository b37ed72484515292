"""Copies of an entry of a model repository, to serve one model several times."""

import os
import shutil
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

UNIQUE = ("aliases", "default")
"""Parameters that only one model may have."""


def copy(entry: Path, to: Path) -> None:
    """Copy an entry under another name, without the parameters that are unique. Files are linked."""
    shutil.copytree(entry, to, copy_function=os.link)
    config = text_format.Parse((entry / "config.pbtxt").read_text(), pb.ModelConfig())
    if to.name != entry.name:
        config.name = to.name
        for parameter in UNIQUE:
            config.parameters.pop(parameter, None)
    (to / "config.pbtxt").unlink()
    (to / "config.pbtxt").write_text(text_format.MessageToString(config))
