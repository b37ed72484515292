"""Images through the running server, against transformers on the same weights."""

import base64
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
import requests
import torch
from numpy.typing import NDArray
from openai import OpenAI
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoImageProcessor, AutoModelForImageClassification

from loadtest.tools import hostile
from loadtest.tools.hostile import png
from loadtest.tools.pictures import VARIED, file, scene, seen
from tests.gateway.images.test_preprocess import archive
from tests.serving import Server, serve
from tests.waiting import eventually

WEIGHTS = Path("export/weights/minilm-pictogram")
MODEL = "minilm-pictogram"
IMAGES = list(VARIED.values())[:50]
TEXTS = [f"picture number {i} of a conch" for i in range(20)]


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


@pytest.fixture(scope="module")
def of_images() -> NDArray[np.float32]:
    """transformers' vectors of IMAGES."""
    processor = AutoImageProcessor.from_pretrained(WEIGHTS, use_fast=False)
    model = AutoModelForImageClassification.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    with torch.inference_mode():
        return unit(model(**processor([seen(image) for image in IMAGES], return_tensors="pt")).logits.numpy())


@pytest.fixture(scope="module")
def of_texts(minilm_folder: Path) -> NDArray[np.float32]:
    return np.asarray(SentenceTransformer(str(minilm_folder), device="cpu").encode(TEXTS, normalize_embeddings=True))


def post(client: httpx2.Client, given: list[Any], **body: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
    answer = client.post("/v1/embeddings", json={"model": MODEL, "input": given, **body})
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(len(given)))
    return np.array([item["embedding"] for item in data], np.float32), answer.json()["usage"]


def refused(client: httpx2.Client, given: list[Any], model: str = MODEL) -> dict[str, Any]:
    answer = client.post("/v1/embeddings", json={"model": model, "input": given})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_varied_images_equal_transformers(client: httpx2.Client, of_images: NDArray[np.float32]) -> None:
    vectors, usage = post(client, [{"image": coded(image)} for image in IMAGES])
    assert (vectors * of_images).sum(1).min() >= 0.999
    assert usage["prompt_tokens_details"] == {"text_tokens": 0, "image_tokens": 4 * len(IMAGES)}


def test_texts_and_images_mix_in_one_request_in_order(
    client: httpx2.Client, of_images: NDArray[np.float32], of_texts: NDArray[np.float32]
) -> None:
    given: list[Any] = []
    for i, text in enumerate(TEXTS):
        given += [text if i % 2 else {"text": text, "image": ""}, {"text": "", "image": coded(IMAGES[i])}]
    vectors, usage = post(client, given)
    assert (vectors[0::2] * of_texts).sum(1).min() >= 0.999
    assert (vectors[1::2] * of_images[:20]).sum(1).min() >= 0.999
    details = usage["prompt_tokens_details"]
    assert details["image_tokens"] == 80
    assert usage["prompt_tokens"] == usage["total_tokens"] == details["text_tokens"] + 80


def test_string_that_is_a_data_uri_is_an_image(client: httpx2.Client) -> None:
    image = f"data:image/png;base64,{coded(IMAGES[0])}"
    found, usage = post(client, [image, TEXTS[0]])
    expected, _ = post(client, [{"image": image}, TEXTS[0]])
    assert (found == expected).all()
    assert usage["prompt_tokens_details"]["image_tokens"] == 4


@pytest.mark.parametrize("normalized", [True, False])
def test_text_and_image_in_one_item_make_their_normalised_mean(
    client: httpx2.Client, of_images: NDArray[np.float32], of_texts: NDArray[np.float32], normalized: bool
) -> None:
    both, _ = post(client, [{"text": TEXTS[0], "image": coded(IMAGES[0])}, TEXTS[1]], normalized=normalized)
    expected = unit(of_images[:1] + of_texts[:1])[0]
    assert (both[0] * expected).sum() == pytest.approx(1, abs=1e-3)


