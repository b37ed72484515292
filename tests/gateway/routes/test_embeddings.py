import base64
import time
from typing import Any, Literal

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings

from gateway.routes.content import InputItem
from gateway.routes.embeddings import read_inputs
from tests.odd_models import PROMPTS

Packed = Literal["binary", "ubinary"]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEUlEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5E"
    "rkJggg=="
)
SHELL = [101, 1037, 9530, 2818, 2003, 1037, 2712, 10879, 102]


def post(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def vectors(answer: dict[str, Any]) -> NDArray[np.float32]:
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


def usage(text_tokens: int, image_tokens: int = 0) -> dict[str, Any]:
    total = text_tokens + image_tokens
    details = {"text_tokens": text_tokens, "image_tokens": image_tokens}
    return {"prompt_tokens": total, "total_tokens": total, "prompt_tokens_details": details, "completion_tokens": 0}


def refused(client: httpx2.Client, status: int = 400, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "detail"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.json()["detail"] == error["message"]
    return error


@pytest.mark.parametrize("name", ["image", "url", "bytes"])
def test_image_of_an_object_is_named_by_its_field(name: str) -> None:
    (item,) = read_inputs([InputItem(**{"text": "a shell", name: f" {PIXEL} "})], "text")
    assert (item.text, item.image, item.where_image()) == ("a shell", PIXEL, f"input[0].{name}")


def test_answer_has_openais_shape(client: httpx2.Client) -> None:
    answer = post(client, input=["a", "sea snail"], model="text-embedding-3-small", user="u")
    assert set(answer) == {"id", "object", "model", "data", "usage", "created"}
    assert answer["created"] == pytest.approx(time.time(), abs=60)
    assert (answer["object"], answer["model"]) == ("list", "all-minilm-l6-v2")
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    assert answer["usage"] == usage(7)
    assert np.linalg.norm(vectors(answer), axis=1) == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize(
    "form",
    [
        "a conch is a sea snail",
        ["a conch is a sea snail"],
        {"text": "a conch is a sea snail"},
        {"text": "a conch is a sea snail", "image": ""},
        [{"text": "a conch is a sea snail"}],
        SHELL,
        [SHELL],
    ],
)
def test_every_form_of_input_gives_the_same_vector(client: httpx2.Client, form: Any) -> None:
    expected = post(client, input="a conch is a sea snail")
    answer = post(client, input=form)
    assert answer["usage"] == expected["usage"] == usage(len(SHELL))
    assert np.array_equal(vectors(answer), vectors(expected))


def test_forms_mix_in_one_request_in_order(client: httpx2.Client) -> None:
    mixed = vectors(post(client, input=["brass", {"text": "a conch is a sea snail"}, SHELL, "brass"]))
    assert (mixed[0] * mixed[3]).sum() == pytest.approx(1, abs=1e-4)
    assert (mixed[1] * mixed[2]).sum() == pytest.approx(1, abs=1e-4)
    assert (mixed[0] * mixed[1]).sum() < 0.9


def test_model_may_be_left_out_or_null(client: httpx2.Client) -> None:
    assert post(client, input="a", model=None)["model"] == post(client, input="a")["model"] == "all-minilm-l6-v2"


def test_base64_is_the_same_floats_in_little_endian(client: httpx2.Client) -> None:
    floats = vectors(post(client, input="a"))
    for form in ({"encoding_format": "base64"}, {"embedding_type": "base64"}):
        (item,) = post(client, input="a", **form)["data"]
        assert np.array_equal(np.frombuffer(base64.b64decode(item["embedding"]), "<f4"), floats[0])


def test_raw_vectors_point_the_same_way_and_are_longer(client: httpx2.Client) -> None:
    unit, raw = (vectors(post(client, input="a", normalized=flag))[0] for flag in (True, False))
    assert np.linalg.norm(raw) > 1.5
    assert raw / np.linalg.norm(raw) == pytest.approx(unit, abs=1e-6)


@pytest.mark.parametrize("kind", ["binary", "ubinary"])
def test_binary_types_are_those_of_sentence_transformers(client: httpx2.Client, kind: Packed) -> None:
    floats = vectors(post(client, input=["a", "b"]))
    packed = [item["embedding"] for item in post(client, input=["a", "b"], embedding_type=kind)["data"]]
    assert packed == np.asarray(quantize_embeddings(floats, precision=kind)).tolist()


def test_list_of_types_makes_a_map_by_type(client: httpx2.Client) -> None:
    (item,) = post(client, input="a", embedding_type=["float", "int8", "base64"])["data"]
    assert list(item["embedding"]) == ["float", "int8", "base64"]
    assert len(item["embedding"]["int8"]) == 384
    assert item["embedding"]["float"] == post(client, input="a")["data"][0]["embedding"]


def test_encoding_format_concerns_floats_only(client: httpx2.Client) -> None:
    # OpenAI's SDK asks for base64 whatever else it is told, and decodes every string as floats.
    (item,) = post(client, input="a", embedding_type="int8", encoding_format="base64")["data"]
    assert all(isinstance(number, int) for number in item["embedding"])


def test_full_size_is_a_size(client: httpx2.Client) -> None:
    assert np.array_equal(vectors(post(client, input="a", dimensions=384)), vectors(post(client, input="a")))


def test_matryoshka_vectors_are_cut_and_normalised_again(odd_client: httpx2.Client) -> None:
    full = vectors(post(odd_client, input="a", model="matryoshka"))[0]
    cut = vectors(post(odd_client, input="a", model="matryoshka", dimensions=64))[0]
    assert cut == pytest.approx(full[:64] / np.linalg.norm(full[:64]), abs=1e-6)


def test_cut_vectors_are_normalised_even_where_full_ones_are_not(odd_client: httpx2.Client) -> None:
    cut = vectors(post(odd_client, input="a", model="matryoshka", dimensions=64, normalized=False))[0]
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("truncate", "kept"), [("START", "shell"), ("END", "sea")])
def test_long_input_can_be_truncated_at_either_end(client: httpx2.Client, truncate: str, kept: str) -> None:
    text = "sea " * 254 + "shell " * 254
    assert post(client, input=text, truncate=truncate)["data"] == post(client, input=f"{kept} " * 254)["data"]
    assert refused(client, input=text, truncate="NONE")["message"].startswith("input has 510 tokens")


def test_voyages_aliases_have_the_same_meaning(client: httpx2.Client, odd_client: httpx2.Client) -> None:
    short = post(odd_client, input="a", model="matryoshka", output_dimension=64)
    assert short["data"] == post(odd_client, input="a", model="matryoshka", dimensions=64)["data"]
    bits = post(client, input="sea " * 400, truncation=True, output_dtype="ubinary")
    expected = post(client, input="sea " * 400, truncate=True, embedding_type="ubinary")
    assert (bits["data"], bits["usage"]) == (expected["data"], expected["usage"])


def test_other_aliases_have_the_same_meaning(client: httpx2.Client) -> None:
    bits = post(client, input="a", encoding_type="binary", dimensions=0)
    assert bits["data"] == post(client, input="a", embedding_type="binary")["data"]
    raw = post(client, input="a", normalize=False)
    assert raw["data"] == post(client, input="a", normalized=False)["data"]
    assert raw["data"] != post(client, input="a", normalize="true")["data"]
    message = refused(client, input="a", normalize=True, normalized=True)["message"]
    assert message == "normalized and normalize have the same meaning; send only one of them"


def test_undeclared_size_is_refused(client: httpx2.Client, odd_client: httpx2.Client) -> None:
    error = refused(client, input="a", dimensions=64)
    assert error["param"] == "dimensions"
    assert error["message"] == "dimensions is 64; model 'all-minilm-l6-v2' supports 384"
    assert "supports 64, 128, 384" in refused(odd_client, input="a", model="matryoshka", dimensions=65)["message"]


def test_error_for_a_long_input_names_index_length_and_limit(client: httpx2.Client) -> None:
    error = refused(client, input=["short", "long " * 300])
    assert error["param"] == "input[1]"
    assert error["message"] == "input[1] has 302 tokens; the limit of model 'all-minilm-l6-v2' is 256"


def test_long_input_is_truncated_on_request_and_usage_counts_the_rest(client: httpx2.Client) -> None:
    cut = post(client, input=["long " * 300], truncate=True)
    assert cut["usage"]["total_tokens"] == 256
    assert np.array_equal(vectors(cut), vectors(post(client, input=["long " * 254])))


def test_many_inputs_of_mixed_length_come_back_in_order(client: httpx2.Client) -> None:
    texts = [f"number {i} " + "and so on " * (i % 12) for i in range(2048)]
    together = vectors(post(client, input=texts))
    some = [0, 11, 1000, 2047]
    alone = np.concatenate([vectors(post(client, input=texts[i])) for i in some])
    assert (together[some] * alone).sum(1).min() >= 0.9999


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": ""}, "input", "input is empty"),
        ({"input": []}, "input", "input has 0 items; it must have 1 to 2048"),
        (
            {"input": ["a", ""]},
            "input[1]",
            "input[1] is empty; send at least one character (model 'all-minilm-l6-v2' has 384 dimensions)",
        ),
        ({"input": "a", "dimensions": 1536}, "dimensions", "dimensions is 1536; model 'all-minilm-l6-v2' supports 384"),
        ({"input": [[]]}, "input[0]", "input[0] is empty"),
        ({"input": ["a"] * 2049}, "input", "input has 2049 items"),
        ({"input": [{}]}, "input[0]", "input[0] has neither text nor image"),
        ({"input": [{"image": "AAAA"}]}, "input[0].image", "input[0] contains an image, but model 'all-minilm"),
        ({"input": [1, "a"]}, "input[0]", "input[0] is a token id among other inputs"),
        ({"input": [30522]}, "input[0]", "input[0] contains a token id outside 0..30521"),
        ({"input": [2**70]}, "input[0]", ""),
        ({"input": [1] * 300_001}, "input", "input has 300001 items"),
        ({"input": "a" * 16_385}, "input", "input has 16385 characters; the limit is 16384 for 256 tokens"),
        ({"input": [[101, 102], [-1]]}, "input[1]", "input[1] contains a token id outside 0..30521"),
        ({"input": [[101, 102], [15339, 1917]]}, "input[1]", "input[1] must start with [101] and end with [102]"),
        ({"input": "a", "task": "query", "input_type": "query"}, "task", "task and input_type have the same meaning"),
        ({"input": "a", "truncate": False, "truncation": True}, "truncation", "truncate and truncation have the same"),
        ({"input": {"image": "a", "url": "b"}}, "input", "input has more than one of image, url and bytes"),
        ({"input": [1.5]}, "input[0]", "input[0]: Expected"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is required"),
        (
            {"input": "a", "add_special_tokens": "false", "late_chunking": True},
            "late_chunking",
            "late_chunking needs special tokens; add_special_tokens must not be false",
        ),
        ({"input": "a", "padding": "max_length"}, "padding", "padding: texts are computed without padding"),
        ({"input": "a", "embed_dtype": "fp8_e4m3"}, "embed_dtype", "embed_dtype: 'fp8_e4m3' is not one of bfloat16"),
        (
            {"input": "a", "use_activation": False, "normalized": True},
            "use_activation",
            "normalized and use_activation",
        ),
        ({"input": ["a"] * 257, "encoding_format": "bytes"}, "encoding_format", "encoding_format: the response header"),
        (
            {"input": "a", "encoding_format": "bytes", "embedding_type": "int8"},
            "encoding_format",
            "encoding_format: bytes hold float vectors only",
        ),
        (
            {"input": "a", "encoding_format": "bytes_only", "late_chunking": True},
            "encoding_format",
            "encoding_format: bytes do not tell where chunks are",
        ),
        ({"input": {"text": "a", "video": "b"}}, "input.video", "input.video: only text and images are supported"),
        ({"input": "a", "dimensions": -1}, "dimensions", "dimensions: Expected `int` >= 0"),
        ({"input": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens", "truncate_prompt_tokens is 3; it must"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "truncate_prompt_tokens: Expected"),
        (
            {"input": "a", "truncate_prompt_tokens": 9, "truncate": "NONE"},
            "truncate_prompt_tokens",
            "truncate_prompt_tokens contradicts truncate",
        ),
        ({"inputs": "a"}, "input", "input is required; unknown fields: 'inputs'"),
        ({"input": "a", "embedding_type": "int4"}, "embedding_type", "embedding_type: 'int4' is not one of base64"),
        ({"input": "a", "embedding_type": []}, "embedding_type", "embedding_type: Expected `array` of length >= 1"),
        ({"input": "a", "embedding_type": "int8", "normalized": False}, "normalized", "int8 and uint8 need"),
        ({}, "input", "input is required"),
    ],
)
def test_bad_request_names_the_field(client: httpx2.Client, body: dict[str, Any], param: str, message: str) -> None:
    error = refused(client, **body)
    assert error["param"] == param
    assert error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"


def test_more_tokens_than_a_request_may_have_are_refused(client: httpx2.Client) -> None:
    response = client.post("/v1/embeddings", json={"input": ["so " * 200] * 1500})
    assert response.status_code == 413
    error = response.json()["error"]
    assert error["message"] == "the request has 300172 tokens up to input[1485]; the limit is 300000"


def test_unknown_model_is_404_and_lists_the_served_models(client: httpx2.Client) -> None:
    error = refused(client, 404, input="a", model="gpt-5")
    assert error["code"] == "model_not_found"
    assert "served here: all-minilm-l6-v2" in error["message"]


def test_reranker_is_not_an_embedding_model(client: httpx2.Client, odd_client: httpx2.Client) -> None:
    refused(odd_client, 404, input="a", model="public-score")
    error = refused(client, input="a", model="minilm-late-interaction")
    assert "model 'minilm-late-interaction' computes multi_vector vectors, not dense" in error["message"]


def test_text_of_megabytes_is_truncated_before_tokenization(client: httpx2.Client) -> None:
    giant = post(client, input="long " * 2_000_000, truncate=True)
    assert giant["usage"]["total_tokens"] == 256
    assert np.array_equal(vectors(giant), vectors(post(client, input="long " * 254)))


def test_repeated_types_cost_nothing(client: httpx2.Client) -> None:
    (item,) = post(client, input="a", embedding_type=["int8"] * 100_000)["data"]
    assert list(item["embedding"]) == ["int8"]


def echo(client: httpx2.Client, given: Any, **body: Any) -> list[list[float]]:
    """What `odd_models.ECHO` answers to each input."""
    return [item["embedding"] for item in post(client, input=given, normalized=False, **body)["data"]]


def test_default_prompt_is_put_before_texts_but_not_before_token_ids(odd_client: httpx2.Client) -> None:
    prompt = PROMPTS["document"]
    written, ids = echo(odd_client, [prompt + "a conch is a sea snail", SHELL], model="bucketed")
    prompted, as_given = echo(odd_client, ["a conch is a sea snail", SHELL], model="prompted")
    assert (prompted[0], as_given[0]) == (written[0], ids[0])


def test_tokens_of_the_prompt_count_as_tokens_of_the_text(odd_client: httpx2.Client) -> None:
    assert (
        post(odd_client, input="sea", model="prompted")["usage"]["total_tokens"] == 2 + 2 + 1
    )  # "passage", ":", "sea"
    error = refused(odd_client, input=["sea", "sea " * 254], model="prompted")
    assert error["message"] == "input[1] has 258 tokens; the limit of model 'prompted' is 256"
    assert refused(odd_client, input=["sea", ""], model="prompted")["message"].startswith("input[1] is empty; ")


@pytest.mark.parametrize(
    "body",
    [
        {"task": "retrieval.query"},
        {"input_type": "search_query"},
        {"prompt_name": "query"},
        {"model": "prompted-query"},
    ],
)
def test_purpose_of_texts_selects_the_prompt(odd_client: httpx2.Client, body: dict[str, str]) -> None:
    (written,) = echo(odd_client, PROMPTS["query"] + "a conch", model="bucketed")
    (prompted,) = echo(odd_client, "a conch", **{"model": "prompted"} | body)
    assert prompted[0] == written[0]


@pytest.mark.parametrize("body", [{}, {"input_type": "query"}, {"task": "retrieval.query"}])
@pytest.mark.parametrize("field", ["instruction", "instruct"])
def test_instruction_replaces_the_one_in_the_prompt(
    odd_client: httpx2.Client, field: str, body: dict[str, str]
) -> None:
    (written,) = echo(odd_client, "Instruct: rank {instruction}\nQuery: a conch", model="bucketed")
    told = {"model": "embedding-instructed", field: "rank {instruction}"} | body
    assert echo(odd_client, "a conch", **told)[0][0] == written[0]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"model": "prompted"}, ""),
        ({"model": "embedding-instructed", "input_type": "document"}, " with its prompt 'passage: '"),
    ],
)
def test_instruction_without_a_place_is_refused(odd_client: httpx2.Client, body: dict[str, Any], where: str) -> None:
    error = refused(odd_client, input="a conch", instruction="rank shells", **body)
    assert error["param"] == "instruction"
    assert error["message"] == f"model {body['model']!r} does not support instruction{where}"


