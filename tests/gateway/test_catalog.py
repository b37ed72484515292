import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest

from gateway.catalog import EMBEDDING_ROLES, RERANK_ROLES, Catalog
from gateway.errors import ModelNotFound, NotReady
from gateway.triton import Triton
from tests.serving import Server, free_ports

Result = TypeVar("Result")


def with_catalog(url: str, repository: Path, use: Callable[[Catalog], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        triton = Triton(url, timeout_s=5)
        try:
            return await use(Catalog(triton, repository))
        finally:
            await triton.close()

    return asyncio.run(run())


def test_models_are_read_out_of_triton(server: Server, repository: Path) -> None:
    async def use(catalog: Catalog) -> None:
        await catalog.refresh()
        model = catalog.find("text-embedding-3-small", EMBEDDING_ROLES)
        assert (model.name, model.width, model.max_tokens, model.vocabulary_size) == (
            "all-minilm-l6-v2",
            384,
            256,
            30522,
        )
        assert catalog.find(None, RERANK_ROLES).name == "minilm-late-interaction"
        with pytest.raises(ModelNotFound, match="no model 'all-minilm-l6-v2' for this endpoint; served here: minilm"):
            catalog.find("all-minilm-l6-v2", RERANK_ROLES)

    with_catalog(server.triton_url, repository, use)


def test_unchanged_model_keeps_its_tokenizer(server: Server, repository: Path) -> None:
    async def use(catalog: Catalog) -> None:
        await catalog.refresh()
        before = catalog.models
        await catalog.refresh()
        assert all(one is other for one, other in zip(before, catalog.models, strict=True))

    with_catalog(server.triton_url, repository, use)


def test_without_triton_it_is_not_ready_rather_than_not_found(repository: Path) -> None:
    async def use(catalog: Catalog) -> None:
        with pytest.raises(NotReady):
            catalog.find("all-minilm-l6-v2", EMBEDDING_ROLES)

    with_catalog(f"127.0.0.1:{free_ports(1)[0]}", repository, use)


def test_foreign_and_broken_entries_do_not_hide_the_others(odd_client: httpx2.Client) -> None:
    names = [model["id"] for model in odd_client.get("/v1/models").json()["data"]]
    assert "matryoshka" in names
    assert not {"foreign", "without-tokenizer"} & set(names)
