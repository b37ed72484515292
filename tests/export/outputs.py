"""What engines and towers compute: the main output, which most tests look at, or all of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.packing.rows import PackedRows
from export.runtime.contract import QUERY, Row, Values
from export.runtime.engine import Engine
from export.runtime.inputs import Layout, Pack
from export.runtime.torch_engine import Engine as TorchEngine
from export.runtime.torch_engine import arguments
from export.tower import Tower


def computed(engine: Engine | TorchEngine, rows: Sequence[Row]) -> NDArray[np.float32]:
    """An engine's, [N, width]."""
    name = engine.outputs[0].name
    return np.asarray(engine.run(rows, [name])[name], np.float32)


def by_head(tower: Tower, rows: Sequence[Row]) -> dict[str, Values]:
    """All outputs of a packed tower's head on rows together, laid out as for the program that is traced from it."""
    pack = Pack([field.name for field in tower.fields], rows, tower.expansion, tower.vision)
    names = ["ids", "position", "row", "starts", "longest"]
    if QUERY in tower.fields:
        names += ["query", "longest_query"]
    if tower.vision is not None and pack.has_images:
        names += tower.vision.inputs
    layout = Layout(names, pack.sizes, more=pack.shapes)
    buffer = torch.zeros(layout.size, dtype=torch.int32)
    pack.write(layout.views(buffer.numpy()), pack.sizes)
    given = dict(zip(names, arguments(names, layout, pack.sizes, buffer), strict=True))
    with torch.inference_mode():
        made = tower.head(PackedRows.from_inputs(given))
    spans = {"token": pack.text_tokens, "query token": pack.query_tokens}
    return {
        output.name: made[output.name][: len(rows)].numpy()
        if output.per == "row"
        else [made[output.name][0, begin:end].numpy() for begin, end in spans[output.per]]
        for output in tower.outputs
    }


def referenced(tower: Tower, rows: Sequence[Row]) -> NDArray[np.float32]:
    """A reference's, [N, width]."""
    with torch.inference_mode():
        return np.stack([main(tower, tower.reference(row)).numpy() for row in rows])


def assert_close(actual: Any, expected: Any, atol: float = 1e-5) -> None:
    """Compare values, which are of any type in general."""
    np.testing.assert_allclose(actual, expected, atol=atol)


def main(tower: Tower, outputs: Any) -> torch.Tensor:
    """Of what a head or a reference returns."""
    output: torch.Tensor = outputs[tower.outputs[0].name]
    return output
