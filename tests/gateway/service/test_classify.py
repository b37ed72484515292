import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.catalog import TextModel
from gateway.contract import CLASSIFIER, CROSS_ENCODER
from gateway.errors import GatewayError, InvalidRequest, RequestTooLarge
from gateway.service.classify import Classification, Input, Pair, classify
from gateway.service.tokens import Text
from gateway.text.tokenizer import TextTokenizer, Truncate
from gateway.triton import Output
from tests.gateway.service.recording import RecordingTriton, caller


class Lengths(RecordingTriton):
    """Answers with the length of each row, and of its first segment."""

    async def infer(
        self,
        model: str,  # noqa: ARG002
        tensors: Mapping[str, NDArray[np.generic]],
        outputs: Sequence[Output],  # noqa: ARG002
    ) -> list[NDArray[np.generic]]:
        columns = [tensors["length"], tensors.get("first_length", tensors["length"])]
        return [np.concatenate(columns, axis=1).astype(np.float32)]


@pytest.fixture(scope="module")
def model(entries: Path) -> TextModel:
    tokenizer = TextTokenizer.from_file(entries / "all-minilm-l6-v2" / "tokenizer.json")
    score = {"score": Output("score", "FP32", (2,))}
    return TextModel(
        "m", "m", CLASSIFIER, score, 64, 64, 30522, tokenizer, labels=("long", "first"), prefix="first_length"
    )


def run(
    model: TextModel, *contents: Text | Pair, truncate: Truncate = "none", max_tokens: int | None = None
) -> Classification:
    inputs = [Input(f"input[{i}]", content) for i, content in enumerate(contents)]
    who = caller(Lengths())
    return asyncio.run(classify(who, model, inputs, truncate=truncate, max_tokens=max_tokens))


def test_texts_pairs_and_token_ids_keep_their_order(model: TextModel) -> None:
    found = run(model, "sea", ("sea", "snail shell"), [101, 2712, 102], ("", "a b c"))
    assert found.scores.tolist() == [[3, 3], [6, 3], [3, 3], [6, 2]]
    assert (found.tokens, found.labels) == (18, ("long", "first"))


def test_labels_are_sorted_by_their_scores(model: TextModel) -> None:
    (pair, text) = run(model, ("sea", "snail shell"), "sea").labelled()
    assert pair == [("long", 6), ("first", 3)]
    assert text == [("long", 3), ("first", 3)]  # equal ones keep their order


@pytest.mark.parametrize(
    ("content", "lengths"),
    [
        ("sea " * 100, [64, 64]),
        (("sea " * 100, "snail"), [64, 62]),
        (("sea", "snail " * 100), [64, 3]),
        (("sea " * 100, "snail " * 100), [64, 32]),
    ],
)
def test_longer_text_of_a_pair_is_truncated_first(model: TextModel, content: Text | Pair, lengths: list[int]) -> None:
    assert run(model, content, truncate="end").scores.tolist() == [lengths]
    assert run(model, content, truncate="start").scores.tolist() == [lengths]
    with pytest.raises(InvalidRequest, match=r"input\[0\] has \d+ tokens; the limit of model 'm' is 64"):
        run(model, content)


def test_limit_may_be_lower_than_the_models(model: TextModel) -> None:
    assert run(model, "sea " * 100, truncate="end", max_tokens=16).scores.tolist() == [[16, 16]]


def test_prompt_is_put_before_the_first_text(model: TextModel) -> None:
    prompted = replace(model, default_prompt="is it: ")
    assert run(prompted, "sea", ("sea", "snail")).scores.tolist() == [[6, 6], [8, 6]]


def test_cross_encoder_takes_pairs_only_and_keeps_their_first_text(model: TextModel) -> None:
    cross = replace(model, role=CROSS_ENCODER)
    assert run(cross, ("sea", "snail shell")).scores.tolist() == [[6, 3]]
    assert run(cross, ("sea", "snail " * 100), truncate="end").scores.tolist() == [[64, 3]]
    with pytest.raises(InvalidRequest, match=r"input\[1\] must be a pair of texts, since model 'm' is a cross-encoder"):
        run(cross, ("a", "b"), "a")
    with pytest.raises(InvalidRequest, match=r"input\[0\] has 42 tokens; the limit of model 'm' is 32"):
        run(cross, ("sea " * 40, "a"), truncate="end")


@pytest.mark.parametrize(
    ("contents", "error"), [([("sea " * 30, "snail " * 30)] * 5000, RequestTooLarge), ([[1, 2]], InvalidRequest)]
)
def test_limits_are_those_of_all_texts(
    model: TextModel, contents: list[Text | Pair], error: type[GatewayError]
) -> None:
    with pytest.raises(error):
        run(model, *contents)
