"""Rows of texts and images equal those of the whole rendered text, tokenized at once."""

import asyncio
from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np
import pytest

from gateway.catalog import ImageReading, Offer, TextModel
from gateway.errors import GatewayError, InvalidRequest, RequestTooLarge
from gateway.images.processors import Fixed
from gateway.images.reader import Images
from gateway.service.contents import Content, Picture, PixelLimits
from gateway.service.embed import DENSE, MAX_TOKEN_NUMBERS, Embeddings, Item, embed
from gateway.service.image_rows import Draft, ImageRow, Reading, windows
from gateway.text.tokenizer import Truncate
from tests.gateway.service.recording import RecordingTriton, caller
from tests.gateway.service.vision import CHAT, END, PAD, PROCESSOR, SPECIAL, START, image, public, text_model, tokenizer

SMALL, WIDE = image(16, 16), image(40, 16, 1)
"""Images of 2 x 2 and 2 x 5 tokens."""
BEFORE, BEHIND = CHAT.around(is_query=False, prompt="")


@pytest.fixture(scope="module")
def model() -> TextModel:
    return text_model()


def run(
    model: TextModel,
    *items: Item,
    triton: RecordingTriton,
    truncate: Truncate = "none",
    max_tokens: int | None = None,
    prompt: str = "",
    pixels: PixelLimits | None = None,
    kinds: Set[Offer] = DENSE,
    token_dimensions: int | None = None,
) -> Embeddings:
    async def work() -> Embeddings:
        reader = Images(10**7, None)
        try:
            return await embed(
                caller(triton),
                reader,
                [],
                public(model),
                items,
                prompt=prompt,
                truncate=truncate,
                max_tokens=max_tokens,
                kinds=kinds,
                token_dimensions=token_dimensions,
                pixels=pixels or PixelLimits(),
            )
        finally:
            await reader.close()

    return asyncio.run(work())


def sent(triton: RecordingTriton) -> list[tuple[list[int], np.ndarray, list[list[int]]]]:
    """The ids, patches and grids of each row that was sent, without padding."""
    rows = []
    for call in triton.calls:
        for ids, length, patches, grids in zip(
            call["input_ids"], call["length"][:, 0], call["patches"], call["grids"], strict=True
        ):
            sizes = [grid for grid in grids.tolist() if grid[0]]
            count = sum(height * width for height, width in sizes)
            assert not patches[count:].any()
            rows.append((ids[:length].tolist(), patches[:count], sizes))
    return rows


def rendered(*parts: str | int, before: str = BEFORE, behind: str = BEHIND) -> list[int]:
    """The ids of a row of texts and images, each given as its number of tokens."""
    content = "".join(part if isinstance(part, str) else START + PAD * part + END for part in parts)
    ids: list[int] = tokenizer().encode(before + content + behind, add_special_tokens=False).ids
    return ids


def picture(uri: str, place: str = "input[0].image") -> Picture:
    return Picture(uri, place)


@pytest.mark.parametrize(
    ("item", "parts", "grids"),
    [
        (Item("input[0]", "the sea"), ["the sea"], []),
        (Item("input[0]", image=SMALL), [4], [[4, 4]]),
        (Item("input[0]", "the sea", WIDE), ["the sea", 10], [[4, 10]]),
        (
            Item("input[0]", content=["a", picture(WIDE), " b", picture(SMALL), "c"]),
            ["a", 10, " b", 4, "c"],
            [[4, 10], [4, 4]],
        ),
        (Item("input[0]", content=["a ", "snail"]), ["a snail"], []),
    ],
)
def test_row_is_the_rendered_text_with_a_placeholder_for_each_merged_patch(
    model: TextModel, item: Item, parts: Sequence[str | int], grids: list[list[int]]
) -> None:
    triton = RecordingTriton()
    found = run(model, item, triton=triton)
    ((ids, patches, sizes),) = sent(triton)
    assert ids == rendered(*parts)
    assert sizes == grids
    assert patches.shape == (sum(height * width for height, width in grids), 48)
    assert (found.text_tokens, found.image_tokens) == (
        len(ids) - sum(n for n in parts if isinstance(n, int)),
        len(patches),
    )


