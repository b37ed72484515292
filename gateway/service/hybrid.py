"""Scores of models with dense, sparse and multi-vector outputs, and their weighted mean.

As BGE-M3's authors weight them: FlagEmbedding's BGEM3FlagModel.compute_score with weights_for_different_modes.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import Model, TextModel
from gateway.contract import EMBEDDING, LATE_INTERACTION, SCORE, SPARSE_WEIGHTS
from gateway.errors import InvalidRequest
from gateway.service.caller import Caller
from gateway.service.text_batches import NO_QUERY, Wanted, infer_texts
from gateway.vectors import Floats, Sparse, normalize

Mode = Literal["dense", "sparse", "multi_vector"]
"""How a query and a document are compared: by the cosine of dense vectors, the dot product of sparse ones, or the
model's late interaction."""
Weights = Mapping[Mode, float]
"""Each is above 0."""
Scores = Mapping[Mode, NDArray[np.float32]]
"""By mode, [n]."""

FIELD = "weights"
"""The field of requests that holds weights."""
OUTPUTS: Mapping[Mode, tuple[str, Wanted]] = {
    "dense": (EMBEDDING, "embedding"),
    "sparse": (SPARSE_WEIGHTS, "sparse"),
    "multi_vector": (SCORE, "score"),
}
"""The output that a model needs for a mode, and its field in `Computed`."""


def check(served: Sequence[Model], model: TextModel, weights: Weights) -> None:
    """Raise InvalidRequest if a model cannot score in one of these modes; the error names those served that can."""
    for mode in weights:
        if not _scores(model, mode):
            able = [other.name for other in served if other.text is not None and _scores(other.text, mode)]
            raise InvalidRequest(
                f"{FIELD}: model {model.name!r} has no {mode} score; models that have one: {', '.join(able) or 'none'}",
                param=f"{FIELD}.{mode}",
            )


def _scores(model: TextModel, mode: Mode) -> bool:
    return model.role == LATE_INTERACTION and OUTPUTS[mode][0] in model.outputs


async def score(
    caller: Caller, model: TextModel, query: Sequence[int], rows: Sequence[Sequence[int]], modes: Sequence[Mode]
) -> Scores:
    """The scores of all documents in these modes, in one pass over the documents and the query.

    Args:
        caller: the request to work for.
        model: a late-interaction model, accepted by `check` if there are weights.
        query: token ids.
        rows: token ids of each document.
        modes: at least one.

    Raises:
        GatewayError: what `batches.infer` raises.
    """
    wanted = {OUTPUTS[mode][1] for mode in modes}
    compared = query if "score" in wanted else NO_QUERY
    pairs = [(compared, row) for row in rows]
    if wanted != {"score"}:
        pairs.append((compared, query))  # for the vectors of the query
    computed = await infer_texts(caller, model, pairs, wanted)
    scores: dict[Mode, NDArray[np.float32]] = {}
    for mode in modes:
        if mode == "dense":
            units = normalize(computed.embedding)
            scores[mode] = units[:-1] @ units[-1]
        elif mode == "sparse":
            scores[mode] = _dots(computed.sparse[-1], computed.sparse[:-1], model.vocabulary_size)
        else:
            scores[mode] = computed.score[: len(rows), 0]
    return scores


def weighted(scores: Scores, weights: Weights) -> NDArray[np.float64]:
    """The weighted mean of the scores, [n]."""
    largest = max(weights.values())  # products with the smallest numbers are not exact
    relative = [weight / largest for weight in weights.values()]
    return np.average([scores[mode].astype(np.float64) for mode in weights], axis=0, weights=relative)


def _dots(query: Sparse, documents: Sequence[Sparse], vocabulary_size: int) -> Floats:
    weights = np.zeros(vocabulary_size, np.float32)
    weights[query.indices] = query.weights
    return np.array([weights[document.indices] @ document.weights for document in documents], np.float32)
