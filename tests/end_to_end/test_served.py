"""`--check --url`: what is served equals the library's own call, or one sentence says where it does not."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from transformers import pipeline

from export.entry import Entry
from export.errors import ExportError
from export.manifest import ModelSpec, load
from export.repository import build
from export.served.check import Gateway, check_served
from loadtest.tools import tiny
from loadtest.tools.servers import free_ports
from tests.serving import Server, serve

KEY = "of-the-tests"
LABELS = {0: "entails", 1: "contradicts", 2: "neither, nor"}


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ModelSpec]:
    """A model of each task, in fp32, where no error hides."""
    folder = tmp_path_factory.mktemp("sources")
    embedding = str(tiny.write_embedding(folder / "embedding"))
    made = [
        ModelSpec(name="embedding", task="text-embedding", source=embedding, precision="fp32", dimensions=(8,)),
        ModelSpec(name="short", task="text-embedding", source=embedding, precision="fp32", max_tokens=16),
        ModelSpec(name="late", task="multi-vector", source=embedding, precision="fp32"),
        ModelSpec(
            name="m3", task="text-embedding", source=str(tiny.write_m3(folder / "m3")), precision="fp32", max_tokens=64
        ),
        ModelSpec(
            name="cross",
            task="cross-encoder",
            source=str(tiny.write_cross_encoder(folder / "cross", "XLM-RoBERTa")),
            precision="fp32",
        ),
        ModelSpec(
            name="labels",
            task="classification",
            source=str(tiny.write_cross_encoder(folder / "labels", labels=3, id2label=LABELS)),
            precision="fp32",
            default=True,
        ),
        ModelSpec(
            name="clip", task="image-text", source=str(tiny.write_image_text(folder / "clip", "CLIP")), precision="fp32"
        ),
    ]
    return {spec.name: spec for spec in made}


@pytest.fixture(scope="module")
def built(specs: Mapping[str, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of them."""
    folder = tmp_path_factory.mktemp("repository")
    for spec in specs.values():
        build(spec, folder, progress=print)
    return folder


@pytest.fixture(scope="module")
def gateway(built: Path) -> Iterator[Server]:
    """Serves them to those who have a key."""
    with serve(built, GATEWAY_API_KEYS=KEY) as running:
        yield running


def check(spec: ModelSpec, repository: Path, url: str, key: str | None = KEY) -> list[Entry]:
    return check_served(spec, repository, Gateway(url, key), progress=print)


def refused(spec: ModelSpec, repository: Path, url: str, key: str | None = KEY) -> str:
    with pytest.raises(ExportError) as caught:
        check(spec, repository, url, key)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("embedding", ["embedding", "tokens"]),
        ("short", ["embedding", "tokens"]),
        ("m3", ["embedding", "sparse", "tokens", "query_tokens", "score"]),
        ("late", ["score", "tokens", "query_tokens"]),
        ("cross", ["score"]),
        ("labels", ["score"]),
        ("clip", ["embedding"]),
    ],
)
def test_what_is_served_is_the_librarys(
    name: str, outputs: list[str], specs: Mapping[str, ModelSpec], built: Path, gateway: Server
) -> None:
    entries = check(specs[name], built, gateway.url)
    assert [entry.folder.name for entry in entries] == list(specs[name].triton_names)
    for entry in entries:
        assert [parity["output"] for parity in entry.proof["parity"]] == outputs
        for parity in entry.proof["parity"]:
            assert 0 <= parity["mean"] <= parity["worst"] <= parity["tolerance"]["worst"]
            assert (parity["batches"], parity["precision"]) == ("served", "fp32")
        (speed,) = entry.proof["speed"]
        assert speed["per_second"] > 0


