import base64
from typing import Any

import httpx2
import numpy as np
import pytest

from gateway.service.tokens import MAX_TOKENS

IMAGE_MODEL = "minilm-pictogram"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEUlEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5E"
    "rkJggg=="
)
CHUNKS = [
    ["Berlin is the capital of Germany.", "It has 3.7 million inhabitants."],
    ["A conch.", "It is a snail.", "sea"],
]


def post(client: httpx2.Client, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(client: httpx2.Client, path: str, status: int = 400, **body: Any) -> str:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    message: str = response.json()["detail"]
    return message


def reference(client: httpx2.Client, given: Any, **body: Any) -> list[Any]:
    return [item["embedding"] for item in post(client, "/v1/embeddings", input=given, **body)["data"]]


def multimodal(client: httpx2.Client, *contents: list[dict[str, str]], **body: Any) -> dict[str, Any]:
    inputs = [{"content": content} for content in contents]
    return post(client, "/v1/multimodalembeddings", inputs=inputs, **body)


def contextual(client: httpx2.Client, inputs: list[list[str]], **body: Any) -> dict[str, Any]:
    return post(client, "/v1/contextualizedembeddings", inputs=inputs, **body)


def vectors(answer: dict[str, Any]) -> list[list[Any]]:
    assert answer["object"] == "list"
    assert [one["index"] for one in answer["data"]] == [*range(len(answer["data"]))]
    for one in answer["data"]:
        assert [chunk["index"] for chunk in one["data"]] == [*range(len(one["data"]))]
    return [[chunk["embedding"] for chunk in one["data"]] for one in answer["data"]]


def test_texts_and_images_are_embedded_as_on_v1(client: httpx2.Client) -> None:
    text, image = {"type": "text", "text": "red"}, {"type": "image_base64", "image_base64": PIXEL}
    answer = multimodal(client, [text], [image], [text, image], model=IMAGE_MODEL, truncation=True)
    given = ["red", {"image": PIXEL}, {"text": "red", "image": PIXEL}]
    expected = post(client, "/v1/embeddings", input=given, model=IMAGE_MODEL)
    found = np.array([one["embedding"] for one in answer["data"]])
    assert found == pytest.approx(np.array([one["embedding"] for one in expected["data"]]), abs=1e-5)
    details = expected["usage"]["prompt_tokens_details"]
    assert answer["usage"] == {
        "text_tokens": details["text_tokens"],
        "image_pixels": 0,
        "video_pixels": 0,
        "total_tokens": details["text_tokens"] + details["image_tokens"],
    }
    assert answer["model"] == IMAGE_MODEL


def test_output_is_in_the_requested_type(client: httpx2.Client) -> None:
    content = [{"type": "text", "text": "a shell"}]
    (floats,) = reference(client, "a shell")
    (written,) = multimodal(client, content, encoding_format="base64", output_dtype=None)["data"]
    assert np.frombuffer(base64.b64decode(written["embedding"]), "<f4") == pytest.approx(np.array(floats), abs=1e-6)
    for kind in ("int8", "ubinary"):
        (written,) = multimodal(client, content, encoding_format="base64", output_dtype=kind)["data"]
        assert written["embedding"] == reference(client, "a shell", embedding_type=kind)[0]
        assert vectors(contextual(client, [["a shell"]], output_dtype=kind)) == [[written["embedding"]]]
    ((text,),) = vectors(contextual(client, [["a shell"]], encoding_format="base64"))
    assert np.frombuffer(base64.b64decode(text), "<f4") == pytest.approx(np.array(floats), abs=1e-6)


def test_texts_are_truncated_unless_the_client_forbids_it(client: httpx2.Client) -> None:
    long = [{"type": "text", "text": "sea " * 300}]
    (kept,) = reference(client, "sea " * 254)
    assert multimodal(client, long)["data"][0]["embedding"] == pytest.approx(kept, abs=1e-5)
    message = refused(client, "/v1/multimodalembeddings", inputs=[{"content": long}], truncation=False)
    assert message.startswith("inputs[0] has 302 tokens; the limit of model")


def test_chunks_are_embedded_in_the_context_of_their_document(client: httpx2.Client) -> None:
    answer = contextual(client, CHUNKS, input_type="document")
    expected = [post(client, "/v1/embeddings", input=chunks, late_chunking=True) for chunks in CHUNKS]
    found = vectors(answer)
    assert [*map(len, found)] == [2, 3]
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array(ours) == pytest.approx(np.array([one["embedding"] for one in theirs["data"]]), abs=1e-5)
    assert answer["usage"] == {"total_tokens": sum(one["usage"]["total_tokens"] for one in expected)}
    (alone,) = reference(client, CHUNKS[0][1])
    assert float(np.dot(found[0][1], alone)) < 0.99


def test_single_texts_are_embedded_by_any_model(client: httpx2.Client) -> None:
    queries = [["sea shells"], ["an alloy"]]
    answer = contextual(client, queries, input_type="query", model=IMAGE_MODEL)
    expected = reference(client, ["sea shells", "an alloy"], model=IMAGE_MODEL, input_type="query")
    assert np.array(vectors(answer))[:, 0] == pytest.approx(np.array(expected), abs=1e-5)


def test_long_documents_are_computed_in_windows(client: httpx2.Client) -> None:
    chunks = [f"Sentence {i} is about the sea and its shells. " * 6 for i in range(8)]
    expected = reference(client, chunks, late_chunking=True, enable_chunked_processing=True)
    (found,) = vectors(contextual(client, [chunks]))
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-5)
    assert refused(client, "/v1/contextualizedembeddings", inputs=[["sea " * 300]]).startswith("inputs[0][0] has 302")


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("contextualized", {"inputs": [["a"], ["b", ""]]}, "inputs[1][1] is empty"),
        ("contextualized", {"inputs": [["a"], ["b", "\u200b"]]}, "inputs[1][1] has no tokens"),
        ("contextualized", {"inputs": [["a"], []]}, "inputs[1]: Expected `array` of length >= 1"),
        ("contextualized", {"inputs": [["a"] * 1025] * 2}, "inputs has 2050 chunks; it must have 1 to 2048"),
        ("contextualized", {"inputs": [["a"]], "output_dimension": 5}, "output_dimension is 5; model"),
        (
            "contextualized",
            {"inputs": [["a"]], "enable_auto_chunking": True},
            "enable_auto_chunking: send the chunks of each document as a list",
        ),
        ("multimodal", {"inputs": [{"content": []}]}, "inputs[0].content: Expected `array` of length >= 1"),
        (
            "multimodal",
            {"inputs": [{"content": [{"type": "video_url", "video_url": "a"}]}]},
            "inputs[0].content[0].type: 'video_url' is not one of text, image_url, image_base64, image",
        ),
        (
            "multimodal",
            {"inputs": [{"content": [{"type": "image_base64", "image_base64": PIXEL}]}]},
            "inputs[0] contains an image, but model 'all-minilm-l6-v2' accepts only text",
        ),
    ],
)
def test_bad_requests_name_the_field(client: httpx2.Client, path: str, body: dict[str, Any], message: str) -> None:
    assert refused(client, f"/v1/{path}embeddings", **body).startswith(message)


def test_tokens_of_all_documents_are_limited(client: httpx2.Client) -> None:
    document = ["sea " * (MAX_TOKENS // 8), "shell"]
    message = refused(client, "/v1/contextualizedembeddings", 413, inputs=[document] * 9)
    assert message == f"the documents have over {MAX_TOKENS} tokens in all"
