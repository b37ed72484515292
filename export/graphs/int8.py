"""Post-training quantization to int8, calibrated on real sentences.

Weights and the inputs of matrix products become int8 with scales that are fixed once (Jacob et al. 2018, arXiv
1712.05877), so the output of a row does not depend on its batch, as it would with scales taken from each batch.
Weights use seven bits: processors without VNNI add two products in 16 bits, where those of eight overflow.
"""

import contextlib
import io
import logging
from collections.abc import Iterable
from pathlib import Path

import openvino as ov

from export.runtime.contract import Array
from export.tower import Tower
from export.verification import samples

SMOOTHING = 0.5
"""The share of the range of a product's inputs that moves to its weights (Xiao et al. 2022, arXiv 2211.10438, sec. 4).
NNCF's default of 0.95 is too much for seven bits: the cosine of all-MiniLM-L6-v2 with fp32 is 0.995, not 0.998."""


def quantize(tower: Tower, graph: Path) -> Path:
    """Write a tower's ONNX graph in int8 in its place, as OpenVINO's model.xml and model.bin; returns the former."""
    import nncf  # noqa: PLC0415 - it takes seconds, and few exports need it

    nncf.set_log_level(logging.ERROR)  # it names every node
    model = ov.Core().read_model(graph)
    with contextlib.redirect_stdout(io.StringIO()):  # it draws bars of its own
        quantized = nncf.quantize(
            model,
            nncf.Dataset(list(_rows(tower))),
            subset_size=samples.CALIBRATION,
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE,
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING),
            ),
            ignored_scope=nncf.IgnoredScope(names=_narrowing(model)),
        )
    for file in graph.parent.iterdir():
        file.unlink()
    written = graph.with_suffix(".xml")
    ov.save_model(quantized, written, compress_to_fp16=False)
    return written


def _narrowing(model: ov.Model) -> list[str]:
    """The products that make vectors shorter: the second layer of each feed-forward.

    What goes in, behind an activation function, has a few values far larger than all others. In floats it costs an
    eighth of the speed; in int8, all-MiniLM-L6-v2 on STSb has a mean cosine of 0.996 with fp32, so 0.999.
    """
    names = []
    for node in model.get_ops():
        if node.get_type_name() == "MatMul" and node.input_value(1).get_node().get_type_name() == "Constant":
            wide, narrow = node.input_value(1).get_shape()
            if node.get_attributes()["transpose_b"]:
                wide, narrow = narrow, wide
            if wide > narrow:
                names.append(node.get_friendly_name())
    return names


def _rows(tower: Tower) -> Iterable[dict[str, Array]]:
    """One row each, of a few tokens up to the model's limit."""
    assert tower.vocabulary is not None  # noqa: S101 - only text towers are quantized
    (field,) = tower.fields
    for (ids,) in samples.whole_rows(tower.vocabulary, samples.calibration()):
        yield field.feed([ids])