def test_items_of_all_kinds_keep_their_order(model: TextModel) -> None:
    triton, own = RecordingTriton(), [rendered("a")[0], 7, 8, 9, rendered("a")[-1]]
    items = [
        Item("input[0]", "a"),
        Item("input[1]", image=WIDE),
        Item("input[2]", own),
        Item("input[3]", "b", SMALL),
        Item("input[4]", content=[picture(SMALL), picture(SMALL)]),
    ]
    found = run(model, *items, triton=triton)
    firsts = [rendered("a")[0], rendered(10)[0], own[0], rendered("b", 4)[0], rendered(4, 4)[0]]
    assert found.vectors[:, 0].tolist() == firsts
    assert sorted(len(ids) for ids, _, _ in sent(triton)) == sorted(
        map(len, (rendered("a"), rendered(10), own, rendered("b", 4), rendered(4, 4)))
    )
    assert found.image_tokens == 4 * (10 + 4 + 4 + 4)


def test_pixels_are_those_of_the_processor(model: TextModel) -> None:
    triton = RecordingTriton()
    run(model, Item("input[0]", image=WIDE), triton=triton)

    async def read() -> np.ndarray:
        reader = Images(10**7, None)
        try:
            return (await reader.read(WIDE, PROCESSOR, "", caller(triton).account)).pixels
        finally:
            await reader.close()

    ((_, patches, _),) = sent(triton)
    assert np.array_equal(patches, asyncio.run(read()))


def test_prompt_is_the_instruction(model: TextModel) -> None:
    triton = RecordingTriton()
    run(model, Item("input[0]", "a", SMALL), Item("input[1]", "b"), triton=triton, prompt="Find it.")
    before, behind = CHAT.around(is_query=False, prompt="Find it.")
    assert "Find it." in before
    assert sorted(ids for ids, _, _ in sent(triton)) == sorted(
        [rendered("a", 4, before=before, behind=behind), rendered("b", before=before, behind=behind)]
    )


def test_limits_of_the_request_change_the_grid(model: TextModel) -> None:
    triton = RecordingTriton()
    run(model, Item("input[0]", image=image(64, 64)), triton=triton, pixels=PixelLimits(max_pixels=1024))
    ((_, _, grids),) = sent(triton)
    assert grids == [[8, 8]]


@pytest.mark.parametrize(
    ("limits", "place"),
    [
        (PixelLimits(max_pixels=10_000), "max_pixels"),
        (PixelLimits(100, 10_000), "max_pixels"),
        (PixelLimits(4000, 100), "min_pixels"),
        (PixelLimits(1), "min_pixels"),
    ],
)
def test_limits_outside_those_of_the_model_are_refused(model: TextModel, limits: PixelLimits, place: str) -> None:
    with pytest.raises(InvalidRequest, match="pixels") as caught:
        run(model, Item("input[0]", image=SMALL), triton=RecordingTriton(), pixels=limits)
    assert caught.value.param == place


@pytest.mark.parametrize("truncate", ["end", "start"])
def test_only_text_behind_the_images_is_truncated(model: TextModel, truncate: Truncate) -> None:
    triton = RecordingTriton()
    text = " the sea snail lives in the sea" * 5
    content: Content = ["a", picture(SMALL), text]
    whole = rendered("a", 4, text)
    limit = len(whole) - 9
    found = run(model, Item("input[0]", content=content), triton=triton, truncate=truncate, max_tokens=limit)
    ((ids, patches, _),) = sent(triton)
    behind = len(tokenizer().encode(BEHIND).ids)
    head = len(rendered("a", 4, behind=""))
    kept = whole[head : -behind - 9] if truncate == "end" else whole[head + 9 : -behind]
    assert ids == whole[:head] + kept + whole[-behind:]
    assert (len(ids), len(patches), found.text_tokens) == (limit, 16, limit - 4)


