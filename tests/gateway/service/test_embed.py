import asyncio
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gateway.catalog import Model, TextModel
from gateway.images.reader import Images
from gateway.service.embed import Item, embed
from gateway.text.tokenizer import TextTokenizer
from tests.gateway.service.recording import RecordingTriton, caller


@pytest.fixture(scope="module")
def tokenizer(repository: Path) -> TextTokenizer:
    return TextTokenizer.from_file(repository / "all-minilm-l6-v2" / "tokenizer.json")


def sent(
    tokenizer: TextTokenizer, prefix: str, prompt: str, *texts: str | list[int], limit: int = 256
) -> dict[int, int]:
    """What a model is told of the front of each text, by how many tokens the text has with its prompt."""
    triton_model = TextModel("m", "m", "text-embedding", "embedding", 1, 8, limit, 30522, tokenizer, prefix=prefix)
    model = Model("m", (), default=True, created=0, dimensions=(), text_weight=0.5, text=triton_model)
    items = [Item(f"input[{i}]", text) for i, text in enumerate(texts)]
    triton = RecordingTriton()

    async def run() -> None:
        await embed(caller(triton), Images.__new__(Images), [model], model, items, prompt=prompt, truncate="end")

    asyncio.run(run())
    return {
        length: prefix_length
        for call in triton.calls
        for length, prefix_length in zip(call["length"][:, 0], call.get(prefix, call["length"])[:, 0], strict=True)
    }


def test_model_is_told_the_tokens_of_the_prompt(tokenizer: TextTokenizer, minilm_folder: Path) -> None:
    # sentence-transformers: those of the prompt alone, less the [SEP] behind.
    reference = AutoTokenizer.from_pretrained(minilm_folder)
    prompt = "Represent this question: "
    alone = len(reference(prompt).input_ids) - 1
    ids = reference("a shell").input_ids
    assert sent(tokenizer, "prompt_length", prompt, "a shell", ids) == {alone + 3: alone, len(ids): 0}


def test_prompt_is_not_longer_than_a_row_that_is_cut(tokenizer: TextTokenizer) -> None:
    assert sent(tokenizer, "prompt_length", "one two three four five six seven eight nine ", "ten", limit=8) == {8: 8}


def test_without_a_prompt_nothing_is_left_out(tokenizer: TextTokenizer) -> None:
    assert sent(tokenizer, "prompt_length", "", "a shell") == {4: 0}


def test_other_models_are_told_nothing(tokenizer: TextTokenizer) -> None:
    assert sent(tokenizer, "", "query: ", "a shell") == {6: 6}  # there is no such tensor
