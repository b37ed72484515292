import asyncio
import tracemalloc
from pathlib import Path

import pytest

from gateway.catalog import TextModel
from gateway.errors import RequestTooLarge
from gateway.service.score import TextPair, score_pairs
from gateway.text.tokenizer import TextTokenizer
from gateway.triton import Output
from tests.gateway.service.recording import RecordingTriton, caller


def test_pairs_are_counted_before_all_of_their_rows_are_made(entries: Path) -> None:
    tokenizer = TextTokenizer.from_file(entries / "all-minilm-l6-v2" / "tokenizer.json")
    outputs = {"score": Output("score", "FP32", (1,))}
    model = TextModel("m", "m", "late-interaction", outputs, 64, 8192, 30522, tokenizer)
    query = "sea " * 4000
    pairs = [TextPair(query, "snail", "text_1", f"text_2[{i}]") for i in range(2048)]
    tracemalloc.start()
    try:
        with pytest.raises(RequestTooLarge, match=r"up to text_2\[74\]"):
            asyncio.run(score_pairs(caller(RecordingTriton()), model, pairs, truncate="none"))
        assert tracemalloc.get_traced_memory()[1] < 2**23  # the rows of all pairs are 64 MiB of pointers
    finally:
        tracemalloc.stop()
