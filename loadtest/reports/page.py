"""Pages of the documentation that hold figures of stored runs."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path


def fill(page: Path, sections: Mapping[str, str]) -> None:
    """Write each text between the comments of its name, `<!-- name: begin -->` and `<!-- name: end -->`.

    Args:
        page: in Markdown.
        sections: texts that end in a newline, by name.

    Raises:
        ValueError: the page has no place of a name.
    """
    content = page.read_text()
    for name, text in sections.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        content, count = re.subn(f"{begin}.*?{end}", partial(_same, f"{begin}{text}{end}"), content, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{page} has {count} places for {name!r}")
    page.write_text(content)
    print(f"written: {page}")


def _same(text: str, _: re.Match[str]) -> str:
    """A replacement in which no backslash means anything."""
    return text