def test_rows_are_padded_to_their_bucket(odd_client: httpx2.Client) -> None:
    texts = ["sea " * 14, "sea " * 15, "sea " * 62, "sea " * 254]
    stored = [echo(odd_client, text, model="bucketed")[0][1] for text in texts]
    assert stored == pytest.approx([0.16, 0.64, 0.64, 2.56])


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 10}, "sea " * 8),
        ({"truncate_prompt_tokens": 10, "truncation_side": "right"}, "sea " * 8),
        ({"truncate_prompt_tokens": 10, "truncation_side": "left"}, "shell " * 8),
        ({"truncate_prompt_tokens": -1}, "sea " * 254),
        ({"truncate_prompt_tokens": 511}, "sea " * 254),
        ({"truncate": True, "truncation_side": "left"}, "shell " * 254),
        ({"truncate": "START", "truncate_prompt_tokens": 10}, "shell " * 8),
    ],
)
def test_texts_are_truncated_as_vllms_fields_say(client: httpx2.Client, fields: dict[str, Any], kept: str) -> None:
    cut = post(client, input="sea " * 300 + "shell " * 300, **fields)
    assert np.array_equal(vectors(cut), vectors(post(client, input=kept)))


def test_unknown_fields_are_ignored_and_reported(client: httpx2.Client) -> None:
    given = {"input": [{"text": "a", "id": 7}, {"text": "b", "id": None}], "drop_params": True, "wéird\n\x00": [1]}
    response = client.post("/v1/embeddings", json=given)
    assert response.status_code == 200
    assert response.headers["x-conch-ignored-fields"] == "input[].id, drop_params, w?ird??"
    assert response.json()["data"] == post(client, input=["a", "b"])["data"]
    assert 'conch_ignored_fields_total{path="/v1/embeddings"}' in client.get("/metrics").text


