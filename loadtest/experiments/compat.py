"""`make compat`: the clients and frameworks of the field, in their newest versions, against a running server.

What they call is in tests/compat, a folder for each environment; every test there belongs to a row of docs/clients.md.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from export.manifest import ModelSpec
from export.repository import build
from loadtest.tools import machine
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import HOST, REPOSITORY, conch, gateway

NPM = "npm"
ENVIRONMENTS = ("newest", "databases", "older", "oldest", "aiperf", NPM)
"""Folders of .compat with a Python or packages of npm each, and of tests/compat with what runs in it."""
FOLDER = Path(".compat")
CALLS = Path("tests/compat")
RESULTS = STORED / "compat.json"
QUIET = {
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Clients tell nobody of the tests."""
GUARDS = {"GATEWAY_API_KEYS": ",".join(f"compat-{i}" for i in range(10)), "GATEWAY_REQUESTS_PER_MINUTE": "10"}
"""A key a test, so that none spends another's requests."""
PROMPTS = {"query": "query: ", "document": "passage: "}


class Row(msgspec.Struct, frozen=True):
    """A call of a client, and whether it did what it should."""

    client: str
    """The name of its distribution on PyPI, or its package's with "(npm)"."""
    version: str
    setting: str
    """The setting that points the client to Conch."""
    call: str
    passed: bool


class Results(msgspec.Struct, frozen=True):
    """All that was called."""

    date: str
    rows: list[Row]


def main() -> int:
    """Call everything and print what works; store it if all does."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.compat", description=__doc__)
    parser.add_argument("environment", nargs="*", help="calls only these clients, and keeps the stored rows of others")
    chosen = parser.parse_args().environment or ENVIRONMENTS
    with tempfile.TemporaryDirectory() as scratch, served(Path(scratch)) as urls:
        rows: list[Row] = []
        codes = []
        for name in chosen:
            report = Path(scratch) / f"{name}.json"
            environment = os.environ | QUIET | urls | {"COMPAT_ROWS": str(report)}
            codes.append(subprocess.run(command(name), env=environment, check=False).returncode)  # noqa: S603
            if report.exists():
                rows += msgspec.json.decode(report.read_bytes(), type=list[Row])
    rows.sort(key=lambda row: row.client.lower())
    for row in rows:
        print(f"{'works' if row.passed else 'FAILS'} {row.client} {row.version}: {row.call}")
    if any(codes) or not all(row.passed for row in rows):
        return 1
    if chosen != ENVIRONMENTS:
        called = {row.client for row in rows}
        others = [
            row for row in msgspec.json.decode(RESULTS.read_bytes(), type=Results).rows if row.client not in called
        ]
        rows = sorted([*others, *rows], key=lambda row: row.client.lower())
    store(Results(str(machine.describe()["date"]), rows), RESULTS)
    return 0


def command(environment: str) -> list[str]:
    """What runs the tests of an environment."""
    if environment == NPM:  # packages are looked for where the program lies
        shutil.copytree(CALLS / NPM, FOLDER / NPM, dirs_exist_ok=True)
        return ["node", str(FOLDER / NPM / "run.mjs")]
    return [str(FOLDER / environment / "bin" / "python"), "-m", "pytest", str(CALLS / environment)]


@contextmanager
def served(scratch: Path) -> Iterator[dict[str, str]]:
    """The environment in which tests find an open gateway, and one that wants keys and counts requests."""
    repository = furnish(scratch / "repository")
    add_tiny_models(repository, scratch)
    batches = {"GATEWAY_BATCH_FOLDER": str(scratch / "batches")}
    with conch(repository, FOLDER / "conch.log", **batches) as server:
        triton = f"{HOST}:{server.ports['TRITON_GRPC_PORT']}"
        with gateway(repository, FOLDER / "guarded.log", GATEWAY_TRITON_URL=triton, **GUARDS) as guarded:
            yield {
                "COMPAT_URL": f"http://{HOST}:{server.port}",
                "COMPAT_GUARDED_URL": f"http://{HOST}:{guarded.port}",
            }


def furnish(target: Path) -> Path:
    """The default models, and `prompted`: the embedding model once more, with prompts and several sizes."""
    target.mkdir()
    for entry in REPOSITORY.iterdir():
        (target / entry.name).symlink_to(entry.resolve())
    default = REPOSITORY / "all-minilm-l6-v2"
    prompted = target / "prompted"
    shutil.copytree(default, prompted)
    config = text_format.Parse((default / "config.pbtxt").read_text(), pb.ModelConfig())
    config.name = prompted.name
    del config.parameters["default"]
    config.parameters["aliases"].string_value = "text-embedding-3-large,embed-english-light-v3.0"
    config.parameters["prompts"].string_value = msgspec.json.encode(PROMPTS).decode()
    config.parameters["dimensions"].string_value = "64,128"
    (prompted / "config.pbtxt").write_text(text_format.MessageToString(config))
    return target


def add_tiny_models(repository: Path, scratch: Path) -> None:
    """Export models with random weights of kinds that no default model is of.

    `tiny-m3` is like bge-m3, with dense, sparse and token vectors; `tiny-labels` is a classifier with three labels;
    `tiny-cross` is a cross-encoder.
    """
    from loadtest.tools import tiny  # noqa: PLC0415 - torch, which reading the results does not need

    m3 = tiny.write_m3(scratch / "tiny-m3")
    labels = tiny.write_cross_encoder(scratch / "tiny-labels", labels=3)
    cross = tiny.write_cross_encoder(scratch / "tiny-cross")
    for spec in (
        ModelSpec(name="tiny-m3", task="text-embedding", source=str(m3)),
        ModelSpec(name="tiny-labels", task="classification", source=str(labels), default=True),
        ModelSpec(name="tiny-cross", task="cross-encoder", source=str(cross)),
    ):
        build(spec, repository, lambda _: None)


if __name__ == "__main__":
    sys.exit(main())
