"""`python -m bulk TEXTS... VECTORS --model NAME`: embed the texts of Parquet files, and go on where it was stopped."""

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
from bulk.engines import Done, here, on_ray
from bulk.job import Job, JobError, Refusal, Shard, Unavailable, absolute, begin, find

PROBE = "Is anybody there?"
KEY = "CONCH_API_KEY"

console = Console(stderr=True, highlight=False)


class _Said(logging.Handler):
    """Lines beside the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


class _Speed(ProgressColumn):
    """Texts a second, over the last minutes."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Embed; the exit code is 1 or, after Ctrl-C, 130 where more is to do, 2 where it cannot be done as asked."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        parser.error(f"{KEY} holds characters that no key has")
    endpoint = Endpoint(
        url=asked.url,
        model=asked.model,
        request=asked.request,
        batch=asked.batch,
        at_once=asked.at_once,
        patience_s=asked.patience,
        key=key or None,
    )
    output = absolute(asked.vectors)
    logging.getLogger("bulk").handlers = [_Said()]
    try:
        sources = find(asked.texts, (asked.text, asked.id))
        job = Job(asked.model, asked.request, asked.text, asked.id, asked.shard_rows, _width(endpoint), sources)
        pending = begin(job, output)
        if asked.ray is None:
            engine = partial(here, job, endpoint, output, pending)
        else:
            engine = partial(on_ray, job, endpoint, output, pending, at_once=asked.ray)
        refused = _work(job, pending, engine)
    except JobError as exc:
        _say(f"bulk: {exc}")
        return 2
    except Unavailable as exc:
        _say(f"bulk: {exc}; the same command goes on from here")
        return 1
    except KeyboardInterrupt:
        _say("bulk: stopped; the same command goes on from here")
        return 130
    _say(f"complete: {asked.vectors}" + (f"; {refused} texts were refused in this run: see `error`" if refused else ""))
    return 0


def _say(text: str) -> None:
    """A line, however long: it may go to a log."""
    console.print(text, markup=False, soft_wrap=True)


def _width(endpoint: Endpoint) -> int:
    """How long vectors are, by embedding a text: it also finds out now, not from a million refusals, what is wrong."""
    (result,) = asyncio.run(embed(endpoint, [PROBE]))
    if isinstance(result, Refusal):
        raise JobError(f"{endpoint.url} refuses any text: {result.message}")
    return len(result)


def _work(job: Job, pending: Sequence[Shard], engine: Callable[[Callable[[int], object]], Iterator[Done]]) -> int:
    """Show how far it is; how many texts were refused."""
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
        for shard in engine(partial(progress.advance, bar)) if pending else ():
            if shard.refused:
                refused += shard.refused
                _say(f"part {shard.shard}: {shard.refused} refused; one of them: {shard.example}")
    return refused


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bulk", description=__doc__)
    parser.add_argument(
        "texts", nargs="+", help="Parquet files, or folders of them; paths, or URIs as s3://bucket/texts"
    )
    parser.add_argument("vectors", help="the folder of the results, likewise")
    parser.add_argument(
        "--url",
        type=_url,
        default="http://127.0.0.1:8080",
        help=f"of the server, whose key is in {KEY}; by default %(default)s",
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", default="text", metavar="COLUMN", help="of the texts; by default %(default)s")
    parser.add_argument("--id", default="id", metavar="COLUMN", help="kept with the vectors; by default %(default)s")
    parser.add_argument(
        "--request",
        type=_fields,
        default={},
        metavar="JSON",
        help='more fields of requests: {"input_type": "document"}',
    )
    parser.add_argument(
        "--batch", type=_positive, default=64, metavar="TEXTS", help="in a request; by default %(default)s"
    )
    parser.add_argument("--at-once", type=_positive, default=4, metavar="REQUESTS", help="by default %(default)s")
    parser.add_argument(
        "--shard-rows",
        type=_positive,
        default=20_000,
        metavar="TEXTS",
        help="in a file of results at most; by default %(default)s",
    )
    parser.add_argument(
        "--patience", type=float, default=600, metavar="S", help="how long to try again; by default %(default)s"
    )
    parser.add_argument(
        "--ray", type=_positive, metavar="SHARDS", help="at a time, on the Ray cluster that RAY_ADDRESS names"
    )
    return parser


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
        raise argparse.ArgumentTypeError(f"no URL of a server: {text}")
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
        raise argparse.ArgumentTypeError(f"no JSON: {exc}") from None
    if not isinstance(fields, dict) or {"input", "model", "encoding_format"} & fields.keys():
        raise argparse.ArgumentTypeError('must be an object, without "input", "model" and "encoding_format"')
    return fields


if __name__ == "__main__":
    sys.exit(main())