def test_header_is_absent_without_unknown_fields(client: httpx2.Client) -> None:
    given = {"input": "a", "late_chunking": False, "messages": None, "dimensions": None, "truncate": None}
    response = client.post("/v1/embeddings", json=given)
    assert response.status_code == 200
    assert "x-conch-ignored-fields" not in response.headers


def test_header_is_bounded(client: httpx2.Client) -> None:
    given = {"input": "a"} | {f"{i}" * 1000: 1 for i in range(1000)}
    response = client.post("/v1/embeddings", json=given)
    assert response.status_code == 200
    assert 0 < len(response.headers["x-conch-ignored-fields"]) < 1200


def test_strings_that_look_like_images_are_texts_to_models_of_text(client: httpx2.Client) -> None:
    answer = post(client, input=["a", "data:image/png;base64,AAAA"], model="all-minilm-l6-v2")
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] == 0
    assert answer["data"][1] == {**post(client, input="data:image/png;base64,AAAA")["data"][0], "index": 1}


@pytest.mark.parametrize("prefix", ["data:image/png", "DATA:image/png", "data:IMAGE/PNG", " \n data:image/png"])
def test_images_are_recognised_by_their_prefix_in_any_case(client: httpx2.Client, prefix: str) -> None:
    uri = f"{prefix};base64,{PIXEL.partition(',')[2]}"
    image = post(client, input={"image": PIXEL}, model="minilm-pictogram")["data"]
    for given in (uri, {"image": uri}, [uri]):
        answer = post(client, input=given, model="minilm-pictogram")
        assert answer["data"] == image
        assert answer["usage"]["prompt_tokens_details"]["image_tokens"] > 0


