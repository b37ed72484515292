import base64

import pytest

from gateway.errors import InvalidRequest
from gateway.images.data_uri import MAX_BYTES, decode
from loadtest.tools.pictures import file, scene

CONTENT = file(scene(20, 30, 1), "PNG")
STANDARD = base64.b64encode(CONTENT).decode()
URL_SAFE = base64.urlsafe_b64encode(CONTENT).decode()


def test_alphabets_differ_here() -> None:
    assert STANDARD != URL_SAFE
    assert STANDARD.endswith("=")


@pytest.mark.parametrize(
    "text",
    [
        STANDARD,
        URL_SAFE,
        STANDARD.rstrip("="),
        URL_SAFE.rstrip("="),
        base64.encodebytes(CONTENT).decode(),  # with line breaks
        f"data:image/png;base64,{STANDARD}",
        f"data:image/png;base64,{URL_SAFE.rstrip('=')}",
        f" \ndata:image/png; base64, {STANDARD}",
        f"DATA:IMAGE/PNG;name=a.png;BASE64,{STANDARD}",
    ],
)
def test_every_form_of_base64_is_read(text: str) -> None:
    assert decode(text.encode(), "image") == CONTENT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!", "must be a data: URI, an http(s) URL or base64"),
        ("AAAAA", "must be a data: URI"),
        ("AA=A", "must be a data: URI"),
        ("ftp://example.com/a.png", "must be a data: URI"),
        ("file:///etc/passwd", "must be a data: URI"),
        ("caf\u00e9", "must be a data: URI"),
        ("\ud800", "must be a data: URI"),
        ("data:image/png;base64,????", "must be a data: URI"),
        ("data:image/svg+xml,%3Csvg/%3E", "is a data: URI, but not of an image in base64"),
        (f"data:text/html;base64,{STANDARD}", "is a data: URI, but not of an image in base64"),
        (f"data:;base64,{STANDARD}", "is a data: URI, but not of an image in base64"),
        ("AAAA" * (MAX_BYTES // 3 + 2), f"exceeds {MAX_BYTES} bytes"),
    ],
)
def test_text_without_an_image_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(text.encode("utf8", "surrogatepass"), "input[0].image")
    assert caught.value.message.startswith(f"input[0].image {message}")
    assert caught.value.param == "input[0].image"
