import re
from pathlib import Path

import msgspec

from loadtest.experiments.compat import CALLS, ENVIRONMENTS, NPM, RESULTS, Results, Row, furnish
from loadtest.reports.clients import PAGE, table


def test_client_is_named_once_and_failures_stand_out() -> None:
    rows = [
        Row("openai", "3.0", "`base_url`", "`create`", passed=True),
        Row("openai", "3.0", "`base_url`", "`list`", passed=False),
        Row("voyageai", "0.5", "`base_url`", "`embed`", passed=True),
    ]
    assert table(rows).splitlines()[2:] == [
        "| openai | 3.0 | `base_url` | `create` | works |",
        "| | | | `list` | **fails** |",
        "| voyageai | 0.5 | `base_url` | `embed` | works |",
    ]


def test_page_shows_the_stored_results() -> None:
    assert table(msgspec.json.decode(RESULTS.read_bytes(), type=Results).rows) in PAGE.read_text()


def test_prompted_model_is_the_default_ones_twin(tmp_path: Path) -> None:
    config = (furnish(tmp_path / "repository") / "prompted" / "config.pbtxt").read_text()
    assert 'string_value: "64,128"' in config
    assert 'name: "prompted"' in config


def test_page_installs_the_version_of_aiperf_that_is_tried() -> None:
    pages = (Path("docs/performance.md"), Path("requirements/compat-aiperf.txt"))
    (shown,), (tried,) = (re.findall(r"\baiperf==(\S+)", page.read_text()) for page in pages)
    assert shown == tried


def test_make_installs_every_environment() -> None:
    (names,) = re.findall(r"^compat:.*foreach name,([\w ]+),", Path("Makefile").read_text(), re.MULTILINE)
    assert tuple(names.split()) == ENVIRONMENTS
    assert all((CALLS / name).is_dir() for name in ENVIRONMENTS)


def test_lock_of_npm_pins_what_the_calls_import_and_names_no_registry() -> None:
    folder = CALLS / NPM
    lock = msgspec.json.decode((folder / "package-lock.json").read_bytes())["packages"]
    assert not any("resolved" in package for package in lock.values())
    asked = msgspec.json.decode((folder / "package.json").read_bytes())["dependencies"]
    assert lock[""]["dependencies"] == asked
    called = set(re.findall(r'^    client: "(.+)",$', (folder / "calls.mjs").read_text(), re.MULTILINE))
    assert called <= asked.keys()
    assert len(called) >= 12
