"""Writes ONNX graphs: traces towers, and converts graphs to fp16 and int8."""
