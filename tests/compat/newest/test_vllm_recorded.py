"""Requests of each kind that vLLM's tests of its pooling server make, with the numbers that must come back.

The tests are in tests/entrypoints/pooling of vllm-project/vllm. Models are replaced by ours of the same kind, and texts
by ours. A kind that Conch does not support must be refused with the reason.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.compat.plain import (
    CLASSIFIER,
    CROSS,
    EVERY,
    IMAGE_MODEL,
    LONG,
    MODEL,
    PIXEL,
    PROMPTED,
    QUERY,
    RERANKER,
    TEXTS,
    Plain,
)

TEXT = TEXTS[0]
QUERIES = [QUERY, "what is a conch?"]
PAIR = TEXTS[:2]
TURNS = [
    {"role": "user", "content": "The cat sat on the mat."},
    {"role": "assistant", "content": "A feline was resting on a rug."},
    {"role": "user", "content": "Stars twinkle brightly in the night sky."},
]
IMAGE = {"type": "image_url", "image_url": {"url": PIXEL}}
SOURCES: Mapping[str, str] = {
    "basic/test_truncation.py": "1711f0d",
    "classify/test_online.py": "030ea52",
    "classify/test_online_vision.py": "0193ccc",
    "embed/test_cohere_online.py": "00d8e27",
    "embed/test_cohere_online_vision.py": "416e795",
    "embed/test_cohere_openai_parity.py": "41c5903",
    "embed/test_online.py": "00bd149",
    "embed/test_online_dimensions.py": "2743730",
    "embed/test_online_long_text.py": "2743730",
    "embed/test_online_vision.py": "1d77d01",
    "reward/test_token_reward_online.py": "0c7c443",
    "scoring/test_bi_encoder_online.py": "2119286",
    "scoring/test_cross_encoder_online.py": "29fda79",
    "scoring/test_cross_encoder_online_vision.py": "01e4fce",
    "scoring/test_late_interaction_online.py": "41c5903",
    "scoring/test_late_interaction_online_vision.py": "41c5903",
    "token_classify/test_online.py": "081d0a9",
    "token_embed/test_online.py": "2160275",
}
"""Files with requests, and the commits at which they were read."""

Rows = Sequence[NDArray[np.float64]]
Expected = Callable[[Plain], Sequence[Any]]


@dataclass(frozen=True)
class Kind:
    """A request."""

    file: str
    test: str
    path: str
    body: Mapping[str, Any]
    expected: Expected | str
    """The numbers for each input or, if the request is refused, words of the reason."""
    tokens: int | None = None
    """The prompt tokens in the usage, if they are known."""
    tolerance: float = 1e-4


def vectors(*texts: str, model: str = MODEL, **fields: Any) -> Expected:
    return lambda plain: plain.embed(texts, model=model, **fields)


def token_vectors(*texts: str) -> Expected:
    return lambda plain: [one.tokens for one in plain.kinds(texts)]


def token_ids(text: str, model: str) -> Expected:
    """By TEI's API."""
    return lambda plain: [[one["id"] for one in plain.post("/tokenize", {"inputs": text, "model": model})[1][0]]]


def cosines(*pairs: tuple[Any, Any], model: str = MODEL) -> Expected:
    def computed(plain: Plain) -> list[float]:
        sides = [np.array(plain.embed(side, model=model)) for side in map(list, zip(*pairs, strict=True))]
        return [float(cosine) for cosine in (sides[0] * sides[1]).sum(1)]

    return computed


def relevance(*pairs: tuple[str, str], model: str = CROSS, **fields: Any) -> Expected:
    """Of each pair alone."""
    return lambda plain: [plain.rank(query, [text], model=model, **fields)[0][1] for query, text in pairs]


def probabilities(*texts: str, model: str = CLASSIFIER, **fields: Any) -> Expected:
    """By TEI's API, which has the best label first."""

    def computed(plain: Plain) -> list[list[float]]:
        labels = plain.get(f"/v1/models/{model}")["labels"]
        status, answer = plain.post("/predict", {"model": model, "inputs": [[text] for text in texts], **fields})
        assert status == 200, answer
        return [[next(one["score"] for one in scored if one["label"] == name) for name in labels] for scored in answer]

    return computed


