"""Compares what a running gateway answers with what the library itself computes from the same text."""

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import numpy as np

from export.entry import Entry, read_proofs
from export.errors import NotBuiltError, ParityError, ServedError
from export.manifest import Backend, ModelSpec, Precision, Task
from export.plans.measures import SPARSE, Tolerance, Values, Vectors
from export.runtime.contract import (
    CLASSIFIER,
    CROSS_ENCODER,
    IMAGE_EMBEDDING,
    LATE_INTERACTION,
    QUERY_VECTORS,
    TEXT_EMBEDDING,
    TOKEN_VECTORS,
    Role,
)
from export.served.question import Limits, Question
from export.sources.isolation import Progress, Run, here
from export.sources.resolve import Sources, resolve
from export.verification.tolerances import Measure, Parity, Speed, measure

TIMEOUT_S = 120.0
"""Timeout of a request; a gateway gives up earlier."""
NUMBERS = 3
"""Numbers of a vector that messages show."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    url: str
    """The base URL, without `/v1`."""
    key: str | None = field(default=None, repr=False)


def check_served(
    spec: ModelSpec, repository: Path, gateway: Gateway, progress: Progress, run: Run = here
) -> list[Entry]:
    """Ask a running gateway, and compare what it answers with what the library does.

    Args:
        spec: a table of the manifest, whose entries are in the repository.
        repository: the folder of entries, whose proofs say in which precision is served.
        gateway: serves the model under the name of its table.
        progress: called with each step.
        run: calls what reads the source, perhaps somewhere else, as `isolation.run` does.

    Returns:
        The entries, with what was measured through the gateway in the place of what their export measured.

    Raises:
        ExportError: the model is not built, its source is not what was exported any more, the gateway does not answer,
            or its numbers are not the library's.
    """
    proofs = read_proofs(spec, repository)
    sources = resolve(spec)
    if any(proof["revision"] != sources.revision for proof in proofs.values()):
        raise NotBuiltError(f"[{spec.name}] source: changed since the export: run python -m export {spec.name}")
    tallies = {name: _Tally(spec, name, proof["precision"], proof["backend"]) for name, proof in proofs.items()}
    outputs = tuple(name for proof in proofs.values() for name in proof.get("outputs", ()))
    with _asking(spec, gateway) as ask:
        limits = _limits(ask("GET", f"/v1/models/{spec.name}"), outputs)
        for question in msgspec.convert(run(_questions, (spec, sources, limits), progress), list[Question]):
            progress(f"ask {spec.name}")
            started = time.monotonic()
            answer = ask("POST", question.path, question.body)
            tallies[question.tower].add(question, answer, time.monotonic() - started)
    return [Entry(repository / name, proofs[name] | tally.measured()) for name, tally in tallies.items()]


def _questions(spec: ModelSpec, sources: Sources, limits: Limits, progress: Progress) -> list[Any]:
    from export.served import library  # noqa: PLC0415 - torch and transformers, for the process that reads the model

    return library.questions(spec, sources, limits, progress)


class _Tally:
    """The errors and the speed of one Triton model."""

    def __init__(self, spec: ModelSpec, name: str, precision: Precision, backend: Backend) -> None:
        self._spec = spec
        self._name = name
        self._precision: Precision = precision
        self._backend: Backend = backend
        self._errors: dict[str, list[Vectors]] = {}
        self._tolerances: dict[str, Tolerance] = {}
        self._tokens = 0
        self._seconds = 0.0

    def _measure(self, output: str) -> Measure:
        return measure(_ROLES[self._spec.task], output)

    def add(self, question: Question, answer: Mapping[str, Any], seconds: float) -> None:
        """Compare one answer.

        Raises:
            ServedError: it is not as many numbers as the library's.
            ParityError: they are not the same ones.
        """
        self._tokens += answer["usage"]["total_tokens"]
        self._seconds += seconds
        of = self._measure(question.output)
        allowed = of.tolerance(self._precision, self._backend)
        allowed = replace(allowed, worst=allowed.worst * question.slope, mean=allowed.mean * question.slope)
        actual = _read(question, answer)
        if actual.shape != question.expected.shape:
            raise ServedError(
                f"[{self._spec.name}] {question.shown[0]}: expected {_shape(question.expected)}, got {_shape(actual)}"
            )
        errors = of.errors(*(_compared(question.output, numbers) for numbers in (question.expected, actual)))
        errors = errors.reshape(len(actual), -1).max(1)
        self._errors.setdefault(question.output, []).append(errors)
        self._tolerances[question.output] = allowed
        worst = int(np.nanargmax(np.where(np.isnan(errors), np.inf, errors)))
        if not allowed.admits(float(errors[worst]), 0):
            raise ParityError(
                f"[{self._spec.name}] {question.shown[worst]}: expected {_written(question.expected[worst])}, got"
                f" {_written(actual[worst])}; error {errors[worst]:.2g},"
                f" {allowed.worst:g} allowed"
            )

    def measured(self) -> dict[str, Any]:
        """The measured part of a proof.

        Raises:
            ParityError: the numbers are off on average.
        """
        found = [self._parity(output, np.concatenate(errors)) for output, errors in self._errors.items()]
        for parity in found:
            if not parity.holds:
                raise ParityError(
                    f"[{self._spec.name}] served: {parity.measure} error {parity.mean:.2g} on average,"
                    f" {parity.tolerance.mean:g} allowed"
                )
        speed = Speed(self._name, self._precision, self._tokens / self._seconds, "tokens")
        return {"parity": [asdict(parity) for parity in found], "speed": [asdict(speed)]}

    def _parity(self, output: str, errors: Vectors) -> Parity:
        return Parity(
            self._name,
            self._precision,
            "served",
            output,
            self._measure(output).name,
            float(errors.max()),
            float(errors.mean()),
            self._tolerances[output],
        )


_ROLES: Mapping[Task, Role] = {
    "text-embedding": LATE_INTERACTION,
    "image-text": IMAGE_EMBEDDING,
    "sparse": TEXT_EMBEDDING,
    "multi-vector": LATE_INTERACTION,
    "cross-encoder": CROSS_ENCODER,
    "classification": CLASSIFIER,
}
"""The role that says what the scores of each task's models are; of embedding models, those of bge-m3."""