@pytest.mark.parametrize(
    ("content", "truncate", "message"),
    [
        (
            ["a", picture(SMALL)],
            "none",
            "input[0] has 28 tokens with its images; the limit of the request is 27, that of model 'm' 512",
        ),
        (["a", picture(SMALL)], "end", "only text behind the last image can be truncated"),
        (["a" * 40, picture(SMALL), "b"], "end", "only text behind the last image can be truncated"),
        (
            [picture(image(64, 64))],
            "end",
            "input[0] has over 64 tokens up to input[0].image; the limit of the request is",
        ),
        (["a<|im_end|>", picture(SMALL)], "end", "input[0] contains '<|im_end|>', a special token of model 'm'"),
        ([picture(SMALL), f"{PAD}"], "end", f"input[0] contains '{PAD}', a special token"),
        (["<|im_", "end|>", picture(SMALL)], "end", "input[0] contains '<|im_end|>', a special token"),
        ([picture(SMALL), "a" * 27 * 63, "<|im_start", "|>"], "end", "input[0] contains '<|im_start|>', a special"),
        ([picture(SMALL)] * 5, "end", "input[0] has 5 images; the limit of model 'm' is 4"),
        ([picture("data:image/png;base64,AAAA")], "end", "input[0].image"),
    ],
)
def test_wrong_contents_are_refused(model: TextModel, content: Content, truncate: Truncate, message: str) -> None:
    triton = RecordingTriton()
    with pytest.raises(InvalidRequest) as caught:
        run(model, Item("input[0]", content=content), triton=triton, truncate=truncate, max_tokens=27)
    assert message in caught.value.message
    assert not triton.calls


@pytest.mark.parametrize("text", ["<|im_end|>", f"a {PAD} b", "<pad>"])
def test_special_tokens_in_texts_are_refused_without_images_too(model: TextModel, text: str) -> None:
    with pytest.raises(InvalidRequest, match="a special token of model 'm'"):
        run(model, Item("input[0]", text), triton=RecordingTriton())


def test_placeholder_as_a_token_id_is_refused(model: TextModel) -> None:
    assert model.images is not None
    for items in (
        [Item("input[0]", [7, model.images.token])],
        [Item("input[0]", [7, model.images.token]), Item("i", image=SMALL)],
    ):
        with pytest.raises(InvalidRequest, match="which stands for images"):
            run(model, *items, triton=RecordingTriton())


@pytest.mark.parametrize("truncate", ["none", "end", "start"])
def test_token_ids_beside_an_image_are_what_they_are_alone(model: TextModel, truncate: Truncate) -> None:
    """Also where they are truncated to the model's limit of 512."""
    inside = [7 + i % 50 for i in range(510 if truncate == "none" else 2000)]
    row = [rendered("a")[0], *inside, rendered("a")[-1]]
    alone, together = RecordingTriton(), RecordingTriton()
    run(model, Item("input[0]", row), triton=alone, truncate=truncate)
    found = run(model, Item("input[0]", row), Item("input[1]", image=SMALL), triton=together, truncate=truncate)
    ((ids, _, _),) = sent(alone)
    assert len(ids) == 512
    assert ids in [ids for ids, _, _ in sent(together)]
    assert found.text_tokens == 512 + len(rendered(4)) - 4


@pytest.mark.parametrize("items", [[], [Item("input[1]", image=SMALL)]])
def test_token_ids_over_the_limit_are_refused(model: TextModel, items: list[Item]) -> None:
    with pytest.raises(InvalidRequest, match=r"input\[0\] has 513 tokens; the limit of model 'm' is 512"):
        run(model, Item("input[0]", [7] * 513), *items, triton=RecordingTriton())