def many(file: str, path: str, body: Mapping[str, Any], expected: Expected) -> list[Kind]:
    """The same vectors in every form of bytes."""
    return [
        Kind(
            file,
            f"{test}_embed_dtype_and_endianness",
            path,
            {**body, "encoding_format": form, "embed_dtype": embed_dtype, "endianness": endianness},
            expected,
            tolerance=1e-2,
        )
        for form, test in (("base64", "base64"), ("bytes", "bytes"), ("bytes_only", "bytes_only"))
        for embed_dtype in ("float32", "float16", "bfloat16")
        for endianness in ("native", "big", "little")
    ]


def pair_forms(file: str, model: str, scored: Callable[..., Expected]) -> list[Kind]:
    """The fields of /score, which vLLM's tests send to each kind of model."""
    both = [(QUERIES[0], PAIR[0]), (QUERIES[1], PAIR[1])]
    forms: list[tuple[str, Mapping[str, Any], list[tuple[str, str]]]] = [
        ("queries_str_1_documents_str_1", {"queries": QUERY, "documents": TEXT}, [(QUERY, TEXT)]),
        ("queries_str_1_documents_str_n", {"queries": QUERY, "documents": PAIR}, [(QUERY, text) for text in PAIR]),
        ("queries_str_n_documents_str_n", {"queries": QUERIES, "documents": PAIR}, both),
        ("queries_vs_items", {"queries": QUERIES, "items": PAIR}, both),
        ("text_1_vs_text_2", {"text_1": QUERIES, "text_2": PAIR}, both),
        ("data_1_vs_data_2", {"data_1": QUERIES, "data_2": PAIR}, both),
    ]
    return [
        Kind(file, f"score_api_{name}", "/score", {"model": model, **body}, scored(*pairs), tolerance=1e-2)
        for name, body, pairs in forms
    ]


EMBED = "embed/test_online.py"
COHERE = "embed/test_cohere_online.py"
CLASSIFY = "classify/test_online.py"
REWARD = "reward/test_token_reward_online.py"
CROSSED = "scoring/test_cross_encoder_online.py"
BI = "scoring/test_bi_encoder_online.py"
LATE = "scoring/test_late_interaction_online.py"
VISION = "scoring/test_cross_encoder_online_vision.py"
SEEN = {"model": IMAGE_MODEL, "queries": "a red heart"}
RANK = {"query": QUERY, "documents": TEXTS}
ONE = {"model": MODEL, "input": TEXT}
LABEL = {"model": CLASSIFIER, "input": TEXT}
POOL = {"model": EVERY, "input": TEXTS}
RANKED = [(QUERY, text) for text in TEXTS]

