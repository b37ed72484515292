"""Rows to compare a graph with its reference on: real text, at lengths from a few tokens to a model's limit."""

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.runtime.contract import Ids, Row
from export.tower import Vocabulary

TEXTS = tuple(Path(__file__).with_name("samples.txt").read_text().splitlines())
ODD = (
    "a",
    "?",
    "  two  spaces,\ta tab and\na line ",
    "Cafe\u0301 and café, ﬁne ½ \uff21\uff22\uff23",
    "👩‍👩‍👧 👍🏽 🇮🇪 ☃️",
    "متى تفتح المكتبة أبوابها؟",
    "पानी कितने डिग्री पर उबलता है?",
    "도서관은 몇 시에 문을 닫나요?",
    "Когда отправляется последний поезд?",
    "πόσο κοστίζει το εισιτήριο;",
    "https://example.com/a?b=c&d=%20#e 0x1F 3.14e-10",
    "supercalifragilisticexpialidocious" * 4,
)
"""Texts that tokenizers trip over: other scripts, emoji, white space, composed letters, one letter, one long word."""
SIZES = ((64, 64), (300, 200), (97, 203), (512, 512))
"""Width and height of the images that are sent as files."""
SHAPES = (*SIZES, (31, 7), (400, 24))
"""Width and height of the images that a model reads beside texts: wide ones and small ones too."""
SHORTEST = 20
"""Characters of prose; what is shorter are headings."""
CALIBRATION = 300
"""Texts to calibrate on: NNCF takes statistics of 300 by default."""
UNSEEN = 128
"""Texts that were not calibrated on: 8,128 pairs to rank."""
LENGTHS = (3, 4, 6, 9, 14, 22, 35, 56, 90, 145, 233, 377, 700, 1500, 3000, 6000)
"""Tokens of the rows that are compared, as far as the model takes them; its limit is always one."""


def manual() -> list[str]:
    """The paragraphs of Python's manual: half a million characters that are wherever Python is."""
    return [" ".join(text.split()) for topic in topics.values() for text in topic.split("\n\n")]


def calibration() -> list[str]:
    """The texts to calibrate on: short ones in many languages, and paragraphs of Python's manual."""
    prose = _prose()
    chosen = np.random.default_rng(0).choice(len(prose), CALIBRATION - len(TEXTS), replace=False)
    return [*TEXTS, *(prose[i] for i in chosen)]


def unseen() -> list[str]:
    """Texts that differ from one another and from those to calibrate on: odd ones, and other paragraphs."""
    seen = set(calibration())
    left = [text for text in dict.fromkeys(_prose()) if text not in seen]
    chosen = np.random.default_rng(1).choice(len(left), UNSEEN - len(ODD), replace=False)
    return [*ODD, *(left[i] for i in chosen)]


def _prose() -> list[str]:
    return [text for text in manual() if len(text) > SHORTEST]


def lengths(vocabulary: Vocabulary) -> list[int]:
    """The lengths to compare at."""
    return [*(length for length in LENGTHS if length < vocabulary.max_tokens), vocabulary.max_tokens]


