"""What the export writes into a config is what the gateway reads, and both are in docs/repository-entry.md."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from google.protobuf import text_format
from msgspec.structs import replace
from tritonclient.grpc import model_config_pb2 as pb

from export import config_pbtxt
from export.manifest import PRECISIONS, Backend, ModelSpec
from export.runtime.contract import CLASSIFIER, CROSS_ENCODER, FIELDS, IMAGE_EMBEDDING, LATE_INTERACTION, TEXT_EMBEDDING
from export.runtime.contract import OUTPUTS as WRITTEN_OUTPUTS
from export.runtime.contract import Parameters as Written
from export.sources.resolve import resolve
from export.tasks.load import load_towers
from gateway.contract import (
    GRIDS,
    OUTPUTS,
    PATCHES,
    PREFIXES,
    ROLES,
    SEGMENTS,
    AnySizeParameters,
    ImageParameters,
    Parameters,
    TextParameters,
    outputs,
    read,
)
from gateway.images.processors import AnyProcessor, Processor
from gateway.text.chat import Chat
from gateway.triton import ModelConfig, Output
from loadtest.tools import tiny, tiny_vision

PAGE = Path("docs/repository-entry.md").read_text()
SAID: Mapping[str, Any] = {"aliases": ("a", "b"), "default": True, "license": "MIT"}
INSTRUCT = {"query": "Instruct: find shells\nQuery: "}
LABELS = {0: "no", 1: "so, so", 2: "yes"}
ENTRIES = 32


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[ModelSpec]:
    """Tables that together use every role and parameter."""
    folder = tmp_path_factory.mktemp("sources")
    embedding = tiny.write_modules(folder / "embedding", "no prompt")
    tiny.revise(embedding / "config_sentence_transformers.json", prompts=INSTRUCT, default_prompt_name="query")
    sources: list[tuple[str, Path, Mapping[str, Any]]] = [
        ("text-embedding", embedding, {"dimensions": (8, 16)}),
        ("text-embedding", tiny.write_embedding(folder / "mean"), {}),
        ("text-embedding", tiny.write_router(folder / "router"), {"variants": ("document", "query")}),
        (
            "cross-encoder",
            tiny.write_cross_encoder(folder / "classes", labels=3, id2label={0: "no", 1: "so", 2: "yes"}),
            {"positive_class": "yes"},
        ),
        ("classification", tiny.write_cross_encoder(folder / "labels", labels=3, id2label=LABELS), {}),
        (
            "cross-encoder",
            tiny.write_decoder_reranker(folder / "decoder"),
            {"template": "{query} {document} {instruction} yes", "instruction": "Judge.", "true_token": "yes"},
        ),
        ("multi-vector", tiny.write_colbert(folder / "colbert", pylate=True), {}),
        ("image-text", tiny.write_image_text(folder / "clip", "CLIP"), {"text_weight": 0.25}),
    ]
    seeing: list[tuple[str, Path, Mapping[str, Any]]] = [
        ("text-embedding", tiny_vision.write_embedding(folder / "vision"), {}),
        ("cross-encoder", tiny_vision.write_reranker(folder / "vision-reranker"), {}),
    ]
    return [
        ModelSpec(name=name, source=str(source), **{**SAID, **keys}, task=task)  # type: ignore[arg-type]
        for name, group in (("tiny", sources), ("tiny-vision", seeing))
        for task, source, keys in group
    ]


@pytest.fixture(scope="module")
def configs(specs: list[ModelSpec]) -> list[pb.ModelConfig]:
    """The config of every tower, for each backend in one of its precisions; only torch reads images of any size."""
    backends: tuple[Backend, ...] = ("python", "torch", "tensorrt")
    found = []
    for spec in specs:
        sources = resolve(spec)
        for backend in backends if spec.name == "tiny" else ("torch",):
            changed = replace(spec, backend=backend, precision="fp32")
            assert changed.precision in PRECISIONS[backend]
            for tower in load_towers(changed, sources):
                named = replace(changed, source="owner/model")
                found.append(
                    text_format.Parse(config_pbtxt.render(named, tower, sources.main.revision), pb.ModelConfig())
                )
    return found


def told(config: pb.ModelConfig) -> ModelConfig:
    """What the gateway makes of Triton's answer."""
    return ModelConfig(
        name=config.name,
        max_batch_size=config.max_batch_size,
        inputs=frozenset(tensor.name for tensor in config.input),
        outputs=tuple(
            Output(tensor.name, pb.DataType.Name(tensor.data_type).removeprefix("TYPE_"), (*tensor.dims,))
            for tensor in config.output
        ),
        parameters={name: value.string_value for name, value in config.parameters.items()},
    )


def tensors() -> set[str]:
    return {name for field in FIELDS for name in field.inputs}


def test_gateway_reads_every_config(configs: list[pb.ModelConfig]) -> None:
    assert len(configs) == ENTRIES
    for config in map(told, configs):
        role = config.parameters["role"]
        parameters = read(config, ImageParameters if role == IMAGE_EMBEDDING else TextParameters)
        assert (parameters.aliases, parameters.default) == (("a", "b"), True)
        assert parameters.name in {"tiny", "tiny-vision", config.name}


