"""A client that hangs up, at a running server."""

import base64
import contextlib
import time

import httpx2
import psutil
import pytest
from PIL import Image

from loadtest.tools.pictures import file
from tests.gateway.test_middleware import log_line
from tests.serving import Server

MODEL = "minilm-pictogram"
SLOW = base64.b64encode(file(Image.new("RGB", (6000, 5000), "teal"), "PNG")).decode()
"""Half a second of work in 90 KB."""


def decoding_s(server: Server) -> float:
    """CPU time that the decoders at hand have taken."""
    spent_s = 0.0
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now, or waits to be reaped
            if "gateway.images.worker" in child.cmdline():
                spent_s += sum(child.cpu_times()[:2])
    return spent_s


def test_decoding_stops_when_the_client_disconnects(server: Server) -> None:
    body = {"model": MODEL, "input": [{"image": SLOW}] * 200}
    with httpx2.Client(base_url=server.url) as client, pytest.raises(httpx2.ReadTimeout):
        client.post("/v1/embeddings", json=body, headers={"x-request-id": "left"}, timeout=1)
    line = log_line(server, "left")
    assert (line["status"], line["error"]) == (499, "ClientGone")
    before = decoding_s(server)
    time.sleep(1)  # in which nothing may happen: enough for two of these images
    assert decoding_s(server) - before < 0.1
