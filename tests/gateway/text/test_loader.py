import asyncio
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.text.hanging import NotDone
from gateway.text.loader import TokenizerLoader
from gateway.text.tokenizer import MAX_BYTES, Template

ENTRY = "model"
PREPEND = {"type": "Prepend", "prepend": "a" * 20 + "!"}
SLOW = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "z"}
"""Tries 2^20 ways to match what is prepended, several times over."""
PANICKING = (
    {"type": "Prepend", "prepend": "a" * 60 + "! "},
    {"type": "Replace", "pattern": {"Regex": "(a+)+$|(.*)*x"}, "content": "z"},
)
"""Tries so many ways that the library gives up, which it does by a panic."""


@pytest.fixture
def file(entries: Path, tmp_path: Path) -> Path:
    """A good tokenizer.json, which may be changed, in the entry of a repository."""
    (tmp_path / ENTRY).mkdir()
    return Path(shutil.copy(entries / "all-minilm-l6-v2" / "tokenizer.json", tmp_path / ENTRY))


def normalizing(file: Path, *normalizers: dict[str, Any]) -> None:
    """Give a tokenizer other normalizers."""
    content = json.loads(file.read_text())
    content["normalizer"] = {"type": "Sequence", "normalizers": list(normalizers)}
    file.write_text(json.dumps(content))


def refused(file: Path, error: type[Exception], message: str) -> None:
    async def run() -> None:
        with pytest.raises(error, match=message):
            await TokenizerLoader(file.parents[1]).load(ENTRY, None)

    asyncio.run(run())


def test_tokenizer_is_loaded_once(file: Path) -> None:
    async def run() -> None:
        loader = TokenizerLoader(file.parents[1])
        first = await loader.load(ENTRY, None)
        assert await loader.load(ENTRY, None) is first
        template = Template("{query} ", "")
        assert await loader.load(ENTRY, template) is not first
        assert await loader.load(ENTRY, Template("{query} ", "")) is await loader.load(ENTRY, template)

    asyncio.run(run())


def test_replaced_tokenizer_with_the_same_times_is_reloaded(file: Path) -> None:
    async def run() -> None:
        loader = TokenizerLoader(file.parents[1])
        first = await loader.load(ENTRY, None)
        normalizing(file, {"type": "Lowercase"})
        os.utime(file, ns=times)
        assert await loader.load(ENTRY, None) is not first

    status = file.stat()
    times = (status.st_atime_ns, status.st_mtime_ns)
    asyncio.run(run())


@pytest.mark.parametrize("bad", ["{", None])
def test_repaired_tokenizer_is_reloaded(file: Path, bad: str | None) -> None:
    good = file.read_text()

    def replace(content: str | None) -> None:
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content)

    async def run() -> None:
        loader = TokenizerLoader(file.parents[1])
        replace(bad)
        with pytest.raises(Exception, match=r"EOF while parsing|No such file"):
            await loader.load(ENTRY, None)
        replace(good)
        assert (await loader.load(ENTRY, None)).before

    asyncio.run(run())


def test_irregular_file_is_refused_at_once(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)
    refused(file, OSError, "tokenizer.json is not a regular file")
    file.unlink()
    file.symlink_to("/dev/zero")
    refused(file, OSError, "tokenizer.json is not a regular file")


def test_large_file_is_refused(file: Path) -> None:
    os.truncate(file, MAX_BYTES + 1)
    refused(file, OSError, "tokenizer.json is larger than 67,108,864 bytes")


def test_panic_is_an_ordinary_exception(file: Path) -> None:
    normalizing(file, *PANICKING)
    refused(file, ValueError, "retry-limit-in-match over")


@pytest.mark.parametrize("template", [None, Template("[SEP] {query} ", "")])
def test_event_loop_runs_while_a_tokenizer_loads(file: Path, template: Template | None) -> None:
    normalizing(file, PREPEND, *[SLOW] * 20)

    async def run() -> None:
        loading = asyncio.create_task(TokenizerLoader(file.parents[1], wait_s=60).load(ENTRY, template))
        turns = 0
        while not loading.done():
            await asyncio.sleep(0.001)
            turns += 1
        await asyncio.gather(loading, return_exceptions=True)  # a template does not go with these normalizers
        assert turns > 20  # a few where the lock of Python's interpreter is held

    asyncio.run(run())


def test_slow_tokenizer_is_available_later(file: Path) -> None:
    normalizing(file, PREPEND, *[SLOW] * 50)

    async def run() -> None:
        loader = TokenizerLoader(file.parents[1], wait_s=0.02)
        with pytest.raises(NotDone, match=r"is not (loaded|available) after 0\.02 s"):
            await loader.load(ENTRY, None)
        started = time.monotonic()
        while True:
            try:
                await loader.load(ENTRY, None)
                break
            except NotDone:
                assert time.monotonic() - started < 60
                await asyncio.sleep(0.1)

    asyncio.run(run())
