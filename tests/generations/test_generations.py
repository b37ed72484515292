"""Folders that both generations of the libraries save: each is served as its library would answer, or refused.

`write` makes the folders under either generation. All are exported by one call of `python -m export` and served by one
gateway. What is served must equal the library's own call today (`export.served`), and what the library that saved the
folder answered then.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from export.manifest import ModelSpec, load
from export.served.check import Gateway, check_served
from tests.serving import ADMIN, Server, serve
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all folders and their export

GENERATIONS = {"older": Path(".generations/older").resolve(), "newer": None}
"""By name: the folder of its libraries, if they are not those of the environment."""
COSINE, SCORE = 1e-4, 2.5e-4


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of folder, a table for it, and what becomes of it."""

    kind: str
    task: str = "text-embedding"
    keys: Mapping[str, Any] = field(default_factory=dict)
    """More keys of the table."""
    refused: str | None = None
    """What the sentence says behind the table's name, as a regular expression; None where it is served."""
    only: str | None = None
    """The generation that has it, if not both."""
    changed: str | None = None
    """Why transformers 5 itself does not answer as the older generation did, where it does not."""


CROSS, LATE, IMAGE = "cross-encoder", "multi-vector", "image-text"
CASES: Mapping[str, Case] = {
    case.kind if case.task == "text-embedding" and not case.refused else f"{case.kind}-as-{case.task}": case
    for case in (
        Case("bert"),
        Case("bert-plain", keys={"pooling": "mean"}),
        Case("bert-plain", refused="pooling: required, since the source does not set it"),
        Case("bert-tokenizer"),
        Case("two-poolings"),
        Case("qwen3-theta"),
        Case("qwen3-yarn"),
        Case("llama3-scaling"),
        Case("gemma3-local"),
        Case("modernbert"),
        Case("dense-tanh"),
        Case("dense-gelu"),
        Case("dense-on-tokens"),
        Case("layer-norm"),
        Case("dropout"),
        Case("weighted-layers"),
        Case("prompt-left-out"),
        Case("prompts"),
        Case("prompt-default"),
        Case("prompt-of-its-own"),
        Case("truncate-dim"),
        Case("old-layout"),
        Case("static"),
        Case("router", keys={"variants": ["document", "query"]}),
        Case("adapter"),
        Case(
            "adapter-alone",
            refused="source: adapter_config.json names a base model, 'example/base', that is not in the folder",
        ),
        Case("bert", LATE),
        Case("multi-vector", LATE, only="newer"),
        Case("pylate", LATE),
        Case("stanford", LATE),
        Case("cross", CROSS),
        Case("cross-plain", CROSS, changed="PreTrainedTokenizerFast gave segment ids, TokenizersBackend gives none"),
        Case("cross-identity", CROSS),
        Case("cross-tanh", CROSS, refused="source: the activation .*Tanh is not one of Identity, Sigmoid, Softmax"),
        Case("cross-prompt", CROSS),
        Case("cross-labels", CROSS, keys={"positive_class": "LABEL_2"}),
        Case("logit-score", CROSS),
        Case("causal", CROSS, refused="template: a causal language model ranks by its answer"),
        Case("cross", refused="source: it is a CrossEncoder of sentence-transformers: use task cross-encoder"),
        Case("splade", refused="source: it is a SparseEncoder of sentence-transformers: its vectors are sparse"),
        Case("mamba", refused="source: OpenVINO cannot run the graph: "),
        Case("clip", IMAGE),
    )
}


def _tables() -> Iterator[tuple[str, str, Case]]:
    for name, case in CASES.items():
        for generation in GENERATIONS:
            if case.only in (None, generation):
                yield f"{name}-{generation}", generation, case


TABLES = {table: (generation, case) for table, generation, case in _tables()}
SERVED = [table for table, (_, case) in TABLES.items() if case.refused is None]
REFUSED = [table for table in TABLES if table not in SERVED]


