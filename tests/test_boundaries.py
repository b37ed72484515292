"""Imports go one way, and a few things are nowhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = [
    file for package in ("gateway", "export", "embedded", "bulk") for file in sorted(Path(package).rglob("*.py"))
]
TESTS = sorted(Path("tests").rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def importers(module: str) -> set[str]:
    return {str(file) for file in SOURCES if any(f"{name}.".startswith(f"{module}.") for name in imports(file))}


def inside(*folders: str) -> set[str]:
    return {str(file) for file in SOURCES if str(file).startswith(folders)}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("gateway", inside("gateway/", "embedded/")),
        ("export", inside("export/")),
        ("embedded", inside("embedded/")),
        ("bulk", inside("bulk/")),
        ("starlette", inside("gateway/routes/", "gateway/app.py", "gateway/middleware.py")),
        ("tritonclient", inside("gateway/triton.py", "export/config.py")),
        ("gateway.routes", inside("gateway/routes/", "gateway/app.py", "gateway/protocol.py")),
        ("gateway.service", inside("gateway/service/", "gateway/routes/", "gateway/health.py")),
        ("httpx2", inside("gateway/fetch.py", "bulk/client.py", "export/served.py")),
        ("pyarrow", inside("bulk/job.py")),
        ("opentelemetry", inside("gateway/tracing.py")),
        ("prometheus_client", inside("gateway/metrics.py", "gateway/routes/metrics.py")),
        (
            "PIL",
            inside("gateway/formats.py", "gateway/pixels.py", "gateway/white.py", "gateway/parameters.py", "export/"),
        ),
        ("torch", inside("export/")),
        ("transformers", inside("export/")),
    ],
)
def test_only_these_import(module: str, allowed: set[str]) -> None:
    assert importers(module) <= allowed


@pytest.mark.parametrize(
    "leaf",
    [
        "gateway/addresses.py",
        "gateway/budget.py",
        "gateway/errors.py",
        "gateway/scores.py",
        "gateway/vectors.py",
        "export/errors.py",
        "export/measures.py",
        "export/profiles.py",
    ],
)
def test_leaves_import_nothing_of_ours(leaf: str) -> None:
    assert not any(name.split(".")[0] in {"gateway", "export", "embedded"} for name in imports(Path(leaf)))


def test_settings_know_of_hosts_and_keys_only() -> None:
    assert {name for name in imports(Path("gateway/settings.py")) if name.startswith("gateway")} == {
        "gateway.addresses",
        "gateway.keys",
    }


def test_the_environment_is_read_at_the_entry_points_only() -> None:
    readers = {str(file) for file in SOURCES if "os.environ" in file.read_text()}
    entries = {f"{package}/__main__.py" for package in ("bulk", "embedded", "export", "gateway")}
    # The latter writes to it, for the processes that read models.
    assert readers == entries | {"embedded/triton.py", "export/preload.py"}


def test_nothing_is_mocked() -> None:
    words = ("unittest." + "mock", "monkeypatch." + "setattr", "Magic" + "Mock")
    assert not [file for file in TESTS if any(word in file.read_text() for word in words)]
