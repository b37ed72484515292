import numpy as np
import pytest

from export.runtime.torch_engine import Engine, buckets
from tests.export.runtime.programs import KINDS, write

LENGTHS = (1, 5, 40, 17, 2, 8, 8, 90)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(write(KINDS[kind], tmp_path_factory.mktemp(kind)))


def test_rows_together_equal_rows_alone(kind: str, engine: Engine) -> None:
    rows = KINDS[kind].rows(LENGTHS)
    together = engine.run(rows)
    assert together.shape == (len(LENGTHS), KINDS[kind].width)
    alone = np.concatenate([engine.run([row]) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len(np.unique(together.round(5), axis=0)) > 1


def test_rows_in_a_bucket_equal_rows_alone(kind: str, engine: Engine) -> None:
    rows = KINDS[kind].rows(LENGTHS)
    alone = np.concatenate([engine.run([row]) for row in rows])
    engine.prepare(buckets(engine.spec, padded=False))
    padding = engine.padding
    for number in (1, 3, len(rows)):
        np.testing.assert_allclose(engine.run(rows[:number]), alone[:number], atol=1e-6)
    assert engine.padding - padding >= (0 if kind == "image" else 32 - LENGTHS[0])
    engine.prepare([])