def test_modality_determines_the_type_of_strings(client: httpx2.Client) -> None:
    bare = PIXEL.partition(",")[2]
    image = post(client, input=bare, modality="image", model="minilm-pictogram")
    assert image["data"] == post(client, input={"image": PIXEL}, model="minilm-pictogram")["data"]
    text = post(client, input=PIXEL, modality="text", model="minilm-pictogram", truncate=True)
    assert text["usage"]["prompt_tokens_details"]["image_tokens"] == 0


@pytest.mark.parametrize("path", ["/embeddings", "/openai/v1/embeddings"])
def test_other_paths_answer_the_same(client: httpx2.Client, path: str) -> None:
    answer = client.post(path, json={"input": "a"})
    assert answer.json()["data"] == post(client, input="a")["data"]
    assert client.post(path, json={}).json()["error"]["message"] == "input is required"


def test_azures_path_names_the_model(client: httpx2.Client) -> None:
    path = "/openai/deployments/{}/embeddings?api-version=2024-10-21"
    answer = client.post(path.format("text-embedding-3-small"), json={"input": "a", "model": "gpt-5"})
    assert answer.json()["model"] == "all-minilm-l6-v2"
    assert client.post(path.format("gpt-5"), json={"input": "a"}).json()["error"]["code"] == "model_not_found"


