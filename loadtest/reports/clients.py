"""`python -m loadtest.reports.clients`: writes the table of docs/clients.md."""

import sys
from itertools import groupby
from pathlib import Path

import msgspec

from loadtest.experiments.compat import RESULTS, Results, Row
from loadtest.reports import page

PAGE = Path("docs/clients.md")


def main() -> int:
    """Write."""
    page.fill(PAGE, {"clients": table(msgspec.json.decode(RESULTS.read_bytes(), type=Results).rows)})
    return 0


def table(rows: list[Row]) -> str:
    """One line per call; values common to all calls of a client are written once."""
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