def test_gateway_reads_the_values_that_the_export_meant(configs: list[pb.ModelConfig]) -> None:
    by_role: dict[str, list[ModelConfig]] = {}
    for config in map(told, configs):
        by_role.setdefault(config.parameters["role"], []).append(config)
    texts = [read(config, TextParameters) for config in by_role["text-embedding"]]
    assert {("document", "query"), ()} == {text.variants for text in texts}
    instructed = next(text for text in texts if text.default_prompt == "query" and text.dimensions)
    assert instructed.dimensions == (8, 16)
    assert instructed.prompts == INSTRUCT
    assert instructed.instructed_prompts == {"query": "Instruct: {instruction}\nQuery: "}
    classes, *_ = (read(config, TextParameters) for config in by_role["cross-encoder"])
    assert (classes.activation, classes.positive_class) == ("softmax", 2)
    labels, *_ = (read(config, TextParameters) for config in by_role["classifier"])
    assert (labels.activation, labels.labels) == ("softmax", tuple(LABELS.values()))
    templates = [read(config, TextParameters).template for config in by_role["cross-encoder"]]
    assert any(template and template.instructed and "{query}" in template.prefix for template in templates)
    assert {read(config, TextParameters).max_query_tokens for config in by_role["late-interaction"]} == {32}
    (image, *_) = (read(config, ImageParameters) for config in by_role["image-embedding"])
    assert (image.text_weight, image.image_resize, image.image_patches) == (0.25, {"shortest_edge": 32}, 16)


def test_entries_may_name_the_tokens_of_a_batch(configs: list[pb.ModelConfig]) -> None:
    config = next(config for config in map(told, configs) if config.parameters["role"] == "text-embedding")
    assert read(config, TextParameters).batch_tokens == 2048
    named = dataclasses.replace(config, parameters={**config.parameters, "batch_tokens": "16384"})
    assert read(named, TextParameters).batch_tokens == 16_384
    with pytest.raises(ValueError, match="batch_tokens"):
        read(dataclasses.replace(config, parameters={**config.parameters, "batch_tokens": "0"}), TextParameters)


def test_gateway_sends_the_tensors_that_a_config_asks_for(configs: list[pb.ModelConfig]) -> None:
    assert {tensor.name for config in configs for tensor in config.input} == tensors()
    for config in configs:
        role, given = config.parameters["role"].string_value, {tensor.name for tensor in config.input}
        if role == IMAGE_EMBEDDING:
            assert given == {"pixels"}
        else:
            segments = {name for segment in SEGMENTS[role] for name in segment}
            images = {PATCHES, GRIDS} if "image_processor" in config.parameters else set[str]()
            assert segments | images <= given <= segments | images | set(PREFIXES)


def test_gateway_knows_every_output_that_a_config_has(configs: list[pb.ModelConfig]) -> None:
    for config in configs:
        assert set(outputs(told(config))) == {tensor.name for tensor in config.output}
    assert {name for names in OUTPUTS.values() for name in names} == set(WRITTEN_OUTPUTS)


def test_roles_are_those_of_the_gateway_and_of_the_page() -> None:
    roles = {TEXT_EMBEDDING, IMAGE_EMBEDDING, CROSS_ENCODER, CLASSIFIER, LATE_INTERACTION}
    assert roles == ROLES
    assert roles == keys("Roles and tensors", "| role |")


def test_tensors_of_the_page_are_those_of_the_export() -> None:
    assert tensors() == keys("Roles and tensors", "| tensor |")


def test_parameters_of_the_page_are_those_of_both_sides(configs: list[pb.ModelConfig]) -> None:
    page = keys("Parameters", "| key |")
    assert page == set(Written.__annotations__)
    read_by_gateway = {
        name
        for kind in (Parameters, TextParameters, ImageParameters, AnySizeParameters)
        for name in kind.__struct_fields__
    } - {"width", "max_batch_size"} | {"role"}
    assert keys("Parameters", "| key |", reader="gateway") == read_by_gateway
    backends = tomllib.loads(Path("tests/export/backend_keys.toml").read_text()).values()
    theirs = {name for backend in backends for name in backend["parameters"]}
    own = {name for config in configs for name in config.parameters} - theirs
    # Each of them is written for some entry, except the one whose default fits all models.
    assert own == page - {"max_images"}


def test_image_processors_of_the_page_are_those_of_the_gateway() -> None:
    section = "Images of any size"
    common = set(Processor.__struct_fields__)
    assert keys(section, "| field | type |") == common | {"kind"}
    assert keys(section, "| field | meaning |") == set(Chat.__struct_fields__)
    kinds = {kind.__struct_config__.tag: set(kind.__struct_fields__) - common for kind in get_args(AnyProcessor)}
    assert keys(section, "| kind |") == set(kinds)
    for kind, fields in kinds.items():
        (row,) = re.findall(rf"^\| `{kind}` \|[^|]*\|([^|]*)\|", PAGE, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == fields


def keys(section: str, head: str, reader: str = "") -> set[str]:
    """The names in the first column of a table, of those rows that name a reader."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    table = text[text.index(head) :].partition("\n\n")[0].splitlines()[2:]
    rows = [row for row in table if reader in row.split("|")[5 if reader else 1]]
    return {name for row in rows for name in re.findall(r"`(\w[\w-]*)`", row.split("|")[1])}
