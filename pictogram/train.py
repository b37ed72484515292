"""`python -m pictogram.train`: trains the image tower into the space of a text tower that stays as it is.

Locked-image tuning the other way round (Zhai et al. 2022, arXiv 2111.07991): the texts' vectors are computed once.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from export.loading.models import Model
from pictogram import augment, captions, concepts, drawings, packages, tower
from pictogram.packages import DataError
from pictogram.ranking import Found, image_to_text
from pictogram.split import Split, split

SEED = 0
BATCH = 128
WARM_UP = 0.03
"""The share of a stage in which the learning rate rises."""
DECAY = 0.05
"""The weight decay of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
AVERAGED = 0.997
"""The decay of the moving average of the weights; the averaged weights are the ones that are saved."""
SHARPNESS = 20.0
"""The factor in the softmax over the similarities of concepts' texts, which spreads a target to its neighbours."""
FIRST_SCALE = 20.0
"""Factor on cosines to begin with; it is learnt."""
REPORT = 250
"""Steps between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Some steps, and what is learnt in them."""

    steps: int
    rates: tuple[float, float]
    """The learning rate at the beginning and at the end; between them it falls by a cosine."""
    pull: float
    """The weight of the cosine with the concept's own centre in the loss."""
    neighbours: float
    """The share of each target that goes to concepts that mean nearly the same."""
    most_scale: float
    """The highest factor on cosines: the lower, the more the space is kept as it is between concepts."""


STAGES = (
    Stage(steps=5900, rates=(1e-3, 1e-5), pull=1.0, neighbours=0.2, most_scale=60.0),
    Stage(steps=1400, rates=(4e-4, 0.0), pull=5.0, neighbours=0.4, most_scale=25.0),
)
"""First to tell drawings apart, then to bring them nearer to the texts."""
HALF = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
"""Compute in bf16 where the processor does: nearly twice as fast."""


@dataclass(frozen=True, slots=True)
class Data:
    """The training data, in memory."""

    pixels: Tensor
    concept: Tensor
    """[n], among the seen concepts; -1 for drawings of others."""
    captions: Tensor
    """[seen, captions, d]"""
    centres: Tensor
    """[seen, d]"""
    likeness: Tensor
    """[seen, seen], rows of sum 1."""
    split: Split


def prepare(folder: Path) -> Data:
    """Fetch, render and encode what is not there yet."""
    known = concepts.read(folder)
    drawn = drawings.load(known, folder, lambda stage: print(stage, flush=True))
    parts = split(known, drawn)
    print(f"encode the captions of {len(known)} concepts", flush=True)
    vectors = captions.encode_all(known, SEED)[torch.from_numpy(parts.seen)]
    centres = captions.centres(vectors)
    place = np.where(parts.seen, np.cumsum(parts.seen) - 1, -1)
    return Data(
        pixels=torch.from_numpy(drawn.pixels),
        concept=torch.from_numpy(place[drawn.concept]),
        captions=vectors,
        centres=centres,
        likeness=F.softmax(SHARPNESS * centres @ centres.T, dim=-1),
        split=parts,
    )


def main() -> int:
    """Train, and write the weights and how they came about."""
    parser = argparse.ArgumentParser(prog="python -m pictogram.train", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=tower.WEIGHTS, help="folder to write the weights to (default: %(default)s)"
    )
    parser.add_argument("--share", type=float, default=1.0, help="share of the steps to run, for a quick try")
    parser.add_argument("--resume", action="store_true", help="continue after the last finished stage")
    arguments = parser.parse_args()
    try:
        data = prepare(packages.FOLDER)
    except DataError as exc:
        print(f"train: {exc}", file=sys.stderr)
        return 1
    torch.manual_seed(SEED)
    started = time.perf_counter()
    model = tower.create(data.centres.shape[1]).to(memory_format=torch.channels_last)
    print(
        f"train {sum(weight.numel() for weight in model.parameters()):,} weights on {len(data.split.training)} drawings"
    )
    order = shuffled(data.split.training)
    scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
    for number, stage in enumerate(STAGES, 1):
        kept = packages.FOLDER / f"stage-{number}.pt"
        if arguments.resume and kept.exists():
            state = torch.load(kept, weights_only=True)
            model.load_state_dict(state["model"])
            scale.data = state["scale"]
            continue
        model = run(model, scale, data, stage, max(1, int(stage.steps * arguments.share)), order)
        torch.save({"model": model.state_dict(), "scale": scale.data}, kept)
    minutes = (time.perf_counter() - started) / 60
    tower.save(model, arguments.out)
    record = {
        "seed": SEED,
        "batch": BATCH,
        "stages": [asdict(stage) for stage in STAGES],
        "share": arguments.share,
        "drawings": {name: len(getattr(data.split, name)) for name in ("training", "validation", "held_out")},
        "validation": validate(tower.load(arguments.out), data).as_dict(),
        "minutes": round(minutes, 1),
        "threads": torch.get_num_threads(),
        "bf16": HALF,
        "torch": torch.__version__,
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"trained in {minutes:.0f} minutes: {arguments.out}")
    return 0


