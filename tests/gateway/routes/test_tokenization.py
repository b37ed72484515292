from typing import Any

import httpx2
import pytest


def post(client: httpx2.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_tokens_of_a_prompt_are_those_of_teis_api(client: httpx2.Client) -> None:
    (expected,) = post(client, "/tokenize", inputs="Sea snails")
    found = post(client, "/tokenize", prompt="Sea snails", return_token_strs=True)
    assert found == {
        "count": len(expected),
        "max_model_len": 256,
        "tokens": [token["id"] for token in expected],
        "token_strs": [token["text"] for token in expected],
    }
    bare = post(client, "/tokenize", prompt="Sea snails", add_special_tokens=False)
    assert (bare["tokens"], bare["token_strs"]) == (found["tokens"][1:-1], None)


def test_detokenize_turns_tokens_into_text(client: httpx2.Client) -> None:
    tokens = post(client, "/tokenize", prompt="sea snails", model="minilm-late-interaction")["tokens"]
    answer = post(client, "/detokenize", tokens=tokens, model="minilm-late-interaction")
    assert answer == {"prompt": "[CLS] sea snails [SEP]"}
    assert post(client, "/detokenize", tokens=[]) == {"prompt": ""}


def test_usage_is_recorded(client: httpx2.Client) -> None:
    response = client.post("/tokenize", json={"prompt": "a", "unknown": 1})
    assert response.headers["x-conch-ignored-fields"] == "unknown"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/tokenize", {"messages": []}, "prompt is required"),
        (
            "/tokenize",
            {"prompt": "a", "messages": [{"role": "user", "content": "a"}]},
            "messages: conversations are not tokenized; send prompt",
        ),
        ("/tokenize", {"prompt": "a" * 300_001}, "prompt exceeds 300000 characters"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]: Expected `int` >= 0"),
        ("/detokenize", {}, "tokens is required"),
    ],
)
def test_wrong_request_is_refused_in_openais_format(
    client: httpx2.Client, path: str, body: dict[str, Any], message: str
) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == message
