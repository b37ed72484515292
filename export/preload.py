"""Imports that the processes of all models share: done once, in the process that they are forked from."""

# ruff: noqa: F401 - the library reads the variable when it is imported
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # they read the hub's cache only

import torch.onnx._internal.torchscript_exporter.utils
import transformers.models.bert.modeling_bert
from tqdm import tqdm  # type: ignore[import-untyped] # its types are a package of their own

from export import pipeline
from export.entry import versions

tqdm.get_lock()  # a semaphore, which the process that makes it removes
versions()
