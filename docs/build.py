"""Build the docs site: `make docs`.

The pages link to each other and to files of the repository by relative paths, which work on the forge. This script
copies them to `.site/pages`, points links to files outside the site at the forge, and has Zensical render the result. A
link or anchor that does not exist is an error.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / ".site"
# The pages at the root, and their names in the site: lower case, and apart from docs/security.md.
ROOT_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "report-a-vulnerability.md",
}
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def place(source: Path) -> Path:
    """Where a file of the repository is in the site."""
    inside = source.relative_to(ROOT)
    return inside.relative_to("docs") if inside.parts[0] == "docs" else Path(ROOT_PAGES[inside.name])


def relink(text: str, page: Path, placed: set[Path], forge: str) -> str:
    """Point the relative links of a page into the site, or to the forge.

    Args:
        text: what the page holds.
        page: its file in the repository.
        placed: the files that are part of the site.
        forge: the address of the repository's newest files.
    """

    def replace(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(page.parent / link[1]))
        if not target.exists():
            sys.exit(f"{page.relative_to(ROOT)}: {link[1]} leads nowhere")
        if target in placed:
            return f"]({os.path.relpath(place(target), place(page).parent)}"
        return f"]({forge}/{target.relative_to(ROOT)}"

    # Every second piece is a block of code.
    return "".join(piece if i % 2 else LINK.sub(replace, piece) for i, piece in enumerate(FENCE.split(text)))


def gather() -> None:
    """Write the pages and what they show to `.site/pages`."""
    (address,) = re.findall(r"^repo_url: (\S+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    sources = {ROOT / name for name in ROOT_PAGES}
    sources |= {file for file in (ROOT / "docs").rglob("*") if file.suffix in {".md", ".png", ".svg"}}
    shutil.rmtree(SITE, ignore_errors=True)
    for source in sources:
        copy = SITE / "pages" / place(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            copy.write_text(relink(source.read_text(), source, sources, f"{address}/blob/HEAD"))
        else:
            shutil.copyfile(source, copy)


if __name__ == "__main__":
    gather()
    zensical = Path(sys.executable).with_name("zensical")
    sys.exit(subprocess.run([zensical, "build", "--strict", "--clean"], cwd=ROOT, check=False).returncode)  # noqa: S603
