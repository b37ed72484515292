"""What is asked of a server: requests of one kind, from so many clients at a time."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pydoc_data.topics import topics

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image

SEED = 0
TEXTS = 4096
"""Different ones in a workload, so that nothing profits from having seen a text before."""
SHORT_WORDS = 14
MIXED_WORDS = (4, 250)
MIXED_MEDIAN = 37
MIXED_DEVIATION = 1.0
"""Of the logarithm: lengths of texts are about lognormal, a few of them far longer than most."""
MADE_UP_LETTERS = 5
DOCUMENT_WORDS = (90, 150)
DOCUMENTS = 50
"""To rank by a query of SHORT_WORDS."""
IMAGES = 8
IMAGE_SIZE = (640, 480)
WORD = re.compile(r"[A-Za-z]+[a-z'-]*[.,;:]?")

EMBEDDING_MODEL = "all-minilm-l6-v2"
RERANK_MODEL = "cross-encoder"
IMAGE_MODEL = "minilm-pictogram"


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests to send: each client sends the next one as soon as it has an answer."""

    name: str
    """What reports call it."""
    path: str
    clients: int
    items: int
    """Texts, documents or images in a request: what throughput counts."""
    bodies: Sequence[bytes]
    texts: Sequence[Sequence[str]]
    """What each body asks to embed, where that is texts."""

    @property
    def model(self) -> str:
        """Which all bodies ask for."""
        name: str = orjson.loads(self.bodies[0])["model"]
        return name


def workloads() -> Mapping[str, Workload]:
    """All of them, by a short name."""
    chance = np.random.default_rng(SEED)
    short = texts(chance, np.full(TEXTS, SHORT_WORDS))
    mixed = texts(chance, mixed_lengths(chance, TEXTS))
    return {
        **{f"short-{n}": embedding(f"text of {SHORT_WORDS} words, {n} clients", n, short, 1) for n in (1, 16, 64)},
        "mixed-16": embedding("text of 4 to 250 words, 16 clients", 16, mixed, 1),
        "bulk-64": embedding("64 such texts per request, 4 clients", 4, mixed, 64),
        "bulk-256": embedding("256 such texts per request, 2 clients", 2, mixed, 256),
        "documents-16": embedding(
            "text of about 120 words, 16 clients", 16, texts(chance, chance.integers(*DOCUMENT_WORDS, TEXTS // 4)), 1
        ),
        "rerank": _rerank(chance),
        "images": _images(chance),
    }


def texts(chance: np.random.Generator, lengths: NDArray[np.int64]) -> list[str]:
    """English of so many words each, out of Python's manual."""
    words = [word for topic in topics.values() for word in topic.split() if WORD.fullmatch(word)]
    starts = chance.integers(0, len(words) - lengths.max(), len(lengths))
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def made_up(chance: np.random.Generator, lengths: NDArray[np.int64]) -> list[str]:
    """As many words, but random letters, which no tokenizer has seen before."""
    letters = chance.integers(ord("a"), ord("z") + 1, (lengths.sum(), MADE_UP_LETTERS), dtype=np.uint8)
    words = iter(letters.view(f"S{MADE_UP_LETTERS}").ravel().astype(str).tolist())
    return [" ".join(islice(words, length)) for length in lengths]


def mixed_lengths(chance: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Words of texts as they come: about lognormal."""
    drawn = chance.lognormal(np.log(MIXED_MEDIAN), MIXED_DEVIATION, count)
    return np.clip(drawn.round(), *MIXED_WORDS).astype(np.int64)


def embedding(name: str, clients: int, given: Sequence[str], items: int, model: str = EMBEDDING_MODEL) -> Workload:
    """Requests of so many texts each."""
    cut = [given[i : i + items] for i in range(0, len(given), items)]
    bodies = [orjson.dumps({"model": model, "input": part, "truncate": True}) for part in cut]
    return Workload(name, "/v1/embeddings", clients, items, bodies, cut)


def _rerank(chance: np.random.Generator) -> Workload:
    queries = texts(chance, np.full(32, SHORT_WORDS))
    documents = texts(chance, chance.integers(*DOCUMENT_WORDS, len(queries) * DOCUMENTS))
    bodies = [
        orjson.dumps(
            {
                "model": RERANK_MODEL,
                "query": query,
                "documents": documents[i * DOCUMENTS : (i + 1) * DOCUMENTS],
                "return_documents": False,
            }
        )
        for i, query in enumerate(queries)
    ]
    name = f"a query and {DOCUMENTS} documents of about 120 words, 4 clients"
    return Workload(name, "/v1/rerank", 4, DOCUMENTS, bodies, [])


def _images(chance: np.random.Generator) -> Workload:
    files = [_jpeg(chance) for _ in range(8 * IMAGES)]
    bodies = [
        orjson.dumps({"model": IMAGE_MODEL, "input": [{"image": file} for file in files[i : i + IMAGES]]})
        for i in range(0, len(files), IMAGES)
    ]
    width, height = IMAGE_SIZE
    return Workload(f"{IMAGES} JPEGs of {width} x {height}, 4 clients", "/v1/embeddings", 4, IMAGES, bodies, [])


def _jpeg(chance: np.random.Generator) -> str:
    """As smooth as a photograph, and so about as large a file: in base64."""
    coarse = Image.fromarray(chance.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    written = io.BytesIO()
    coarse.resize(IMAGE_SIZE, Image.Resampling.BICUBIC).save(written, "JPEG", quality=85)
    return base64.b64encode(written.getvalue()).decode()
