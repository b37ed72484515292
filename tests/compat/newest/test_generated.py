"""Clients that openapi-python-client and openapi-typescript generate from /openapi.json, in their default settings."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from tests.compat.plain import MODEL, QUERY, RERANKER, TEXTS, Plain, assert_ranked, assert_same

NODE_MODULES = Path(".compat/npm/node_modules").resolve()
"""What `make compat` installs from npm."""
TYPESCRIPT = Path("tests/compat/npm/generated.ts")
Operations = set[tuple[str, str]]
"""Methods and paths."""

python = pytest.mark.client("openapi-python-client", '`--url "URL/openapi.json"`')
typescript = pytest.mark.client(
    "openapi-typescript (npm)",
    '`"URL/openapi.json"`, with `openapi-fetch`',
    version=json.loads((NODE_MODULES / "openapi-typescript/package.json").read_text())["version"],
)


@pytest.fixture(scope="module")
def operations(plain: Plain) -> Operations:
    """All that the document describes."""
    paths = plain.get("/openapi.json")["paths"]
    return {(method, path) for path, methods in paths.items() for method in methods}


def run(*command: str | Path) -> str:
    """The output of a command, which must succeed. Tools find their helpers beside Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_answers(answers: Mapping[str, Any], plain: Plain) -> None:
    """They are those of plain requests: by path, as JSON."""
    expected, ranking = plain.embed(TEXTS), plain.rank()
    assert_same([one["embedding"] for one in answers["/v1/embeddings"]["data"]], expected)
    found = [(one["index"], one["relevance_score"]) for one in answers["/v1/rerank"]["results"]]
    assert_ranked(found, ranking)
    assert [one["id"] for one in answers["/v1/models"]["data"]] == [
        one["id"] for one in plain.get("/v1/models")["data"]
    ]
    assert_same(answers["/v2/embed"]["embeddings"]["float"], expected)
    assert_same(answers["/embed"], expected)
    scores = [one["score"] for one in answers["/score"]["data"]]
    assert scores == pytest.approx([score for _, score in sorted(ranking)], abs=1e-3)


@python
@pytest.mark.call("`generate`: every endpoint is there; the main ones answer as plain requests do")
@pytest.mark.parametrize("settings", ["", "literal_enums: true"], ids=["default", "literal_enums"])
def test_python(
    url: str,
    plain: Plain,
    operations: Operations,
    tmp_path: Path,
    settings: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = f"generated_{settings.partition(':')[0]}"
    config = tmp_path / "config.yml"
    config.write_text(settings)
    chosen = ["--config", str(config)] if settings else []
    generator = Path(sys.executable).with_name("openapi-python-client")
    told = run(
        generator,
        "generate",
        "--url",
        f"{url}/openapi.json",
        *chosen,
        "--meta",
        "none",
        "--output-path",
        tmp_path / package,
    )
    warnings = told.split("WARNING ")[1:]  # it reads JSON and text only, and leaves the answer to its caller else
    assert all("Unsupported content_type" in warning for warning in warnings), told
    monkeypatch.syspath_prepend(tmp_path)
    modules = {}
    for file in (tmp_path / package / "api").glob("*/*.py"):
        if found := re.search(r'"method": "(\w+)",\s+"url": "([^"]+)"', file.read_text()):
            modules[found[1], found[2]] = f"{package}.api.{file.parent.name}.{file.stem}"
    assert modules.keys() == operations
    client = importlib.import_module(package).Client(base_url=url, raise_on_unexpected_status=True)

    def call(path: str, **fields: Any) -> Any:
        module = importlib.import_module(modules["post" if fields else "get", path])
        body = {"body": get_type_hints(module.sync)["body"](**fields)} if fields else {}
        answer = module.sync(client=client, **body)
        return answer if isinstance(answer, list) else answer.to_dict()

    cohere = {"input_type": "search_document", "texts": TEXTS}
    answers = {
        "/v1/embeddings": call("/v1/embeddings", input_=TEXTS, model=MODEL),
        "/v1/rerank": call("/v1/rerank", query=QUERY, documents=TEXTS, model=RERANKER),
        "/v1/models": call("/v1/models"),
        "/v2/embed": call("/v2/embed", model=MODEL, **cohere),
        "/embed": call("/embed", inputs=TEXTS),
        "/score": call("/score", queries=QUERY, documents=TEXTS, model=RERANKER),
    }
    assert_answers(answers, plain)


@typescript
@pytest.mark.call("every endpoint is there; `tsc --strict` accepts calls of the main ones, which answer the same")
def test_typescript(url: str, plain: Plain, operations: Operations, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    document, types = tmp_path / "openapi.json", tmp_path / "api.d.ts"
    document.write_text(json.dumps(plain.get("/openapi.json")))
    run("node", NODE_MODULES / "openapi-typescript/bin/cli.js", document, "--output", types)
    paths = types.read_text().partition("export interface paths {")[2].partition("\n}")[0]
    found = {
        (method, path)
        for path, described in re.findall(r'^    "([^"]+)": \{$(.*?)^    \};$', paths, re.DOTALL | re.MULTILINE)
        for method in re.findall(r"^        (\w+): operations\[", described, re.MULTILINE)
    }
    assert found == operations
    program = tmp_path / TYPESCRIPT.name
    program.write_text(TYPESCRIPT.read_text())
    options = ["--strict", "--module", "nodenext", "--target", "es2022", "--noEmitOnError"]
    run("node", NODE_MODULES / "typescript/bin/tsc", *options, program)
    answers = run("node", program.with_suffix(".js"), url, json.dumps(TEXTS), QUERY, MODEL, RERANKER)
    assert_answers(json.loads(answers), plain)