def test_text_vectors_are_those_of_the_text_model(client: httpx2.Client) -> None:
    vectors, _ = post(client, TEXTS)
    plain = client.post("/v1/embeddings", json={"input": TEXTS}).json()["data"]
    others = np.array([item["embedding"] for item in plain])
    assert (vectors * others).sum(1).min() >= 0.9999  # one of them computes in bf16, where the processor does


def test_number_types_and_one_item_alone(client: httpx2.Client) -> None:
    image = coded(IMAGES[0])
    body = {"model": MODEL, "input": {"image": image}, "embedding_type": ["float", "ubinary"]}
    (item,) = client.post("/v1/embeddings", json=body).json()["data"]
    assert item["embedding"]["ubinary"] == np.packbits(np.array(item["embedding"]["float"]) > 0).tolist()


def test_openai_sdk_passes_objects_through_extra_body(server: Server, of_images: NDArray[np.float32]) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused") as sdk:
        answer = sdk.embeddings.create(model=MODEL, input="", extra_body={"input": [{"image": coded(IMAGES[0])}]})
    assert np.dot(answer.data[0].embedding, of_images[0]) >= 0.999


def test_the_users_example_works_with_requests(server: Server) -> None:
    payload = {
        "model": MODEL,
        "input": [{"text": "a conch", "image": coded(IMAGES[0])}],
        "normalized": True,
        "embedding_type": "float",
    }
    headers = {"Authorization": "Bearer YOUR_API_KEY", "Content-Type": "application/json"}
    answer = requests.post(f"{server.url}/v1/embeddings", data=json.dumps(payload), headers=headers, timeout=30)
    assert answer.status_code == 200
    assert np.linalg.norm(answer.json()["data"][0]["embedding"]) == pytest.approx(1, abs=1e-5)


def test_models_say_what_they_take(client: httpx2.Client) -> None:
    described = client.get(f"/v1/models/{MODEL}").json()
    assert (described["role"], described["input_modalities"]) == ("image-text", ["text", "image"])
    assert (described["dimensions"], described["max_tokens"]) == (384, 256)


def test_text_model_names_those_that_take_images(client: httpx2.Client) -> None:
    error = refused(client, ["a", {"image": coded(IMAGES[0])}], model="all-minilm-l6-v2")
    assert error["param"] == "input[1].image"
    assert error["message"].endswith("accepts only text; models that accept images: minilm-pictogram")


@contextmanager
def memory_watched(server: Server) -> Iterator[Callable[[], float]]:
    """What tells by how many MiB the gateway, and the processes that decode for it, have grown at most since."""
    (gateway,) = (one for one in psutil.Process(server.process.pid).children() if "gateway" in one.cmdline())
    stopped = Event()
    seen: list[float] = []

    def watch() -> None:
        while not stopped.wait(0.01):
            total = 0
            for process in (gateway, *gateway.children()):
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            seen.append(total / 2**20)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield lambda: max(seen) - seen[0]
    finally:
        stopped.set()
        watcher.join()


BAD = {
    "not base64": "!",
    "no image": coded(b"text"),
    "an SVG": "data:image/svg+xml;base64," + coded(b"<svg/>"),
    "truncated": coded(file(scene(60, 40, 0), "PNG")[:-400]),
    "a bomb": coded(png(100_000, 100_000)),
    "the largest bomb, without its data": coded(png(8000, 4999)),
    "one column": coded(file(Image.new("RGB", (1, 500)), "PNG")),
    "two kinds": coded(file(scene(60, 40, 0), "PNG") + archive(10)),
    "a url": "http://example.com/a.png",
}


class ImageHandler(SimpleHTTPRequestHandler):
    """Serves files, and redirects /away with as many words as a server may say."""

    def do_GET(self) -> None:
        if not self.path.startswith("/away"):
            super().do_GET()
            return
        self.send_response(302, "remote" * 5000)
        self.send_header("Location", "/away?" + "remote" * 10_000)
        self.end_headers()


