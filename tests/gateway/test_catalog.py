import asyncio
import json
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest
from PIL.Image import Resampling

from gateway.catalog import Catalog, ImageReading, Model, Offer, TextModel
from gateway.errors import ModelNotFound, NotReady
from gateway.images.preparation import Preparation
from gateway.images.processors import NaFlex, Smart
from gateway.text.chat import Chat
from gateway.triton import ModelConfig, Output, Triton
from loadtest.tools.servers import free_ports
from tests.gateway.text.test_loader import PANICKING, normalizing
from tests.serving import Server

Result = TypeVar("Result")

DENSE: frozenset[Offer] = frozenset({"dense"})


def with_catalog(url: str, repository: Path, use: Callable[[Catalog], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        triton = Triton([url], timeout_s=5)
        try:
            return await use(Catalog(triton, repository))
        finally:
            await triton.close()

    return asyncio.run(run())


def test_models_are_read_from_triton(server: Server, repository: Path) -> None:
    async def use(catalog: Catalog) -> None:
        await catalog.refresh()
        model = catalog.find("text-embedding-3-small", DENSE)
        assert (model.name, model.width, model.image) == ("all-minilm-l6-v2", 384, None)
        assert model.text is not None
        assert (model.text.max_tokens, model.text.vocabulary_size) == (256, 30522)
        assert catalog.find(None, {"rerank"}).name == "minilm-late-interaction"
        with pytest.raises(ModelNotFound, match="no model 'all-minilm-l6-v2' for this endpoint; served here: minilm"):
            catalog.find("all-minilm-l6-v2", {"rerank"})

    with_catalog(server.triton_url, repository, use)


def test_unchanged_model_keeps_its_tokenizer(server: Server, repository: Path) -> None:
    async def use(catalog: Catalog) -> None:
        await catalog.refresh()
        before = catalog.models
        await catalog.refresh()
        assert before
        assert all(one.text is other.text for one, other in zip(before, catalog.models, strict=True))

    with_catalog(server.triton_url, repository, use)


def test_model_is_not_ready_rather_than_not_found_without_triton(entries: Path) -> None:
    async def use(catalog: Catalog) -> None:
        with pytest.raises(NotReady):
            catalog.find("all-minilm-l6-v2", DENSE)

    with_catalog(f"127.0.0.1:{free_ports(1)[0]}", entries, use)


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
    entries: Path,
    tmp_path: Path,
    *parameters: dict[str, str],
    inputs: frozenset[str] = frozenset(),
    width: int = 3,
    times: int = 1,
    own_outputs: tuple[Output, ...] | list[tuple[Output, ...]] = (),
) -> list[Model]:
    """The models that a catalog reads out of configs with these parameters beside the necessary ones.

    `own_outputs` are those of every config, or a list of those of each.
    """
    necessary = {"role": "cross-encoder", "max_tokens": "64", "vocabulary_size": "30522"}

    async def run() -> list[Model]:
        triton = FixedTriton(["127.0.0.1:1"], timeout_s=1)
        names = [own.get("triton_name", f"model-{i}") for i, own in enumerate(parameters)]
        for name in names:
            if name.startswith("model-"):
                (tmp_path / name).symlink_to((entries / "all-minilm-l6-v2").resolve())
        each = own_outputs if isinstance(own_outputs, list) else [own_outputs] * len(parameters)
        triton.configs = [
            ModelConfig(
                name,
                8,
                inputs,
                outputs or (Output("logits", "FP32", (int(own.get("width", width)),)),),
                necessary | own,
            )
            for name, own, outputs in zip(names, parameters, each, strict=True)
        ]
        catalog = Catalog(triton, tmp_path)
        for _ in range(times):
            await catalog.refresh()
        await triton.close()
        return catalog.models

    return asyncio.run(run())


def read_text(
    entries: Path, tmp_path: Path, parameters: dict[str, str], inputs: frozenset[str] = frozenset()
) -> TextModel:
    (model,) = read(entries, tmp_path, parameters, inputs=inputs)
    assert model.text is not None
    return model.text


def test_cross_encoder_defaults_to_its_first_logit(entries: Path, tmp_path: Path) -> None:
    model = read_text(entries, tmp_path, {})
    assert (model.activation, model.positive_class, model.prefix) == ("none", 0, "")


def test_parameters_of_a_cross_encoder_are_read(entries: Path, tmp_path: Path) -> None:
    parameters = {"activation": "softmax", "positive_class": "2", "length_buckets": "64,16", "name": "public"}
    model = read_text(entries, tmp_path, parameters, inputs=frozenset({"input_ids", "length", "first_length"}))
    assert (model.activation, model.positive_class, model.prefix) == ("softmax", 2, "first_length")
    assert model.length_buckets == (16, 64)
    assert (model.name, model.triton_name) == ("public", "model-0")


def test_labels_of_a_classifier_are_read_or_made_up(entries: Path, tmp_path: Path) -> None:
    classifier = {"role": "classifier", "activation": "sigmoid"}
    named, unnamed, wrong = classifier | {"labels": '["a, b", "c", ""]'}, classifier, classifier | {"labels": '["a"]'}
    models = read(entries, tmp_path, named, unnamed, wrong)
    assert [model.text.labels for model in models if model.text] == [
        ("a, b", "c", ""),
        ("LABEL_0", "LABEL_1", "LABEL_2"),
    ]
    assert {model.role for model in models} == {"classifier"}


def test_max_query_tokens_is_read(entries: Path, tmp_path: Path) -> None:
    parameters = {"role": "late-interaction", "max_query_tokens": "64"}
    assert read_text(entries, tmp_path, parameters).max_query_tokens == 64


def test_prompts_are_read(entries: Path, tmp_path: Path) -> None:
    parameters = {"role": "text-embedding", "prompts": '{"query": "Q: ", "document": ""}', "default_prompt": "query"}
    model = read_text(entries, tmp_path, parameters)
    assert (model.prompts, model.default_prompt) == ({"query": "Q: ", "document": ""}, "Q: ")


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"activation": "relu"}, "activation must be one of none, sigmoid, softmax, not 'relu'"),
        ({"positive_class": "3"}, "positive_class must be between 0 and 2, not 3"),
        ({"positive_class": "yes"}, "positive_class: Expected `int`"),
        ({"template": "{"}, "template: Input data was truncated"),
        ({"template": '{"prefix": "{query}"}'}, "missing required field `suffix`"),
        ({"template": '{"prefix": "", "suffix": ""}'}, "the template contains {query} 0 times instead of 1"),
        (
            {"template": '{"prefix": "{query}", "suffix": "", "instructed": {"prefix": "{query}", "suffix": ""}}'},
            "the template contains {instruction} 0 times instead of 1",
        ),
        (
            {"instructed_prompts": '{"query": "Instruct: {instruction}"}'},
            "instructed_prompts 'query' must be a name",
        ),
        ({"prompts": '["query: "]'}, "Expected `object`, got `array`"),
        ({"default_prompt": "query"}, "default_prompt 'query' is not in prompts"),
        ({"max_query_tokens": "65"}, "max_query_tokens must be between 1 and max_tokens (64), not 65"),
        ({"max_query_tokens": "0"}, "max_query_tokens must be between 1 and max_tokens (64), not 0"),
        ({"length_buckets": "32,x"}, "length_buckets[1]: Expected `int`"),
        ({"length_buckets": "16,32"}, "length_buckets must reach max_tokens (64), but end at 32"),
        *(({"max_tokens": text}, "max_tokens: Expected `int`") for text in ("-5", "0", "1" + "0" * 300, "1e300", "x")),
        *(({"vocabulary_size": text}, "vocabulary_size: Expected `int`") for text in ("-1", "0", "9" * 30)),
        *(({"text_weight": text}, "text_weight: Expected `float`") for text in ("nan", "-0.1", "1.1", "inf", "half")),
        ({"dimensions": "2,0"}, "dimensions[1]: Expected `int` >= 1"),
        ({"dimensions": "-5"}, "dimensions[0]: Expected `int` >= 1"),
        ({"dimensions": "2,4"}, "dimensions contains 4, but the model has only 3 dimensions"),
        ({"default": "perhaps"}, "default: Expected `bool`"),
        *(({"name": name}, "name: Expected `str`") for name in ("", "a b", "a\n", "<script>", "a\x07", "x" * 10**6)),
        ({"aliases": "good,<b>"}, "aliases[1]: Expected `str`"),
        ({"aliases": ",".join(map(str, range(257)))}, "aliases: Expected `array` of length <= 256"),
        ({"prompts": '{"query": "%s"}' % ("x" * 70_000)}, "Expected `str` of length <= 65536"),
        ({"width": "0"}, "output logits has dims [0]; the last must be 1 to 1048576"),
        ({"max_tokens": "64", "prompts": "[" * 5000}, "prompts"),
    ],
)
def test_model_with_invalid_parameters_is_not_served(
    entries: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, parameters: dict[str, str], complaint: str
) -> None:
    caplog.set_level(logging.WARNING, "gateway.catalog")  # whatever other tests have left behind
    assert [model.name for model in read(entries, tmp_path, parameters, {})] == ["model-1"]
    (message,) = caplog.messages
    assert message.startswith("model model-0 is not served: ")
    assert complaint in message
    assert len(message) < 600


