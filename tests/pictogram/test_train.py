from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pictogram import augment, captions, tower, train
from pictogram.split import Split


@pytest.fixture(scope="module")
def data() -> train.Data:
    """Four plain colours with texts of their own."""
    colours = torch.tensor(
        [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [255, 255, 0, 255]], dtype=torch.uint8
    )
    concept = torch.arange(4).repeat(64)
    vectors = torch.eye(4, 16)[:, None].expand(-1, len(captions.WEIGHTS), -1)
    everything = np.arange(len(concept))
    parts = Split(everything, everything[:40], everything[:4], np.ones(4, bool), np.zeros(4, bool))
    centres = captions.centres(vectors)
    likeness = torch.softmax(train.SHARPNESS * centres @ centres.T, dim=-1)
    pixels = colours[concept][:, None, None].expand(-1, 72, 72, -1).contiguous()
    return train.Data(pixels, concept, vectors, centres, likeness, parts)


def test_colours_are_learnt_and_survive_being_written(data: train.Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = train.Stage(steps=20, rates=(3e-3, 1e-3), pull=1.0, neighbours=0.1, most_scale=30.0)
    model = tower.create(16).to(memory_format=torch.channels_last)
    scale = nn.Parameter(torch.tensor(3.0))
    trained = train.run(model, scale, data, stage, stage.steps, train.shuffled(data.split.training))
    assert train.validate(trained, data).top_1 > 60
    tower.save(trained, tmp_path)
    images = augment.plain(data.pixels[:4])
    with torch.inference_mode():
        read = tower.embed(tower.load(tmp_path).eval(), images)
        kept = tower.embed(trained.float().eval(), images)
    torch.testing.assert_close(read, kept, atol=5e-3, rtol=0)


def test_batches_hold_every_drawing_once_a_round() -> None:
    order = train.shuffled(np.arange(3 * train.BATCH + 5))
    batches = torch.cat([next(order) for _ in range(3)])
    assert len(batches.unique()) == 3 * train.BATCH
    again = train.shuffled(np.arange(3 * train.BATCH + 5))
    assert torch.equal(next(again), batches[: train.BATCH])


def test_rate_rises_and_falls_to_the_last() -> None:
    stage = train.Stage(steps=1, rates=(1e-3, 1e-4), pull=1, neighbours=0, most_scale=1)
    rates = [train._rate(stage, done) for done in (0, train.WARM_UP, 0.5, 1)]
    assert rates[0] < 1e-4
    assert rates[1] == pytest.approx(1e-3, rel=0.01)
    assert rates[2] == pytest.approx(5.5e-4)
    assert rates[3] == pytest.approx(1e-4)
