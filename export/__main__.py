"""`python -m export`: builds the entries of the model repository that are missing or out of date."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from export import add
from export.entry import Entry, Proofs, hidden_files, is_built, read_proofs, whole_entries
from export.errors import ExportError, ManifestError
from export.manifest import ASKED, Backend, ModelSpec, load
from export.plans.build import PLAN
from export.repository import build, check
from export.served.check import Gateway, check_served
from export.sources import isolation

_EPILOG = "To add a model: python -m export add SOURCE (see python -m export add --help)"

KEY = "CONCH_API_KEY"
"""The variable that holds the key to send to a gateway."""
SOME_FAILED = 3
"""The exit code if models could not be exported, and the repository holds entries to serve without them."""


def main() -> int:
    """Run the command.

    The exit code is 0 if all went well, 3 if some models could not be exported but the repository holds entries to
    serve, and 1 if it holds none, if a check failed, or if nothing could be tried.
    """
    is_addition = sys.argv[1:2] == ["add"]
    arguments = add.arguments(sys.argv[2:]) if is_addition else _arguments()
    # A fixed file keeps the console on stdout while Progress redirects it. Without a terminal it has 110 columns.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 110)
    try:
        if is_addition:
            return 0 if _add(console, arguments) else 1
        return _export(console, arguments)
    except KeyboardInterrupt:
        return 130
    except ExportError as exc:
        print(f"export: {exc}", file=sys.stderr)
        return 1


def _export(console: Console, arguments: argparse.Namespace) -> int:
    """List, build or check models, and return the exit code."""
    specs = load(arguments.manifest)
    if arguments.backend is not None:
        specs = {name: _on(spec, arguments.backend) for name, spec in specs.items()}
    chosen = _chosen(specs, arguments.names)
    if arguments.list:
        built = [spec for spec in chosen if is_built(spec, arguments.repository)]
        console.print(_listing(chosen, built, arguments.repository))
        _print_notes(console, (reason for spec in built for reason in reasons(read_proofs(spec, arguments.repository))))
        return 0
    succeeded = _run(console, chosen, partial(_act, arguments))
    entries = whole_entries(arguments.repository)
    _print_unknown(specs, entries, arguments.manifest)
    if succeeded:
        return 0
    if arguments.check or not entries:
        return 1
    print(f"export: without what failed, the repository holds: {', '.join(entries)}", file=sys.stderr)
    return SOME_FAILED


def _add(console: Console, arguments: argparse.Namespace) -> bool:
    """Build a model, and write its table once it is built; returns whether it is."""
    addition = add.prepare(arguments)
    console.print(addition.table, markup=False, highlight=False, soft_wrap=True)
    if not arguments.dry_run:
        if not _run(console, [addition.spec], partial(_act, arguments)):
            print(f"export: nothing was added to {arguments.manifest}", file=sys.stderr)
            return False
        add.write(addition, arguments.manifest)
        console.print(f"export: added to {arguments.manifest}", highlight=False, soft_wrap=True)
    if addition.open:
        message = "\n".join(("Not inferred, or uncertain:", *(f"  {sentence}" for sentence in addition.open)))
        console.print(message, markup=False, highlight=False, soft_wrap=True)
    return True


def _act(arguments: argparse.Namespace, spec: ModelSpec, progress: Callable[[str], None]) -> list[Entry]:
    """Build or check one model, as the options say. A model that is up to date is not built again."""
    run = partial(isolation.run, isolation.limits(arguments))
    if arguments.url is not None:
        gateway = Gateway(arguments.url, os.environ.get(KEY))
        return check_served(spec, arguments.repository, gateway, progress, run)
    if arguments.check:
        return check(spec, arguments.repository, progress, run)
    if not arguments.force and is_built(spec, arguments.repository):
        return []
    isolation.start()
    return build(spec, arguments.repository, progress, run)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__, epilog=_EPILOG)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="models to export, as the manifest names them (default: all)"
    )
    parser.add_argument("--all", action="store_true", help="export all models of the manifest, which is the default")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--list", action="store_true", help="list the models and whether they are built")
    action.add_argument("--check", action="store_true", help="verify the built models again")
    action.add_argument("--force", action="store_true", help="export also models that are up to date")
    parser.add_argument(
        "--url", help=f"with --check, compare the answers of the gateway at this URL; its API key is read from {KEY}"
    )
    parser.add_argument(
        "--backend", choices=get_args(Backend), help="Triton backend to use, whatever the manifest says"
    )
    add.add_paths(parser)
    isolation.add_options(parser)
    arguments = parser.parse_args()
    if arguments.all and arguments.names:
        parser.error("--all cannot be combined with names of models")
    if arguments.url is not None and not arguments.check:
        parser.error("--url requires --check")
    return arguments


def _on(spec: ModelSpec, backend: Backend) -> ModelSpec:
    """The model on another backend, which uses its default precision if it does not support the model's."""
    precision = spec.precision if spec.precision in ASKED[backend] else None
    return replace(spec, backend=backend, precision=precision)


def _chosen(specs: dict[str, ModelSpec], wanted: Sequence[str]) -> list[ModelSpec]:
    for name in wanted:
        if name not in specs:
            raise ManifestError(f"no table [{name}]; the tables are {', '.join(specs)}")
    return [specs[name] for name in wanted or specs]


