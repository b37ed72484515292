"""`python -m export`: builds the entries of the model repository that are missing or out of date."""

import argparse
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from export.entry import PROOF, Entry, build, is_built
from export.errors import ExportError, ManifestError
from export.manifest import MANIFEST, ModelSpec, load

STAGES = ("load", "trace", "verify", "write")


def main() -> int:
    """Run the command; the exit code is 1 where a model could not be exported."""
    arguments = _arguments()
    console = Console()
    try:
        specs = load(arguments.manifest)
        chosen = _chosen(specs, arguments.names)
        wanted = [spec for spec in chosen if arguments.force or not is_built(spec, arguments.repository)]
        if wanted:
            _report(console, _build(console, wanted, arguments.repository))
        for proof in sorted(arguments.repository.glob(f"*/{PROOF}")):
            if proof.parent.name not in specs:
                print(f"export: {proof.parent} is not in {arguments.manifest.name}: remove it to stop serving it")
    except KeyboardInterrupt:
        return 130
    except ExportError as exc:
        print(f"export: {exc}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="tables of the manifest; all of them by default")
    parser.add_argument("--force", action="store_true", help="export even what is built")
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    return parser.parse_args()


def _chosen(specs: dict[str, ModelSpec], names: list[str]) -> list[ModelSpec]:
    for name in names:
        if name not in specs:
            raise ManifestError(f"no table [{name}]; there are {', '.join(specs)}")
    return [specs[name] for name in names or specs]


def _build(console: Console, specs: list[ModelSpec], repository: Path) -> list[Entry]:
    columns = (TextColumn("{task.description:<40}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("export", total=len(specs) * len(STAGES))
        entries = []
        for done, spec in enumerate(specs):

            def stage(name: str, done: int = done, spec: ModelSpec = spec) -> None:
                completed = done * len(STAGES) + STAGES.index(name)
                progress.update(bar, description=f"{name} {spec.name}", completed=completed)

            entries.append(build(spec, repository, stage))
        progress.update(bar, description="exported", completed=len(specs) * len(STAGES))
    return entries


def _report(console: Console, entries: list[Entry]) -> None:
    table = Table("model", "engine", "rows", "tolerance", "measured", title="Parity with the reference", box=box.SIMPLE)
    for entry in entries:
        for parity in entry.proof["parity"]:
            table.add_row(
                entry.folder.name,
                parity["precision"],
                parity["batches"],
                f"{parity['measure']} {parity['tolerance']:g}",
                f"{parity['value']:.7f}",
            )
        table.add_section()
    console.print(table)
    for entry in entries:
        size, seconds = entry.proof["bytes"] / 2**20, entry.proof["seconds"]
        console.print(f"{entry.folder}: {size:.0f} MiB in {seconds:.0f} s", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
