"""`make compat`: the clients and frameworks of the field, in their newest versions, against a running server.

What they call is in tests/compat, a folder for each environment; every test there belongs to a row of the table.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import msgspec
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from loadtest import bench, machine, page
from loadtest.servers import HOST, conch, gateway

ENVIRONMENTS = ("newest", "older", "oldest")
"""Folders of .compat with a Python each, and of tests/compat with what runs in it."""
FOLDER = Path(".compat")
REPOSITORY = Path("model_repository")
RESULTS = Path(__file__).parent / "results" / "compat.json"
PAGE = Path("docs/clients.md")
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
    """The name of its distribution."""
    version: str
    setting: str
    """What makes it talk to Conch."""
    call: str
    passed: bool


class Results(msgspec.Struct, frozen=True):
    """All that was called."""

    date: str
    rows: list[Row]


def main() -> int:
    """Call everything and print the table; store and publish it if all is well."""
    with tempfile.TemporaryDirectory() as scratch, served(Path(scratch)) as urls:
        rows: list[Row] = []
        codes = []
        for name in ENVIRONMENTS:
            told = Path(scratch) / f"{name}.json"
            command = [str(FOLDER / name / "bin" / "python"), "-m", "pytest", f"tests/compat/{name}"]
            environment = os.environ | QUIET | urls | {"COMPAT_ROWS": str(told)}
            codes.append(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603
            if told.exists():
                rows += msgspec.json.decode(told.read_bytes(), type=list[Row])
    rows.sort(key=lambda row: row.client.lower())
    print(table(rows))
    if any(codes) or not all(row.passed for row in rows):
        return 1
    bench.store(Results(str(machine.describe()["date"]), rows), RESULTS)
    page.fill(PAGE, {"clients": table(rows)})
    return 0


@contextmanager
def served(scratch: Path) -> Iterator[dict[str, str]]:
    """The environment in which tests find an open gateway, and one that wants keys and counts requests."""
    repository = furnish(scratch / "repository")
    with conch(repository, FOLDER / "conch.log") as server:
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
    config.parameters["aliases"].string_value = "text-embedding-3-large"
    config.parameters["prompts"].string_value = msgspec.json.encode(PROMPTS).decode()
    config.parameters["dimensions"].string_value = "64,128"
    (prompted / "config.pbtxt").write_text(text_format.MessageToString(config))
    return target


def table(rows: list[Row]) -> str:
    """A line a call; what goes for all of a client is told once."""
    lines = ["| client | version | what to set | call | |", "|---|---|---|---|---|"]
    for (client, version, setting), group in groupby(rows, key=lambda row: (row.client, row.version, row.setting)):
        heads = [client, version, setting]
        for row in group:
            cells = [*heads, row.call, "works" if row.passed else "**fails**"]
            lines.append("|" + "".join(f" {cell} |" if cell else " |" for cell in cells))
            heads = ["", "", ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
