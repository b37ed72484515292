from datetime import UTC, datetime
from typing import Any

import httpx2
import numpy as np
import pytest

MODEL = "all-minilm-l6-v2"
LONG = "sea " * 300


def post(client: httpx2.Client, path: str, status: int = 200, **body: Any) -> Any:
    response = client.post(path, json={"model": MODEL, **body})
    assert response.status_code == status, response.text
    return response.json()


def refused(client: httpx2.Client, path: str, status: int = 400, **body: Any) -> str:
    error = post(client, path, status, **body)
    assert set(error) == {"error"}
    message: str = error["error"]
    return message


def reference(client: httpx2.Client, given: Any, **body: Any) -> list[list[float]]:
    return [item["embedding"] for item in post(client, "/v1/embeddings", input=given, **body)["data"]]


@pytest.mark.parametrize("given", ["a shell", ["a shell", "a trumpet"]])
def test_vectors_are_those_of_v1(client: httpx2.Client, given: Any) -> None:
    options = {"num_ctx": 8, "temperature": None, "stop": ["a"]}
    answer = post(client, "/api/embed", input=given, options=options, keep_alive="5m", truncate=None)
    assert set(answer) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert np.array(answer["embeddings"]) == pytest.approx(np.array(reference(client, given)), abs=1e-6)
    assert answer["model"] == MODEL
    assert answer["prompt_eval_count"] == (4 if isinstance(given, str) else 8)
    assert 10**5 < answer["total_duration"] < 10**11  # a millisecond has 10^6 nanoseconds
    assert answer["load_duration"] == 0


def test_first_api_embeds_one_text(client: httpx2.Client) -> None:
    answer = post(client, "/api/embeddings", prompt="a shell", keep_alive=-1, options={"num_gpu": 1})
    assert set(answer) == {"embedding"}
    assert answer["embedding"] == pytest.approx(reference(client, "a shell")[0], abs=1e-6)


def test_texts_are_truncated_unless_the_client_forbids_it(client: httpx2.Client) -> None:
    kept = reference(client, "sea " * 254)
    answer = post(client, "/api/embed", input=["a", LONG])
    assert np.array(answer["embeddings"][1]) == pytest.approx(np.array(kept[0]), abs=1e-6)
    assert answer["prompt_eval_count"] == 3 + 256
    assert post(client, "/api/embeddings", prompt=LONG)["embedding"] == pytest.approx(kept[0], abs=1e-6)
    message = refused(client, "/api/embed", input=["a", LONG], truncate=False)
    assert message == f"input[1] has 302 tokens; the limit of model {MODEL!r} is 256"


def test_empty_input_loads_the_model(client: httpx2.Client) -> None:
    empty: Any
    for empty in ("", []):
        answer = post(client, "/api/embed", input=empty)
        assert (answer["embeddings"], answer["prompt_eval_count"]) == ([], 0)
    assert post(client, "/api/embeddings", prompt="") == {"embedding": []}
    assert "there is no model 'x'" in refused(client, "/api/embed", 404, model="x", input="")


def test_dimensions_must_be_the_models(client: httpx2.Client) -> None:
    assert len(post(client, "/api/embed", input="a", dimensions=0)["embeddings"][0]) == 384
    assert refused(client, "/api/embed", input="a", dimensions=64) == (
        f"dimensions is 64; model {MODEL!r} supports 384"
    )


def test_names_may_have_a_tag(client: httpx2.Client) -> None:
    (expected,) = reference(client, "a")
    for name in (f"{MODEL}:latest", "text-embedding-3-small", "text-embedding-3-small:latest"):
        answer = post(client, "/api/embed", model=name, input="a")
        assert answer["embeddings"][0] == pytest.approx(expected, abs=1e-6)
        assert answer["model"] == name
        assert post(client, "/api/show", model=name) == post(client, "/api/show")
    assert "there is no model 'all-minilm-l6-v2:l6'" in refused(
        client, "/api/embed", 404, model=f"{MODEL}:l6", input="a"
    )