def _quietly(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of kinds for each generation."""
    root = tmp_path_factory.mktemp("folders")
    for generation, libraries in GENERATIONS.items():
        assert libraries is None or libraries.is_dir(), "run `make .generations/older/installed`"
        where = {"PYTHONPATH": str(libraries)} if libraries else {}
        done = _quietly("tests.generations.write", str(root / generation), **where)
        assert done.returncode == 0, done.stderr[-3000:]
    return root


@dataclass(frozen=True, slots=True)
class Exported:
    """What one call of the export made of all tables."""

    specs: Mapping[str, ModelSpec]
    repository: Path
    said: str
    sentences: Mapping[str, str]
    """Of the tables that it refused."""


@pytest.fixture(scope="module")
def exported(folders: Path) -> Exported:
    """All tables, exported by one call."""
    manifest = folders / "models.toml"
    tables = []
    for table, (generation, case) in TABLES.items():
        keys = {"task": case.task, "source": str(folders / generation / case.kind), "precision": "fp32", **case.keys}
        tables.append("\n".join([f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]))
    manifest.write_text("\n\n".join(tables))
    repository = folders / "repository"
    done = _quietly("export", "--manifest", str(manifest), "--repository", str(repository))
    found = re.findall(r"^export: \[([\w.-]+)\] (.*)$", done.stderr, re.MULTILINE)
    return Exported(load(manifest), repository, done.stdout + done.stderr, dict(found))


@pytest.fixture(scope="module")
def gateway(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A gateway, and the folder of what it serves: one of the default models until a test loads what it asks."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "all-minilm-l6-v2").symlink_to((repository / "all-minilm-l6-v2").resolve())
    with serve(folder) as running:
        yield running, folder


def _control(server: Server, model: str, action: str) -> None:
    url = f"http://127.0.0.1:{server.ports['TRITON_HTTP_PORT']}/v2/repository/models/{model}/{action}"
    answer = httpx2.post(url, json={}, headers=ADMIN, timeout=60)
    assert answer.status_code == 200, answer.text


def test_nothing_ends_in_a_traceback(exported: Exported) -> None:
    assert "Traceback" not in exported.said
    assert exported.sentences.keys() <= TABLES.keys()


@pytest.mark.parametrize("table", REFUSED)
def test_refused_with_one_sentence(table: str, exported: Exported) -> None:
    _, case = TABLES[table]
    assert table in exported.sentences, "it was exported"
    assert re.match(case.refused or "", exported.sentences[table]), exported.sentences[table]
    assert not (exported.repository / table).exists()


@pytest.mark.parametrize("table", SERVED)
def test_served_as_the_library_answers(
    table: str, exported: Exported, gateway: tuple[Server, Path], folders: Path
) -> None:
    assert table not in exported.sentences, exported.sentences[table]
    server, folder = gateway
    spec = exported.specs[table]
    for name in spec.triton_names:
        (folder / name).symlink_to(exported.repository / name)
        _control(server, name, "load")
    described = f"{server.url}/v1/models/{table}"
    try:
        inputs = ["text", "image"] if spec.task == IMAGE else ["text"]
        assert eventually(lambda: httpx2.get(described).json().get("input_modalities") == inputs)
        assert check_served(spec, exported.repository, Gateway(server.url), progress=lambda _: None)
        generation, case = TABLES[table]
        if case.changed is None or generation == "newer":
            then = json.loads((folders / generation / "answers.json").read_text())
            _compare(server.url, case, table, then["texts"], then["answers"][case.kind])
    finally:
        for name in spec.triton_names:
            _control(server, name, "unload")


def _compare(url: str, case: Case, model: str, texts: list[str], answers: Mapping[str, Any]) -> None:
    """Hold what is served against what the library that saved the folder answered, where it was asked for the same."""
    with httpx2.Client(base_url=url, timeout=60) as client:
        for purpose, expected in answers.items():
            if case.task in {CROSS, LATE} and purpose == "rerank":
                body = {"model": model, "query": texts[0], "documents": texts}
                results = client.post("/v1/rerank", json=body).json()["results"]
                scores = {one["index"]: one["relevance_score"] for one in results}
                assert [scores[i] for i in range(len(texts))] == pytest.approx(expected, abs=SCORE)
            elif case.task == "text-embedding":
                body = {"model": model, "input": texts} | ({"input_type": purpose} if purpose else {})
                data = client.post("/v1/embeddings", json=body).json()["data"]
                vectors = np.array([one["embedding"] for one in data])
                assert (1 - (vectors * np.array(expected)).sum(1)).max() <= COSINE, purpose