KINDS = (
    Kind(EMBED, "basic", "/tokenize", {"model": MODEL, "prompt": TEXT}, token_ids(TEXT, MODEL)),
    Kind(EMBED, "completion_request", "/v1/embeddings", {**ONE, "encoding_format": "float"}, vectors(TEXT), 11),
    Kind(EMBED, "completion_request", "/v1/embeddings", {**ONE, "input": [101, 2712, 102]}, vectors("sea"), 3),
    Kind(EMBED, "completion_request_batched", "/v1/embeddings", {**ONE, "input": [TEXT] * 10}, vectors(*[TEXT] * 10)),
    Kind(
        EMBED,
        "completion_request_batched",
        "/v1/embeddings",
        {**ONE, "input": [[101, 2712, 102]] * 10},
        vectors(*["sea"] * 10),
        30,
    ),
    Kind(
        EMBED,
        "truncate_prompt_tokens",
        "/v1/embeddings",
        {**ONE, "input": [LONG], "truncate_prompt_tokens": 10},
        vectors("sea " * 8),
        10,
    ),
    Kind(
        EMBED,
        "truncate_prompt_tokens",
        "/v1/embeddings",
        {**ONE, "input": [101, *[2712] * 20, 102], "truncate_prompt_tokens": 10},
        vectors("sea " * 8),
        10,
    ),
    Kind(EMBED, "chat_request", "/v1/embeddings", {"model": MODEL, "messages": TURNS}, "only one user message"),
    Kind(
        EMBED,
        "chat_request",
        "/v1/embeddings",
        {**ONE, "add_special_tokens": False},
        vectors(TEXT, add_special_tokens=False),
        9,
    ),
    Kind(EMBED, "invocations_completion_request", "/invocations", {**ONE, "encoding_format": "float"}, vectors(TEXT)),
    Kind(
        EMBED, "invocations_chat_request", "/invocations", {"model": MODEL, "messages": TURNS}, "only one user message"
    ),
    Kind(EMBED, "base64_embedding", "/v1/embeddings", {**ONE, "encoding_format": "base64"}, vectors(TEXT)),
    *many(EMBED, "/v1/embeddings", {**ONE, "input": [TEXT] * 3}, vectors(*[TEXT] * 3)),
    Kind(
        EMBED,
        "base64_embed_dtype_and_endianness",
        "/v1/embeddings",
        {**ONE, "encoding_format": "base64", "embed_dtype": "fp8_e4m3"},
        "'fp8_e4m3' is not one of bfloat16, float16, float32",
    ),
    *(
        Kind(
            EMBED, "params_not_supported", "/v1/embeddings", {**ONE, name: f"bad_{name}"}, f"'bad_{name}' is not one of"
        )
        for name in ("encoding_format", "embed_dtype", "endianness")
    ),
    Kind(EMBED, "use_activation", "/v1/embeddings", {**ONE, "use_activation": True}, vectors(TEXT)),
    Kind(EMBED, "use_activation", "/v1/embeddings", {**ONE, "use_activation": False}, vectors(TEXT, normalized=False)),
    Kind(EMBED, "pooling_embed", "/pooling", {**ONE, "task": "embed"}, vectors(TEXT), 11),
    Kind(
        EMBED,
        "pooling_token_embed",
        "/pooling",
        {"model": EVERY, "input": TEXT, "task": "token_embed"},
        token_vectors(TEXT),
    ),
    Kind(EMBED, "pooling_not_supported", "/pooling", {**ONE, "task": "classify"}, "for this endpoint"),
    Kind(EMBED, "pooling_not_supported", "/pooling", {**ONE, "task": "token_classify"}, "is not one of"),
    Kind(EMBED, "pooling_not_supported", "/pooling", {**ONE, "task": "plugin"}, "is not one of"),
    Kind(
        "basic/test_truncation.py",
        "smaller_truncation_size",
        "/v1/embeddings",
        {**ONE, "input": LONG, "truncate_prompt_tokens": 10},
        vectors("sea " * 8),
        10,
    ),
    Kind(
        "basic/test_truncation.py",
        "bigger_truncation_size",
        "/v1/embeddings",
        {**ONE, "input": LONG, "truncate_prompt_tokens": 257},
        vectors("sea " * 254),
        256,
    ),
    Kind(
        "basic/test_truncation.py",
        "max_truncation_size",
        "/v1/embeddings",
        {**ONE, "input": LONG, "truncate_prompt_tokens": -1},
        vectors("sea " * 254),
        256,
    ),
    Kind(
        "embed/test_online_dimensions.py",
        "matryoshka",
        "/v1/embeddings",
        {"model": PROMPTED, "input": TEXTS, "dimensions": 64},
        lambda plain: [np.array(one[:64]) / np.linalg.norm(one[:64]) for one in plain.embed(TEXTS, model=PROMPTED)],
    ),
    Kind("embed/test_online_dimensions.py", "matryoshka", "/v1/embeddings", {**ONE, "dimensions": 16}, "supports 384"),
    Kind(
        "embed/test_online_dimensions.py",
        "matryoshka",
        "/v1/embeddings",
        {**ONE, "dimensions": -1},
        "dimensions: Expected",
    ),
    Kind(
        "embed/test_online_long_text.py",
        "long_text_embedding_1500_chars",
        "/v1/embeddings",
        {**ONE, "input": [LONG], "encoding_format": "float"},
        "the limit of model",
    ),
    Kind(
        "embed/test_online_long_text.py",
        "chunked_vs_normal_consistency",
        "/v1/embeddings",
        {**ONE, "input": [TEXT]},
        vectors(TEXT),
    ),
    Kind(
        "embed/test_online_vision.py",
        "chat_text_request",
        "/v1/embeddings",
        {"model": IMAGE_MODEL, "messages": [{"role": "user", "content": TEXT}]},
        vectors(TEXT, model=IMAGE_MODEL),
    ),
    Kind(
        "embed/test_online_vision.py",
        "chat_image_base64_request",
        "/v1/embeddings",
        {"model": IMAGE_MODEL, "messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}, IMAGE]}]},
        lambda plain: plain.embed([{"text": TEXT, "image": PIXEL}], model=IMAGE_MODEL),
    ),
    Kind(
        "embed/test_online_vision.py",
        "chat_image_url_request",
        "/v1/embeddings",
        {
            "model": IMAGE_MODEL,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "https://example.com/cat.jpg"}}],
                }
            ],
        },
        "does not fetch images",
    ),
    Kind(
        "embed/test_online_vision.py",
        "chat_image_with_media_io_kwargs",
        "/v1/embeddings",
        {
            "model": IMAGE_MODEL,
            "messages": [{"role": "user", "content": [IMAGE]}],
            "media_io_kwargs": {"image": {"rgba_background_color": [0, 0, 0]}},
        },
        "media_io_kwargs: transparent pixels become white",
    ),
    Kind(
        COHERE,
        "basic_embed",
        "/v2/embed",
        {"model": MODEL, "texts": [TEXT], "embedding_types": ["float"]},
        vectors(TEXT),
        11,
    ),
    Kind(
        COHERE,
        "unsupported_input_type_rejected",
        "/v2/embed",
        {"model": MODEL, "texts": [TEXT], "input_type": "nonexistent_type"},
        "unknown input_type 'nonexistent_type'",
    ),
    Kind(COHERE, "batch", "/v2/embed", {"model": MODEL, "texts": TEXTS, "embedding_types": ["float"]}, vectors(*TEXTS)),
    Kind(COHERE, "omitted_input_type_accepted", "/v2/embed", {"model": MODEL, "texts": TEXTS}, vectors(*TEXTS)),
    Kind(
        COHERE,
        "embedding_types",
        "/v2/embed",
        {"model": MODEL, "texts": [TEXT], "embedding_types": ["binary"]},
        vectors(TEXT, embedding_type="binary"),
    ),
    Kind(
        COHERE,
        "embedding_types",
        "/v2/embed",
        {"model": MODEL, "texts": [TEXT], "embedding_types": ["ubinary"]},
        vectors(TEXT, embedding_type="ubinary"),
    ),
    Kind(
        COHERE,
        "base64_embedding_type",
        "/v2/embed",
        {"model": MODEL, "texts": [TEXT], "embedding_types": ["base64"]},
        vectors(TEXT),
    ),
    Kind(
        COHERE, "missing_input_returns_error", "/v2/embed", {"model": MODEL}, "exactly one of texts, images and inputs"
    ),
    Kind(
        COHERE,
        "truncate_end_succeeds",
        "/v2/embed",
        {"model": MODEL, "texts": [LONG], "truncate": "END"},
        vectors("sea " * 254),
        256,
    ),
    Kind(
        COHERE,
        "truncate_start_succeeds",
        "/v2/embed",
        {"model": MODEL, "texts": ["shell " + LONG], "truncate": "START"},
        vectors("sea " * 254),
        256,
    ),
    Kind(
        COHERE,
        "truncate_none_rejects_long_input",
        "/v2/embed",
        {"model": MODEL, "texts": [LONG], "truncate": "NONE"},
        "the limit of model",
    ),
    Kind(
        "embed/test_cohere_openai_parity.py",
        "batch_parity",
        "/v2/embed",
        {"model": MODEL, "texts": TEXTS, "embedding_types": ["float"]},
        vectors(*TEXTS),
    ),
    Kind(
        "embed/test_cohere_online_vision.py",
        "image_embed",
        "/v2/embed",
        {"model": IMAGE_MODEL, "images": [PIXEL], "embedding_types": ["float"]},
        lambda plain: plain.embed([{"image": PIXEL}], model=IMAGE_MODEL),
    ),
    Kind(
        "embed/test_cohere_online_vision.py",
        "text_embed_on_multimodal",
        "/v2/embed",
        {"model": IMAGE_MODEL, "texts": [TEXT], "embedding_types": ["float"]},
        vectors(TEXT, model=IMAGE_MODEL),
    ),
    Kind(CLASSIFY, "basic", "/tokenize", {"model": CLASSIFIER, "prompt": TEXT}, token_ids(TEXT, CLASSIFIER)),
    Kind(CLASSIFY, "completion_request", "/classify", LABEL, probabilities(TEXT)),
    Kind(
        CLASSIFY,
        "completion_request_batched",
        "/classify",
        {**LABEL, "input": [TEXT] * 10},
        probabilities(*[TEXT] * 10),
    ),
    Kind(CLASSIFY, "empty_input_error", "/classify", {**LABEL, "input": []}, "input: Expected"),
    Kind(
        CLASSIFY,
        "truncate_prompt_tokens",
        "/classify",
        {**LABEL, "input": "a " * 600, "truncate_prompt_tokens": 5},
        probabilities("a a a"),
        5,
    ),
    Kind(CLASSIFY, "add_special_tokens", "/classify", {**LABEL, "add_special_tokens": True}, probabilities(TEXT)),
    Kind(
        CLASSIFY,
        "chat_request",
        "/classify",
        {"model": CLASSIFIER, "messages": TURNS},
        "conversations are not supported",
    ),
    Kind(CLASSIFY, "invocations_completion_request", "/invocations", LABEL, probabilities(TEXT)),
    Kind(
        CLASSIFY,
        "use_activation",
        "/classify",
        {**LABEL, "use_activation": False},
        probabilities(TEXT, raw_scores=True),
    ),
    Kind(CLASSIFY, "use_activation", "/classify", {**LABEL, "use_activation": True}, probabilities(TEXT)),
    Kind(
        CLASSIFY, "score", "/score", {"model": CLASSIFIER, "queries": "ping", "documents": "pong"}, "for this endpoint"
    ),
    Kind(
        CLASSIFY,
        "rerank",
        "/rerank",
        {"model": CLASSIFIER, "query": "ping", "documents": ["pong"]},
        "for this endpoint",
    ),
    Kind(CLASSIFY, "pooling_classify", "/pooling", {**LABEL, "task": "classify"}, probabilities(TEXT)),
    Kind(CLASSIFY, "pooling_not_supported", "/pooling", {**LABEL, "task": "embed"}, "for this endpoint"),
    Kind(
        "classify/test_online_vision.py",
        "classify_accepts_chat_video_url",
        "/classify",
        {
            "model": CLASSIFIER,
            "messages": [
                {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}]}
            ],
        },
        "conversations are not supported",
    ),
    Kind(REWARD, "completion_request", "/pooling", {**POOL, "encoding_format": "float"}, token_vectors(*TEXTS)),
    Kind(REWARD, "batch_base64_pooling", "/pooling", {**POOL, "encoding_format": "base64"}, token_vectors(*TEXTS)),
    *many(REWARD, "/pooling", {**POOL, "input": [TEXT] * 3}, token_vectors(*[TEXT] * 3)),
    Kind(REWARD, "chat_request", "/pooling", {"model": EVERY, "messages": TURNS}, "only one user message"),
    Kind(REWARD, "invocations", "/invocations", {**POOL, "task": "token_embed"}, token_vectors(*TEXTS)),
    Kind(
        "token_embed/test_online.py",
        "pooling_token_embed",
        "/pooling",
        {**POOL, "task": "token_embed"},
        token_vectors(*TEXTS),
    ),
    Kind(
        "token_classify/test_online.py",
        "pooling_token_classify",
        "/pooling",
        {**LABEL, "task": "token_classify"},
        "is not one of",
    ),
    Kind(CROSSED, "basic", "/tokenize", {"model": CROSS, "prompt": TEXT}, token_ids(TEXT, CROSS)),
    *pair_forms(CROSSED, CROSS, relevance),
    Kind(CROSSED, "rerank_api_texts", "/rerank", {"model": CROSS, **RANK}, relevance(*RANKED)),
    Kind(CROSSED, "rerank_api_top_n", "/rerank", {"model": CROSS, **RANK, "top_n": 3}, relevance(*RANKED)),
    Kind(
        CROSSED,
        "rerank_api_max_model_len",
        "/rerank",
        {"model": CROSS, **RANK, "query": QUERY * 100},
        "the limit of model",
    ),
    Kind(
        CROSSED,
        "score_api_max_model_len",
        "/score",
        {"model": CROSS, "queries": QUERY * 100, "documents": TEXTS},
        "the limit of model",
    ),
    Kind(CROSSED, "invocations", "/invocations", {"model": CROSS, **RANK}, relevance(*RANKED)),
    Kind(CROSSED, "use_activation", "/rerank", {"model": CROSS, **RANK, "use_activation": True}, relevance(*RANKED)),
    Kind(
        CROSSED,
        "use_activation",
        "/rerank",
        {"model": CROSS, **RANK, "use_activation": False},
        relevance(*RANKED, raw_scores=True),
    ),
    Kind(
        CROSSED,
        "pooling_classify",
        "/pooling",
        {"model": CROSS, "input": TEXT, "task": "classify"},
        "must be a pair of texts",
    ),
    Kind(
        CROSSED,
        "rerank_max_tokens_per_doc",
        "/rerank",
        {"model": CROSS, "query": "a", "documents": ["a " * 50], "max_tokens_per_doc": 10},
        relevance(("a", "a " * 10)),
    ),
    Kind(
        CROSSED,
        "rerank_max_tokens_per_doc_validation",
        "/rerank",
        {"model": CROSS, **RANK, "max_tokens_per_doc": 0},
        "max_tokens_per_doc: Expected",
    ),
    Kind(
        CROSSED,
        "pooling_token_classify",
        "/pooling",
        {"model": CROSS, "input": TEXT, "task": "token_classify"},
        "is not one of",
    ),
    Kind(
        CROSSED,
        "pooling_not_supported",
        "/pooling",
        {"model": CROSS, "input": TEXT, "task": "embed"},
        "for this endpoint",
    ),
    Kind(
        CROSSED,
        "rerank_max_tokens_per_doc_reduces_tokens",
        "/rerank",
        {"model": CROSS, "query": "a", "documents": ["a " * 200], "truncate_prompt_tokens": 99},
        relevance(("a", "a " * 95)),
    ),
    *pair_forms(BI, MODEL, cosines),
    Kind(BI, "rerank_api_texts", "/rerank", {"model": MODEL, **RANK}, cosines(*RANKED)),
    Kind(BI, "rerank_api_top_n", "/rerank", {"model": MODEL, **RANK, "top_n": 3}, cosines(*RANKED)),
    Kind(BI, "rerank_api_max_model_len", "/rerank", {"model": MODEL, **RANK, "query": LONG}, "query has 402 tokens"),
    Kind(BI, "invocations", "/invocations", {"model": MODEL, **RANK}, cosines(*RANKED)),
    Kind(BI, "pooling_embed", "/pooling", {**ONE, "task": "embed"}, vectors(TEXT)),
    Kind(BI, "pooling_not_supported", "/pooling", {**ONE, "task": "classify"}, "for this endpoint"),
    Kind(
        BI,
        "score_api_max_model_len",
        "/score",
        {"model": MODEL, "queries": LONG, "documents": TEXTS},
        "the limit of model",
    ),
    Kind(
        BI,
        "score_api_max_model_len",
        "/score",
        {"model": MODEL, "queries": LONG, "documents": TEXTS, "truncate_prompt_tokens": 257},
        cosines(*[("sea " * 254, text) for text in TEXTS]),
    ),
    *pair_forms(LATE, RERANKER, lambda *pairs: relevance(*pairs, model=RERANKER)),
    Kind(
        LATE,
        "rerank_api_texts",
        "/rerank",
        {"model": RERANKER, **RANK},
        relevance(*RANKED, model=RERANKER),
        tolerance=1e-2,
    ),
    Kind(
        LATE,
        "rerank_api_top_n",
        "/rerank",
        {"model": RERANKER, **RANK, "top_n": 3},
        relevance(*RANKED, model=RERANKER),
        tolerance=1e-2,
    ),
    Kind(LATE, "token_embed", "/pooling", {"model": EVERY, "input": TEXT, "task": "token_embed"}, token_vectors(TEXT)),
    Kind(
        LATE,
        "embed_not_supported",
        "/pooling",
        {"model": RERANKER, "input": TEXT, "task": "embed"},
        "for this endpoint",
    ),
    Kind(
        VISION,
        "score_api_queries_str_documents_text_content",
        "/score",
        {**SEEN, "documents": {"content": [{"type": "text", "text": TEXT}]}},
        cosines(("a red heart", TEXT), model=IMAGE_MODEL),
    ),
    Kind(
        VISION,
        "score_api_queries_str_documents_image_base64_content",
        "/score",
        {**SEEN, "documents": {"content": [IMAGE]}},
        cosines(("a red heart", {"image": PIXEL}), model=IMAGE_MODEL),
    ),
    Kind(
        VISION,
        "score_api_queries_str_documents_list",
        "/score",
        {**SEEN, "documents": [TEXT, {"content": [IMAGE]}, {"content": [{"type": "text", "text": TEXT}, IMAGE]}]},
        cosines(
            ("a red heart", TEXT),
            ("a red heart", {"image": PIXEL}),
            ("a red heart", {"text": TEXT, "image": PIXEL}),
            model=IMAGE_MODEL,
        ),
    ),
    Kind(
        VISION,
        "rerank_api_queries_str_documents_list",
        "/rerank",
        {
            "model": IMAGE_MODEL,
            "query": "a red heart",
            "documents": [TEXT, {"content": [IMAGE]}, {"content": [{"type": "text", "text": TEXT}, IMAGE]}],
        },
        cosines(
            ("a red heart", TEXT),
            ("a red heart", {"image": PIXEL}),
            ("a red heart", {"text": TEXT, "image": PIXEL}),
            model=IMAGE_MODEL,
        ),
    ),
    Kind(
        "scoring/test_late_interaction_online_vision.py",
        "score_api_query_image_vs_docs_text",
        "/score",
        {"model": IMAGE_MODEL, "queries": {"content": [IMAGE]}, "documents": TEXTS},
        cosines(*[({"image": PIXEL}, text) for text in TEXTS], model=IMAGE_MODEL),
    ),
)


