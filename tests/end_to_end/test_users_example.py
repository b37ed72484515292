"""The example of the multimodal embedding API: a text and an image in one object, one vector for both.

On a real Triton. The strings of the example that only name a type stand for a model, an image and an `embedding_type`.
"""

import base64
import http.client
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from loadtest.tools.servers import HOST
from tests.gateway.service.vision import CHAT, END, PAD, START, image, tokenizer
from tests.seeing_models import write_seeing_repository
from tests.serving import Server, serve

IMAGE = image(16, 16)
"""Neither enlarged nor shrunk by the model that reads texts and images together: 4 x 4 patches, 2 x 2 tokens."""


def payload(model: str, *objects: dict[str, str]) -> dict[str, Any]:
    return {
        "model": model,
        "input": list(objects) or [{"text": "string", "image": IMAGE}],
        "normalized": True,
        "embedding_type": "float",
    }


def post(server: Server, body: dict[str, Any]) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """The vectors and the usage, as the example asks for them."""
    connection = http.client.HTTPConnection(HOST, server.ports["GATEWAY_PORT"], timeout=100)
    headers = {"Authorization": "Bearer {{YOUR_API_KEY}}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/embeddings", json.dumps(body), headers)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    assert response.status == 200, data
    answer = json.loads(data)
    assert [item["index"] for item in answer["data"]] == list(range(len(body["input"])))
    return np.array([item["embedding"] for item in answer["data"]]), answer["usage"]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models that read texts and images together, and answer by a formula."""
    with serve(write_seeing_repository(tmp_path_factory.mktemp("seeing"))) as running:
        yield running


def test_one_vector_of_a_model_that_reads_both_together(together: Server) -> None:
    vectors, usage = post(together, payload("seeing"))
    before, behind = CHAT.around(is_query=False, prompt="")
    ids = np.array(tokenizer().encode(f"{before}string{START}{PAD * 4}{END}{behind}").ids)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(IMAGE.partition(",")[2]))).convert("RGB"), np.int64)
    of_ids = (ids * (1 + np.arange(len(ids)) % 5)).sum() / 1e4
    expected = np.array([of_ids, pixels.sum() / 1e5, (4 * 3 + 4) / 1e2, 1])
    assert vectors[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    assert usage["prompt_tokens_details"] == {"text_tokens": len(ids) - 4, "image_tokens": 16}


def test_one_vector_for_each_object(together: Server) -> None:
    objects = [{"text": "string", "image": IMAGE}, {"text": "string", "image": ""}, {"text": "", "image": IMAGE}]
    vectors, _ = post(together, payload("seeing", *objects))
    alone = [post(together, payload("seeing", one))[0][0].tolist() for one in objects]
    assert vectors.tolist() == alone
    assert len({tuple(vector) for vector in alone}) == 3


def test_one_vector_of_a_model_with_two_towers_is_the_mean(server: Server) -> None:
    vectors, usage = post(server, payload("minilm-pictogram"))
    apart, _ = post(server, payload("minilm-pictogram", {"text": "string"}, {"image": IMAGE}))
    expected = apart.sum(0) / np.linalg.norm(apart.sum(0))
    assert vectors[0] == pytest.approx(expected, abs=1e-3)  # the precision of a processor that computes in bf16
    assert usage["prompt_tokens_details"]["image_tokens"] == 4
