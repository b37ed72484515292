"""The docs site is built from all pages, and none of its links is broken."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SITE = Path(".site")
CONFIG = Path("mkdocs.yml").read_text()


@pytest.fixture(scope="module", autouse=True)
def output() -> str:
    """What building the site printed; links and anchors that do not exist are errors."""
    done = subprocess.run([sys.executable, "docs/build.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Loader(yaml.SafeLoader):
    """Reads the Python names of Markdown's extensions as strings."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda _, suffix, __: suffix)


def pages(part: Any) -> Iterator[str]:
    """The pages of a part of the navigation, which is a page, a named part, or a list of parts."""
    if isinstance(part, str):
        yield part
    else:
        for inner in part.values() if isinstance(part, dict) else part:
            yield from pages(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = list(pages(yaml.load(CONFIG, Loader)["nav"]))  # noqa: S506 - a safe loader
    assert sorted(navigation) == sorted(file.name for file in (SITE / "pages").glob("*.md"))


def test_every_page_of_the_repository_is_in_the_site() -> None:
    gathered = {file.name for file in (SITE / "pages").glob("*.md")}
    assert gathered > {file.name for file in Path("docs").glob("*.md")}
    assert len(gathered) == len([*Path("docs").glob("*.md"), *Path().glob("*.md")])


def test_links_to_files_outside_the_site_lead_to_the_forge() -> None:
    urls = tomllib.loads(Path("pyproject.toml").read_text())["project"]["urls"]
    assert f"repo_url: {urls['Source']}\n" in CONFIG
    page = (SITE / "html/docker/index.html").read_text()
    assert f'href="{urls["Source"]}/blob/HEAD/.env.example"' in page


def test_blocks_of_code_are_rendered_as_such() -> None:
    for page in (SITE / "html").rglob("*.html"):
        assert "```" not in page.read_text(), page


def test_drawings_are_drawn() -> None:
    sources, pages = (
        [file.read_text() for file in (SITE / folder).rglob(pattern)]
        for folder, pattern in (("pages", "*.md"), ("html", "*.html"))
    )
    drawings = sum(len(re.findall("^```mermaid$", text, re.MULTILINE)) for text in sources)
    assert drawings
    assert sum(text.count('class="mermaid"') for text in pages) == drawings
