import asyncio
import base64
from pathlib import Path

import pytest
from msgspec import structs
from transformers import AutoTokenizer

from gateway.budget import Budget
from gateway.catalog import ImageModel, Model, Offer, TextModel
from gateway.errors import RequestTooLarge
from gateway.images.processors import NaFlex
from gateway.images.reader import Images
from gateway.service.embed import NUMBER_BYTES, Item, embed
from gateway.text.tokenizer import TextTokenizer
from gateway.triton import Output
from loadtest.tools.pictures import file, scene
from tests.gateway.service.recording import EMBEDDING, RecordingTriton, caller


@pytest.fixture(scope="module")
def tokenizer(entries: Path) -> TextTokenizer:
    return TextTokenizer.from_file(entries / "all-minilm-l6-v2" / "tokenizer.json")


def sent(
    tokenizer: TextTokenizer, prefix: str, prompt: str, *texts: str | list[int], limit: int = 256
) -> dict[int, int]:
    """The prefix length sent for each text, by the number of tokens of the text with its prompt."""
    triton_model = TextModel(
        "m", "m", "text-embedding", {"embedding": EMBEDDING}, 8, limit, 30522, tokenizer, prefix=prefix
    )
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


def test_model_receives_the_length_of_the_prompt(tokenizer: TextTokenizer, minilm_folder: Path) -> None:
    # sentence-transformers counts the tokens of the prompt alone, without the final [SEP].
    reference = AutoTokenizer.from_pretrained(minilm_folder)
    prompt = "Represent this question: "
    alone = len(reference(prompt).input_ids) - 1
    ids = reference("a shell").input_ids
    assert sent(tokenizer, "prompt_length", prompt, "a shell", ids) == {alone + 3: alone, len(ids): 0}


def test_prompt_is_not_longer_than_a_truncated_row(tokenizer: TextTokenizer) -> None:
    assert sent(tokenizer, "prompt_length", "one two three four five six seven eight nine ", "ten", limit=8) == {8: 8}


def test_length_is_zero_without_a_prompt(tokenizer: TextTokenizer) -> None:
    assert sent(tokenizer, "prompt_length", "", "a shell") == {4: 0}


def test_models_without_the_input_do_not_receive_it(tokenizer: TextTokenizer) -> None:
    assert sent(tokenizer, "", "query: ", "a shell") == {6: 6}  # there is no such tensor


@pytest.mark.parametrize(
    ("kinds", "numbers"),
    [
        ({"dense"}, 2 * 16),
        ({"multi_vector"}, (4 + 3) * 8),
        ({"sparse"}, 2 * 2 * 5),
        ({"dense", "sparse", "multi_vector"}, 2 * 16 + (4 + 3) * 8 + 2 * 2 * 5),
    ],
)
def test_memory_of_the_response_is_reserved_before_anything_is_computed(
    tokenizer: TextTokenizer, kinds: set[Offer], numbers: int
) -> None:
    outputs = {
        "embedding": Output("embedding", "FP32", (16,)),
        "tokens": Output("tokens", "FP32", (-1, 8)),
        "sparse_indices": Output("sparse_indices", "INT32", (5,)),
        "sparse_weights": Output("sparse_weights", "FP32", (5,)),
    }
    triton_model = TextModel("m", "m", "text-embedding", outputs, 8, 256, 30522, tokenizer)
    model = Model("m", (), default=True, created=0, dimensions=(), text_weight=0.5, text=triton_model)
    items = [Item("input[0]", "a shell"), Item("input[1]", "shell")]
    triton = RecordingTriton()

    def reserve(limit: int) -> None:
        with Budget("responses", limit, limit, 0).hold("") as held:
            mine = structs.replace(caller(triton), reserve=held.grow)
            asyncio.run(
                embed(mine, Images.__new__(Images), [model], model, items, prompt="", truncate="end", kinds=kinds)
            )

    with pytest.raises(RequestTooLarge, match=f"^{numbers * NUMBER_BYTES} bytes of responses exceed"):
        reserve(numbers * NUMBER_BYTES - 1)
    assert not triton.calls


def test_patches_of_images_of_any_size_are_those_they_have() -> None:
    processor = NaFlex(patch=16, max_patches=256, resample="bilinear")
    of_images = ImageModel("m", "m", "image-embedding", {"embedding": EMBEDDING}, 8, processor, 256)
    model = Model("m", (), default=True, created=0, dimensions=(), text_weight=0.5, image=of_images)
    files = [file(scene(*size, 0), "PNG") for size in ((300, 200), (40, 400))]
    items = [Item(f"input[{i}]", image=base64.b64encode(content).decode()) for i, content in enumerate(files)]
    triton = RecordingTriton()

    async def run() -> int:
        images = Images(10**6, None)
        try:
            done = await embed(caller(triton), images, [model], model, items, prompt="", truncate="end")
        finally:
            await images.close()
        return done.image_tokens

    assert asyncio.run(run()) == processor.layout(200, 300).patches + processor.layout(400, 40).patches < 2 * 256
    assert triton.calls[0]["grids"].tolist() == [[[*processor.layout(200, 300).grids[0]]], [[50, 5]]]