def test_limit_of_token_vectors_is_for_all_windows_together() -> None:
    """Of seven images of 12 MiB: six are a window, whose vectors are within the limit."""
    fixed = Fixed(patch=64, merge=16, height=2048, width=2048)
    reading = ImageReading(SPECIAL.index(PAD), fixed, 4)
    model, triton = text_model("late-interaction", images=reading), RecordingTriton()
    size = MAX_TOKEN_NUMBERS // (6 * len(rendered(4, before="<|im_start|>", behind="<|im_end|>")))
    with pytest.raises(RequestTooLarge, match="input has 56 tokens, whose vectors") as caught:
        run(
            model,
            *(Item(f"input[{i}]", image=SMALL) for i in range(7)),
            triton=triton,
            kinds={"multi_vector"},
            token_dimensions=size,
        )
    assert caught.value.param == "input"
    assert sum(len(call["document_ids"]) for call in triton.calls) == 6


def test_text_is_truncated_within_its_template(model: TextModel) -> None:
    triton = RecordingTriton()
    run(model, Item("input[0]", "the sea " * 50), triton=triton, truncate="end", max_tokens=60)
    ((ids, _, _),) = sent(triton)
    behind = tokenizer().encode(BEHIND).ids
    assert len(ids) == 60
    assert ids[-len(behind) :] == behind


def test_rows_are_read_in_windows(model: TextModel) -> None:
    drafts = [[7] * 8 if i % 2 else Draft(f"input[{i}]", [str(i), picture(SMALL)]) for i in range(9)]

    async def work() -> list[list[int]]:
        reader = Images(10**7, None)
        reading = Reading.of(caller(RecordingTriton()), reader, model, PixelLimits(), "input[0].image")
        patches: list[list[int]] = []
        given: list[ImageRow] = []
        try:
            async for rows in windows(reading, drafts, limit=512, truncate="none", window_bytes=1000):  # one has 768
                assert not given  # or its pixels would stay while the next rows are read
                given = rows
                patches.append([row.patches for row in rows])
        finally:
            await reader.close()
        return patches

    assert asyncio.run(work()) == [[16, 0, 16], [0, 16, 0, 16], [0, 16]]


def test_estimate_is_no_more_than_an_image_may_have(model: TextModel) -> None:
    """A queue must not refuse many small images that it has room for."""
    reader = Images(10**7, None)
    for pixels in (PixelLimits(), PixelLimits(max_pixels=64)):
        most = pixels.of(PROCESSOR).max_patches
        reading = Reading.of(caller(RecordingTriton()), reader, model, pixels, "input[0].image")
        assert reading.estimate(["abcd", picture(SMALL), picture(WIDE)]) == 2 + 2 * (most + most // 4)


def test_too_many_tokens_of_images_are_refused_before_any_is_read() -> None:
    """Of a model whose images all have as many tokens: here 256. Nothing is read of what is no image."""
    fixed = Fixed(patch=4, merge=1, height=64, width=64)
    images = ImageReading(SPECIAL.index(PAD), fixed, 4)
    model = replace(text_model(), images=images)
    for most, error, message in (
        (3, InvalidRequest, r"input\[0\] has at least 768 tokens of images; the limit of model 'm' is 512"),
        (1, RequestTooLarge, r"the request has at least 300032 tokens up to input\[1171\]; the limit is 300000"),
    ):
        items = [Item(f"input[{i}]", content=[picture("nothing")] * most) for i in range(2048)]
        with pytest.raises(error, match=message):
            run(model, *items, triton=RecordingTriton())


def test_request_with_too_many_tokens_is_refused(model: TextModel) -> None:
    rows = [Item(f"input[{i}]", [rendered("a")[0], *[7] * 510, rendered("a")[-1]]) for i in range(600)]
    with pytest.raises(RequestTooLarge, match=r"tokens up to input\[585\]; the limit is 300000"):
        run(model, Item("input[600]", image=SMALL), *rows, triton=RecordingTriton())


def test_failure_of_triton_is_the_error_of_the_call(model: TextModel) -> None:
    with pytest.raises(GatewayError, match="m returned no embedding"):
        run(model, Item("input[0]", image=SMALL), triton=RecordingTriton(fail_at=0))
