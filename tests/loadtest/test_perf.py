import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from loadtest import perf

TABLE = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency,\
request/response,response wait
9,17.6667,4,25010,180545,80,343903,1587,1,511183,835728,842335,1000042,551133,5,551121
1,26.4507,8,1604,550,23,34891,337,3,17657,103889,129147,174401,37420,11,37268
"""
"""Recorded from perf_analyzer 2.60."""


def config(names: str, **parameters: object) -> pb.ModelConfig:
    """A model with inputs of these names."""
    lines = [f'input {{ name: "{name}" }}' for name in names.split()]
    lines += [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    return text_format.Parse("\n".join(lines), pb.ModelConfig())


def contents(row: perf.Input) -> dict[str, list[int]]:
    return {name: value["content"] for name, value in row.items()}


def test_texts_are_of_mixed_lengths_within_the_models_limits() -> None:
    rows = perf.inputs(config("input_ids length", max_tokens=256, vocabulary_size=100))
    lengths = [len(row["input_ids"]["content"]) for row in rows]
    assert [row["length"]["content"] for row in rows] == [[length] for length in lengths]
    assert [row["input_ids"]["shape"] for row in rows] == [[length] for length in lengths]
    assert {perf.SHORTEST, 256} <= set(lengths) <= set(range(perf.SHORTEST, 257))
    assert perf.MEDIAN - 5 < statistics.median(lengths) < perf.MEDIAN + 5
    assert {token for row in rows for token in row["input_ids"]["content"]} == set(range(100))


def test_texts_are_of_one_length_without_spread() -> None:
    rows = perf.inputs(config("input_ids length", max_tokens=256, vocabulary_size=100), median=32, spread=0)
    assert {tuple(row["length"]["content"]) for row in rows} == {(32,)}


def test_rows_are_padded_to_the_lengths_that_the_model_takes() -> None:
    given = config("input_ids length", max_tokens=60, vocabulary_size=100, length_buckets="16,32,64")
    for row in map(contents, perf.inputs(given, spread=2)):
        (length,) = row["length"]
        assert len(row["input_ids"]) == min(size for size in (16, 32, 64) if size >= length)
        assert not any(row["input_ids"][length:])


def test_pairs_have_a_query_and_a_document() -> None:
    names = "query_ids query_length document_ids document_length"
    for row in map(contents, perf.inputs(config(names, max_tokens=512, vocabulary_size=9, max_query_tokens=32))):
        assert [len(row["query_ids"])] == row["query_length"]
        assert [len(row["document_ids"])] == row["document_length"]
        assert len(row["query_ids"]) <= 32


@pytest.mark.parametrize(("name", "least"), [("first_length", 1), ("prompt_length", 0)])
def test_first_tokens_of_a_row_are_no_more_than_all(name: str, least: int) -> None:
    for row in map(contents, perf.inputs(config(f"input_ids length {name}", max_tokens=16, vocabulary_size=9))):
        assert least <= row[name][0] <= row["length"][0]


def test_images_are_pixels_of_the_models_size() -> None:
    rows = perf.inputs(config("pixels", image_height=4, image_width=5))
    assert len(rows) == perf.IMAGES
    assert rows[0]["pixels"]["shape"] == [3, 4, 5]
    assert len(rows[0]["pixels"]["content"]) == 60
    assert rows[0] != rows[1]


def test_other_models_are_refused() -> None:
    with pytest.raises(perf.PerfError, match="no parameters max_tokens and vocabulary_size"):
        perf.inputs(config("INPUT0"))


def test_equal_seeds_give_equal_rows() -> None:
    given = config("input_ids length", max_tokens=256, vocabulary_size=100)
    assert perf.inputs(given) == perf.inputs(given)
    assert perf.inputs(given) != perf.inputs(given, seed=1)


def test_report_becomes_a_table_by_load(tmp_path: Path) -> None:
    report = tmp_path / "table.csv"
    report.write_text(TABLE)
    assert perf.table(perf.read(report)).splitlines() == [
        "        load     req/s    p50 ms    p90 ms    p99 ms  queue ms  infer ms",
        "   1 clients      26.5      17.7     103.9     174.4       0.6      34.9",
        "   9 clients      17.7     511.2     835.7    1000.0     180.5     343.9",
    ]


def test_line_without_triton_has_no_stages() -> None:
    one = perf.Measurement("5 req/s", 4.5, {"p50": 1.0, "p90": 2.0, "p99": 3.0}, {})
    assert perf.table([one]).splitlines()[1].split() == ["5", "req/s", "4.5", "1.0", "2.0", "3.0", "-", "-"]


@pytest.mark.parametrize(
    ("script", "status"),
    [("echo why; exit 99", 99), ("echo why >&2; exit 2", 2), (f"echo why: {perf.UNSTABLE[0]}", perf.UNSTABLE_STATUS)],
)
def test_failure_is_told_by_the_exit_code(script: str, status: int, tmp_path: Path) -> None:
    report = perf.measure(["sh", "-c", script], [], tmp_path)
    assert (report.status, report.measurements) == (status, [])
    assert report.output.startswith("why")


def test_script_runs_alone_and_fails_without_triton(tmp_path: Path) -> None:
    command = [sys.executable, "-c", Path("loadtest/perf.py").read_text(), "--model", "m", "--url", "127.0.0.1:1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1
    assert "127.0.0.1:1 gave no config of the model 'm'" in done.stderr