def unpacked(body: Mapping[str, Any], packed: bytes) -> NDArray[np.float64]:
    """Floats as the body wants them in bytes."""
    order = ">" if body.get("endianness") == "big" else "<"
    match body.get("embed_dtype", "float32"):
        case "bfloat16":
            return (np.frombuffer(packed, order + "u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        case "float16":
            return np.frombuffer(packed, order + "f2").astype(np.float64)
    return np.frombuffer(packed, order + "f4").astype(np.float64)


def from_bytes(body: Mapping[str, Any], headers: Mapping[str, str], content: bytes) -> Rows:
    if body["encoding_format"] == "bytes_only":
        assert "metadata" not in headers
        size = len(content) // len(body["input"])
        return [unpacked(body, content[start : start + size]) for start in range(0, len(content), size)]
    items = json.loads(headers["metadata"])["data"]
    assert [(item["embed_dtype"], item["endianness"]) for item in items] == [
        (body["embed_dtype"], body["endianness"])
    ] * len(items)
    return [unpacked(body, content[item["start"] : item["end"]]).reshape(item["shape"]) for item in items]


def from_json(body: Mapping[str, Any], answer: Any) -> Rows:
    """The numbers of each input, whatever the answer."""
    if "tokens" in answer:
        return [np.array(answer["tokens"])]
    if "results" in answer:
        return [np.array(one["relevance_score"]) for one in sorted(answer["results"], key=lambda one: one["index"])]
    if "embeddings" in answer:
        (column,) = answer["embeddings"].values()
    else:
        assert [one["index"] for one in answer["data"]] == [*range(len(answer["data"]))]
        names = ("embedding", "data", "score", "probs")
        column = [next(one[name] for name in names if name in one) for one in answer["data"]]
    return [unpacked(body, base64.b64decode(one)) if isinstance(one, str) else np.array(one) for one in column]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind,
            marks=[
                pytest.mark.client("vllm-project/vllm", 'the URL `"URL"`', version=SOURCES[kind.file]),
                pytest.mark.call(f"requests of `tests/entrypoints/pooling/{kind.file}`"),
            ],
            id=f"{kind.file}-{kind.test}-{i}",
        )
        for i, kind in enumerate(KINDS)
    ],
)
def test_kind(plain: Plain, kind: Kind) -> None:
    status, headers, content = plain.send(kind.path, kind.body)
    if isinstance(kind.expected, str):
        assert status in (400, 404), content
        assert kind.expected in content.decode()
        return
    assert status == 200, content
    is_bytes = headers["content-type"] == "application/octet-stream"
    answer = {} if is_bytes else json.loads(content)
    found = from_bytes(kind.body, headers, content) if is_bytes else from_json(kind.body, answer)
    expected = kind.expected(plain)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.reshape(np.shape(theirs)) == pytest.approx(np.array(theirs), abs=kind.tolerance)
    if kind.tokens is not None:
        usage = answer["usage"] if "usage" in answer else {"prompt_tokens": answer["meta"]["tokens"]["input_tokens"]}
        assert usage["prompt_tokens"] == kind.tokens


