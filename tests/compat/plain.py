"""What the server answers to plain requests: the truth that clients' answers are held against.

Of the standard library and numpy alone, since every environment imports it.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL = "all-minilm-l6-v2"
IMAGE_MODEL = "minilm-pictogram"
RERANKER = "minilm-late-interaction"
PROMPTED = "prompted"
"""MODEL with the prompts "query: " and "passage: ", and 64 and 128 dimensions; also "text-embedding-3-large"."""
EVERY = "tiny-m3"
"""A model of random weights with dense, sparse and token vectors."""
CLASSIFIER = "tiny-labels"
"""A classifier of random weights with three labels."""
CROSS = "tiny-cross"
"""A cross-encoder of random weights, whose scores are sigmoids."""
TEXTS = ["A conch is a large sea snail.", "Brass is an alloy of copper and zinc.", "Trumpets are made of brass."]
QUERY = "what are trumpets made of?"
LONG = "sea " * 400
"""Over MODEL's limit of 256 tokens."""
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEUlEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5E"
    "rkJggg=="
)
Vectors = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Kinds:
    """The vectors of a text."""

    dense: NDArray[np.float64]
    """[dimensions]."""
    indices: Sequence[int]
    values: Sequence[float]
    """The terms' weights."""
    tokens: NDArray[np.float64]
    """[tokens, dimensions]."""

    @property
    def terms(self) -> dict[int, float]:
        """The weights by their index."""
        return dict(zip(self.indices, self.values, strict=True))

    def dense_score(self, other: "Kinds") -> float:
        """The cosine: vectors have length 1."""
        return float(self.dense @ other.dense)

    def sparse_score(self, other: "Kinds") -> float:
        """The dot product."""
        theirs = other.terms
        return sum(value * theirs.get(index, 0) for index, value in self.terms.items())

    def token_score(self, other: "Kinds") -> float:
        """MaxSim of a query and a document: the sum over the query's tokens."""
        return float((self.tokens @ other.tokens.T).max(1).sum())


@dataclass(frozen=True)
class Plain:
    """A server."""

    url: str

    def post(self, path: str, body: Mapping[str, Any], **headers: str) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        status, _, content = self.send(path, body, **headers)
        return status, json.loads(content)

    def send(self, path: str, body: Mapping[str, Any], **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        """The status, the headers by their names in lower case, and the body of an answer."""
        request = urllib.request.Request(  # noqa: S310 - our own server
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                return answer.status, _lower(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _lower(error.headers), error.read()

    def get(self, path: str) -> Any:
        """The JSON of an answer."""
        with urllib.request.urlopen(self.url + path) as answer:  # noqa: S310
            return json.load(answer)

    def embed(self, given: Any, **fields: Any) -> list[Any]:
        """Embeddings of /v1/embeddings: vectors, unless the fields say something else."""
        status, answer = self.post("/v1/embeddings", {"input": given, "model": MODEL, **fields})
        assert status == 200, answer
        return [item["embedding"] for item in answer["data"]]

    def kinds(self, texts: Sequence[str], task: str = "document") -> list[Kinds]:
        """Dense, sparse and token vectors of EVERY."""
        kinds = ["float", "sparse", "multi_vector"]
        items = self.embed(texts, model=EVERY, embedding_type=kinds, task=task)
        return [
            Kinds(
                np.array(one["float"]), one["sparse"]["indices"], one["sparse"]["values"], np.array(one["multi_vector"])
            )
            for one in items
        ]

    def classify(self, texts: Sequence[str], **fields: Any) -> list[dict[str, float]]:
        """Scores of CLASSIFIER's labels, of each text."""
        labels = self.get(f"/v1/models/{CLASSIFIER}")["labels"]
        status, answer = self.post("/classify", {"model": CLASSIFIER, "input": texts, **fields})
        assert status == 200, answer
        return [dict(zip(labels, one["probs"], strict=True)) for one in answer["data"]]

    def rank(self, query: str = QUERY, documents: Sequence[str] = TEXTS, **fields: Any) -> list[tuple[int, float]]:
        """Indices and scores of /v1/rerank, best first."""
        body = {"query": query, "documents": documents, "model": RERANKER, **fields}
        status, answer = self.post("/v1/rerank", body)
        assert status == 200, answer
        return [(result["index"], result["relevance_score"]) for result in answer["results"]]


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def assert_same(found: Vectors, expected: Vectors) -> None:
    """Every vector has the direction and the length of its counterpart."""
    ours, theirs = np.array(expected, np.float64), np.array(found, np.float64)
    assert theirs.shape == ours.shape
    lengths = np.linalg.norm(theirs, axis=1), np.linalg.norm(ours, axis=1)
    cosines = (theirs * ours).sum(1) / lengths[0] / lengths[1]
    assert cosines.min() > 0.99999
    assert np.abs(lengths[0] - lengths[1]).max() < 1e-5


def assert_found(found: Sequence[tuple[int, float]], scores: Sequence[float], tolerance: float = 1e-4) -> None:
    """A search found all documents, best first, with these scores of documents 0, 1, ..."""
    best = sorted(range(len(scores)), key=lambda index: -scores[index])
    assert [index for index, _ in found] == best
    assert (
        np.abs(np.array([score for _, score in found]) - np.array([scores[index] for index in best])).max() < tolerance
    )


def assert_ranked(found: Sequence[tuple[int, float]], expected: Sequence[tuple[int, float]]) -> None:
    """The same documents in the same order, with the same scores."""
    assert [index for index, _ in found] == [index for index, _ in expected]
    assert np.abs(np.array(found) - np.array(expected)).max() < 1e-3
