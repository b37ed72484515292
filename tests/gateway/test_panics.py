import asyncio
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from gateway.errors import InvalidRequest
from gateway.panics import panics_as
from gateway.tokenize import TextTokenizer


def test_text_at_which_a_tokenizer_panics_is_refused_and_others_are_not(repository: Path) -> None:
    content = json.loads((repository / "all-minilm-l6-v2" / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$|(.*)*x"}, "content": "z"}
    tokenizer = TextTokenizer(Tokenizer.from_str(json.dumps(content)))
    bad = "a" * 70 + "!"

    async def run() -> None:
        for refused in (tokenizer.encode([bad]), tokenizer.pieces([bad], special=True), tokenizer.frame(bad)):
            with pytest.raises(InvalidRequest, match="the model's tokenizer fails on a text of this request"):
                await refused
        assert await tokenizer.encode(["a shell"])

    asyncio.run(run())


def test_other_errors_pass() -> None:
    @panics_as(ValueError)
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