def _print_unknown(specs: dict[str, ModelSpec], entries: Sequence[str], manifest: Path) -> None:
    known = {name for spec in specs.values() for name in spec.triton_names}
    unknown = [name for name in entries if name not in known]
    if unknown:
        print(f"export: not in {manifest.name}; remove these folders to stop serving them: {', '.join(unknown)}")


def _listing(specs: Sequence[ModelSpec], built: Sequence[ModelSpec], repository: Path) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("model", "task", "backend", "precision", "built"):
        table.add_column(column, no_wrap=True)
    table.add_column("source", no_wrap=True, overflow="ellipsis", min_width=6)
    for spec in specs:
        is_there = spec in built
        precision = spec.precision or spec.computes_in
        if is_there:
            precision = next(iter(read_proofs(spec, repository).values()))["precision"]
        table.add_row(spec.name, spec.task, spec.backend, precision, "yes" if is_there else "no", spec.source)
    return table


def _run(
    console: Console, specs: Sequence[ModelSpec], act: Callable[[ModelSpec, Callable[[str], None]], list[Entry]]
) -> bool:
    """Run `act` on each model, even if others fail, and print the measurements; returns whether all succeeded."""
    columns = (TextColumn("{task.description:<40}"), BarColumn(20), TimeElapsedColumn())
    entries: list[Entry] = []
    failures: list[str] = []
    with Progress(*columns, console=console) as progress:
        for spec in specs:
            stages = _Stages(progress)
            try:
                entries += act(spec, stages)
            except ExportError as exc:
                failures.append(str(exc) if str(exc).startswith("[") else f"[{spec.name}] {exc}")
            except OSError as exc:  # the repository is full, not writable or not a folder
                failures.append(f"[{spec.name}] repository: {exc}")
            except Exception as exc:  # noqa: BLE001 - an unforeseen error of one source must not stop the others
                failures.append(f"[{spec.name}] source: cannot be read: {type(exc).__name__}: {exc}")
            stages.finish()
    if entries:
        console.print(_report(entries))
        _print_notes(console, notes(entries))
    for failure in failures:
        print(f"export: {failure}", file=sys.stderr)
    if specs and not entries and not failures:
        console.print(f"export: up to date: {', '.join(spec.name for spec in specs)}", highlight=False)
    return not failures


class _Stages:
    """A progress bar for each stage of one model. The number of steps is not known in advance."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._bar: TaskID | None = None

    def __call__(self, stage: str) -> None:
        if stage != self._stage:
            self.finish()
            self._stage, self._bar = stage, self._progress.add_task(stage, total=None)
        elif self._bar is not None:
            self._progress.advance(self._bar)

    def finish(self) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, total=1, completed=1)


def _report(entries: Sequence[Entry]) -> Table:
    table = Table(title="Compared with the reference", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for column in ("precision", "output"):
        table.add_column(column)
    for column in ("worst", "mean", "allowed", "tokens/s", "MiB", "seconds"):
        table.add_column(column, justify="right")
    for entry in entries:
        size, seconds = f"{entry.proof['bytes'] / 2**20:.0f}", f"{entry.proof['seconds']:.0f}"
        for speed in entry.proof["speed"]:
            rate = f"{speed['per_second']:,.0f}" + ("" if speed["unit"] == "tokens" else " img")
            outputs: dict[str, list[dict[str, Any]]] = {}
            for one in entry.proof["parity"]:
                if one["precision"] == speed["precision"]:
                    outputs.setdefault(one["output"], []).append(one)
            for output, found in outputs.items():
                worst, mean = (max(one[key] for one in found) for key in ("worst", "mean"))
                table.add_row(
                    entry.folder.name,
                    speed["precision"],
                    output,
                    f"{worst:.0e}",
                    f"{mean:.0e}",
                    f"{found[0]['tolerance']['worst']:.0e}",
                    rate,
                    size,
                    seconds,
                )
    return table


def _print_notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(f"export: {note}", markup=False, highlight=False, soft_wrap=True)


def reasons(proofs: Proofs) -> Iterator[str]:
    """Why entries are served in their precision, of several that were tried."""
    for name, proof in proofs.items():
        for reason in proof["rejected"].values():
            yield f"{name} is served in {proof['precision']}: {reason}"


def notes(entries: Sequence[Entry]) -> Iterator[str]:
    """Messages about entries, in addition to their measurements."""
    for entry in entries:
        yield from reasons({entry.folder.name: entry.proof})
        if entry.proof["backend"] == "tensorrt" and not (entry.folder / "1" / PLAN).is_file():
            yield f"{entry.folder.name}: build its plan with `python -m export.plans ENTRY` in the serving image"
        if entry.proof["backend"] == "torch" and not any((entry.folder / "1").glob("compiled.*")):
            yield f"{entry.folder.name}: on a GPU host, also run `python -m export.plans ENTRY` there"
    hidden = [file for entry in entries for file in hidden_files(entry.folder)]
    if hidden:
        yield (
            f"{entries[0].folder.parent} refuses chmod: run Triton as user {hidden[0].stat().st_uid}, who can read all"
            " files, or mount the volume with a file mode of 0644"
        )


if __name__ == "__main__":
    sys.exit(main())
