"""A client that hangs up, at a running server."""

import base64
import time

import httpx2
import psutil
import pytest
from PIL import Image

from tests.gateway.test_middleware import log_line
from tests.pictures import file
from tests.serving import Server

MODEL = "minilm-pictogram"
SLOW = base64.b64encode(file(Image.new("RGB", (6000, 5000), "teal"), "PNG")).decode()
"""Half a second of work in 90 KB."""


def decoders(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if "gateway.decoder" in child.cmdline()]


def test_nothing_more_is_decoded_for_a_client_that_has_gone(server: Server) -> None:
    body = {"model": MODEL, "input": [{"image": SLOW}] * 200}
    with httpx2.Client(base_url=server.url) as client, pytest.raises(httpx2.ReadTimeout):
        client.post("/v1/embeddings", json=body, headers={"x-request-id": "left"}, timeout=1)
    line = log_line(server, "left")
    assert (line["status"], line["error"]) == (499, "ClientGone")
    before = sum(sum(process.cpu_times()[:2]) for process in decoders(server))
    time.sleep(1)
    assert sum(sum(process.cpu_times()[:2]) for process in decoders(server)) - before < 0.1
