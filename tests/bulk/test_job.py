from pathlib import Path
from shutil import copy

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk.job import JOB_FILE, Job, JobError, Refusal, Shard, begin, find, read, write
from bulk.kinds import Kind, Result, Sparse

COLUMNS = ("text", "id")


def job(texts: Path, shard_rows: int = 4, **changes: str) -> Job:
    asked = Job("m", {}, "text", "id", shard_rows, 2, find([str(texts)], COLUMNS))
    return msgspec.structs.replace(asked, **changes)


def vector(*values: float) -> Result:
    return Result(dense=np.array(values, np.float32))


def test_shards_hold_each_row_once_in_order(texts: Path) -> None:
    asked = job(texts)
    read_back = [text for shard in asked.shards() for text in read(asked, shard)[1]]
    assert read_back == ["x" * row for row in range(55)]


def test_shards_are_no_larger_than_asked_and_within_a_row_group(texts: Path) -> None:
    assert [shard.rows for shard in job(texts).shards()] == [4, 4, 2] * 5 + [4, 1]


def test_ids_keep_their_type(texts: Path) -> None:
    asked = msgspec.structs.replace(job(texts), id="other")
    assert read(asked, next(asked.shards()))[0].type == pa.int64()


def test_file_may_be_named_by_a_uri(texts: Path) -> None:
    (source,) = find([(texts / "a.parquet").as_uri()], COLUMNS)
    assert source.row_groups == (10, 10, 10)


@pytest.mark.parametrize("name", ["a?scheme=http&endpoint_override=example.com#", "a%2fb", "with space"])
def test_special_characters_in_file_names_are_kept(texts: Path, name: str) -> None:
    copy(texts / "a.parquet", texts / f"{name}.parquet")
    found = find([texts.as_uri()], COLUMNS)
    assert str(texts / f"{name}.parquet") in {source.path for source in found}
    assert all(
        len(read(job(texts), Shard(0, source.root, source.path, source.size, 0, 0, 4))[1]) == 4 for source in found
    )


def test_password_in_a_uri_is_refused() -> None:
    with pytest.raises(JobError, match="must not contain a password") as refused:
        find(["s3://name:secret@bucket/texts"], COLUMNS)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("body", "id"), 'has no column "body"; its columns are "id", "text", "other"'),
        (("text", "key"), 'has no column "key"'),
        (("other", "id"), 'column "other" has type int64, not string'),
    ],
)
def test_columns_are_checked_first(texts: Path, columns: tuple[str, str], message: str) -> None:
    with pytest.raises(JobError, match=message):
        find([str(texts)], columns)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"nothing\.parquet: no such file or folder"):
        find([str(tmp_path / "nothing.parquet")], COLUMNS)


def test_folder_without_texts_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"no \.parquet file in"):
        find([str(tmp_path)], COLUMNS)


def test_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("text")
    with pytest.raises(JobError, match=r"a\.parquet: "):
        find([str(tmp_path)], COLUMNS)


def test_duplicate_column_is_refused(tmp_path: Path) -> None:
    column = pa.array(["a"])
    pq.write_table(pa.Table.from_arrays([column, column, column], ["id", "text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(JobError, match='has several columns "text"'):
        find([str(tmp_path)], COLUMNS)


def test_text_that_is_not_utf8_is_none(tmp_path: Path) -> None:
    text = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"id": [1, 2], "text": text}), tmp_path / "a.parquet")
    asked = job(tmp_path)
    assert read(asked, next(asked.shards()))[1] == ["a", None]


def test_results_are_read_as_they_were_written(texts: Path, tmp_path: Path) -> None:
    asked, output = job(texts), str(tmp_path / "vectors")
    (shard, *_) = begin(asked, output)
    ids, _ = read(asked, shard)
    results: list[Result | Refusal] = [
        vector(1, 2),
        Refusal("too long"),
        vector(3, 4),
        Refusal("null"),
    ]
    write(asked, shard, output, ids, results)
    assert pq.read_table(f"{output}/{shard.name}").to_pydict() == {
        "id": ["t0", "t1", "t2", "t3"],
        "embedding": [[1, 2], None, [3, 4], None],
        "error": [None, "too long", None, "null"],
    }