def test_every_name_of_models_for_texts_is_listed(client: httpx2.Client) -> None:
    models = {model["name"]: model for model in client.get("/api/tags").json()["models"]}
    (described,) = (one for one in client.get("/v1/models").json()["data"] if one["id"] == MODEL)
    names = [f"{name}:latest" for name in (MODEL, *described["aliases"])]
    assert {*names, "minilm-pictogram:latest"} <= set(models)
    assert "minilm-late-interaction:latest" not in models  # it computes no vectors that /api/embed returns
    of_names = [models[name] for name in names]
    assert [model["model"] for model in of_names] == names
    assert len({model["digest"] for model in of_names}) == 1
    assert len(of_names[0]["digest"]) == 64
    assert datetime.fromisoformat(of_names[0]["modified_at"]) == datetime.fromtimestamp(described["created"], UTC)
    assert of_names[0]["details"]["families"] == ["text-embedding"]


def test_served_models_are_loaded(client: httpx2.Client) -> None:
    (running,) = (one for one in client.get("/api/ps").json()["models"] if one["name"] == f"{MODEL}:latest")
    assert running["context_length"] == 256
    assert datetime.fromisoformat(running["expires_at"]) > datetime.now(UTC)


def test_description_has_the_limits_of_the_model(client: httpx2.Client) -> None:
    description = post(client, "/api/show", verbose=True)
    assert description["capabilities"] == ["embedding"]
    assert description["model_info"] == {
        "general.architecture": "text-embedding",
        "text-embedding.context_length": 256,
        "text-embedding.embedding_length": 384,
    }
    assert client.post("/api/show", json={"name": MODEL}).json() == description
    assert "there is no model 'x'" in refused(client, "/api/show", 404, model="x")
    assert refused(client, "/api/show", model=None) == "model is required"
    assert refused(client, "/api/show", name="x").startswith("model and name have the same meaning")


def test_pull_succeeds_for_models_that_are_served(client: httpx2.Client) -> None:
    assert post(client, "/api/pull", stream=True) == {"status": "success"}
    assert "there is no model 'llama3'" in refused(client, "/api/pull", 404, model="llama3")


def test_version_is_one_that_clients_compare(client: httpx2.Client) -> None:
    assert client.head("/api/version").status_code == 200
    assert [*map(int, client.get("/api/version").json()["version"].split("."))] > [0, 11]


def test_names_of_tags_work_in_openais_dialect(client: httpx2.Client) -> None:
    body = {"model": "all-minilm-l6-v2:latest", "input": "a shell"}
    assert client.post("/v1/embeddings", json=body).json()["model"] == "all-minilm-l6-v2"
    assert client.get("/v1/models/all-minilm-l6-v2:latest").json()["id"] == "all-minilm-l6-v2"
    assert client.get("/v1/models/unknown:latest").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("post", "/api/generate", 404),
        ("post", "/api/chat", 404),
        ("delete", "/api/delete", 404),
        ("get", "/api/embed", 405),
    ],
)
def test_other_paths_answer_in_ollamas_form(client: httpx2.Client, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()) == {"error"}
    assert path in response.json()["error"]


def test_bad_requests_answer_in_ollamas_form(client: httpx2.Client) -> None:
    assert refused(client, "/api/embed") == "input is required"
    assert refused(client, "/api/embed", input=[[1, 2]]).startswith("input[0]: Expected `str`")
    assert refused(client, "/api/embed", input=["a"] * 2049) == "input: Expected `array` of length <= 2048"
    assert refused(client, "/api/embeddings", prompt=1).startswith("prompt: Expected `str`")


def test_keys_are_required_in_ollamas_form(locked: httpx2.Client) -> None:
    for method, path in (("post", "/api/embed"), ("get", "/api/tags"), ("post", "/api/nothing")):
        response = locked.request(method, path)
        assert response.status_code == 401, path
        assert set(response.json()) == {"error"}
    allowed = {"authorization": "Bearer right"}
    assert set(locked.post("/api/embed", json={}, headers=allowed).json()) == {"error"}
