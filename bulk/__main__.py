"""Embed the texts in Parquet files through a server. Run the same command again to resume a job that was stopped."""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bulk.client import Endpoint, embed
from bulk.engines import Done, run_locally, run_on_ray
from bulk.job import Job, JobError, Refusal, Shard, Unavailable, absolute, begin, find
from bulk.kinds import COLUMNS, Kind, Shape

PROBE = "Is anybody there?"
"""The text that is embedded before the job starts."""
RESERVED = {
    "chunk_spans",
    "embedding_type",
    "encoding_format",
    "encoding_type",
    "input",
    "late_chunking",
    "model",
    "multi_vector_type",
    "output_dtype",
    "raw_scores",
    "return_multivector",
}
"""The fields that the command sends itself, that change the form of an answer, or that make one document of texts."""
KEY = "CONCH_API_KEY"
"""The environment variable with the API key."""

console = Console(stderr=True, highlight=False)


class _ConsoleHandler(logging.Handler):
    """Prints log lines above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


class _Speed(ProgressColumn):
    """Texts per second over the last ten minutes."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a job.

    Returns:
        The exit code: 0 if the job is complete; 1, or 130 after Ctrl-C, if it can be resumed; 2 if it cannot be done.
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        parser.error(f"{KEY} contains characters that are not printable ASCII")
    endpoint = Endpoint(
        url=args.url,
        model=args.model,
        request=args.request,
        batch=args.batch,
        at_once=args.at_once,
        patience_s=args.patience,
        key=key or None,
        kinds=_kinds(parser, args.kind or ["dense"]),
    )
    output = absolute(args.vectors)
    logging.getLogger("bulk").handlers = [_ConsoleHandler()]
    try:
        sources = find(args.texts, (args.text, args.id))
        shape = _shape(endpoint)
        job = Job(
            model=args.model,
            request=args.request,
            text=args.text,
            id=args.id,
            shard_rows=args.shard_rows,
            width=shape.width,
            sources=sources,
            kinds=endpoint.kinds,
            token_width=shape.token_width,
            labels=shape.labels,
        )
        pending = begin(job, output)
        if args.ray is None:
            engine = partial(run_locally, job, endpoint, output, pending)
        else:
            engine = partial(run_on_ray, job, endpoint, output, pending, concurrency=args.ray)
        refused = _run(job, pending, engine)
    except JobError as exc:
        _say(f"bulk: {exc}")
        return 2
    except Unavailable as exc:
        _say(f"bulk: {exc}; run the same command again to resume")
        return 1
    except KeyboardInterrupt:
        _say("bulk: stopped; run the same command again to resume")
        return 130
    summary = f"; texts refused in this run: {refused} (see the column `error`)" if refused else ""
    _say(f"complete: {args.vectors}{summary}")
    return 0


def _say(text: str) -> None:
    """Print a line without wrapping it, since it may go to a log."""
    console.print(text, markup=False, soft_wrap=True)


def _kinds(parser: argparse.ArgumentParser, wanted: Sequence[Kind]) -> tuple[Kind, ...]:
    """The kinds to request, each once, in the order of their columns."""
    if "labels" in wanted and {*wanted} != {"labels"}:
        parser.error("--kind labels cannot be combined with vectors: they come from another path and model")
    return tuple(kind for kind in COLUMNS if kind in wanted)


def _shape(endpoint: Endpoint) -> Shape:
    """What all results share, found by sending a text. This also detects a wrong request before the job starts."""
    (result,) = asyncio.run(embed(endpoint, [PROBE]))
    if isinstance(result, Refusal):
        raise JobError(f"{endpoint.url} refused a test text: {result.message}")
    return result.shape


def _run(job: Job, pending: Sequence[Shard], engine: Callable[[Callable[[int], object]], Iterator[Done]]) -> int:
    """Process the pending shards with a progress bar; the number of refused texts."""
    total, refused = sum(shard.rows for shard in job.shards()), 0
    left = sum(shard.rows for shard in pending)
    columns = (
        TextColumn("texts"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=600) as progress:
        bar = progress.add_task("", total=total, completed=total - left)
        for shard in engine(partial(progress.advance, bar)):
            if shard.refused:
                refused += shard.refused
                _say(f"part {shard.shard}: {shard.refused} of {shard.rows} texts refused, for example: {shard.example}")
    return refused


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bulk", description=__doc__)
    parser.add_argument(
        "texts", nargs="+", help="Parquet files or folders of them, as paths or URIs such as s3://bucket/texts"
    )
    parser.add_argument("vectors", help="output folder, as a path or URI")
    parser.add_argument(
        "--url",
        type=_url,
        default="http://127.0.0.1:8080",
        help=f"server URL; the API key is read from {KEY} (default: %(default)s)",
    )
    parser.add_argument("--model", required=True, help="model, or an alias of it")
    parser.add_argument("--text", default="text", metavar="COLUMN", help="column of texts (default: %(default)s)")
    parser.add_argument(
        "--id", default="id", metavar="COLUMN", help="column to copy to the results (default: %(default)s)"
    )
    parser.add_argument(
        "--kind",
        action="append",
        choices=list(COLUMNS),
        help="what to compute; repeat it for several kinds of vectors (default: dense)",
    )
    parser.add_argument(
        "--request",
        type=_fields,
        default={},
        metavar="JSON",
        help='additional request fields, such as {"input_type": "document"}',
    )
    parser.add_argument(
        "--batch", type=_positive, default=64, metavar="TEXTS", help="texts per request (default: %(default)s)"
    )
    parser.add_argument(
        "--at-once", type=_positive, default=4, metavar="REQUESTS", help="concurrent requests (default: %(default)s)"
    )
    parser.add_argument(
        "--shard-rows",
        type=_positive,
        default=20_000,
        metavar="TEXTS",
        help="maximum number of texts per output file (default: %(default)s)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=600,
        metavar="SECONDS",
        help="how long to retry a failing request (default: %(default)s)",
    )
    parser.add_argument(
        "--ray",
        type=_positive,
        metavar="SHARDS",
        help="run on the Ray cluster at RAY_ADDRESS, with this many concurrent shards",
    )
    return parser


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
        raise argparse.ArgumentTypeError(f"not a server URL: {text}")
    return text.rstrip("/").removesuffix("/v1")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _fields(text: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"invalid JSON: {exc}") from None
    if not isinstance(fields, dict) or RESERVED & fields.keys():
        raise argparse.ArgumentTypeError(f"must be an object without {', '.join(sorted(RESERVED))}")
    return fields


if __name__ == "__main__":
    sys.exit(main())
