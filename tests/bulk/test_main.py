"""The command, as it is called."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openai import OpenAI

from bulk.__main__ import KEY, main
from tests.bulk.conftest import Answer, Api, error, vectors
from tests.serving import Server


def run(api: Api, texts: Path, output: Path, *options: str) -> int:
    return main([str(texts), str(output), "--url", api.url, "--model", "m", "--shard-rows", "4", *options])


def rows(output: Path) -> list[dict[str, object]]:
    return [row for file in sorted(output.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_every_text_gets_its_vector(api: Api, texts: Path, tmp_path: Path) -> None:
    assert run(api, texts, tmp_path / "out") == 0
    assert rows(tmp_path / "out") == [{"id": f"t{row}", "embedding": [row, 1], "error": None} for row in range(55)]


def test_refused_texts_are_printed_and_recorded(
    api: Api, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answer = lambda given: error(400, "too long") if max(map(len, given)) > 50 else vectors(given)
    assert run(api, texts, tmp_path / "out") == 0
    assert [row["id"] for row in rows(tmp_path / "out") if row["error"] == "too long"] == ["t51", "t52", "t53", "t54"]
    assert "texts refused in this run: 4 (see the column `error`)" in capsys.readouterr().err


def test_line_end_of_a_key_is_removed_and_an_invalid_key_is_not_printed(
    api: Api,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(KEY, "secret\n")
    assert run(api, texts, tmp_path / "out") == 0
    assert api.keys == {"Bearer secret"}
    monkeypatch.setenv(KEY, "sec\nret")
    with pytest.raises(SystemExit):
        run(api, texts, tmp_path / "out")
    assert "sec" not in capsys.readouterr().err.partition("error:")[2]


def test_complete_job_sends_only_the_probe(api: Api, texts: Path, tmp_path: Path) -> None:
    run(api, texts, tmp_path / "out")
    api.asked.clear()
    assert run(api, texts, tmp_path / "out") == 0
    assert len(api.asked) == 1


def test_job_stops_when_the_server_is_unavailable_and_resumes_later(
    api: Api, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(given: list[str]) -> Answer:
        return error(503, "gone") if len(api.asked) > 5 else vectors(given)

    api.answer = answer
    assert run(api, texts, tmp_path / "out", "--patience", "0.1") == 1
    said = capsys.readouterr().err
    assert "503 gone; the next retry" in said
    assert "run the same command again to resume" in said
    written = len(rows(tmp_path / "out"))
    assert 0 < written < 55
    api.asked.clear()
    api.answer = vectors
    assert run(api, texts, tmp_path / "out", "--patience", "0.1") == 0
    assert len(api.texts) == 1 + 55 - written
    assert len(rows(tmp_path / "out")) == 55


def test_killed_job_resumes(api: Api, texts: Path, tmp_path: Path) -> None:
    def slow(given: list[str]) -> Answer:
        time.sleep(0.05)
        return vectors(given)

    api.answer = slow
    output = tmp_path / "out"
    command = [sys.executable, "-m", "bulk", str(texts), str(output), "--url", api.url, "--model", "m", "--shard-rows"]
    process = subprocess.Popen([*command, "4"], stderr=subprocess.DEVNULL)
    while len(list(output.glob("*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    api.answer = vectors
    assert run(api, texts, output) == 0
    assert [row["id"] for row in rows(output)] == [f"t{row}" for row in range(55)]


def test_job_resumes_only_with_vectors_of_the_same_length(
    api: Api, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(api, texts, tmp_path / "out")
    api.answer = lambda _: (200, {}, b'{"data": [{"index": 0, "embedding": "AACAPw=="}]}')
    assert run(api, texts, tmp_path / "out") == 2
    assert "which differs in width" in capsys.readouterr().err


def test_unavailable_storage_stops_the_job_until_it_is_back(
    api: Api, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = texts.with_name("hidden")

    def answer(given: list[str]) -> Answer:
        if len(api.asked) == 2 and texts.exists():
            texts.rename(hidden)
        return vectors(given)

    api.answer = answer
    assert run(api, texts, tmp_path / "out") == 1
    assert "run the same command again to resume" in capsys.readouterr().err
    hidden.rename(texts)
    assert run(api, texts, tmp_path / "out") == 0
    assert len(rows(tmp_path / "out")) == 55


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "body"], 'has no column "body"'),
        (["--id", "key"], 'has no column "key"'),
    ],
)
def test_impossible_job_prints_the_reason(
    api: Api, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Sequence[str], message: str
) -> None:
    assert run(api, texts, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not api.asked


def test_request_that_is_wrong_for_all_texts_ends_the_job_immediately(
    api: Api, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answer = lambda _: error(400, "dimensions: must be one of 64, 384")
    assert run(api, texts, tmp_path / "out", "--request", '{"dimensions": 5}') == 2
    assert "refused a test text: dimensions: must be" in capsys.readouterr().err
    assert len(api.asked) == 1


def test_missing_ray_is_reported(api: Api, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(api, texts, tmp_path / "out", "--ray", "2") == 2
    assert "Ray is not installed: pip install 'ray[data]'" in capsys.readouterr().err


def test_wrong_model_leaves_the_folder_usable(api: Api, texts: Path, tmp_path: Path) -> None:
    api.answer = lambda _: error(404, "there is no model 'm'")
    assert run(api, texts, tmp_path / "out") == 2
    api.answer = vectors
    assert run(api, texts, tmp_path / "out", "--model", "n") == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--batch", "0"],
        ["--url", "localhost:80"],
        ["--request", "{"],
        ["--request", "[]"],
        ["--request", '{"input": "a"}'],
        ["--request", '{"embedding_type": "int8"}'],
        ["--kind", "text"],
        ["--kind", "labels", "--kind", "dense"],
    ],
)
def test_wrong_options_are_refused(api: Api, texts: Path, tmp_path: Path, options: Sequence[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(api, texts, tmp_path / "out", *options)


def test_key_comes_from_the_environment(api: Api, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    run(api, texts, tmp_path / "out")
    assert api.keys == {"Bearer secret"}


def test_vectors_are_those_of_conch(server: Server, tmp_path: Path) -> None:
    texts = [f"{number} {'words and ' * (number % 40)}more" for number in range(300)]
    pq.write_table(pa.table({"id": range(300), "text": texts}), tmp_path / "texts.parquet")
    output, model = tmp_path / "out", "all-minilm-l6-v2"
    command = ["texts.parquet", str(output), "--url", f"{server.url}/v1", "--model", model, "--request"]
    assert main([str(tmp_path / command[0]), *command[1:], '{"dimensions": 384}', "--shard-rows", "128"]) == 0
    found = rows(output)
    assert [row["id"] for row in found] == list(range(300))
    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        expected = client.embeddings.create(model=model, input=[texts[i] for i in (0, 150, 299)])
    for i, item in zip((0, 150, 299), expected.data, strict=True):
        assert np.dot(np.array(found[i]["embedding"]), item.embedding) > 0.9999


def test_every_kind_is_that_of_conch(odd_client: httpx2.Client, tmp_path: Path) -> None:
    texts = [f"{number} {'words and ' * (number % 9)}more" for number in range(30)]
    pq.write_table(pa.table({"id": range(30), "text": texts}), tmp_path / "texts.parquet")
    output, url = tmp_path / "out", str(odd_client.base_url)
    command = [str(tmp_path / "texts.parquet"), str(output), "--url", url, "--model", "every-output"]
    kinds = ("dense", "sparse", "multi_vector")
    assert main([*command, *(f"--kind={kind}" for kind in reversed(kinds)), "--batch", "7"]) == 0
    table = pq.read_table(output)
    assert table.column_names == ["id", "embedding", "sparse", "multi_vector", "error"]
    body = {"model": "every-output", "input": texts, "embedding_type": ["float", "sparse", "multi_vector"]}
    expected = [item["embedding"] for item in odd_client.post("/v1/embeddings", json=body).json()["data"]]
    for row, item in zip(table.to_pylist(), expected, strict=True):
        assert row["embedding"] == pytest.approx(item["float"], abs=1e-6)
        assert row["sparse"]["indices"] == item["sparse"]["indices"]
        assert row["sparse"]["values"] == pytest.approx(item["sparse"]["values"])
        assert np.array(row["multi_vector"]) == pytest.approx(np.array(item["multi_vector"]), abs=1e-6)


def test_conversion_of_json_lines_in_the_docs_works(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", Path("docs/bulk.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("texts.jsonl").write_text('{"id": 7, "text": "abc"}\n{"id": 8, "text": null}\n')
    subprocess.run([sys.executable, "-c", code], check=True)
    assert run(api, Path("texts"), tmp_path / "out") == 0
    assert [(row["id"], row["embedding"]) for row in rows(tmp_path / "out")] == [(7, [3, 1]), (8, None)]


def test_job_file_can_be_read(api: Api, texts: Path, tmp_path: Path) -> None:
    run(api, texts, tmp_path / "out", "--request", '{"input_type": "document"}')
    written = json.loads((tmp_path / "out" / "_job.json").read_text())
    assert (written["model"], written["request"], len(written["sources"])) == ("m", {"input_type": "document"}, 2)