SIZES = ("dimensions", "output_dimension")
UNKNOWN = "\x7f" * 1000


@pytest.mark.parametrize(
    ("field", "status"), [("model", 404), ("task", 400), ("input_type", 400), ("prompt_name", 400)]
)
def test_long_unknown_names_are_shortened(client: httpx2.Client, field: str, status: int) -> None:
    message = refused(client, status, input="a", **{field: UNKNOWN})["message"]
    assert f"{UNKNOWN[:200]!r}..."[:400] in message


def test_only_the_beginning_of_a_string_is_searched_for_an_image() -> None:
    for blanks, kind in ((200, "image"), (10_000, "text")):
        (item,) = read_inputs([" " * blanks + PIXEL], "any")
        assert getattr(item, kind)


def test_dimension_of_zero_means_all_by_either_name(client: httpx2.Client) -> None:
    assert len({len(post(client, input="a", **{name: 0})["data"][0]["embedding"]) for name in SIZES} | {384}) == 1


@pytest.mark.parametrize(
    ("name", "harmless", "other"),
    [
        ("embedding_types", ["float"], ["int8"]),
        ("max_tokens", None, 8),
        ("truncation_direction", "Right", "Left"),
        ("task_type", "", "RETRIEVAL_QUERY"),
        ("prompt", "", "query: "),
    ],
)
def test_fields_with_another_name_here_are_refused(client: httpx2.Client, name: str, harmless: Any, other: Any) -> None:
    assert post(client, input="a", **{name: harmless})["data"] == post(client, input="a")["data"]
    assert refused(client, input="a", **{name: other})["param"] == name
