"""Clients whose only call here is to embed texts."""

import asyncio
from typing import Any

import dspy
import pytest
from graphiti_core.embedder.openai import OpenAIEmbedder, OpenAIEmbedderConfig
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import HuggingFaceAPIDocumentEmbedder
from haystack_integrations.components.embedders.nvidia import NvidiaDocumentEmbedder
from langchain_community.embeddings import InfinityEmbeddings
from lightrag.llm.jina import jina_embed
from llama_index.embeddings.huggingface_api import HuggingFaceInferenceAPIEmbedding
from llama_index.embeddings.jinaai import JinaEmbedding
from llama_index.embeddings.nvidia import NVIDIAEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.siliconflow import SiliconFlowEmbedding
from mem0.configs.embeddings.base import BaseEmbedderConfig
from mem0.embeddings.openai import OpenAIEmbedding as Mem0OpenAI
from mistralai.client import Mistral
from pydantic_ai import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.compat.calls import Call, Embed, assert_embeds, parameters
from tests.compat.plain import MODEL, PROMPTED, Plain, Vectors

KEY = "unused"
TEI = "text_embeddings_inference"
SECRET = Secret.from_token(KEY)
BASE = '`base_url="URL/v1"`'


def haystack(embedder: Any, texts: list[str]) -> Vectors:
    documents = embedder.run([Document(content=text) for text in texts])["documents"]
    return [document.embedding for document in documents]


def jina(url: str, texts: list[str]) -> Vectors:
    embedding = JinaEmbedding(model=MODEL, api_key=KEY)
    embedding._api.api_url = f"{url}/v1/embeddings"
    return embedding.get_text_embedding_batch(texts)  # type: ignore[no-any-return]


def pydantic_ai(url: str, texts: list[str]) -> Vectors:
    model = OpenAIEmbeddingModel(PROMPTED, provider=OpenAIProvider(base_url=f"{url}/v1", api_key=KEY))
    return Embedder(model).embed_documents_sync(texts, settings={"dimensions": 64}).embeddings  # type: ignore[no-any-return]


def graphiti(url: str, texts: list[str]) -> Vectors:
    config = OpenAIEmbedderConfig(embedding_model=MODEL, embedding_dim=384, api_key=KEY, base_url=f"{url}/v1")
    return asyncio.run(OpenAIEmbedder(config).create_batch(texts))


def mem0(embedding: Any, texts: list[str]) -> Vectors:
    return [embedding.embed(text, memory_action="add") for text in texts]


def lightrag(url: str, texts: list[str]) -> Vectors:
    vectors = jina_embed.func(texts, model=MODEL, base_url=f"{url}/v1/embeddings", api_key=KEY, embedding_dim=384)
    return asyncio.run(vectors)


CALLS: list[Call[Embed]] = [
    Call(
        "huggingface-api-haystack",
        '`api_params={"url": "URL"}`',
        "`HuggingFaceAPIDocumentEmbedder` of a TEI endpoint, with `normalize=True`",
        lambda url, texts: haystack(
            HuggingFaceAPIDocumentEmbedder(TEI, {"url": url}, SECRET, normalize=True, progress_bar=False), texts
        ),
    ),
    Call(
        "nvidia-haystack",
        '`api_url="URL/v1"`',
        "`NvidiaDocumentEmbedder`",
        lambda url, texts: haystack(
            NvidiaDocumentEmbedder(MODEL, SECRET, api_url=f"{url}/v1", progress_bar=False), texts
        ),
    ),
    Call(
        "langchain-community",
        '`infinity_api_url="URL/v1"`',
        "`InfinityEmbeddings.embed_documents`",
        lambda url, texts: InfinityEmbeddings(model=MODEL, infinity_api_url=f"{url}/v1").embed_documents(texts),
    ),
    Call(
        "llama-index-embeddings-openai",
        '`api_base="URL/v1"`',
        "`OpenAIEmbedding.get_text_embedding_batch`; `model_name` is free, `model` is not",
        lambda url, texts: OpenAIEmbedding(
            model_name=MODEL, api_base=f"{url}/v1", api_key=KEY
        ).get_text_embedding_batch(texts),
    ),
    Call(
        "llama-index-embeddings-siliconflow",
        '`base_url="URL/v1/embeddings"`',
        "`SiliconFlowEmbedding.get_text_embedding_batch`",
        lambda url, texts: SiliconFlowEmbedding(
            model=MODEL, base_url=f"{url}/v1/embeddings", api_key=KEY
        ).get_text_embedding_batch(texts),
    ),
    Call(
        "llama-index-embeddings-nvidia",
        BASE,
        "`NVIDIAEmbedding.get_text_embedding_batch`",
        lambda url, texts: NVIDIAEmbedding(MODEL, base_url=f"{url}/v1", api_key=KEY).get_text_embedding_batch(texts),
    ),
    Call(
        "llama-index-embeddings-jinaai",
        '`embedding._api.api_url = "URL/v1/embeddings"`: it has no setting for it',
        "`JinaEmbedding.get_text_embedding_batch`",
        jina,
    ),
    Call(
        "llama-index-embeddings-huggingface-api",
        '`model_name="URL"`',
        "`get_text_embedding_batch`, in one batch: the client closes its loop after each",
        lambda url, texts: HuggingFaceInferenceAPIEmbedding(
            model_name=url, token=KEY, embed_batch_size=100
        ).get_text_embedding_batch(texts),
    ),
    Call(
        "mistralai",
        '`server_url="URL"`',
        "`embeddings.create`",
        lambda url, texts: [
            one.embedding
            for one in Mistral(server_url=url, api_key=KEY).embeddings.create(model=MODEL, inputs=texts).data
        ],
    ),
    Call(
        "pydantic-ai-slim",
        'an `OpenAIProvider` with `base_url="URL/v1"`',
        "`Embedder.embed_documents_sync`, with `dimensions`",
        pydantic_ai,
        {"model": PROMPTED, "dimensions": 64},
    ),
    Call(
        "dspy",
        '`api_base="URL/v1"`',
        '`Embedder("openai/MODEL")`',
        lambda url, texts: dspy.Embedder(f"openai/{MODEL}", api_base=f"{url}/v1", api_key=KEY, caching=False)(texts),
    ),
    Call(
        "graphiti-core",
        '`base_url="URL/v1"`, `embedding_dim=384`',
        "`OpenAIEmbedder.create_batch`",
        graphiti,
    ),
    Call(
        "lightrag-hku",
        '`base_url="URL/v1/embeddings"`, `embedding_dim=384`',
        "`jina_embed`",
        lightrag,
    ),
    Call(
        "mem0ai",
        '`openai_base_url="URL/v1"`',
        "`OpenAIEmbedding.embed`",
        lambda url, texts: mem0(
            Mem0OpenAI(BaseEmbedderConfig(model=MODEL, api_key=KEY, openai_base_url=f"{url}/v1")), texts
        ),
    ),
]


@pytest.mark.parametrize("call", parameters(CALLS))
def test_embeddings(call: Call[Embed], url: str, plain: Plain) -> None:
    assert_embeds(call, url, plain)