def shuffled(indices: NDArray[np.int64]) -> Iterator[Tensor]:
    """Batches without end; every drawing once before any comes again, those left over at the end of a round not."""
    chance = np.random.default_rng(SEED)
    while True:
        order = torch.from_numpy(chance.permutation(indices))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def run(model: Model, log_scale: nn.Parameter, data: Data, stage: Stage, steps: int, order: Iterator[Tensor]) -> Model:
    """Train for one stage; returns the averaged model."""
    weights = [*model.parameters(), log_scale]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": DECAY},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98))
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=_follow, use_buffers=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(stage, step / steps))
    started, total = time.perf_counter(), 0.0
    model.train()
    for step in range(1, steps + 1):
        batch = next(order)
        images = augment.augment(data.pixels[batch])
        with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
            vectors = tower.embed(model, images)
        scale = log_scale.exp().clamp(max=stage.most_scale)
        loss = _loss(vectors, data.concept[batch], data, stage, scale)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        total += loss.item()
        if step % REPORT == 0 or step == steps:
            found = validate(average.module, data)
            rate = step * BATCH / (time.perf_counter() - started)
            loss_a_step = total / ((step - 1) % REPORT + 1)
            print(
                f"step {step} of {steps}, {rate:.0f} images/s, loss {loss_a_step:.3f},"
                f" validation top-1 {found.top_1}, top-5 {found.top_5}",
                flush=True,
            )
            total = 0.0
    return average.module


def _follow(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    if not averaged.is_floating_point():
        return current
    keep = min(AVERAGED, (int(count) + 1) / (int(count) + 10))
    return averaged * keep + current * (1 - keep)


def _rate(stage: Stage, done: float) -> float:
    first, last = stage.rates
    return min(1.0, done / WARM_UP + 0.01) * (last + (first - last) * 0.5 * (1 + math.cos(math.pi * done)))


def _loss(vectors: Tensor, concept: Tensor, data: Data, stage: Stage, scale: Tensor) -> Tensor:
    """Each image to its concept among all, each concept to its images of the batch, and images to the text's place.

    Args:
        vectors: unit vectors of images [n, d].
        concept: the concept of each, [n].
        data: the texts; each concept goes by one of its captions, drawn at random for each batch.
        stage: what weighs how much.
        scale: factor on cosines.
    """
    count = len(data.captions)
    chosen = torch.multinomial(torch.tensor(captions.WEIGHTS), count, replacement=True)
    logits = scale * vectors @ data.captions[torch.arange(count), chosen].T
    targets = F.one_hot(concept, count) * (1 - stage.neighbours) + stage.neighbours * data.likeness[concept]
    to_text = -(targets * F.log_softmax(logits, -1)).sum(-1).mean()
    present, place = torch.unique(concept, return_inverse=True)
    own = F.one_hot(place, len(present)).T
    to_image = -((own * F.log_softmax(logits[:, present].T, -1)).sum(-1) / own.sum(-1)).mean()
    apart = (1 - (vectors * data.centres[concept]).sum(-1)).mean()
    return to_text + 0.5 * to_image + stage.pull * apart


@torch.inference_mode()
def validate(model: Model, data: Data) -> Found:
    """Retrieval of concept names from the validation drawings, among the names of all seen concepts."""
    was_training = model.training
    model.eval()
    kept = torch.from_numpy(data.split.validation)
    vectors = tower.embed(model, augment.plain(data.pixels[kept]))
    model.train(was_training)
    return Found.at(image_to_text(vectors, data.captions[:, 0], data.concept[kept]))


if __name__ == "__main__":
    sys.exit(main())
