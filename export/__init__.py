"""Turns embedding and rerank models into verified entries of a Triton model repository."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime would count its uses, and report them to Microsoft
