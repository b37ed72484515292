"""`python -m bulk` on a Ray cluster of this machine."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from bulk.__main__ import main
from bulk.client import Endpoint, ignore_progress
from bulk.engines import run_on_ray
from bulk.job import Job, JobError, Unavailable, begin, find
from tests.compat.plain import LONG, MODEL, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("ray", "`python -m bulk TEXTS VECTORS --url URL --model MODEL --ray 2`")

ROWS = [*TEXTS, None, LONG] * 20


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"id": range(len(ROWS)), "text": ROWS}), tmp_path / "texts.parquet", row_group_size=50)
    return tmp_path / "texts.parquet"


def embed(url: str, texts: Path, output: Path, *options: str) -> int:
    return main([str(texts), str(output), "--url", url, "--model", MODEL, "--shard-rows", "20", "--ray", "2", *options])


@pytest.mark.call("`bulk` as tasks of Ray Data, including errors and resuming")
def test_texts(url: str, texts: Path, tmp_path: Path, plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no worker is
    output = Path("vectors")
    assert embed(url, texts, output) == 0
    parts = sorted(output.glob("*.parquet"))
    (lost, _, kept, *_) = parts
    lost.unlink()
    written = kept.stat().st_mtime_ns
    assert embed(url, texts, output) == 0
    assert kept.stat().st_mtime_ns == written
    found = [row for part in parts for row in pq.read_table(part).to_pylist()]
    assert [row["id"] for row in found] == list(range(len(ROWS)))
    assert_same([row["embedding"] for row in found[: len(TEXTS)]], plain.embed(TEXTS))
    assert {row["error"] for row, text in zip(found, ROWS, strict=True) if text is None} == {
        "the text is null or not UTF-8"
    }
    assert all("has 402 tokens" in row["error"] for row, text in zip(found, ROWS, strict=True) if text == LONG)


@pytest.mark.call("`bulk` with an unreachable server or a changed file: the shard's error")
def test_errors(url: str, texts: Path, tmp_path: Path) -> None:
    job = Job(MODEL, {}, "text", "id", 20, 384, find([str(texts)], ("text", "id")))
    shards = begin(job, str(tmp_path / "vectors"))
    away = Endpoint("http://127.0.0.1:1", MODEL, {}, 64, 4, patience_s=0)
    with pytest.raises(Unavailable, match="ConnectError"):
        list(run_on_ray(job, away, str(tmp_path / "vectors"), shards, ignore_progress, 2))
    pq.write_table(pq.read_table(texts).slice(0, 90), texts, row_group_size=50)
    with pytest.raises(JobError, match="has changed since the job started"):
        list(run_on_ray(job, Endpoint(url, MODEL, {}, 64, 4, 1), str(tmp_path / "vectors"), shards, ignore_progress, 2))
