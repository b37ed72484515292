"""Models that are exported while the server runs are loaded beside the others, and answer as transformers does."""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from tritonclient import grpc

from export.manifest import ModelSpec
from export.repository import build
from export.verification.samples import images
from loadtest.tools import tiny
from tests.serving import ADMIN, Server, serve
from tests.waiting import eventually

QUERY = "How do I reset my password?"
DOCUMENTS = ["Water boils.", "Choose a new password in the settings of your account.", "Der Zug hat Verspätung."]


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server of the default models, and the folder that it serves."""
    served = tmp_path_factory.mktemp("served")
    for name in ("all-minilm-l6-v2", "minilm-late-interaction"):
        (served / name).symlink_to((repository / name).resolve())
    with serve(served) as running:
        yield running, served


def load(server: Server, model: str) -> None:
    url = f"http://127.0.0.1:{server.ports['TRITON_HTTP_PORT']}/v2/repository/models/{model}/load"
    answer = httpx2.post(url, json={}, headers=ADMIN, timeout=30)
    assert answer.status_code == 200, answer.text


def post(server: Server, path: str, body: Mapping[str, object]) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", json=body, timeout=30)


def image_embeddings(server: Server, model: str, source: Path) -> float:
    """The lowest cosine of an image tower's vectors with transformers'."""
    pixels = np.stack(images(tiny.IMAGE, tiny.IMAGE))
    tensor = grpc.InferInput("pixels", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    with grpc.InferenceServerClient(server.triton_url) as client:
        answered = client.infer(model, [tensor]).as_numpy("embedding")
    ready = AutoImageProcessor.from_pretrained(source, use_fast=False)(
        [Image.fromarray(one.transpose(1, 2, 0)) for one in pixels], do_resize=False, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = AutoModel.from_pretrained(source).get_image_features(**ready).pooler_output.numpy()
    norms = np.linalg.norm(answered, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((answered * expected).sum(1) / norms).min())


def test_int8_embeds_nearly_as_sentence_transformers_does(server: tuple[Server, Path], tmp_path: Path) -> None:
    running, served = server
    source = tiny.write_embedding(tmp_path / "source")
    spec = ModelSpec(name="tiny-int8", task="text-embedding", source=str(source), precision="int8")
    build(spec, served, progress=print)
    load(running, "tiny-int8")
    body = {"model": "tiny-int8", "input": DOCUMENTS}
    assert eventually(lambda: post(running, "/v1/embeddings", body).status_code == 200)
    answered = np.array([one["embedding"] for one in post(running, "/v1/embeddings", body).json()["data"]])
    expected = SentenceTransformer(str(source), device="cpu").encode(DOCUMENTS)
    assert (answered * expected).sum(1).min() >= 0.98


def test_cross_encoder_ranks_as_sentence_transformers_does(server: tuple[Server, Path], tmp_path: Path) -> None:
    running, served = server
    source = tiny.write_cross_encoder(tmp_path / "source")
    build(ModelSpec(name="tiny-cross", task="cross-encoder", source=str(source)), served, progress=print)
    load(running, "tiny-cross")
    body = {"model": "tiny-cross", "query": QUERY, "documents": DOCUMENTS}
    assert eventually(lambda: post(running, "/v1/rerank", body).status_code == 200)
    results = post(running, "/v1/rerank", body).json()["results"]
    expected = CrossEncoder(str(source), device="cpu").predict([(QUERY, document) for document in DOCUMENTS])
    scores = [one["relevance_score"] for one in results]
    assert scores == sorted(scores, reverse=True)  # in bf16, close ones may change places
    assert scores == pytest.approx([expected[one["index"]] for one in results], abs=1e-2)
    # The default model is still the default.
    assert post(running, "/v1/rerank", body | {"model": "minilm-late-interaction"}).status_code == 200


def test_decoder_ranks_for_an_instruction_as_sentence_transformers_does(
    server: tuple[Server, Path], tmp_path: Path
) -> None:
    running, served = server
    source = tiny.write_logit_score(tmp_path / "source", chat_template=tiny.PAIRS_TEMPLATE)
    spec = ModelSpec(name="tiny-decoder", task="cross-encoder", source=str(source), precision="fp32")
    build(spec, served, progress=print)
    load(running, "tiny-decoder")
    reference = CrossEncoder(str(source), device="cpu")
    pairs = [(QUERY, document) for document in DOCUMENTS]
    for instruction in (None, "Say whether it helps."):
        body = {"model": "tiny-decoder", "query": QUERY, "documents": DOCUMENTS, "instruction": instruction}
        assert eventually(lambda body=body: post(running, "/v1/rerank", body).status_code == 200)  # type: ignore[misc]
        results = post(running, "/v1/rerank", body).json()["results"]
        expected = reference.predict(pairs, prompt=instruction)
        scores = {one["index"]: one["relevance_score"] for one in results}
        assert [scores[i] for i in range(len(pairs))] == pytest.approx(expected.tolist(), abs=1e-5)


def test_clip_embeds_text_as_transformers_does(server: tuple[Server, Path], tmp_path: Path) -> None:
    running, served = server
    source = tiny.write_image_text(tmp_path / "source", "CLIP")
    entries = build(ModelSpec(name="tiny-clip", task="image-text", source=str(source)), served, progress=print)
    assert [entry.folder.name for entry in entries] == ["tiny-clip-text", "tiny-clip-image"]
    for entry in entries:
        load(running, entry.folder.name)
    body = {"model": "tiny-clip", "input": DOCUMENTS}
    assert eventually(lambda: post(running, "/v1/embeddings", body).status_code == 200)
    answered = np.array([one["embedding"] for one in post(running, "/v1/embeddings", body).json()["data"]])
    model, tokenizer = AutoModel.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    with torch.inference_mode():
        ids = [tokenizer(text, return_tensors="pt").input_ids for text in DOCUMENTS]
        features = torch.cat([model.get_text_features(input_ids=one).pooler_output for one in ids])
    expected = torch.nn.functional.normalize(features, dim=1).numpy()
    assert (answered * expected).sum(1).min() >= 0.9999
    assert image_embeddings(running, "tiny-clip-image", source) >= 0.9999
    names = [one["id"] for one in httpx2.get(f"{running.url}/v1/models").json()["data"]]
    assert "tiny-clip" in names
    assert "tiny-clip-text" not in names


def embedded(server: Server, spec: ModelSpec, repository: Path, **body: object) -> np.ndarray:
    """Vectors of DOCUMENTS, of a model that is exported and loaded first where it is not yet."""
    if not (repository / spec.triton_names[0]).exists():
        build(spec, repository, progress=print)
        for name in spec.triton_names:
            load(server, name)
    request = {"model": spec.name, "input": DOCUMENTS, **body}
    assert eventually(lambda: post(server, "/v1/embeddings", request).status_code == 200)
    return np.array([one["embedding"] for one in post(server, "/v1/embeddings", request).json()["data"]])


def assert_same(answered: np.ndarray, expected: object) -> None:
    vectors = np.asarray(expected)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert answered.shape == vectors.shape
    assert (answered * vectors).sum(1).min() >= 0.9999


def test_routes_are_chosen_by_purpose(server: tuple[Server, Path], tmp_path: Path) -> None:
    running, served = server
    source = tiny.write_router(tmp_path / "source")
    routed = ModelSpec(name="tiny-routed", task="text-embedding", source=str(source), variants=("document", "query"))
    reference = SentenceTransformer(str(source), device="cpu")
    assert_same(embedded(running, routed, served), reference.encode(DOCUMENTS))
    assert_same(embedded(running, routed, served, input_type="search_query"), reference.encode_query(DOCUMENTS))
    assert_same(embedded(running, routed, served, task="retrieval.passage"), reference.encode_document(DOCUMENTS))
    (listed,) = [
        one for one in httpx2.get(f"{running.url}/v1/models").json()["data"] if one["id"].startswith("tiny-routed")
    ]
    assert (listed["id"], listed["tasks"]) == ("tiny-routed", ["document", "query"])


def test_prompt_is_not_pooled_where_the_model_says_so(server: tuple[Server, Path], tmp_path: Path) -> None:
    running, served = server
    source = tiny.write_modules(tmp_path / "source", "no prompt")
    spec = ModelSpec(name="tiny-promptless", task="text-embedding", source=str(source))
    reference = SentenceTransformer(str(source), device="cpu")
    assert_same(embedded(running, spec, served, prompt_name="query"), reference.encode_query(DOCUMENTS))
    assert_same(embedded(running, spec, served), reference.encode(DOCUMENTS))


def test_static_embedding_and_smaller_vectors_are_those_of_the_library(
    server: tuple[Server, Path], tmp_path: Path
) -> None:
    running, served = server
    source = tiny.write_static(tmp_path / "source")
    settings = json.loads((source / "config_sentence_transformers.json").read_text())
    (source / "config_sentence_transformers.json").write_text(json.dumps(settings | {"truncate_dim": 16}))
    spec = ModelSpec(name="tiny-static", task="text-embedding", source=str(source), dimensions=(8,))
    reference = SentenceTransformer(str(source), device="cpu")
    assert_same(embedded(running, spec, served), reference.encode(DOCUMENTS))
    assert_same(embedded(running, spec, served, dimensions=8), reference.encode(DOCUMENTS, truncate_dim=8))


def test_adapters_of_one_base_are_chosen_by_task(server: tuple[Server, Path], tmp_path: Path) -> None:
    running, served = server
    source = tiny.write_adapters(tmp_path / "source", ["retrieval", "clustering"])
    spec = ModelSpec(
        name="tiny-adapted", task="text-embedding", source=str(source), variants=("retrieval", "clustering")
    )
    for name, purpose in (
        ("retrieval", {"task": "retrieval.query"}),
        ("clustering", {"task": "separation"}),
        ("retrieval", {}),
    ):
        reference = SentenceTransformer(str(source), device="cpu")
        transformer: Any = reference[0]
        with warnings.catch_warnings():  # PEFT asks for what transformers has renamed
            warnings.simplefilter("ignore")
            transformer.model = PeftModel.from_pretrained(transformer.auto_model, str(source / "adapters" / name))
        assert_same(embedded(running, spec, served, **purpose), reference.encode(DOCUMENTS))