@pytest.mark.client("vllm-project/vllm", 'the URL `"URL"`', version="00bd149")
@pytest.mark.call("`/v1/models`, `/ping`, `/version`, `/load`")
def test_state(plain: Plain) -> None:
    models = {model["id"]: model for model in plain.get("/v1/models")["data"]}
    assert models[MODEL]["max_model_len"] == 256
    assert plain.get("/ping")["status"] == "ready"
    assert plain.get("/version")["version"]
    assert 0 <= plain.get("/load")["server_load"] < len(KINDS)


@pytest.mark.client("vllm-project/vllm", 'the URL `"URL"`', version="00bd149")
@pytest.mark.call("`/detokenize`, `/tokenize`")
def test_tokens_and_back(plain: Plain) -> None:
    status, answer = plain.post("/tokenize", {"model": MODEL, "prompt": "sea shells", "return_token_strs": True})
    assert (status, answer["count"], answer["max_model_len"]) == (200, 4, 256)
    assert answer["token_strs"] == ["[CLS]", "sea", "shells", "[SEP]"]
    status, text = plain.post("/detokenize", {"model": MODEL, "tokens": answer["tokens"]})
    assert (status, text) == (200, {"prompt": "[CLS] sea shells [SEP]"})
    status, answer = plain.post("/tokenize", {"model": MODEL, "prompt": "sea shells", "add_special_tokens": False})
    assert (answer["count"], answer["token_strs"]) == (2, None)
