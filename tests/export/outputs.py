"""The main output of engines and towers, which most tests look at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.runtime.contract import Row
from export.runtime.engine import Engine
from export.runtime.torch_engine import Engine as TorchEngine
from export.tower import Tower


def computed(engine: Engine | TorchEngine, rows: Sequence[Row]) -> NDArray[np.float32]:
    """An engine's, [N, width]."""
    name = engine.outputs[0].name
    return np.asarray(engine.run(rows, [name])[name], np.float32)


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
