"""Imports that the processes of all models share: done once, in the process that they are forked from."""

# ruff: noqa: F401 - libraries read the variables when they are imported
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # they read the hub's cache only
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime would keep an id of this machine, to report its uses

import torch.onnx._internal.torchscript_exporter.utils
import transformers.models.bert.modeling_bert
from tqdm import tqdm  # type: ignore[import-untyped] # its types are a package of their own

from export import pipeline
from export.entry import versions

tqdm.get_lock()  # a semaphore, which the process that makes it removes
versions()