@pytest.fixture(scope="module")
def images_by_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of image files."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "a.png").write_bytes(IMAGES[0])
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(ImageHandler, directory=str(folder))) as httpd:
        Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture(scope="module")
def fetching(repository: Path, images_by_url: str) -> Iterator[Server]:
    """A server that fetches images from that one."""
    host = images_by_url.removeprefix("http://")
    with serve(repository, GATEWAY_IMAGE_URLS="allowlist", GATEWAY_IMAGE_URL_HOSTS=host) as running:
        yield running


def test_data_uri_base64_and_url_give_the_same_vector(fetching: Server, images_by_url: str) -> None:
    data = coded(IMAGES[0])
    with httpx2.Client(base_url=fetching.url, timeout=30) as client:
        forms = (f"data:image/png;base64,{data}", data, f"{images_by_url}/a.png")
        vectors = [post(client, [{"image": form}])[0][0] for form in forms]
    assert np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(vectors[0], vectors[2])


def test_log_holds_nothing_of_urls_nor_of_what_their_servers_say(fetching: Server, images_by_url: str) -> None:
    known = len(fetching.lines)
    signed = [f"{images_by_url}/{path}?X-Amz-Signature=secret" for path in ("a.png", "away", "missing.png")]
    with httpx2.Client(base_url=fetching.url, timeout=30) as client:
        for url, status in zip(signed, (200, 400, 400), strict=True):
            assert client.post("/v1/embeddings", json={"model": MODEL, "input": [{"image": url}]}).status_code == status

    def of_requests() -> list[str]:
        return [line for line in fetching.lines[known:] if '"status"' in line]

    eventually(lambda: len(of_requests()) == len(signed), "a line for each request")
    lines = fetching.lines[known:]
    assert [json.loads(line)["status"] for line in of_requests()] == [200, 400, 400]
    assert all(word not in "".join(lines) for word in ("secret", "Amz", "remote", "a.png", images_by_url))
    assert max(map(len, lines)) < 1000


def test_bad_images_are_refused_by_index_within_memory(fetching: Server, images_by_url: str) -> None:
    blank = io.BytesIO()
    Image.new("RGBA", (8000, 4999)).save(blank, "PNG", compress_level=1)
    urls = {
        "missing": f"{images_by_url}/b.png",
        "private": "http://10.0.0.1/a.png",
        "metadata": "http://169.254.169.254/latest/meta-data",
        "ipv6": "http://[::1]/a.png",
    }
    with httpx2.Client(base_url=fetching.url, timeout=60) as client, memory_watched(fetching) as grown:
        for name, bad in (BAD | urls).items():
            good: list[Any] = ["a", {"image": coded(IMAGES[1])}]
            error = refused(client, [*good, {"image": bad}, {"image": "?"}])
            assert error["param"] == "input[2].image", name
            assert error["message"].startswith("input[2].image "), name
        post(client, [{"image": coded(blank.getvalue())}] * 4)
        assert grown() < 300


def test_hostile_images_at_once_leave_others_alone(fetching: Server) -> None:
    files = [coded(make()) for make in hostile.FILES.values()]

    def send(file: str) -> int:
        return httpx2.post(
            f"{fetching.url}/v1/embeddings", json={"model": MODEL, "input": [{"image": file}]}, timeout=90
        ).status_code

    with ThreadPoolExecutor(4) as pool, memory_watched(fetching) as grown:
        sent = [pool.submit(send, file) for file in files]
        waits = []
        while not all(one.done() for one in sent):
            started = time.monotonic()
            assert httpx2.post(f"{fetching.url}/v1/embeddings", json={"input": "a text"}, timeout=30).status_code == 200
            waits.append(time.monotonic() - started)
        assert {one.result() for one in sent} <= {200, 400, 504}
        assert statistics.median(waits) < 1
        print(f"memory grew by {grown():.0f} MiB; a text beside took {max(waits):.2f} s at most")
        assert grown() < 300