def test_every_kind_is_read_as_it_was_written(texts: Path, tmp_path: Path) -> None:
    kinds = ("dense", "sparse", "multi_vector")
    asked, output = msgspec.structs.replace(job(texts), kinds=kinds, token_width=2), str(tmp_path / "vectors")
    (shard, *_) = begin(asked, output)
    results: list[Result | Refusal] = [
        Result(
            np.ones(2, np.float32),
            Sparse(np.arange(n, dtype=np.int32), np.full(n, 0.5, np.float32)),
            np.full((n, 2) if n else (0, 0), n, np.float32),
        )
        for n in (2, 0, 1)
    ]
    write(asked, shard, output, read(asked, shard)[0], [results[0], Refusal("no"), *results[1:]])
    written = pq.read_table(f"{output}/{shard.name}")
    assert written.to_pydict() == {
        "id": ["t0", "t1", "t2", "t3"],
        "embedding": [[1, 1], None, [1, 1], [1, 1]],
        "sparse": [
            {"indices": [0, 1], "values": [0.5, 0.5]},
            None,
            {"indices": [], "values": []},
            {"indices": [0], "values": [0.5]},
        ],
        "multi_vector": [[[2, 2], [2, 2]], None, [], [[1, 1]]],
        "error": [None, "no", None, None],
    }
    assert written.schema.field("multi_vector").type == pa.list_(pa.list_(pa.float32(), 2))
    assert written.schema.field("sparse").type == pa.struct(
        [("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float32()))]
    )


def test_labels_are_read_as_they_were_written(texts: Path, tmp_path: Path) -> None:
    asked = msgspec.structs.replace(job(texts), kinds=("labels",), width=0, labels=("a", "b"))
    output = str(tmp_path / "vectors")
    (shard, *_) = begin(asked, output)
    scores: list[Result | Refusal] = [
        Result(labels={"b": 0.75, "a": 0.25}),
        Refusal("no"),
        Result(labels={"a": 1, "b": 0}),
        Refusal("no"),
    ]
    write(asked, shard, output, read(asked, shard)[0], scores)
    assert pq.read_table(f"{output}/{shard.name}").column("labels").to_pylist() == [
        [{"label": "b", "score": 0.75}, {"label": "a", "score": 0.25}],
        None,
        [{"label": "a", "score": 1}, {"label": "b", "score": 0}],
        None,
    ]
    with pytest.raises(JobError, match="the model has other labels than when the job started"):
        write(asked, shard, output, read(asked, shard)[0], [Result(labels={"a": 1, "c": 0})] * 4)


def test_token_vectors_of_another_length_are_refused(texts: Path, tmp_path: Path) -> None:
    asked = msgspec.structs.replace(job(texts), kinds=("multi_vector",), width=0, token_width=2)
    output = str(tmp_path / "vectors")
    (shard, *_) = begin(asked, output)
    with pytest.raises(JobError, match="token vectors had 2 dimensions, but now have 3"):
        write(asked, shard, output, read(asked, shard)[0], [Result(multi_vector=np.ones((1, 3), np.float32))] * 4)


def test_job_of_an_earlier_version_goes_on(texts: Path, tmp_path: Path) -> None:
    asked, output = job(texts), tmp_path / "vectors"
    pending = begin(asked, str(output))
    stored = msgspec.json.decode((output / JOB_FILE).read_bytes())
    for name in ("kinds", "token_width", "labels"):
        del stored[name]
    (output / JOB_FILE).write_bytes(msgspec.json.encode(stored))
    assert begin(asked, str(output)) == pending


def test_shard_of_refusals_only_is_written(texts: Path, tmp_path: Path) -> None:
    asked, output = job(texts), str(tmp_path / "vectors")
    (shard, *_) = begin(asked, output)
    write(asked, shard, output, read(asked, shard)[0], [Refusal("no")] * 4)
    assert pq.read_table(f"{output}/{shard.name}").column("embedding").null_count == 4


def test_vectors_of_another_length_are_refused(texts: Path, tmp_path: Path) -> None:
    asked, output = job(texts), str(tmp_path / "vectors")
    (shard, *_) = begin(asked, output)
    with pytest.raises(JobError, match="had 2 dimensions when the job started, but now have 3"):
        write(asked, shard, output, read(asked, shard)[0], [vector(*[1] * size) for size in (2, 2, 3, 2)])


def test_results_are_one_data_set(texts: Path, tmp_path: Path) -> None:
    asked, output = job(texts), str(tmp_path / "vectors")
    first, second, *_ = begin(asked, output)
    write(asked, first, output, read(asked, first)[0], [Refusal("no")] * 4)
    write(asked, second, output, read(asked, second)[0], [vector(1, 1)] * 4)
    assert pq.read_table(output).num_rows == 8


def test_spelling_of_a_path_does_not_matter(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(texts)
    assert find(["."], COLUMNS) == find(["../texts/"], COLUMNS) == find([str(texts)], COLUMNS)


def test_error_for_a_folder_that_cannot_be_created_names_it(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="file: "):
        begin(job(texts), str(tmp_path / "file"))
    with pytest.raises(JobError, match="odd://bucket: "):
        begin(job(texts), "odd://bucket")


def test_job_resumes_with_the_missing_shards(texts: Path, tmp_path: Path) -> None:
    asked, output = job(texts), str(tmp_path / "vectors")
    first, second, *others = begin(asked, output)
    write(asked, second, output, read(asked, second)[0], [Refusal("no")] * 4)
    assert begin(asked, output) == [first, *others]


def test_empty_part_after_a_crash_is_written_again(texts: Path, tmp_path: Path) -> None:
    asked, output = job(texts), tmp_path / "vectors"
    pending = begin(asked, str(output))
    (output / pending[0].name).touch()
    assert begin(asked, str(output)) == pending


def test_empty_job_file_after_a_crash_is_an_error(texts: Path, tmp_path: Path) -> None:
    begin(job(texts), str(tmp_path / "vectors"))
    (tmp_path / "vectors" / "_job.json").write_bytes(b"")
    with pytest.raises(JobError, match=r"_job\.json is not valid"):
        begin(job(texts), str(tmp_path / "vectors"))


def test_folder_that_now_belongs_to_another_job_is_detected(texts: Path, tmp_path: Path) -> None:
    asked, output = job(texts), tmp_path / "vectors"
    (shard, *_) = begin(asked, str(output))
    begin(job(texts, model="n"), str(tmp_path / "other"))
    copy(tmp_path / "other" / "_job.json", output / "_job.json")
    with pytest.raises(JobError, match="which differs in model"):
        write(asked, shard, str(output), read(asked, shard)[0], [Refusal("no")] * 4)
    assert not list(output.glob("*.parquet"))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("embedding", "dense"),
        ("sparse", "sparse"),
        ("multi_vector", "multi_vector"),
        ("labels", "labels"),
        ("error", "dense"),
    ],
)
def test_id_column_must_not_have_the_name_of_a_result(texts: Path, tmp_path: Path, column: str, kind: Kind) -> None:
    asked = msgspec.structs.replace(job(texts, id=column), kinds=(kind,))
    with pytest.raises(JobError, match=f"must not be named {column}"):
        begin(asked, str(tmp_path / "vectors"))


def test_id_column_may_have_the_name_of_a_kind_that_is_not_requested(texts: Path, tmp_path: Path) -> None:
    assert begin(job(texts, id="labels"), str(tmp_path / "vectors"))


def test_results_must_not_be_inside_the_texts(texts: Path) -> None:
    with pytest.raises(JobError, match="the next run would read its files as texts"):
        begin(job(texts), str(texts / "vectors"))


def test_unfinished_file_is_ignored(texts: Path, tmp_path: Path) -> None:
    asked, output = job(texts), tmp_path / "vectors"
    pending = begin(asked, str(output))
    (output / f".{pending[0].name}.0123").write_bytes(b"half")
    assert begin(asked, str(output)) == pending


def test_folder_of_another_job_is_refused_and_the_difference_is_named(texts: Path, tmp_path: Path) -> None:
    begin(job(texts), str(tmp_path / "vectors"))
    with pytest.raises(JobError, match="which differs in model, shard_rows;"):
        begin(job(texts, 5, model="n"), str(tmp_path / "vectors"))


def test_more_texts_are_another_job(texts: Path, tmp_path: Path) -> None:
    begin(job(texts), str(tmp_path / "vectors"))
    copy(texts / "a.parquet", texts / "c.parquet")
    with pytest.raises(JobError, match="which differs in sources;"):
        begin(job(texts), str(tmp_path / "vectors"))


def test_folder_with_parts_but_no_job_file_is_refused(texts: Path, tmp_path: Path) -> None:
    copy(texts / "a.parquet", tmp_path / "a.parquet")
    for _ in range(2):
        with pytest.raises(JobError, match=r"contains a\.parquet but no _job\.json"):
            begin(job(texts), str(tmp_path))
    assert not (tmp_path / "_job.json").exists()


def test_error_for_a_read_only_folder_names_it(texts: Path) -> None:
    with pytest.raises(JobError, match="/proc/vectors: "):
        begin(job(texts), "/proc/vectors")


def test_failed_write_leaves_no_file(texts: Path, tmp_path: Path) -> None:
    asked, output = job(texts), tmp_path / "vectors"
    (shard, *_) = begin(asked, str(output))
    (output / shard.name / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=shard.name):
        write(asked, shard, str(output), read(asked, shard)[0], [Refusal("no")] * 4)
    assert {path.name for path in output.iterdir()} == {"_job.json", shard.name}


@pytest.mark.parametrize("name", [".a.parquet", "_a.parquet", "_temporary/0/a.parquet"])
def test_unfinished_files_are_not_texts(texts: Path, name: str) -> None:
    before = find([str(texts)], COLUMNS)
    (texts / name).parent.mkdir(parents=True, exist_ok=True)
    copy(texts / "a.parquet", texts / name)
    assert find([str(texts)], COLUMNS) == before


def test_duplicate_file_is_refused(texts: Path) -> None:
    with pytest.raises(JobError, match=r"a\.parquet is listed 2 times"):
        find([str(texts), str(texts / "a.parquet")], COLUMNS)


def test_changed_file_is_detected(texts: Path) -> None:
    asked = job(texts)
    (source, _) = asked.sources
    for size, first in ((source.size, 8), (source.size + 1, 0)):
        with pytest.raises(JobError, match="has changed since the job started"):
            read(asked, Shard(0, source.root, source.path, size, 0, first, 4))