@pytest.mark.parametrize("name", ["../model-1", "..", "a/b"])
def test_name_with_a_path_is_refused(
    entries: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.WARNING, "gateway.catalog")
    (model,) = read(entries, tmp_path, {}, {"triton_name": name})
    assert model.name == "model-0"
    assert f"model {name} is not served: ValueError: its name is not a valid folder name" in caplog.text


def test_unreadable_entry_does_not_hide_others(entries: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A FIFO without a writer, memory without end, a tokenizer that panics when it is first used."""
    caplog.set_level(logging.WARNING, "gateway.catalog")
    folders = [tmp_path / name for name in ("fifo", "zero", "panic")]
    for entry in folders:
        entry.mkdir()
    os.mkfifo(folders[0] / "tokenizer.json")
    (folders[1] / "tokenizer.json").symlink_to("/dev/zero")
    shutil.copy(entries / "all-minilm-l6-v2" / "tokenizer.json", folders[2])
    normalizing(folders[2] / "tokenizer.json", *PANICKING)
    bad = [{"triton_name": entry.name} for entry in folders]
    assert [model.name for model in read(entries, tmp_path, *bad, {}, times=3)] == ["model-3"]
    assert sorted(message.partition(" is not served")[0] for message in caplog.messages) == [
        "model fifo",
        "model panic",
        "model zero",
    ]


def test_public_name_is_unique(entries: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gateway.catalog")
    (model,) = read(entries, tmp_path, {"name": "public"}, {"name": "public"})
    assert [triton_model.triton_name for triton_model in model.triton_models] == ["model-0"]
    assert "its public name 'public' is already used by model-0" in caplog.text


IMAGE = {
    "role": "image-embedding",
    "name": "clip",
    "image_height": "48",
    "image_width": "64",
    "image_resize": "height=50,width=70",
    "image_resample": "bicubic",
    "image_patches": "12",
}
TEXT = {"role": "text-embedding", "name": "clip", "aliases": "c,d", "default": "true", "text_weight": "0.25"}


def test_text_and_image_models_form_one_model(entries: Path, tmp_path: Path) -> None:
    (model,) = read(entries, tmp_path, IMAGE | {"aliases": "c,d", "default": "true", "text_weight": "0.25"}, TEXT)
    assert (model.name, model.aliases, model.default, model.text_weight) == ("clip", ("c", "d"), True, 0.25)
    assert (model.role, model.width) == ("image-text", 3)
    assert [triton_model.triton_name for triton_model in model.triton_models] == ["model-1", "model-0"]


def test_image_model_alone_is_a_model(entries: Path, tmp_path: Path) -> None:
    (model,) = read(entries, tmp_path, IMAGE)
    assert (model.role, model.text, model.text_weight) == ("image-embedding", None, 0.5)
    assert model.image is not None
    assert (model.image.preparation, model.image.patches) == (Preparation(48, 64, (50, 70), Resampling.BICUBIC), 12)


def test_shortest_edge_is_read(entries: Path, tmp_path: Path) -> None:
    (model,) = read(entries, tmp_path, IMAGE | {"image_resize": "shortest_edge=64"})
    assert model.image is not None
    assert model.image.preparation == Preparation(48, 64, 64, Resampling.BICUBIC)


def test_image_model_may_take_images_of_any_size(entries: Path, tmp_path: Path) -> None:
    processor = {"kind": "naflex", "patch": 16, "max_patches": 256, "resample": "bilinear"}
    given = {"role": "image-embedding", "name": "naflex", "image_processor": json.dumps(processor)}
    (model,) = read(entries, tmp_path, given)
    assert model.image is not None
    assert model.image.preparation == NaFlex(patch=16, max_patches=256, resample="bilinear")
    assert model.image.patches == 256


@pytest.mark.parametrize(
    ("second", "width", "complaint"),
    [
        (TEXT, 4, "it has 4 dimensions, but model-0 of the same model has 3"),
        (IMAGE, 3, "its public name 'clip' is already used by model-0"),
        (TEXT | {"role": "cross-encoder"}, 3, "its public name 'clip' is already used by model-0"),
        (IMAGE | {"name": "other", "image_height": "0"}, 3, "image_height: Expected `int` >= 1"),
        (IMAGE | {"name": "other", "image_width": "1000000000"}, 3, "image_width: Expected `int` <= 4096"),
        (IMAGE | {"name": "other", "image_patches": "-4"}, 3, "image_patches: Expected `int` >= 1"),
        (IMAGE | {"name": "other", "image_resize": "shortest_edge=60"}, 3, "image_resize must not be smaller"),
        (IMAGE | {"name": "other", "image_processor": "[]"}, 3, "image_processor: Expected `object`, got `array`"),
        (
            IMAGE | {"name": "other", "image_processor": '{"kind": "any"}'},
            3,
            "image_processor.kind: Invalid value 'any'",
        ),
        (IMAGE | {"name": "other", "image_resize": "height=50"}, 3, "must have shortest_edge, or height and width"),
        (IMAGE | {"name": "other", "image_resample": "cubist"}, 3, "image_resample: Invalid enum value 'cubist'"),
        (
            IMAGE | {"name": "other", "image_resize": "longest_edge=64"},
            3,
            "image_resize: Invalid enum value 'longest_edge'",
        ),
    ],
)
def test_incompatible_models_are_not_merged(
    entries: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    second: dict[str, str],
    width: int,
    complaint: str,
) -> None:
    caplog.set_level(logging.WARNING, "gateway.catalog")
    (model,) = read(entries, tmp_path, IMAGE, second | {"width": str(width)})
    assert [triton_model.triton_name for triton_model in model.triton_models] == ["model-0"]
    assert complaint in caplog.text


QUERY = {"role": "text-embedding", "name": "dual", "variants": "document,query", "variant": "query"}


def test_variants_form_one_model_with_the_first_as_default(entries: Path, tmp_path: Path) -> None:
    (model,) = read(entries, tmp_path, QUERY, QUERY | {"variant": "document"})
    assert (model.name, model.role, list(model.variants)) == ("dual", "text-embedding", ["query", "document"])
    assert model.text is model.variants["document"]
    assert sorted(triton_model.triton_name for triton_model in model.triton_models) == ["model-0", "model-1"]


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ({"name": "other"}, "model dual is not served: variants not served: document"),
        (QUERY, "model model-1 is not served: ValueError: its public name 'dual' is already used by model-0"),
        (QUERY | {"variants": "query"}, "model-1 is not served: ValueError: its public name 'dual' is already used"),
        (QUERY | {"variant": "passage"}, "model-1 is not served: ValueError: variant 'passage' is not in variants"),
        ({"variant": "query"}, "model-1 is not served: ValueError: variant 'query' is not in variants"),
    ],
)
def test_model_is_served_only_with_all_its_variants(
    entries: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, second: dict[str, str], complaint: str
) -> None:
    caplog.set_level(logging.WARNING, "gateway.catalog")
    assert "dual" not in [model.name for model in read(entries, tmp_path, QUERY, second)]
    assert complaint in caplog.text


VECTOR = Output("embedding", "FP32", (8,))
SCORE = Output("score", "FP32", (1,))
TERMS = (Output("sparse_indices", "INT32", (4,)), Output("sparse_weights", "FP32", (4,)))
TOKENS = Output("tokens", "FP32", (-1, 8))
QUERY_TOKENS = Output("query_tokens", "FP32", (-1, 8))
LATE = {"role": "late-interaction"}
EMBEDDER = {"role": "text-embedding"}


@pytest.mark.parametrize(
    ("role", "outputs", "names", "offers", "width"),
    [
        (EMBEDDER, (VECTOR,), ["embedding"], {"dense"}, 8),
        (EMBEDDER, (TOKENS, VECTOR), ["embedding", "tokens"], {"dense", "multi_vector"}, 8),
        (EMBEDDER, TERMS, ["sparse_indices", "sparse_weights"], {"sparse"}, 0),
        (EMBEDDER, (TOKENS,), ["tokens"], {"multi_vector"}, 8),
        (EMBEDDER, (Output("pooled", "FP32", (16,)), TOKENS), ["embedding", "tokens"], {"dense", "multi_vector"}, 16),
        (LATE, (SCORE,), ["score"], {"rerank"}, 1),
        (LATE, (Output("maxsim", "FP32", (1,)),), ["score"], {"rerank"}, 1),
        (
            LATE,
            (QUERY_TOKENS, TOKENS, *TERMS, VECTOR, SCORE),
            ["score", "embedding", "sparse_indices", "sparse_weights", "tokens", "query_tokens"],
            {"rerank", "dense", "sparse", "multi_vector"},
            8,
        ),
        ({"role": "cross-encoder"}, (VECTOR,), ["score"], {"rerank", "classify"}, 8),
        ({"role": "classifier"}, (SCORE,), ["score"], {"classify"}, 1),
    ],
)
def test_outputs_are_recognised_by_name(
    entries: Path,
    tmp_path: Path,
    role: dict[str, str],
    outputs: tuple[Output, ...],
    names: list[str],
    offers: set[str],
    width: int,
) -> None:
    (model,) = read(entries, tmp_path, role, own_outputs=outputs)
    assert model.text is not None
    assert list(model.text.outputs) == names
    assert set(model.offers) == offers
    assert model.width == width
    assert set(model.text.outputs.values()) <= set(outputs)


def test_variants_offer_what_all_of_them_compute(entries: Path, tmp_path: Path) -> None:
    own_outputs = [(VECTOR, TOKENS), (VECTOR,)]
    (model,) = read(entries, tmp_path, QUERY, QUERY | {"variant": "document"}, own_outputs=own_outputs)
    assert (set(model.offers), model.width) == ({"dense"}, 8)
    assert [set(one.offers) for one in model.triton_models] == [{"dense", "multi_vector"}, {"dense"}]


def test_variants_without_a_common_output_are_not_served(
    entries: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "gateway.catalog")
    assert read(entries, tmp_path, QUERY, QUERY | {"variant": "document"}, own_outputs=[(VECTOR,), TERMS]) == []
    assert "it has no output that model-0 of the same model also has" in caplog.text


@pytest.mark.parametrize(
    ("parameters", "outputs", "complaint"),
    [
        (LATE, (TOKENS, VECTOR), "it has no output score"),
        (EMBEDDER, (Output("embedding", "FP16", (8,)),), "output embedding is FP16; it must be FP32"),
        (EMBEDDER, (Output("embedding", "FP32", (1, 8)),), "output embedding has dims [1, 8]; it must have one"),
        (EMBEDDER, (Output("embedding", "FP32", (-1,)),), "output embedding has dims [-1]; the last must be 1 to"),
        (EMBEDDER, (Output("embedding", "FP32", ()),), "output embedding has dims []; the last must be 1 to"),
        (EMBEDDER, (VECTOR, Output("tokens", "FP32", (8,))), "output tokens has dims [8]; it must have [length, dim"),
        (EMBEDDER, (VECTOR, TERMS[1]), "outputs sparse_indices and sparse_weights must have the same dims"),
        (
            EMBEDDER,
            (Output("sparse_indices", "INT32", (-1,)), TERMS[1]),
            "outputs sparse_indices and sparse_weights must have the same dims",
        ),
        (EMBEDDER, (Output("sparse_indices", "INT64", (4,)), TERMS[1]), "sparse_indices is INT64; it must be INT32"),
        (LATE, (SCORE, QUERY_TOKENS), "output query_tokens needs an output tokens with the same number"),
        (
            LATE,
            (SCORE, TOKENS, Output("query_tokens", "FP32", (-1, 4))),
            "output query_tokens needs an output tokens with the same number",
        ),
        (EMBEDDER | {"dimensions": "4"}, TERMS, "dimensions contains 4, but the model has only 0 dimensions"),
        (EMBEDDER | {"tokens_pooling": "max"}, (VECTOR, TOKENS), "tokens_pooling: Invalid enum value 'max'"),
        (EMBEDDER | {"tokens_pooling": "mean"}, (VECTOR,), "tokens_pooling is mean, but there is no output tokens"),
    ],
)
def test_model_with_wrong_outputs_is_not_served(
    entries: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    parameters: dict[str, str],
    outputs: tuple[Output, ...],
    complaint: str,
) -> None:
    caplog.set_level(logging.WARNING, "gateway.catalog")
    assert read(entries, tmp_path, parameters, own_outputs=outputs) == []
    (message,) = caplog.messages
    assert complaint in message


def test_default_model_of_vectors_is_not_a_reranker(entries: Path, tmp_path: Path) -> None:
    (tmp_path / "a-hybrid").symlink_to((entries / "all-minilm-l6-v2").resolve())

    async def run() -> None:
        triton = FixedTriton(["127.0.0.1:1"], timeout_s=1)
        necessary = {"max_tokens": "64", "vocabulary_size": "30522", "default": "true"}
        hybrid = ModelConfig("a-hybrid", 8, frozenset(), (SCORE, VECTOR, *TERMS, TOKENS), necessary | LATE)
        triton.configs = [hybrid]
        catalog = Catalog(triton, tmp_path)
        await catalog.refresh()
        assert catalog.find(None, DENSE).name == "a-hybrid"
        (tmp_path / "plain").symlink_to((entries / "all-minilm-l6-v2").resolve())
        triton.configs = [hybrid, ModelConfig("plain", 8, frozenset(), (VECTOR,), necessary | EMBEDDER)]
        await catalog.refresh()
        assert catalog.find(None, DENSE).name == "plain"
        assert catalog.find(None, {"rerank"}).name == "a-hybrid"
        assert catalog.find(None, DENSE, {"dense", "sparse"}).name == "a-hybrid"
        assert catalog.find("a-hybrid", DENSE).name == "a-hybrid"
        with pytest.raises(ModelNotFound, match="no model 'plain' for this endpoint; served here: a-hybrid"):
            catalog.find("plain", {"rerank"})
        await triton.close()

    asyncio.run(run())


CHAT = {"text": "[CLS]{content}[SEP]", "image": "[{patches}]", "patch": "[MASK]"}
SMART = {"kind": "smart", "patch": 16, "merge": 2, "min_pixels": 4096, "max_pixels": 16384}
READING = {
    "role": "text-embedding",
    "chat": json.dumps(CHAT),
    "image_token": "103",
    "image_processor": json.dumps(SMART),
    "max_images": "5",
}
BOTH = frozenset({"patches", "grids"})


def test_text_model_may_read_images(entries: Path, tmp_path: Path) -> None:
    (model,) = read(entries, tmp_path, READING, inputs=BOTH)
    assert (model.role, model.image, model.accepts_images) == ("text-embedding", None, True)
    assert model.text is not None
    assert model.text.chat == Chat(**CHAT)
    assert model.text.images == ImageReading(103, Smart(patch=16, merge=2, min_pixels=4096, max_pixels=16384), 5)


def test_chat_template_needs_no_images(entries: Path, tmp_path: Path) -> None:
    chat = json.dumps({"text": "[CLS]{content}[SEP]"})
    (model,) = read(entries, tmp_path, {"role": "text-embedding", "chat": chat})
    assert model.text is not None
    assert (model.text.images, model.accepts_images) == (None, False)


@pytest.mark.parametrize(
    ("parameters", "inputs", "complaint"),
    [
        ({"chat": "{"}, BOTH, "chat: Input data was truncated"),
        ({"chat": json.dumps(CHAT | {"text": "[CLS]"})}, BOTH, "text must contain {content} exactly once"),
        ({"chat": json.dumps(CHAT | {"image": "x"})}, BOTH, "image must contain {patches} exactly once"),
        ({"chat": json.dumps(CHAT | {"patch": ""})}, BOTH, "patch must not be empty"),
        ({"chat": json.dumps(CHAT | {"patch": "a"})}, BOTH, "the patch 'a' of chat is not the token 103"),
        ({"chat": json.dumps(CHAT | {"text": ""})}, BOTH, "chat has no text"),
        ({"chat": json.dumps({"text": "{content}"})}, BOTH, "image_processor needs chat with image and patch"),
        ({"chat": json.dumps(CHAT), "role": "late-interaction"}, BOTH, "chat has no query and no document"),
        ({"role": "cross-encoder"}, BOTH, "image_processor needs a template"),
        ({"image_token": "40000"}, BOTH, "image_processor needs image_token, an id of the vocabulary, not 40000"),
        (
            {"image_processor": json.dumps(SMART | {"min_pixels": 2**20})},
            BOTH,
            "min_pixels (1048576) exceeds max_pixels",
        ),
        ({"image_processor": json.dumps(SMART | {"patch": 0})}, BOTH, "image_processor.patch: Expected `int` >= 1"),
        ({"max_images": "0"}, BOTH, "max_images: Expected `int` >= 1"),
        ({}, frozenset({"patches"}), "image_processor is given, but there is no input grids"),
    ],
)
def test_wrong_templates_and_images_are_refused(
    entries: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    parameters: dict[str, str],
    inputs: frozenset[str],
    complaint: str,
) -> None:
    caplog.set_level(logging.WARNING, "gateway.catalog")
    assert not read(entries, tmp_path, READING | parameters, inputs=inputs)
    assert complaint in caplog.text


class DisagreeingTriton(FixedTriton):
    """Also says which models its servers do not agree on."""

    unclear: frozenset[str] = frozenset()

    async def differing(self, models: Sequence[ModelConfig]) -> set[str]:
        return {model.name for model in models} & self.unclear


def test_generation_tells_each_state_of_a_model_from_all_others(entries: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to((entries / "all-minilm-l6-v2").resolve())
    necessary = {"max_tokens": "64", "vocabulary_size": "30522"} | EMBEDDER
    first = ModelConfig("model", 8, frozenset(), (VECTOR,), necessary | {"digest": "a"}, frozenset({"1"}))
    states: list[tuple[ModelConfig, bool]] = [
        (first, True),
        (replace(first, parameters=necessary | {"digest": "b"}), True),
        (first, True),  # what was computed while the catalog did not know of the other one yet is not this one's
        (replace(first, versions=frozenset({"1", "2"})), True),
        (first, True),
        (first, False),  # servers differ
        (first, True),
        (replace(first, parameters=necessary), True),  # no digest
        (replace(first, parameters=necessary | {"digest": "a", "precision": "bf16"}), True),
    ]

    async def run() -> list[int]:
        triton = DisagreeingTriton(["127.0.0.1:1"], timeout_s=1)
        catalog = Catalog(triton, tmp_path, tells_apart=True)
        found = []
        for config, is_clear in states:
            triton.configs, triton.unclear = [config], frozenset() if is_clear else frozenset({"model"})
            for _ in range(2):
                await catalog.refresh()
                text = catalog.find("model", DENSE).text
                assert text is not None
                found.append(text.generation)
        triton.configs = []
        await catalog.refresh()
        triton.configs = [first]
        await catalog.refresh()
        text = catalog.find("model", DENSE).text
        assert text is not None
        await triton.close()
        return [*found, text.generation]

    found = asyncio.run(run())
    assert found[0::2][:-1] == found[1::2]  # it lasts as long as nothing changes
    generations = found[1::2]
    assert [bool(generation) for generation in generations] == [True] * 5 + [False, True, False, True]
    known = [*filter(None, generations), found[-1]]
    assert len(set(known)) == len(known)


def test_models_have_no_generation_unless_it_is_needed(entries: Path, tmp_path: Path) -> None:
    assert read_text(entries, tmp_path, {"digest": "a"}).generation == 0
