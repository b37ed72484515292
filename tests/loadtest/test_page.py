from pathlib import Path

import pytest

from loadtest.reports.page import fill


def test_sections_are_replaced_and_all_else_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- one: begin -->\nold\n<!-- one: end -->\nb\n")
    for text in ("new \\1\n", "newer\n"):
        fill(page, {"one": text})
        assert page.read_text() == f"a\n<!-- one: begin -->\n{text}<!-- one: end -->\nb\n"


def test_section_without_a_place_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n")
    with pytest.raises(ValueError, match="0 places for 'one'"):
        fill(page, {"one": "text\n"})
