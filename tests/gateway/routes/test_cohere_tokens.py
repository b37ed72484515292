from typing import Any

import httpx2

MODEL = "all-minilm-l6-v2"


def post(client: httpx2.Client, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post(path, json={"model": MODEL, **body})
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_text_becomes_its_tokens_and_tokens_their_text(client: httpx2.Client) -> None:
    answer = post(client, "/v1/tokenize", text="Sea snails")
    spans = client.post("/tokenize", json={"inputs": "Sea snails", "add_special_tokens": False}).json()[0]
    assert answer["tokens"] == [span["id"] for span in spans]
    assert answer["token_strings"] == ["sea", "snails"]
    assert answer["meta"] == {"api_version": {"version": "1"}}
    text = post(client, "/v1/detokenize", tokens=[101, *answer["tokens"], 102])
    assert text == {"text": "[CLS] sea snails [SEP]", "meta": answer["meta"]}
    assert post(client, "/v1/detokenize", tokens=answer["tokens"])["text"] == "sea snails"
    assert post(client, "/v1/detokenize", tokens=[])["text"] == ""


def test_errors_are_in_coheres_form(client: httpx2.Client) -> None:
    for path, status, body in (
        ("/v1/tokenize", 400, {"text": ""}),
        ("/v1/tokenize", 400, {"text": "a" * 300_001}),
        ("/v1/tokenize", 404, {"text": "a", "model": "command-r"}),
        ("/v1/detokenize", 400, {"tokens": [-1]}),
    ):
        assert set(post(client, path, status, **body)) == {"id", "message"}
