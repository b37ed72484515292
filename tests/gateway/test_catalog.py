import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest

from gateway.catalog import EMBEDDING_ROLES, RERANK_ROLES, Catalog, Model
from gateway.errors import ModelNotFound, NotReady
from gateway.triton import ModelConfig, Triton
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


class FixedTriton(Triton):
    """Says that it serves the given models, without a server."""

    configs: list[ModelConfig]

    async def models(self) -> list[ModelConfig]:
        return self.configs


def read(
    repository: Path, tmp_path: Path, *parameters: dict[str, str], inputs: frozenset[str] = frozenset(), width: int = 3
) -> list[Model]:
    """The models that a catalog reads out of configs with these parameters beside the necessary ones."""
    necessary = {"role": "cross-encoder", "max_tokens": "64", "vocabulary_size": "30522"}

    async def run() -> list[Model]:
        triton = FixedTriton("127.0.0.1:1", timeout_s=1)
        names = [f"model-{i}" for i in range(len(parameters))]
        for name in names:
            (tmp_path / name).symlink_to((repository / "all-minilm-l6-v2").resolve())
        triton.configs = [
            ModelConfig(name, 8, inputs, "logits", width, necessary | own)
            for name, own in zip(names, parameters, strict=True)
        ]
        catalog = Catalog(triton, tmp_path)
        await catalog.refresh()
        await triton.close()
        return catalog.models

    return asyncio.run(run())


def test_cross_encoder_without_parameters_answers_with_its_first_logit(repository: Path, tmp_path: Path) -> None:
    (model,) = read(repository, tmp_path, {})
    assert (model.activation, model.positive_class, model.takes_first_length) == ("none", 0, False)


def test_parameters_of_a_cross_encoder_are_read(repository: Path, tmp_path: Path) -> None:
    parameters = {"activation": "softmax", "positive_class": "2", "length_buckets": "64,16", "name": "public"}
    (model,) = read(repository, tmp_path, parameters, inputs=frozenset({"input_ids", "length", "first_length"}))
    assert (model.activation, model.positive_class, model.takes_first_length) == ("softmax", 2, True)
    assert model.length_buckets == (16, 64)
    assert (model.name, model.triton_name) == ("public", "model-0")


def test_prompts_are_read(repository: Path, tmp_path: Path) -> None:
    parameters = {"role": "text-embedding", "prompts": '{"query": "Q: ", "document": ""}', "default_prompt": "query"}
    (model,) = read(repository, tmp_path, parameters)
    assert (model.prompts, model.default_prompt) == ({"query": "Q: ", "document": ""}, "Q: ")


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"activation": "relu"}, "activation 'relu' is none of none, sigmoid, softmax"),
        ({"positive_class": "3"}, "positive_class 3 is none of its 3 classes"),
        ({"positive_class": "yes"}, "invalid literal"),
        ({"template": "{"}, "DecodeError"),
        ({"template": '{"prefix": "{query}"}'}, "missing required field `suffix`"),
        ({"template": '{"prefix": "", "suffix": ""}'}, "the template's prefix has no {query}"),
        ({"prompts": '["query: "]'}, "Expected `object`, got `array`"),
        ({"default_prompt": "query"}, "default_prompt 'query' is none of its prompts"),
        ({"length_buckets": "32,x"}, "invalid literal"),
        ({"length_buckets": "16,32"}, "length_buckets end at 32, below its max_tokens of 64"),
    ],
)
def test_model_whose_parameters_cannot_be_read_is_left_out(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, parameters: dict[str, str], complaint: str
) -> None:
    caplog.set_level(logging.WARNING, "gateway.catalog")  # whatever other tests have left behind
    assert [model.name for model in read(repository, tmp_path, parameters, {})] == ["model-1"]
    (message,) = caplog.messages
    assert message.startswith("model model-0 is left out: ")
    assert complaint in message


def test_public_name_is_given_once(repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gateway.catalog")
    (model,) = read(repository, tmp_path, {"name": "public"}, {"name": "public"})
    assert model.triton_name == "model-0"
    assert "its public name 'public' is taken by model-0" in caplog.text


def test_image_half_of_a_pair_is_no_model_of_its_own(repository: Path, tmp_path: Path) -> None:
    (model,) = read(
        repository, tmp_path, {"name": "clip", "role": "image-embedding"}, {"name": "clip", "role": "text-embedding"}
    )
    assert (model.name, model.triton_name) == ("clip", "model-1")