def text(start: int, characters: int) -> str:
    """Real text of about this many characters."""
    joined = " ".join(TEXTS[start % len(TEXTS) :] + TEXTS[: start % len(TEXTS)])
    return (joined * (characters // len(joined) + 1))[:characters]


def ids(vocabulary: Vocabulary, start: int, length: int) -> Ids:
    """A row of real text cut to `length` tokens, special tokens included."""
    found: list[int] = []
    characters = length
    while len(found) < length:
        characters *= 2
        found = vocabulary.tokenizer.encode(text(start, characters)).ids
    return np.array([*found[: length - 1], found[-1]], np.int64)


def single_rows(vocabulary: Vocabulary) -> list[Row]:
    """One run of token ids a row."""
    return [(ids(vocabulary, i, length),) for i, length in enumerate(lengths(vocabulary))]


def whole_rows(vocabulary: Vocabulary, texts: Iterable[str]) -> list[Row]:
    """One text a row, up to the model's limit."""
    encoded = (vocabulary.tokenizer.encode(text).ids for text in texts)
    return [(np.array(ids[: vocabulary.max_tokens], np.int64),) for ids in encoded]


def paired_rows(vocabulary: Vocabulary, most_of_query: int | None = None) -> list[Row]:
    """Every document length under short, medium and long queries; queries repeat, as they do in rerank.

    A long query has `most_of_query` tokens, or half of the model's limit.
    """
    wanted = lengths(vocabulary)
    most = most_of_query or vocabulary.max_tokens // 2
    queries = [ids(vocabulary, i, length) for i, length in enumerate((min(5, most), min(12, most), most))]
    return [(query, ids(vocabulary, i + 3, length)) for query in queries for i, length in enumerate(wanted)]


def images(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Images of noise, of one colour and of gradients: uint8 [3, H, W] each."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 3, height, width), np.uint8)
    plain = [np.full((3, height, width), value, np.uint8) for value in (0, 128, 255)]
    ramp = np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)
    return [*noise, *plain, np.stack([ramp, ramp.T.reshape(height, width), 255 - ramp])]


def images_of_any_shape(most: int, size: int) -> list[NDArray[np.uint8]]:
    """Images of noise and of gradients, of up to so many patches of `size` pixels: uint8 [3, H, W] each."""
    chance = np.random.default_rng(0)
    found = []
    for height, width in shapes(most):
        noise = chance.integers(0, 256, (3, height * size, width * size))
        ramp = np.linspace(0, 255, noise[0].size).reshape(noise.shape[1:])
        found += [
            noise.astype(np.uint8),
            (0.7 * np.stack([ramp, ramp[::-1], 255 - ramp]) + 0.3 * noise).astype(np.uint8),
        ]
    return found


def shapes(most: int) -> list[tuple[int, int]]:
    """Height and width in patches: squares, thin ones, and about as many as there may be."""
    side = math.isqrt(most)
    full = [(math.isqrt(most // ratio), math.isqrt(most // ratio) * ratio) for ratio in (1, 2, 5, 16) if ratio <= most]
    wide = [(1, 1), (1, 2), (1, most), *full, (max(1, side // 3), max(1, side // 2))]
    found = dict.fromkeys([*wide, *((width, height) for height, width in wide)])
    return [(height, width) for height, width in found if height * width <= most]


def pictures() -> list[Image.Image]:
    """Images of many shapes: gradients with noise."""
    chance = np.random.default_rng(0)
    return [_picture(width, height, chance) for width, height in SHAPES]


def contents() -> list[list[str | Image.Image]]:
    """Images alone, several together, and texts before, between and behind them."""
    found: list[list[str | Image.Image]] = []
    images = pictures()
    for place, image in enumerate(images):
        other, short = images[place - 1], text(place, 12 + 40 * place)
        found += [[image], [short, image], [image, short], [short, other, ODD[place], image], [other, image, image]]
    return found


@dataclass(frozen=True, slots=True)
class File:
    """An image file."""

    content: bytes
    media_type: str
    width: int
    height: int


def files() -> list[File]:
    """A PNG and a JPEG of every size: gradients with noise."""
    chance = np.random.default_rng(0)
    found = []
    for width, height in SIZES:
        image = _picture(width, height, chance)
        for kind in ("png", "jpeg"):
            written = io.BytesIO()
            image.save(written, kind)
            found.append(File(written.getvalue(), f"image/{kind}", width, height))
    return found


def _picture(width: int, height: int, chance: np.random.Generator) -> Image.Image:
    x, y = np.linspace(0, 200, width)[None, :], np.linspace(0, 200, height)[:, None]
    planes = [x + 0 * y, y + 0 * x, (x * y) / 200]
    noise = chance.integers(0, 56, (height, width, 3))
    return Image.fromarray((np.stack(planes, 2) + noise).astype(np.uint8))
