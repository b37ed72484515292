"""Models that read texts and images together, through every dialect, on a real Triton."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from loadtest.tools.pictures import file
from tests.gateway.service.vision import CHAT, PAD, image, tokenizer
from tests.seeing_models import write_seeing_repository
from tests.serving import serve

SMALL, WIDE = image(16, 16), image(40, 16, 1)
TEXT = "the sea snail"
URL = {"type": "image_url", "image_url": {"url": SMALL}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    repository = write_seeing_repository(tmp_path_factory.mktemp("seeing"))
    with serve(repository) as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


def post(client: httpx2.Client, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def vectors(client: httpx2.Client, **body: Any) -> NDArray[np.float64]:
    answer = post(client, "/v1/embeddings", **body)
    return np.array([item["embedding"] for item in answer["data"]])


def refused(client: httpx2.Client, path: str, **body: Any) -> str:
    response = client.post(path, json=body)
    assert response.status_code == 400, response.text
    answer = response.json()
    message: str = answer["error"]["message"] if "error" in answer else answer["message"]
    return message


def plain(text: str) -> list[int]:
    """The ids of a text without a template."""
    return tokenizer().encode(text).ids


def test_text_and_image_of_an_item_are_one_vector(client: httpx2.Client) -> None:
    body = {"model": "seeing", "input": [{"text": TEXT, "image": SMALL}], "normalized": True, "embedding_type": "float"}
    answer = post(client, "/v1/embeddings", **body)
    (item,) = answer["data"]
    assert np.linalg.norm(item["embedding"]) == pytest.approx(1)
    details = answer["usage"]["prompt_tokens_details"]
    assert details["image_tokens"] == 16
    assert answer["usage"]["total_tokens"] == details["text_tokens"] + 16
    alone = vectors(client, input=[{"text": TEXT}])
    assert not np.allclose(alone[0], item["embedding"])


def test_every_dialect_means_the_same(client: httpx2.Client) -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": TEXT}, URL]
    (expected,) = vectors(client, input=[{"text": TEXT, "image": SMALL}])
    base = SMALL.partition(",")[2]
    for body in (
        {"input": {"content": parts}},
        {"input": [{"content": [parts[0], {"type": "image_url", "image_url": SMALL}]}]},
        {"input": [{"content": [parts[0], {"type": "image_base64", "image_base64": SMALL}]}]},
        {"input": [{"content": [parts[0], {"type": "image", "image": base}]}]},
        {"input": [{"text": TEXT, "bytes": base}]},
        {"messages": [{"role": "user", "content": parts}]},
        {
            "messages": [
                {"role": "user", "content": parts},
                {"role": "assistant", "content": [{"type": "text", "text": ""}]},
            ]
        },
        {"messages": [{"role": "system", "content": "Represent the input."}, {"role": "user", "content": parts}]},
    ):
        assert vectors(client, **body).tolist() == [expected.tolist()]
    cohere = post(client, "/v2/embed", model="seeing", input_type="search_document", inputs=[{"content": parts}])
    assert cohere["embeddings"]["float"] == [expected.tolist()]
    assert cohere["meta"]["billed_units"]["image_tokens"] == 16


def test_order_of_a_content_counts(client: httpx2.Client) -> None:
    text = {"type": "text", "text": TEXT}
    first, second = vectors(client, input=[{"content": [text, URL]}, {"content": [URL, text]}])
    assert not np.allclose(first, second)


def test_instruction_replaces_that_of_the_template(client: httpx2.Client) -> None:
    item = {"content": [URL]}
    told = vectors(client, input=[item], instruction="Find it.")
    message = {"role": "system", "content": [{"type": "text", "text": "Find it."}]}
    by_message = vectors(client, messages=[message, {"role": "user", "content": [URL]}])
    assert told.tolist() == by_message.tolist() != vectors(client, input=[item]).tolist()


def test_images_as_strings(client: httpx2.Client) -> None:
    as_items = vectors(client, input=[{"image": SMALL}])
    assert vectors(client, input=[SMALL]).tolist() == as_items.tolist()
    assert vectors(client, input=SMALL.partition(",")[2], modality="image").tolist() == as_items.tolist()


@pytest.mark.parametrize("name", ["max_pixels", "mm_processor_kwargs"])
def test_limits_of_pixels(client: httpx2.Client, name: str) -> None:
    large = image(64, 64)
    limits: dict[str, Any] = {name: 1024 if name == "max_pixels" else {"max_pixels": 1024}}
    answer = post(client, "/v1/embeddings", input=[{"image": large}], **limits)
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] == 64
    answer = post(client, "/v1/embeddings", input=[{"image": large}])
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] == 256


def test_other_settings_of_the_processor_are_reported_as_ignored(client: httpx2.Client) -> None:
    body = {"input": [{"image": SMALL}], "mm_processor_kwargs": {"max_pixels": 1024, "size": {"longest_edge": 64}}}
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 200
    assert response.headers["x-conch-ignored-fields"] == "mm_processor_kwargs.size"


def test_concurrent_requests_equal_the_same_alone(client: httpx2.Client) -> None:
    items = [
        [{"text": f"{i}"}, {"image": image(16 + 8 * (i % 5), 24, i)}, {"text": f"{i} a", "image": SMALL}][: 1 + i % 3]
        for i in range(64)
    ]
    alone = [vectors(client, input=item) for item in items]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda item: vectors(client, input=item), items))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_documents_and_queries_with_images_are_ranked(client: httpx2.Client) -> None:
    documents = [
        TEXT,
        {"text": TEXT, "image": SMALL},
        {"image": WIDE},
        {"url": SMALL},
        {"content": [{"type": "text", "text": TEXT}, URL]},
        {"content": [URL]},
    ]
    for model in ("judging", "pages"):
        answer = post(client, "/v1/rerank", model=model, query=TEXT, documents=documents, raw_scores=True)
        scores = {one["index"]: one["relevance_score"] for one in answer["results"]}
        assert scores[1] == scores[4]
        assert scores[3] == scores[5]
        assert len({*scores.values()}) == 4
        assert [one["relevance_score"] for one in answer["results"]] == sorted(scores.values(), reverse=True)
        assert {one["index"]: one["document"] for one in answer["results"]}[2] == {"image": WIDE}
        for index, document in enumerate(documents):
            alone = post(client, "/v1/rerank", model=model, query=TEXT, documents=[document], raw_scores=True)
            assert alone["results"][0]["relevance_score"] == pytest.approx(scores[index])
    answers = [
        post(client, "/v1/rerank", query=query, documents=documents[:2])["results"]
        for query in (SMALL, {"image": SMALL}, {"content": [URL]}, {"url": SMALL})
    ]
    assert len(answers[0]) == 2
    assert answers == answers[:1] * 4
    strings, objects = (
        post(client, "/v1/rerank", query=TEXT, documents=[TEXT, document], return_documents=False)["results"]
        for document in (SMALL, {"image": SMALL})
    )
    assert strings == objects


def test_token_ids_are_rows_of_the_template(client: httpx2.Client) -> None:
    row = CHAT.text.replace("{instruction}", CHAT.instruction).replace("{content}", TEXT)
    assert vectors(client, input=[plain(row)]).tolist() == vectors(client, input=[TEXT]).tolist()
    first, last = plain(row)[0], plain(row)[-1]
    for wrong in (plain(TEXT), plain(row)[1:], plain(row)[:-1]):
        message = refused(client, "/v1/embeddings", input=[wrong])
        assert message.startswith(
            f"input[0] must start with [{first}] and end with [{last}], as texts of model 'seeing'"
        )


def test_passages_of_nim_are_ranked_as_documents(client: httpx2.Client) -> None:
    passages: list[dict[str, str]] = [{"text": TEXT}, {"text": TEXT, "image": SMALL}, {"image": WIDE}]
    for model in ("judging", "pages"):
        ranked = post(client, "/v1/ranking", model=model, query={"text": TEXT}, passages=passages)
        expected = post(client, "/v1/rerank", model=model, query=TEXT, documents=passages, raw_scores=True)
        assert [(one["index"], one["logit"]) for one in ranked["rankings"]] == [
            (one["index"], one["relevance_score"]) for one in expected["results"]
        ]
        assert ranked["usage"]["total_tokens"] == expected["usage"]["total_tokens"]


def test_objects_of_texts_are_texts(client: httpx2.Client) -> None:
    expected = post(client, "/v1/rerank", query=TEXT, documents=[TEXT])["results"][0]["relevance_score"]
    for query, document in (
        ({"text": TEXT}, {"text": TEXT, "url": "https://example.com"}),
        ({"content": TEXT}, {"content": [{"type": "text", "text": TEXT}]}),
    ):
        answer = post(client, "/v1/rerank", query=query, documents=[document])
        assert answer["results"][0]["relevance_score"] == expected


def test_content_instead_of_documents_has_a_document_for_each_part(client: httpx2.Client) -> None:
    parts = [URL, {"type": "text", "text": TEXT}]
    content = {"content": [*parts, {"type": "text", "text": ""}]}  # an empty text keeps its place too
    answer = post(client, "/v1/rerank", query=TEXT, documents=content)
    listed = post(client, "/v1/rerank", query=TEXT, documents=[{"image": SMALL}, TEXT, ""])
    scores = [[(one["index"], one["relevance_score"]) for one in given["results"]] for given in (answer, listed)]
    assert scores[0] == scores[1]
    scored = post(client, "/score", text_1=TEXT, text_2=content, model="judging")
    assert [one["score"] for one in scored["data"]] == [score for _, score in sorted(scores[0])]
    for model in ("pages", "seeing"):
        content = {"content": parts}
        assert len(post(client, "/score", queries=[TEXT, "a"], documents=[content, "b"], model=model)["data"]) == 2


def test_pages_have_a_vector_for_each_token(client: httpx2.Client) -> None:
    answer = post(client, "/v1/embeddings", model="pages", input=[{"image": WIDE}, TEXT], return_multivector=True)
    page, text = (np.array(item["embeddings"]) for item in answer["data"])
    assert page.shape[0] == 10 + 4
    assert text.shape[0] < 14
    alone = post(client, "/v1/embeddings", model="pages", input=[{"image": WIDE}], return_multivector=True)
    assert alone["data"][0]["embeddings"] == page.tolist()
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": WIDE}}]}
    pooled = post(client, "/pooling", model="pages", messages=[message], task="token_embed")
    assert pooled["data"][0]["data"] == page.tolist()
    query = post(client, "/v1/embeddings", model="pages", input=[TEXT], return_multivector=True, input_type="query")
    assert query["data"][0]["embeddings"] != text.tolist()


def test_tokens_tell_which_vectors_are_of_which_patches(client: httpx2.Client) -> None:
    content = [{"type": "text", "text": "a"}, {"type": "image", "image": WIDE}, URL]
    body = {"model": "pages", "input": [{"content": content}, TEXT], "embedding_type": "multi_vector"}
    both, text = post(client, "/v1/embeddings", **body, return_tokens=True)["data"]
    ids = [1, *plain("a"), 3, *[5] * 10, 4, 3, *[5] * 4, 4, 2]
    first = {"start": ids.index(5), "rows": 2, "columns": 5, "box": [0, 0, 1, 1]}
    second = {"start": len(ids) - 6, "rows": 2, "columns": 2, "box": [0, 0, 1, 1]}
    assert both["tokens"] == {"ids": ids, "images": [[first], [second]]}
    assert len(both["embedding"]) == len(ids)
    assert text["tokens"] == {"ids": [1, *plain(TEXT), 2], "images": []}
    assert "tokens" not in post(client, "/v1/embeddings", **body)["data"][0]
    query = post(client, "/v1/embeddings", **body | {"input": "a", "task": "query"}, return_tokens=True)["data"][0]
    assert query["tokens"] == {"ids": [1, *plain("Query: a"), 2], "images": []}


def test_models_tell_what_they_accept(client: httpx2.Client) -> None:
    models = client.get("/v1/models").json()["data"]
    found = {model["id"]: model["input_modalities"] for model in models}
    assert found == {name: ["text", "image"] for name in ("judging", "pages", "seeing")}
    limits = {"max": 4, "with_text": True, "min_pixels": 64, "max_pixels": 4096}
    in_queries = {"judging": True, "pages": False, "seeing": False}
    assert {one["id"]: one["images"] for one in models} == {
        name: limits | {"in_queries": value} for name, value in in_queries.items()
    }


def thin(width: int, height: int) -> str:
    return base64.b64encode(file(Image.new("RGB", (width, height)), "PNG")).decode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": [{"content": []}]}, "input[0].content: Expected `array` of length >= 1"),
        ({"input": [{"content": [[URL]]}]}, "input[0].content[0]: Expected `object`, got `array`"),
        ({"input": [{"content": [{"type": "text", "text": ""}]}]}, "input[0].content is empty"),
        ({"input": [{"content": ""}]}, "input[0].content is empty"),
        (
            {"input": [{"content": [{"type": "video_url", "video_url": "x"}]}]},
            "input[0].content[0].type: 'video_url' is not one of text, image_url, image_base64, image",
        ),
        ({"input": [{"content": [URL], "text": "a"}]}, "input[0] has content and other fields; send only one of them"),
        ({"input": [{"content": [URL] * 5}]}, "input[0] has 5 images; the limit of model 'seeing' is 4"),
        ({"input": [{"content": [URL] * 5000}]}, "input[0].content: Expected `array` of length <= 2048"),
        ({"input": [{"content": [{"type": "image_url", "image_url": {"url": ""}}]}]}, "input[0].content[0].image_url"),
        ({"input": [f"a {PAD}"]}, f"input[0] contains '{PAD}', a special token of model 'seeing'"),
        ({"input": [{"text": "<|im_end|>", "image": SMALL}]}, "input[0] contains '<|im_end|>', a special token"),
        ({"input": ["a"], "instruction": "<|im_end|>"}, "instruction contains '<|im_end|>', a special token"),
        ({"input": [{"image": thin(900, 2)}]}, "input[0].image has 900 x 2 pixels; the longer side may be at most 200"),
        ({"input": [{"image": SMALL}], "max_pixels": 10**6}, "max_pixels must be from 64 to 4096, not 1000000"),
        ({"input": [{"image": SMALL}], "min_pixels": 0}, "min_pixels: Expected `int` >= 1"),
        ({"input": [{"image": SMALL}], "min_pixels": 2000, "max_pixels": 1000}, "min_pixels (2000) must not exceed"),
        (
            {"input": [{"image": SMALL}], "min_pixels": 99, "mm_processor_kwargs": {"min_pixels": 99}},
            "min_pixels and mm_processor_kwargs.min_pixels have the same meaning",
        ),
        ({"messages": []}, "messages has no user message"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content is empty"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "messages[1]: only one user message is supported"),
        ({"messages": [{"role": "user", "content": "a"}], "input": "a"}, "input and messages exclude each other"),
        ({"messages": [{"role": "system", "content": [URL]}]}, "messages[0]: an instruction cannot have images"),
        ({"input": [{"text": "a " * 999, "image": SMALL}]}, "input[0] has"),
        ({"input": ["a"], "enable_chunked_processing": True}, "enable_chunked_processing is not supported by model"),
        ({"input": ["a"], "late_chunking": True}, "late_chunking is not supported by model 'seeing'"),
        (
            {"model": "pages", "input": [SMALL], "return_multivector": True, "input_type": "query"},
            "queries of model 'pages' are",
        ),
    ],
)
def test_wrong_contents_are_refused(client: httpx2.Client, body: dict[str, Any], message: str) -> None:
    assert refused(client, "/v1/embeddings", **body).startswith(message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"documents": [{"content": []}], "query": "a"}, "documents[0].content: Expected `array` of"),
        ({"documents": [{"content": ""}], "query": "a"}, "documents[0].content is empty"),
        ({"documents": [{"content": None}], "query": "a"}, "documents[0].text is required"),
        ({"documents": [{"content": [URL], "image": SMALL}], "query": "a"}, "documents[0] has content and image; send"),
        ({"documents": [{"content": [[]]}], "query": "a"}, "documents[0].content[0]: Expected `object`, got `array`"),
        ({"documents": [{"content": [{"type": "text"}]}], "query": "a"}, "documents[0].content[0]: Object missing"),
        ({"documents": [{"image": 5}], "query": "a"}, "documents[0].image: Expected `str`"),
        ({"documents": [{"image": SMALL, "url": SMALL}], "query": "a"}, "documents[0] has more than one of image, url"),
        ({"documents": [{"image": "x"}], "query": "a"}, "documents[0].image"),
        ({"documents": {"content": [{"type": "image", "image": "x"}]}, "query": "a"}, "documents.content[0].image"),
        ({"documents": ["a"], "query": {"text": ""}}, "query has neither text nor image"),
        ({"documents": [{"text": "a", "image": SMALL}], "query": "<|im_end|>"}, "query contains '<|im_end|>'"),
        ({"documents": [{"image": SMALL}], "query": "a", "max_tokens_per_chunk": 9}, "max_tokens_per_chunk is not"),
        ({"documents": [{"image": SMALL}], "query": "a", "overlap_tokens": 1}, "overlap_tokens is not supported for"),
        (
            {"documents": [{"image": SMALL}], "query": "a", "weights": {"dense": 1}},
            "weights is not supported for images",
        ),
        ({"documents": [{"image": SMALL}], "query": "a", "max_pixels": 9}, "max_pixels must be from 64 to 4096, not 9"),
        ({"documents": ["a"], "query": {"image": SMALL}, "model": "pages"}, "queries of model 'pages' are texts"),
    ],
)
def test_wrong_documents_are_refused(client: httpx2.Client, body: dict[str, Any], message: str) -> None:
    assert refused(client, "/v1/rerank", **body).startswith(message)


def test_thousands_of_small_images_are_answered(client: httpx2.Client) -> None:
    tiny = image(8, 8)
    answer = post(client, "/v1/embeddings", input=[{"image": tiny}] * 1000)
    assert len({tuple(item["embedding"]) for item in answer["data"]}) == 1


def test_special_tokens_of_a_template_cannot_be_left_out(client: httpx2.Client) -> None:
    message = refused(client, "/v1/embeddings", input=TEXT, add_special_tokens=False)
    assert message == "add_special_tokens must not be false for model 'seeing', whose template has special tokens"
