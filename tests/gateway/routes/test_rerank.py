from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Encoding, Tokenizer
from torch.nn import functional

from tests.gateway.service.vision import image
from tests.odd_models import INSTRUCT, INSTRUCTED, PROMPTS, TEMPLATE

DOCUMENTS = [
    "Brass is an alloy.",
    "A conch is a sea snail.",
    "The invoice was paid in March.",
    "Sea shells wash ashore.",
]


def post(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/rerank", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(client: httpx2.Client, status: int = 400, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/rerank", json=body)
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_answer_has_the_shape_of_the_users_example(client: httpx2.Client) -> None:
    answer = post(client, model="minilm-late-interaction", query="sea shells", documents=DOCUMENTS[:2])
    assert set(answer) == {"results", "usage", "model", "id", "data"}
    assert answer["model"] == "minilm-late-interaction"
    assert all(set(result) == {"document", "index", "relevance_score"} for result in answer["results"])
    assert answer["results"][0]["document"] == {"text": "A conch is a sea snail."}
    assert answer["usage"] == {
        "prompt_tokens": 21,
        "completion_tokens": 0,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_scores_are_mean_best_cosines_of_the_reference(client: httpx2.Client, minilm_folder: Path) -> None:
    reference = SentenceTransformer(str(minilm_folder), device="cpu")

    def tokens(text: str) -> torch.Tensor:
        encoded = reference.encode(text, output_value="token_embeddings", convert_to_tensor=True)
        assert isinstance(encoded, torch.Tensor)
        return functional.normalize(encoded, dim=-1)

    query = tokens("sea shells")
    expected = {i: float((query @ tokens(text).T).amax(1).mean()) for i, text in enumerate(DOCUMENTS)}
    results = post(client, query="sea shells", documents=DOCUMENTS)["results"]
    assert {result["index"]: result["relevance_score"] for result in results} == pytest.approx(expected, abs=5e-3)


LONG = "The invoice was paid in March. " * 60 + "A conch is a sea snail. " * 3 + "Brass is an alloy. " * 50


def test_documents_have_the_score_of_their_best_chunk(client: httpx2.Client, minilm_folder: Path) -> None:
    reference = SentenceTransformer(str(minilm_folder), device="cpu")

    def tokens(text: str) -> torch.Tensor:
        encoded = reference.encode(text, output_value="token_embeddings", convert_to_tensor=True)
        assert isinstance(encoded, torch.Tensor)
        return functional.normalize(encoded, dim=-1)

    def score(text: str) -> float:
        return float((tokens("sea shells") @ tokens(text).T).amax(1).mean())

    documents = ["Brass is an alloy.", LONG, {"text": "Sea shells wash ashore.", "id": 3}]
    answer = post(client, query="sea shells", documents=documents, max_tokens_per_chunk=40)
    found = {result["index"]: result for result in answer["results"]}
    chunk = found[1]["chunk"]
    assert "A conch is a sea snail." in chunk["text"]
    assert chunk["text"] == LONG[chunk["start"] : chunk["end"]]
    assert found[1]["relevance_score"] == pytest.approx(score(chunk["text"]), abs=5e-3)
    assert found[1]["document"] == {"text": LONG}
    for index, text in ((0, "Brass is an alloy."), (2, "Sea shells wash ashore.")):
        assert found[index]["chunk"] == {"index": 0, "start": 0, "end": len(text), "text": text}
        assert found[index]["relevance_score"] == pytest.approx(score(text), abs=5e-3)
    (whole,) = post(client, query="sea shells", documents=[LONG])["results"]
    assert "chunk" not in whole
    assert whole["relevance_score"] < found[1]["relevance_score"] - 0.1  # the sea is behind the model's limit


def test_chunks_are_as_long_as_the_query_leaves_and_need_no_text(client: httpx2.Client) -> None:
    (result,) = post(
        client, query="a conch is a sea snail", documents=[LONG], max_chunks_per_doc=99, return_documents=False
    )["results"]
    assert set(result) == {"index", "relevance_score", "chunk"}
    assert result["chunk"]["index"] == 2  # of four
    assert "sea snail" in LONG[result["chunk"]["start"] : result["chunk"]["end"]]
    first = post(client, query="sea", documents=[LONG], max_chunks_per_doc=1)["results"][0]
    assert first["chunk"]["index"] == first["chunk"]["start"] == 0
    assert first["relevance_score"] == pytest.approx(
        post(client, query="sea", documents=[first["chunk"]["text"]])["results"][0]["relevance_score"], abs=1e-3
    )


def test_usage_counts_all_chunks(client: httpx2.Client) -> None:
    words = "sea " * 500
    whole = post(client, query="sea", documents=[words])["usage"]["total_tokens"]
    split = post(client, query="sea", documents=[words], max_tokens_per_chunk=100)["usage"]["total_tokens"]
    assert (whole, split) == (3 + 256, 3 + 500 + 5 * 2)
    overlapping = post(client, query="sea", documents=[words], max_tokens_per_chunk=100, overlap_tokens=50)
    assert overlapping["usage"]["total_tokens"] == 3 + 9 * 102


def test_chunks_are_refused_with_their_limits(client: httpx2.Client) -> None:
    documents = ["a", "sea " * 1000]
    error = refused(client, query="sea", documents=documents, max_chunks_per_doc=3, truncate=False)
    assert error["param"] == "documents[1]"
    assert error["message"] == "documents[1] has 4 chunks; the limit is 3"
    error = refused(client, 413, query="sea", documents=["sea " * 9000] * 2, max_tokens_per_chunk=8)
    assert error["message"] == "the request has over 2048 chunks up to documents[1]; the limit is 2048"
    error = refused(client, 413, query="sea " * 126, documents=["sea " * 24_000] * 3, max_tokens_per_chunk=40)
    assert error["message"].startswith("query has 128 tokens, counted with each of 1800 chunks of documents: 306000")


def test_chunks_of_cross_encoders_are_rows_with_the_query(odd_client: httpx2.Client, repository: Path) -> None:
    tokenizer = Tokenizer.from_file(str(repository / "all-minilm-l6-v2" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for model in ("public-score", "templated"):
        (result,) = post(odd_client, model=model, query="sea", documents=[LONG], raw_scores=True, max_chunks_per_doc=9)[
            "results"
        ]
        text = result["chunk"]["text"]
        pair = ("sea", text) if model == "public-score" else None
        row = tokenizer.encode(*pair) if pair else tokenizer.encode(f"query: sea [SEP] document: {text}")
        assert result["relevance_score"] == pytest.approx(sum(row.ids) / 1e5, abs=1e-4)
        assert 240 < len(row.ids) <= 256


def test_results_are_best_first_and_ties_in_order(client: httpx2.Client) -> None:
    results = post(client, query="sea shells", documents=["same", *DOCUMENTS, "same", "same"])["results"]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert [result["index"] for result in results if result["document"]["text"] == "same"] == [0, 5, 6]


def test_results_are_also_in_voyages_format(client: httpx2.Client) -> None:
    answer = post(client, query="sea", documents=DOCUMENTS, top_k=2, truncation=True, return_documents=True)
    assert answer["data"] == answer["results"]
    assert answer["object"] == "list"
    assert answer["results"] == post(client, query="sea", documents=DOCUMENTS, top_n=2)["results"]
    assert refused(client, query="sea", documents=["a", "sea " * 300], truncation=False)["param"] == "documents[1]"
    assert refused(client, query="a", documents=["a"], top_n=1, top_k=1)["message"].startswith("top_n and top_k have")


@pytest.mark.parametrize("field", [{"top_k": 2}, {"truncation": True}, {"top_n": 2}])
def test_data_is_there_for_voyages_clients_and_object_only_if_they_say_that_they_are(
    client: httpx2.Client, field: dict[str, Any]
) -> None:
    answer = post(client, query="sea", documents=DOCUMENTS, **field)
    assert answer["data"] == [{name: one[name] for name in ("index", "relevance_score")} for one in answer["results"]]
    assert all("document" in one for one in answer["results"])
    assert answer.get("object") == (None if "top_n" in field else "list")


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (3, 3), (99, 4), (0, 4), (None, 4)])
def test_top_n_cuts_the_list(client: httpx2.Client, top_n: int | None, count: int) -> None:
    assert len(post(client, query="sea", documents=DOCUMENTS, top_n=top_n)["results"]) == count


def test_documents_are_omitted_on_request(client: httpx2.Client) -> None:
    results = post(client, query="sea", documents=DOCUMENTS, return_documents=False)["results"]
    assert all(set(result) == {"index", "relevance_score"} for result in results)


def test_documents_may_be_objects(client: httpx2.Client) -> None:
    strings = post(client, query="sea", documents=DOCUMENTS)["results"]
    assert post(client, query="sea", documents=[{"text": text} for text in DOCUMENTS])["results"] == strings


def test_other_fields_of_documents_are_ignored_and_reported(client: httpx2.Client) -> None:
    documents = [{"text": text, "id": i, "meta": {"a": [1]}} for i, text in enumerate(DOCUMENTS)]
    response = client.post("/v1/rerank", json={"query": "sea", "documents": documents, "drop_params": None})
    names = response.headers["x-conch-ignored-fields"].split(", ")
    assert set(names) == {"drop_params", "documents[].id", "documents[].meta"}
    results = response.json()["results"]
    expected = post(client, query="sea", documents=DOCUMENTS)["results"]
    assert [one["relevance_score"] for one in results] == [one["relevance_score"] for one in expected]
    assert [one["document"] for one in results] == [documents[one["index"]] for one in expected]


def test_number_of_reported_fields_of_documents_is_limited(client: httpx2.Client) -> None:
    documents = [{"text": "a"} | {f"{i}-{j}" * 50: 1 for j in range(100)} for i in range(20)]
    response = client.post("/v1/rerank", json={"query": "sea", "documents": documents, "return_documents": False})
    assert response.status_code == 200
    assert 0 < len(response.headers["x-conch-ignored-fields"]) < 1200


def test_documents_are_ranked_on_rank_fields(client: httpx2.Client) -> None:
    documents = [{"title": text, "body": "A text.", "id": i} for i, text in enumerate(DOCUMENTS)]
    body = {"query": "sea", "documents": [*documents, "Sea."], "rank_fields": ["title", "none", "body"]}
    response = client.post("/v1/rerank", json=body)
    assert "x-conch-ignored-fields" not in response.headers
    texts = [*(f"{text}\nA text." for text in DOCUMENTS), "Sea."]
    expected = post(client, query="sea", documents=texts)["results"]
    assert [(one["index"], one["relevance_score"]) for one in response.json()["results"]] == [
        (one["index"], one["relevance_score"]) for one in expected
    ]


def test_repeated_rank_fields_count_once(client: httpx2.Client) -> None:
    documents = [{"title": text, "body": "A text."} for text in DOCUMENTS]
    fields = ["body", "title"]
    once = post(client, query="sea", documents=documents, rank_fields=fields)
    often = post(client, query="sea", documents=documents, rank_fields=[*fields, *["body"] * 62])
    assert (often["results"], often["usage"]) == (once["results"], once["usage"])


def test_prompt_tokens_limit_query_and_document_of_cross_encoders(
    client: httpx2.Client, odd_client: httpx2.Client
) -> None:
    late: dict[str, Any] = {"query": "sea", "documents": ["long " * 300], "truncate_prompt_tokens": 50}
    assert post(client, **late)["usage"]["total_tokens"] == 3 + 50
    assert post(client, **late | {"truncate_prompt_tokens": 511})["usage"]["total_tokens"] == 3 + 256
    body: dict[str, Any] = {"model": "public-score", "query": "sea", "documents": ["shell " * 300]}
    assert post(odd_client, **body, truncate_prompt_tokens=50)["usage"]["total_tokens"] == 50
    documents = ["sea " * 300 + "shell " * 60, "shell " * 46]
    left, expected = scores(
        odd_client,
        model="public-score",
        query="sea",
        documents=documents,
        truncate_prompt_tokens=50,
        truncation_side="left",
    )
    assert left == expected


def test_raw_scores_are_logits(odd_client: httpx2.Client, tokenizer: Tokenizer) -> None:
    expected = logits(tokenizer.encode_batch([("sea", text) for text in DOCUMENTS]))[:, 0]
    body: dict[str, Any] = {"model": "public-score", "query": "sea", "documents": DOCUMENTS}
    assert scores(odd_client, **body, raw_scores=True) == pytest.approx(expected)
    assert scores(odd_client, **body, raw_scores="false") == scores(odd_client, **body)


def test_documents_are_truncated_by_default(client: httpx2.Client) -> None:
    assert post(client, query="sea", documents=["long " * 300])["usage"]["total_tokens"] == 3 + 256
    limited = post(client, query="sea", documents=["long " * 300], max_tokens_per_doc=50)
    assert limited["usage"]["total_tokens"] == 3 + 50


def test_long_documents_are_refused_on_request(client: httpx2.Client) -> None:
    error = refused(client, query="sea", documents=["a", "long " * 300], truncate=False)
    assert error["param"] == "documents[1]"
    assert error["message"] == "documents[1] has 302 tokens; the limit of model 'minilm-late-interaction' is 256"


def test_query_is_never_truncated(client: httpx2.Client) -> None:
    assert post(client, query="long " * 126, documents=["a"])["usage"]["total_tokens"] == 128 + 3
    error = refused(client, query="long " * 127, documents=["a"])
    assert error["param"] == "query"
    assert error["message"] == "query has 129 tokens; the limit of model 'minilm-late-interaction' is 128"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": ["a"] * 2049}, "documents"),
        ({"query": "a", "documents": [1]}, "documents[0]"),
        ({"query": "a", "documents": [{"title": "b"}]}, "documents[0].text"),
        ({"query": "a", "documents": [{"text": 1}]}, "documents[0].text"),
        ({"query": "a", "documents": ["a", {"text": "b"}], "rank_fields": ["title", "body"]}, "documents[1].title"),
        ({"query": "a", "documents": ["a"], "rank_fields": []}, "rank_fields"),
        ({"query": "a", "documents": ["a"], "use_activation": False, "raw_scores": False}, "raw_scores"),
        ({"query": "a", "documents": ["a"], "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"query": "a", "documents": ["a"], "top_n": -1}, "top_n"),
        ({"query": "a"}, "documents"),
    ],
)
def test_bad_request_names_the_field(client: httpx2.Client, body: dict[str, Any], param: str) -> None:
    assert refused(client, **body)["param"] == param


def test_empty_document_ranks_like_any_other(client: httpx2.Client) -> None:
    assert len(post(client, query="sea", documents=["", "sea"])["results"]) == 2


def test_no_score_is_above_one(client: httpx2.Client) -> None:
    texts = ["dog", "[MASK]", "a conch is a sea snail"]
    for text in texts:
        (best, *_) = post(client, query=text, documents=texts)["results"]
        assert best["document"]["text"] == text
        assert 0.99 < best["relevance_score"] <= 1


@pytest.fixture(scope="module")
def tokenizer(repository: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(repository / "all-minilm-l6-v2" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def scores(client: httpx2.Client, **body: Any) -> list[float]:
    """In the order of the documents."""
    results = sorted(post(client, **body)["results"], key=lambda result: result["index"])
    return [result["relevance_score"] for result in results]


def logits(pairs: list[Encoding]) -> NDArray[np.float64]:
    """What `odd_models.ECHO` answers to them."""
    return np.array([[sum(pair.ids) / 1e5, pair.type_ids.count(0) / 100] for pair in pairs])


def test_cross_encoder_scores_are_activated_logits_of_pairs(odd_client: httpx2.Client, tokenizer: Tokenizer) -> None:
    expected = logits(tokenizer.encode_batch([("sea shells", text) for text in DOCUMENTS]))
    sigmoid = 1 / (1 + np.exp(-expected[:, 0]))
    assert scores(odd_client, model="public-score", query="sea shells", documents=DOCUMENTS) == pytest.approx(sigmoid)


def test_positive_class_is_selected_and_the_first_segment_passed(
    odd_client: httpx2.Client, tokenizer: Tokenizer
) -> None:
    powers = np.exp(logits(tokenizer.encode_batch([("sea shells", text) for text in DOCUMENTS])))
    softmax = powers[:, 1] / powers.sum(1)
    assert scores(odd_client, model="pair-classes", query="sea shells", documents=DOCUMENTS) == pytest.approx(softmax)


def test_template_is_tokenized_as_one_text(odd_client: httpx2.Client, tokenizer: Tokenizer) -> None:
    prefix = TEMPLATE["prefix"].replace("{query}", "sea shells")
    texts = [prefix + text + TEMPLATE["suffix"] for text in DOCUMENTS]
    expected = logits(tokenizer.encode_batch(texts, add_special_tokens=False))[:, 0]
    assert scores(odd_client, model="templated", query="sea shells", documents=DOCUMENTS) == pytest.approx(expected)


def test_document_cannot_end_the_template(odd_client: httpx2.Client) -> None:
    as_text, as_words = scores(odd_client, model="templated", query="sea", documents=["a [SEP] b", "a [sep] b"])
    assert as_text == as_words


def test_usage_of_a_cross_encoder_counts_the_query_once(odd_client: httpx2.Client) -> None:
    answer = post(odd_client, model="public-score", query="sea shells", documents=["a sea snail", "brass", ""])
    assert answer["usage"]["total_tokens"] == 4 + (3 + 1) + (1 + 1) + 1  # [CLS] sea shells [SEP]


def test_pairs_are_truncated_to_the_limits_of_model_and_document(odd_client: httpx2.Client) -> None:
    body = {"model": "public-score", "query": "sea", "documents": ["long " * 300]}
    assert post(odd_client, **body)["usage"]["total_tokens"] == 256
    assert post(odd_client, **body, max_tokens_per_doc=50)["usage"]["total_tokens"] == 3 + 50 + 1
    template = {"model": "templated", "query": "sea", "documents": ["long " * 300]}
    assert post(odd_client, **template)["usage"]["total_tokens"] == 256
    prefix, suffix = 7, 1
    assert post(odd_client, **template, max_tokens_per_doc=50)["usage"]["total_tokens"] == prefix + 50 + suffix


def test_long_pairs_are_refused_on_request(odd_client: httpx2.Client) -> None:
    error = refused(odd_client, model="public-score", query="sea", documents=["a", "long " * 300], truncate=False)
    assert error["param"] == "documents[1]"
    assert error["message"] == ("documents[1] has 300 tokens; the limit of model 'public-score' with this query is 252")


def test_late_interaction_gets_the_models_prompts(odd_client: httpx2.Client, tokenizer: Tokenizer) -> None:
    query = logits([tokenizer.encode(PROMPTS["query"] + "sea")])
    documents = logits(tokenizer.encode_batch([PROMPTS["document"] + text for text in DOCUMENTS]))
    expected = (query + documents)[:, 0]
    assert scores(odd_client, model="prompted-late", query="sea", documents=DOCUMENTS) == pytest.approx(expected)


def test_query_is_truncated_if_the_model_was_trained_so(odd_client: httpx2.Client, tokenizer: Tokenizer) -> None:
    query = tokenizer.encode(PROMPTS["query"] + "sea shells " * 5).ids
    documents = [sum(one.ids) for one in tokenizer.encode_batch([PROMPTS["document"] + text for text in DOCUMENTS])]
    expected = [(sum(query[:7]) + query[-1] + document) / 1e5 for document in documents]
    body: dict[str, Any] = {"model": "short-query", "query": "sea shells " * 5, "documents": DOCUMENTS}
    assert scores(odd_client, **body) == pytest.approx(expected)
    error = refused(odd_client, **body, truncate=False)
    assert (error["param"], error["message"]) == (
        "query",
        f"query has {len(query)} tokens; the limit of model 'short-query' is 8",
    )


def test_query_of_a_cross_encoder_counts_with_each_document(client: httpx2.Client) -> None:
    documents = ["a " * 30] * 2048
    error = refused(client, 413, query="sea shells " * 60, documents=documents, model="minilm-late-interaction")
    assert error["param"] == "query"
    assert "counted with each of 2048 documents" in error["message"]


def test_cross_encoder_gets_the_models_default_prompt_before_the_query(
    odd_client: httpx2.Client, tokenizer: Tokenizer
) -> None:
    expected = logits(tokenizer.encode_batch([(INSTRUCT["query"] + "sea", text) for text in DOCUMENTS]))[:, 0]
    assert scores(odd_client, model="pair-instructed", query="sea", documents=DOCUMENTS) == pytest.approx(expected)


@pytest.mark.parametrize("field", ["instruction", "instruct"])
@pytest.mark.parametrize("instruction", ["rank shells", "{query} {document} [SEP]"])
def test_instruction_replaces_the_one_in_a_template(
    odd_client: httpx2.Client, tokenizer: Tokenizer, field: str, instruction: str
) -> None:
    written = instruction.replace("[SEP]", "[sep]")  # plain text, which a client's "[SEP]" is
    start, end = INSTRUCTED["prefix"].split("{instruction}")
    texts = [f"{start}{written}{end.replace('{query}', 'sea')}{text}{INSTRUCTED['suffix']}" for text in DOCUMENTS]
    expected = logits(tokenizer.encode_batch(texts, add_special_tokens=False))[:, 0]
    body = {"model": "templated-instructed", "query": "sea", "documents": DOCUMENTS, field: instruction}
    assert scores(odd_client, **body) == pytest.approx(expected)


def test_instruction_replaces_the_one_in_a_prompt(odd_client: httpx2.Client, tokenizer: Tokenizer) -> None:
    prompted = "Instruct: rank {query}\nQuery: sea"
    expected = logits(tokenizer.encode_batch([(prompted, text) for text in DOCUMENTS]))[:, 0]
    body = {"model": "pair-instructed", "query": "sea", "documents": DOCUMENTS, "instruction": "rank {query}"}
    assert scores(odd_client, **body) == pytest.approx(expected)


@pytest.mark.parametrize("model", ["templated", "public-score", "prompted-late"])
def test_instruction_without_a_place_is_refused(odd_client: httpx2.Client, model: str) -> None:
    error = refused(odd_client, model=model, query="sea", documents=["a"], instruction="rank shells")
    assert error["param"] == "instruction"
    assert error["message"].startswith(f"model {model!r} does not support instruction")


def test_instruction_is_limited_and_counted(odd_client: httpx2.Client) -> None:
    body: dict[str, Any] = {"model": "templated-instructed", "query": "sea", "documents": ["a"]}
    assert refused(odd_client, **body, instruction="a" * 4097)["param"] == "instruction"
    assert refused(odd_client, **body, instruction="")["param"] == "instruction"
    assert refused(odd_client, **body, instruction="a", instruct="b")["message"].startswith("instruction and instruct")
    error = refused(odd_client, **body, instruction="sea " * 130)
    assert error["message"] == (
        "query has 137 tokens; the limit of model 'templated-instructed' for query and instruction is 128"
    )


def test_use_activation_is_the_opposite_of_raw_scores(odd_client: httpx2.Client) -> None:
    def scores(**more: bool) -> list[float]:
        body = {"model": "public-score", "query": "sea", "documents": DOCUMENTS}
        return [one["relevance_score"] for one in post(odd_client, **body, **more)["results"]]

    assert scores(use_activation=False) == scores(raw_scores=True)
    assert scores(use_activation=True) == scores()
    assert scores() == pytest.approx(1 / (1 + np.exp(-np.array(scores(use_activation=False)))))


def test_embedding_model_ranks_by_cosine(client: httpx2.Client, odd_client: httpx2.Client) -> None:
    def unit(asked: httpx2.Client, **body: Any) -> NDArray[np.float64]:
        return np.array([item["embedding"] for item in asked.post("/v1/embeddings", json=body).json()["data"]])

    for asked, model, more in (
        (client, "all-minilm-l6-v2", {}),
        (odd_client, "prompted", {}),
        (odd_client, "embedding-instructed", {"instruction": "rank shells"}),
    ):
        (query,) = unit(asked, model=model, input="sea", input_type="query", **more)
        documents = unit(asked, model=model, input=DOCUMENTS, input_type="document")
        answer = post(asked, model=model, query="sea", documents=DOCUMENTS, **more)
        assert answer["model"] == model
        found = {one["index"]: one["relevance_score"] for one in answer["results"]}
        assert [found[i] for i in range(len(DOCUMENTS))] == pytest.approx(documents @ query, abs=1e-4)
        assert [*found.values()] == sorted(found.values(), reverse=True)
    usage = post(client, model="all-minilm-l6-v2", query="sea", documents=["brass"] * 2)["usage"]
    assert usage["prompt_tokens"] == 3 + 2 * 3


def test_embedding_model_ranks_images(client: httpx2.Client) -> None:
    picture = {"image": image(8, 8)}
    body = {"model": "minilm-pictogram", "input": ["a red heart", "a shell", picture]}
    query, *documents = (item["embedding"] for item in client.post("/v1/embeddings", json=body).json()["data"])
    answer = post(client, model="minilm-pictogram", query="a red heart", documents=["a shell", picture])
    found = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert [found[0], found[1]] == pytest.approx(np.array(documents) @ np.array(query), abs=1e-4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": "sea " * 300}, "query has 302 tokens; the limit of model 'all-minilm-l6-v2' is 256"),
        ({"truncate": False, "documents": ["a", "sea " * 300]}, "documents[1] has 302 tokens; the limit of model"),
        (
            {"max_chunks_per_doc": 2},
            "max_chunks_per_doc is not supported for model 'all-minilm-l6-v2': only rerank models split",
        ),
    ],
)
def test_embedding_model_does_not_take_all_that_rerankers_do(
    client: httpx2.Client, body: dict[str, Any], message: str
) -> None:
    error = refused(client, **{"model": "all-minilm-l6-v2", "query": "sea", "documents": ["a"], **body})
    assert error["message"].startswith(message)