def test_predictions_are_the_librarys(specs: Mapping[str, ModelSpec], gateway: Server) -> None:
    call: Any = pipeline("text-classification", model=specs["labels"].source, device="cpu", top_k=None)
    with httpx2.Client(base_url=gateway.url, timeout=60, headers={"Authorization": f"Bearer {KEY}"}) as client:

        def predict(inputs: object, **more: object) -> Any:
            return client.post("/predict", json={"inputs": inputs, **more}).json()

        for given, same in (
            ("A conch.", "A conch."),
            (["A conch."], "A conch."),
            (["A conch.", "Brass."], {"text": "A conch.", "text_pair": "Brass."}),
        ):
            (expected,) = call([same])
            found = predict(given)
            assert [one["label"] for one in found] == [one["label"] for one in expected]
            assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-3)
        inputs = ("A conch.", ["A conch.", "Brass."])
        for one, alone in zip(predict([["A conch."], inputs[1]]), map(predict, inputs), strict=True):
            assert [label["label"] for label in one] == [label["label"] for label in alone]
            assert [label["score"] for label in one] == pytest.approx([label["score"] for label in alone], abs=1e-6)
        raw = predict("A conch.", raw_scores=True)
        exponentials = np.exp([one["score"] for one in raw])
        assert exponentials / exponentials.sum() == pytest.approx([one["score"] for one in predict("A conch.")])


@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "minilm-late-interaction", "minilm-pictogram"])
def test_default_models_are_the_librarys(name: str, repository: Path, server: Server) -> None:
    assert check(load()[name], repository, server.url)


def test_other_weights_are_named_by_text_and_numbers(gateway: Server, tmp_path: Path) -> None:
    other = ModelSpec(
        name="embedding",
        task="text-embedding",
        source=str(tiny.write_embedding(tmp_path / "source", pooling="cls")),
        precision="fp32",
        dimensions=(8,),
    )
    build(other, tmp_path / "repository", progress=print)
    said = refused(other, tmp_path / "repository", gateway.url)
    assert said.startswith("[embedding] '")
    assert ": expected [" in said
    assert "], got [" in said
    assert said.endswith("0.0001 allowed")


def test_source_that_has_changed_is_not_asked(built: Path, tmp_path: Path) -> None:
    spec = ModelSpec(
        name="embedding", task="text-embedding", source=str(tiny.write_embedding(tmp_path)), precision="fp32"
    )
    said = refused(spec, built, "http://127.0.0.1:1")
    assert said == "[embedding] source: changed since the export: run python -m export embedding"


def test_gateway_that_is_not_there_is_named(specs: Mapping[str, ModelSpec], built: Path) -> None:
    (port,) = free_ports(1)
    said = refused(specs["embedding"], built, f"http://127.0.0.1:{port}")
    assert said.startswith(f"[embedding] url: http://127.0.0.1:{port} does not answer: ")


def test_gateway_says_why_it_refuses(specs: Mapping[str, ModelSpec], built: Path, gateway: Server) -> None:
    assert refused(specs["embedding"], built, gateway.url, key=None).startswith(
        "[embedding] url: /v1/models/embedding answers 401: "
    )


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "export", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CONCH_API_KEY": KEY},
    )


def test_command_prints_the_table_of_an_export(
    specs: Mapping[str, ModelSpec], built: Path, gateway: Server, tmp_path: Path
) -> None:
    spec = specs["embedding"]
    manifest = tmp_path / "models.toml"
    manifest.write_text(f'[embedding]\ntask = "{spec.task}"\nsource = "{spec.source}"\nprecision = "fp32"\n')
    where = ("--manifest", str(manifest), "--repository", str(built))
    done = command("embedding", "--check", "--url", gateway.url, *where)
    assert done.returncode == 0, done.stderr
    assert "Compared with the reference" in done.stdout
    rows = [line.split()[:3] for line in done.stdout.splitlines() if line.split()[:1] == ["embedding"]]
    assert rows == [["embedding", "fp32", "embedding"], ["embedding", "fp32", "tokens"]]


def test_url_without_check_is_refused() -> None:
    refused = command("--url", "http://127.0.0.1:1")
    assert (refused.returncode, "--url requires --check" in refused.stderr) == (2, True)
