"""`python -m pictogram.evaluate`: how well texts find drawings of a style that was never trained on, and back.

Measured on the shipped files by a path of its own: drawings become images on white, which transformers' image processor
and model embed; sentence-transformers embeds the labels. Writes evaluation.json and the table of the model card.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from pictogram import augment, captions, concepts, drawings, tower
from pictogram.packages import DataError
from pictogram.ranking import Found, image_to_text, text_to_image
from pictogram.split import split

MARGIN = 3
"""Pixels around a drawing."""
BATCH = 256
BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"


def main() -> int:
    """Evaluate, and write down what came out."""
    parser = argparse.ArgumentParser(prog="python -m pictogram.evaluate", description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=tower.WEIGHTS, help="folder of the weights (default: %(default)s)"
    )
    folder = parser.parse_args().folder
    try:
        found = evaluate(folder)
    except DataError as exc:
        print(f"evaluate: {exc}", file=sys.stderr)
        return 1
    (folder / "evaluation.json").write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))
    card = folder / "README.md"
    if card.exists():
        before, _, rest = card.read_text().partition(BEGIN)
        card.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{rest.partition(END)[2]}")
    return 0


def evaluate(folder: Path) -> dict[str, dict[str, object]]:
    """Results by group of concepts, both directions. Candidates: all labels, and all drawings of the held-out style."""
    known = concepts.read()
    drawn = drawings.load(known, progress=print)
    parts = split(known, drawn)
    images = embed([picture(drawn.pixels[i]) for i in parts.held_out], folder)
    labels = captions.encode([captions.name(concept) for concept in known], captions.encoder())
    concept = drawn.concept[parts.held_out]
    flag = np.array([known[i].is_flag for i in concept])
    seen = parts.seen[concept]
    groups = {
        "seen, no flags": seen & ~flag,
        "seen flags": seen & flag,
        "unseen": parts.unseen[concept],
    }
    ranks = {rank.__name__: rank(images, labels, torch.from_numpy(concept)) for rank in (image_to_text, text_to_image)}
    return {
        group: {"drawings": int(members.sum())}
        | {name: Found.at(of_all[torch.from_numpy(members)]).as_dict() for name, of_all in ranks.items()}
        for group, members in groups.items()
    }


def picture(drawing: NDArray[np.uint8]) -> Image.Image:
    """A drawing, RGBA [S, S, 4], in the middle of a white image of the size that the tower sees."""
    side = augment.SIDE - 2 * MARGIN
    small = Image.fromarray(drawing).resize((side, side), Image.Resampling.LANCZOS)
    white = Image.new("RGB", (augment.SIDE, augment.SIDE), "white")
    white.paste(small, (MARGIN, MARGIN), small)
    return white


@torch.inference_mode()
def embed(images: list[Image.Image], folder: Path) -> Tensor:
    """Unit vectors, float32 [n, d], as transformers computes them."""
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)  # type: ignore[no-untyped-call]
    model = tower.load(folder).eval()
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    logits = [model(**processor(batch, return_tensors="pt")).logits for batch in batches]
    return F.normalize(torch.cat(logits), dim=-1)


def table(found: Mapping[str, Mapping[str, object]]) -> str:
    """The figures in Markdown."""
    lines = [
        "| concepts | drawings | image to text: top-1 | top-5 | top-10 | text to image: top-1 | top-5 | top-10 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group, figures in found.items():
        cells = [group, str(figures["drawings"])]
        for direction in (image_to_text, text_to_image):
            shares = figures[direction.__name__]
            assert isinstance(shares, dict)  # noqa: S101 - as `evaluate` makes them
            cells += [f"{shares[place]:.1f} %" for place in ("top_1", "top_5", "top_10")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