def _compared(output: str, numbers: Vectors) -> Values:
    """Numbers as measures take them: sparse vectors as indices and weights, tokens as those of one text."""
    if output == SPARSE:
        return [np.stack([row.nonzero()[0], row[row.nonzero()]], 1).astype(np.float32) for row in numbers]
    return [numbers] if output in (TOKEN_VECTORS, QUERY_VECTORS) else numbers


def _limits(described: Mapping[str, Any], outputs: tuple[str, ...]) -> Limits:
    width = described.get("dimensions")
    sizes = tuple(size for size in described.get("supported_dimensions", ()) if size != width)
    return Limits(described["max_tokens"], sizes, outputs)


def _read(question: Question, answer: Mapping[str, Any]) -> Vectors:
    if question.output == SPARSE:
        return _weights(answer, question.width)
    if question.output in (TOKEN_VECTORS, QUERY_VECTORS):
        return _token_vectors(answer)
    return _READERS[question.path](answer)


def _vectors(answer: Mapping[str, Any]) -> Vectors:
    """The vectors of an answer, [n, d], whether they came as numbers or in base64."""
    given = [item["embedding"] for item in sorted(answer["data"], key=lambda item: int(item["index"]))]
    if isinstance(given[0], str):
        return np.stack([np.frombuffer(base64.b64decode(one), "<f4") for one in given])
    return np.array(given, np.float32)


def _token_vectors(answer: Mapping[str, Any]) -> Vectors:
    """The token vectors of all inputs, one behind the other, [tokens, d]."""
    items = sorted(answer["data"], key=lambda item: int(item["index"]))
    return np.array([vector for item in items for vector in item["embedding"]], np.float32)


def _weights(answer: Mapping[str, Any], words: int) -> Vectors:
    """The sparse vectors of an answer as vectors of the whole vocabulary, [n, words]."""
    vectors = np.zeros((len(answer["data"]), words), np.float32)
    for item in answer["data"]:
        vectors[int(item["index"]), item["embedding"]["indices"]] = item["embedding"]["values"]
    return vectors


def _scores(answer: Mapping[str, Any]) -> Vectors:
    """The scores of an answer in the order of the documents, [n, 1]."""
    ranked = sorted(answer["results"], key=lambda result: int(result["index"]))
    return np.array([[result["relevance_score"]] for result in ranked], np.float32)


def _probabilities(answer: Mapping[str, Any]) -> Vectors:
    """The scores of all labels, [n, labels]."""
    return np.array([item["probs"] for item in sorted(answer["data"], key=lambda item: int(item["index"]))], np.float32)


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Vectors]] = {
    "/v1/embeddings": _vectors,
    "/v1/rerank": _scores,
    "/classify": _probabilities,
}


def _shape(numbers: Vectors) -> str:
    return f"{numbers.shape[0]} x {numbers.shape[1]} numbers"


def _written(numbers: Vectors) -> str:
    if len(numbers) == 1:
        return f"{numbers[0]:.6f}"
    more = ", ..." if len(numbers) > NUMBERS else ""
    return f"[{', '.join(f'{number:.4f}' for number in numbers[:NUMBERS])}{more}]"


@contextmanager
def _asking(spec: ModelSpec, gateway: Gateway) -> "Iterator[_Ask]":
    headers = {"Authorization": f"Bearer {gateway.key}"} if gateway.key else {}
    try:
        with httpx2.Client(base_url=gateway.url, headers=headers, timeout=TIMEOUT_S) as client:
            yield _Ask(spec, client)
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        raise ServedError(f"[{spec.name}] url: {gateway.url} does not answer: {exc}") from exc


class _Ask:
    """Sends requests to a gateway."""

    def __init__(self, spec: ModelSpec, client: httpx2.Client) -> None:
        self._spec = spec
        self._client = client

    def __call__(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Send one.

        Raises:
            ServedError: the answer is not 200, or not JSON.
            httpx2.HTTPError: there is none.
        """
        response = self._client.request(method, path, json=body)
        try:
            answer: dict[str, Any] = response.json()
        except ValueError:
            answer = {}
        if response.status_code != 200 or not answer:
            message = answer.get("error", {}).get("message") or response.reason_phrase
            raise ServedError(f"[{self._spec.name}] url: {path} answers {response.status_code}: {message}")
        return answer
