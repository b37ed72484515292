"""Any content of texts and images, on every path that reads them: an answer, or a 400 that names the field.

On a real Triton, whose models answer by a formula of what they are sent.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from loadtest.tools import hostile
from loadtest.tools.hostile import png, thin_png
from loadtest.tools.pictures import file, scene
from tests.gateway.service.vision import SPECIAL, image
from tests.seeing_models import write_seeing_repository
from tests.serving import serve

Body = dict[str, Any]
HOSTILE, NEIGHBOUR = "hostile", "neighbour"
SMALL = image(16, 16)
PICTURE = {"type": "image_url", "image_url": {"url": SMALL}}


def text_part(text: str) -> Body:
    return {"type": "text", "text": text}


def data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, httpx2.Client]]:
    """An HTTP client with each key."""
    repository = write_seeing_repository(tmp_path_factory.mktemp("seeing"))
    keys = {"GATEWAY_API_KEYS": f"{HOSTILE},{NEIGHBOUR}", "GATEWAY_REQUEST_TIMEOUT": "100"}
    with serve(repository, **keys) as server:
        both = {
            key: httpx2.Client(base_url=server.url, timeout=110, headers={"authorization": f"Bearer {key}"})
            for key in (HOSTILE, NEIGHBOUR)
        }
        with both[HOSTILE], both[NEIGHBOUR]:
            yield both


@pytest.fixture
def client(clients: Mapping[str, httpx2.Client]) -> httpx2.Client:
    return clients[HOSTILE]


def refusal(client: httpx2.Client, path: str, body: Body) -> tuple[str | None, str]:
    """The field that a 400 names, and its message."""
    response = client.post(path, content=json.dumps(body).encode())
    assert response.status_code == 400, (path, body, response.text[:500])
    answer = response.json()
    if not isinstance(answer.get("error"), dict):  # Cohere's errors and TEI's have no param
        return None, answer.get("message") or answer["error"]
    return answer["error"]["param"], answer["error"]["message"]


CONTENTS: Mapping[str, tuple[str, Callable[[Any], Body], str]] = {
    "item": ("/v1/embeddings", lambda content: {"input": ["a", {"content": content}]}, "input[1]"),
    "message": ("/v1/embeddings", lambda content: {"messages": [{"role": "user", "content": content}]}, "messages"),
    "pooled message": (
        "/pooling",
        lambda content: {"model": "seeing", "messages": [{"role": "user", "content": content}]},
        "messages",
    ),
    "Cohere's input": (
        "/v2/embed",
        lambda content: {"model": "seeing", "input_type": "search_document", "inputs": [{"content": content}]},
        "inputs[0]",
    ),
    "query": ("/v1/rerank", lambda content: {"query": {"content": content}, "documents": ["a"]}, "query"),
    "document": (
        "/v1/rerank",
        lambda content: {"query": "a", "documents": ["a", {"content": content}]},
        "documents[1]",
    ),
    "page": (
        "/v1/rerank",
        lambda content: {"query": "a", "documents": [{"content": content}], "model": "pages"},
        "documents[0]",
    ),
    "first": ("/score", lambda content: {"text_1": [{"content": content}], "text_2": "a"}, "text_1[0]"),
    "second": ("/v1/score", lambda content: {"text_1": "a", "text_2": ["a", {"content": content}]}, "text_2[1]"),
    "compared": (
        "/score",
        lambda content: {"text_1": "a", "text_2": [{"content": content}], "model": "seeing"},
        "text_2[0]",
    ),
}
"""Every place of a content: its path, the body around it, and its field in error messages."""
WRONG: Sequence[Any] = (
    [],
    [[]],
    [[PICTURE]],
    [{}],
    [None],
    [""],
    ["a"],
    5,
    True,
    PICTURE,
    [text_part("")],
    [{"type": "text"}],
    [{"type": "text", "text": None}],
    [{"type": "text", "text": ["a"]}],
    [{"type": ["text"], "text": "a"}],
    [{"text": "a"}],
    [{"type": "video_url", "video_url": {"url": SMALL}}],
    [{"type": "image_url"}],
    [{"type": "image_url", "image_url": {}}],
    [{"type": "image_url", "image_url": {"url": ""}}],
    [{"type": "image_url", "image_url": {"url": [SMALL]}}],
    [{"type": "image", "image": {"url": SMALL}}],
    [text_part("a"), [PICTURE]],
)


@pytest.mark.parametrize("where", CONTENTS)
def test_wrong_content_is_a_400_that_names_its_place(client: httpx2.Client, where: str) -> None:
    path, body, _ = CONTENTS[where]
    for content in WRONG:
        place, message = refusal(client, path, body(content))
        assert "content" in (place or message), (content, message)


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("where", CONTENTS)
def test_control_token_is_a_400_that_names_it_and_its_place(client: httpx2.Client, where: str, token: str) -> None:
    path, body, place = CONTENTS[where]
    for content in (
        [text_part(f"a {token}b")],
        [PICTURE, text_part(token)],
        [text_part(token[:3]), text_part(token[3:])],
        [text_part(token[:3]), text_part(token[3:]), PICTURE],
    ):
        _, message = refusal(client, path, body(content))
        assert message.startswith(f"{place} contains {token!r}"), message


TEXTS: Mapping[str, tuple[str, Callable[[str], Body], str]] = {
    "input": ("/v1/embeddings", lambda text: {"input": ["a", text]}, "input[1]"),
    "image's text": ("/v1/embeddings", lambda text: {"input": [{"text": text, "image": SMALL}]}, "input[0]"),
    "instruction": ("/v1/embeddings", lambda text: {"input": "a", "instruction": text}, "instruction"),
    "system": (
        "/v1/embeddings",
        lambda text: {"messages": [{"role": "system", "content": text}, {"role": "user", "content": [PICTURE]}]},
        "instruction",
    ),
    "query": ("/v1/rerank", lambda text: {"query": text, "documents": ["a"]}, "query"),
    "query beside an image": ("/v1/rerank", lambda text: {"query": text, "documents": [{"image": SMALL}]}, "query"),
    "document": ("/v1/rerank", lambda text: {"query": "a", "documents": ["a", {"text": text}]}, "documents[1]"),
    "chunk": (
        "/v1/rerank",
        lambda text: {"query": "a", "documents": [f"a {text} b"], "max_tokens_per_chunk": 9, "model": "pages"},
        "documents[0]",
    ),
    "page query": ("/v1/rerank", lambda text: {"query": text, "documents": ["a"], "model": "pages"}, "query"),
    "first": ("/score", lambda text: {"text_1": text, "text_2": "a"}, "text_1"),
    "second": ("/score", lambda text: {"text_1": "a", "text_2": text}, "text_2"),
    "NIM's query": ("/v1/ranking", lambda text: {"query": {"text": text}, "passages": [{"text": "a"}]}, "query"),
    "NIM's passage": (
        "/v1/ranking",
        lambda text: {"query": {"text": "a"}, "passages": [{"text": text, "image": SMALL}]},
        "passages[0]",
    ),
    "TEI's text": ("/embed", lambda text: {"inputs": text, "model": "seeing"}, "inputs"),
    "TEI's document": ("/rerank", lambda text: {"query": "a", "texts": ["a", text], "model": "judging"}, "texts[1]"),
    "TEI's pair": ("/predict", lambda text: {"inputs": ["a", text], "model": "judging"}, "inputs"),
    "vLLM's pair": ("/classify", lambda text: {"input": [["a", text]], "model": "judging"}, "input[0]"),
    "pooled": ("/pooling", lambda text: {"input": [text], "model": "seeing"}, "input[0]"),
}


@pytest.mark.parametrize("where", TEXTS)
def test_control_token_is_refused_in_every_text(client: httpx2.Client, where: str) -> None:
    path, body, place = TEXTS[where]
    for token in SPECIAL:
        _, message = refusal(client, path, body(token))
        assert message.startswith(f"{place} contains {token!r}"), message


WITH_IMAGE: Sequence[tuple[str, Body]] = (
    ("/v1/embeddings", {"input": [{"image": SMALL}]}),
    ("/v1/rerank", {"query": "a", "documents": [{"image": SMALL}]}),
    ("/score", {"text_1": "a", "text_2": [{"image": SMALL}]}),
    ("/pooling", {"model": "seeing", "messages": [{"role": "user", "content": [PICTURE]}]}),
)


@pytest.mark.parametrize(("path", "body"), WITH_IMAGE)
@pytest.mark.parametrize("name", ["min_pixels", "max_pixels"])
def test_limit_of_pixels_out_of_range_is_a_400_that_names_it(
    client: httpx2.Client, path: str, body: Body, name: str
) -> None:
    outside: list[object] = [
        -(2**63),
        -1,
        0,
        1,
        63,
        4097,
        2**26,
        2**26 + 1,
        2**63,
        10**30,
        1.5,
        1e9,
        True,
        "",
        "1024",
        [64],
        {},
    ]
    for value in outside:
        place, message = refusal(client, path, body | {name: value})
        assert place == name
        assert message.startswith(name)
        place, message = refusal(client, path, body | {"mm_processor_kwargs": {name: value}})
        assert name in message
    for inside in (64, 1024, 4096, None):
        assert client.post(path, json=body | {name: inside}).status_code == 200
    place, message = refusal(client, path, body | {"min_pixels": 2000, "max_pixels": 1000})
    assert (place, message) == ("min_pixels", "min_pixels (2000) must not exceed max_pixels (1000)")
    place, _ = refusal(client, path, body | {"min_pixels": 2000, "max_pixels": 9000})
    assert place == "max_pixels"


def test_number_too_long_for_python_is_a_400(client: httpx2.Client) -> None:
    body = json.dumps({"input": [{"image": SMALL}], "max_pixels": 1}).replace(": 1}", f": 1{'0' * 10_000}}}")
    response = client.post("/v1/embeddings", content=body.encode())
    assert response.status_code == 400
    assert len(response.content) < 10_000


@cache
def unreadable() -> Mapping[str, str]:
    """What is no image, or none that a model reads, by how its error begins, without the field."""
    whole = file(scene(40, 30, 0), "PNG")
    return {
        data_uri(file(Image.new("L", (1, 1)), "PNG")): "has 1 x 1 pixels; the minimum is 2 x 2",
        data_uri(file(Image.new("L", (1, 20_000)), "PNG")): "has 1 x 20000 pixels; the minimum is 2 x 2",
        data_uri(file(Image.new("L", (20_000, 1)), "PNG")): "has 20000 x 1 pixels; the minimum is 2 x 2",
        data_uri(file(Image.new("L", (2, 20_000)), "PNG")): "has 2 x 20000 pixels; the longer side may be at most 200",
        data_uri(file(Image.new("L", (500, 2)), "PNG")): "has 500 x 2 pixels; the longer side may be at most 200",
        data_uri(thin_png()): "has ",
        data_uri(png(100_000, 100_000)): "has 100000 x 100000 pixels; the limit for this type of image is 40000000",
        data_uri(png(6000, 6000)): "is a corrupt PNG image",
        data_uri(whole[: len(whole) // 2]): "is a corrupt PNG image",
        data_uri(b"<svg/>"): "is not a PNG, JPEG, WebP, GIF or BMP image",
        data_uri(b""): "is not a PNG, JPEG, WebP, GIF or BMP image",
        "data:": "must be a data: URI, an http(s) URL or base64",
        "data:image/png,AAAA": "is a data: URI, but not of an image in base64",
        "data:text/plain;base64,AAAA": "is a data: URI, but not of an image in base64",
        "data:image/png;base64,$$$$": "must be a data: URI, an http(s) URL or base64",
        "file:///etc/passwd": "must be a data: URI, an http(s) URL or base64",
        "http://127.0.0.1/a.png": "is a URL, but this server does not fetch images",
        "\0": "must be a data: URI, an http(s) URL or base64",
        "\U0001f600": "must be a data: URI, an http(s) URL or base64",
        "A" * 15_000_000: "exceeds 10485760 bytes",
    }


def test_unreadable_image_is_a_400_that_names_its_field(client: httpx2.Client) -> None:
    for given_image, expected in unreadable().items():
        place, message = refusal(client, "/v1/embeddings", {"input": ["a", {"text": "a", "image": given_image}]})
        assert place == "input[1].image"
        assert message.startswith(f"input[1].image {expected}"), message
    for path, body, field in (
        ("/v1/rerank", {"query": "a", "documents": [{"image": "data:"}]}, "documents[0].image"),
        ("/v1/rerank", {"query": {"url": "data:"}, "documents": ["a"]}, "query.url"),
        (
            "/score",
            {"text_1": "a", "text_2": {"content": [{"type": "image", "image": "-"}]}},
            "text_2.content[0].image",
        ),
        ("/v1/ranking", {"query": {"text": "a"}, "passages": [{"image": "data:"}]}, "passages[0].image"),
    ):
        assert refusal(client, path, body)[0] == field


@pytest.mark.parametrize("name", hostile.FILES)
def test_hostile_file_gets_an_answer(client: httpx2.Client, name: str) -> None:
    response = client.post("/v1/embeddings", json={"input": [{"image": data_uri(hostile.FILES[name]())}]})
    assert response.status_code == 200 or response.json()["error"]["param"] == "input[0].image"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (
            "/v1/embeddings",
            {"input": [{"content": [PICTURE] * 5}]},
            "input[0] has 5 images; the limit of model 'seeing'",
        ),
        ("/v1/embeddings", {"input": [{"content": [PICTURE] * 2049}]}, "input[0].content: Expected `array` of length"),
        ("/v1/embeddings", {"input": [{"image": SMALL}] * 2049}, "input has 2049 items; it must have 1 to 2048"),
        (
            "/v1/rerank",
            {"query": "a", "documents": [{"content": [PICTURE] * 5}]},
            "documents[0] has 5 images; the limit",
        ),
        ("/v1/rerank", {"query": {"content": [PICTURE] * 5}, "documents": ["a"]}, "query has 5 images; the limit"),
        (
            "/v1/rerank",
            {"query": "a", "documents": {"content": [PICTURE] * 2049}},
            "documents.content: Expected `array` of length",
        ),
        (
            "/score",
            {"text_1": "a", "text_2": {"content": [PICTURE] * 2049}},
            "text_2.content: Expected `array` of length <=",
        ),
        ("/score", {"text_1": {"content": [PICTURE] * 2}, "text_2": ["a"] * 3}, "text_1 has 2 texts and text_2 has 3"),
    ],
)
def test_too_many_images_are_a_400_that_names_the_limit(
    client: httpx2.Client, path: str, body: Body, message: str
) -> None:
    assert refusal(client, path, body)[1].startswith(message)


def test_fields_of_texts_are_refused_beside_images(client: httpx2.Client) -> None:
    for fields, place in (
        ({"late_chunking": True}, "input[0]"),
        ({"enable_chunked_processing": True}, "enable_chunked_processing"),
        ({"embedding_type": "sparse"}, "embedding_type"),
        ({"truncate_prompt_tokens": 8}, "input[0]"),
    ):
        assert refusal(client, "/v1/embeddings", {"input": [{"image": SMALL}], **fields})[0] == place
    for name in ("max_chunks_per_doc", "max_tokens_per_chunk", "overlap_tokens"):
        body = {"query": "a", "documents": [{"image": SMALL}], name: 9}
        assert refusal(client, "/v1/rerank", body) == (
            name,
            f"{name} is not supported for images: only texts are split and weighted",
        )
    body = {"model": "judging", "messages": [{"role": "user", "content": [PICTURE]}]}
    assert refusal(client, "/classify", body)[0] == refusal(client, "/pooling", body)[0] == "messages"


def crowd() -> Sequence[tuple[str, Body]]:
    """Requests that are large, slow, wrong, or all of it."""
    tiny = [image(4 + i % 7, 4 + i % 5, i) for i in range(64)]
    large = data_uri(file(Image.linear_gradient("L").resize((6000, 6000)).convert("RGB"), "PNG"))
    bad = [data_uri(hostile.FILES[name]()) for name in hostile.FILES]
    return (
        ("/v1/embeddings", {"input": [{"image": tiny[i % 64]} for i in range(2048)]}),
        ("/v1/embeddings", {"input": [{"content": [PICTURE] * 4}] * 512}),
        ("/v1/embeddings", {"input": [{"image": large}] * 8 + [{"image": "data:"}]}),
        ("/v1/embeddings", {"input": [{"image": one} for one in bad]}),
        ("/v1/embeddings", {"input": [{"image": one} for one in unreadable()]}),
        ("/v1/embeddings", {"input": ["<|" * 15_000] * 900, "truncate": True}),
        ("/v1/embeddings", {"input": [{"content": [text_part("a")] * 2000}] * 14, "truncate": True}),
        ("/v1/rerank", {"query": {"content": [PICTURE] * 4}, "documents": [{"image": one} for one in tiny * 8]}),
        ("/v1/rerank", {"query": "a", "documents": [{"image": one} for one in tiny * 16], "model": "pages"}),
        ("/score", {"text_1": "a", "text_2": [{"image": one} for one in tiny * 16], "model": "seeing"}),
    )


def test_neighbours_get_what_they_get_alone(clients: Mapping[str, httpx2.Client]) -> None:
    """Texts, images and both, while another key sends its worst."""
    requests: list[tuple[str, Body]] = []
    for i in range(60):
        picture = image(16 + 8 * (i % 5), 24, i)
        item = [{"text": f"{i}"}, {"image": picture}, {"text": f"{i} a", "image": picture}][i % 3]
        requests.append(
            ("/v1/embeddings", {"input": [item]}) if i % 2 else ("/v1/rerank", {"query": "a", "documents": [item]})
        )

    def ask(request: tuple[str, Body]) -> list[Any]:
        response = clients[NEIGHBOUR].post(request[0], json=request[1])
        assert response.status_code == 200, response.text
        answer = response.json()
        return [one.get("embedding", one.get("relevance_score")) for one in answer.get("data") or answer["results"]]

    alone = [ask(request) for request in requests]
    with ThreadPoolExecutor(14) as pool:
        attacks = [pool.submit(clients[HOSTILE].post, path, json=body) for path, body in crowd()]
        together = list(pool.map(ask, requests))
        statuses = {attack.result().status_code for attack in attacks}
    assert together == alone
    assert statuses <= {200, 400, 413, 429}
    assert [ask(request) for request in requests] == alone


def test_images_of_a_request_are_answered_in_their_order(client: httpx2.Client) -> None:
    """Thousands of small ones, of which each is what it is alone."""
    images = [image(4 + i % 9, 4 + i % 7, i) for i in range(50)]

    def vectors(given_images: Sequence[str]) -> list[list[float]]:
        response = client.post("/v1/embeddings", json={"input": [{"image": one} for one in given_images]})
        assert response.status_code == 200, response.text
        return [item["embedding"] for item in response.json()["data"]]

    alone = [vectors([one])[0] for one in images]
    assert vectors([images[i % 50] for i in range(2048)]) == [alone[i % 50] for i in range(2048)]


STRINGS = st.text(max_size=20) | st.sampled_from([SMALL, "data:", "", "<|im_end|>", "\0", "\uffff", "http://a/b"])
NUMBERS = st.sampled_from([None, 64, 1024, 4096]) | st.integers() | st.floats() | st.sampled_from([2**63, True])
RIGHT = st.sampled_from([PICTURE, {"type": "image", "image": SMALL}, text_part("a"), text_part("the sea")])
PARTS = RIGHT | st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "image_url", "image", "image_base64", "a"]),
        "text": STRINGS,
        "image": STRINGS,
        "image_base64": STRINGS,
        "image_url": STRINGS | st.fixed_dictionaries({}, optional={"url": STRINGS, "detail": STRINGS}),
    },
)
CONTENT = (
    st.lists(RIGHT, min_size=1, max_size=5)
    | st.lists(PARTS, max_size=6)
    | st.recursive(PARTS, lambda inner: st.lists(inner, max_size=3))
)
ITEM = (
    st.sampled_from(["a", {"image": SMALL}, {"text": "a", "image": SMALL}, {"text": "the sea"}])
    | st.fixed_dictionaries({"content": CONTENT})
    | STRINGS
    | st.fixed_dictionaries(
        {}, optional={"text": STRINGS, "image": STRINGS, "url": STRINGS, "bytes": STRINGS, "content": CONTENT}
    )
)
ITEMS = ITEM | st.lists(ITEM | st.lists(st.integers(-1, 1100), max_size=4), max_size=4)
MESSAGES = st.tuples(st.fixed_dictionaries({"role": st.just("user"), "content": CONTENT})) | st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "a"]), "content": CONTENT}),
    max_size=3,
)
LIMITS = {"min_pixels": NUMBERS, "max_pixels": NUMBERS, "truncate": st.booleans(), "instruction": STRINGS}
PASSAGE = st.fixed_dictionaries({}, optional={"text": STRINGS, "image": st.just(SMALL) | STRINGS})
BODIES: Mapping[str, st.SearchStrategy[Body]] = {
    "/v1/embeddings": st.fixed_dictionaries(
        {},
        optional={
            **LIMITS,
            "input": ITEMS,
            "messages": MESSAGES,
            "model": st.sampled_from(["seeing", "pages", "judging"]),
            "return_multivector": st.booleans(),
            "task": st.sampled_from(["query", "document"]),
        },
    ),
    "/v1/rerank": st.fixed_dictionaries(
        {"query": ITEM, "documents": st.lists(ITEM, max_size=4)},
        optional={**LIMITS, "model": st.sampled_from(["pages", "judging"])},
    ),
    "/score": st.fixed_dictionaries(
        {"text_1": ITEMS, "text_2": ITEMS}, optional={"model": st.sampled_from(["seeing", "pages", "judging"])}
    ),
    "/pooling": st.fixed_dictionaries(
        {"messages": MESSAGES}, optional={"model": st.sampled_from(["seeing", "pages", "judging"])}
    ),
    "/v2/embed": st.fixed_dictionaries(
        {"input_type": st.just("search_document"), "model": st.just("seeing")},
        optional={
            "inputs": st.lists(st.fixed_dictionaries({"content": CONTENT}) | ITEM, max_size=3),
            "images": st.lists(STRINGS, max_size=2),
        },
    ),
    "/v1/ranking": st.fixed_dictionaries(
        {"query": st.just({"text": "a"}) | ITEM, "passages": st.lists(PASSAGE, min_size=1, max_size=3) | ITEMS},
        optional={"truncate": st.sampled_from(["NONE", "END"])},
    ),
}


@pytest.mark.parametrize("path", BODIES)
def test_any_body_gets_a_response(client: httpx2.Client, path: str) -> None:
    @given(body=BODIES[path])
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    def check(body: Body) -> None:
        response = client.post(path, content=json.dumps(body).encode())
        assert response.status_code in (200, 400, 404, 413), response.text
        assert response.status_code == 200 or len(response.content) < 10_000

    check()
