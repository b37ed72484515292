import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.tools import tiny

MANIFEST = """\
[tiny]
task = "text-embedding"
source = "./model"
precision = "fp32"

[ranker]
task = "late-interaction"
source = "./model"
backend = "onnxruntime"
"""


def export(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "export", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest of two models and a repository that holds the first; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.move(tiny.write_embedding(folder / "source"), folder / "model")
    (folder / "models.toml").write_text(MANIFEST)
    done = export("tiny", *options(folder))
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


def options(folder: Path) -> tuple[str, ...]:
    return "--manifest", str(folder / "models.toml"), "--repository", str(folder / "repository")


def table(output: str) -> list[list[str]]:
    """The cells of a printed table's rows."""
    return [cells for line in output.splitlines() if (cells := line.split())]


def test_export_of_one_model_prints_what_was_measured(workshop: Path) -> None:
    stdout = (workshop / "stdout").read_text()
    assert "Compared with the reference" in stdout
    (row,) = [cells for cells in table(stdout) if cells[:3] == ["tiny", "fp32", "embedding"]]
    worst, mean, allowed = map(float, row[3:6])
    assert 0 <= mean <= worst <= allowed == 1e-4
    assert float(row[6].replace(",", "")) > 0  # tokens/s
    assert {file.name for file in (workshop / "repository").iterdir()} == {"tiny"}


def test_second_run_has_nothing_to_do(workshop: Path) -> None:
    again = export("tiny", *options(workshop))
    assert (again.returncode, again.stdout.strip(), again.stderr) == (0, "export: up to date: tiny", "")


def test_list_says_which_models_there_are_and_which_are_built(workshop: Path) -> None:
    listed = export("--list", *options(workshop))
    assert listed.returncode == 0
    rows = {cells[0]: cells[1:5] for cells in table(listed.stdout)}
    assert rows["model"] == ["task", "backend", "precision", "built"]
    assert rows["tiny"] == ["text-embedding", "python", "fp32", "yes"]
    assert rows["ranker"] == ["multi-vector", "onnxruntime", "fp16", "no"]
    assert not (workshop / "repository" / "ranker").exists()


@pytest.fixture
def undecided(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model whose precision is to be measured. Lists have no place for a longer path."""
    folder = tmp_path_factory.mktemp("auto")
    shutil.copytree(workshop / "model", folder / "model")
    (folder / "models.toml").write_text(MANIFEST.partition("[ranker]")[0].replace("fp32", "auto"))
    return folder


def test_auto_says_what_it_took_and_why_and_measures_once(undecided: Path) -> None:
    assert ["tiny", "text-embedding", "python", "auto", "no"] in [
        cells[:5] for cells in table(export("--list", *options(undecided)).stdout)
    ]
    built = export(*options(undecided))
    assert built.returncode == 0, built.stderr
    (reason,) = (line for line in built.stdout.splitlines() if line.startswith("export: "))
    taken = re.match(r"export: tiny is served in (bf16|int8): int8 ", reason)
    assert taken is not None, reason
    listed = export("--list", *options(undecided)).stdout
    assert ["tiny", "text-embedding", "python", taken[1], "yes"] in [cells[:5] for cells in table(listed)]
    assert reason in listed
    assert export(*options(undecided)).stdout.strip() == "export: up to date: tiny"


def test_another_backend_has_no_auto(undecided: Path) -> None:
    for backend, precision in (("python", "auto"), ("onnxruntime", "fp16")):
        listed = export("--list", "--backend", backend, *options(undecided)).stdout
        assert ["tiny", "text-embedding", backend, precision, "no"] in [cells[:5] for cells in table(listed)]


def test_list_of_named_models_leaves_out_the_others(workshop: Path) -> None:
    rows = [cells[0] for cells in table(export("ranker", "--list", *options(workshop)).stdout)]
    assert "ranker" in rows
    assert "tiny" not in rows


def test_another_backend_computes_in_its_own_precision_unless_it_offers_the_tables(workshop: Path) -> None:
    listed = export("--list", "--backend", "tensorrt", *options(workshop))
    rows = {cells[0]: cells[2:5] for cells in table(listed.stdout)}
    assert rows["tiny"] == ["tensorrt", "fp32", "no"]
    assert rows["ranker"] == ["tensorrt", "fp16", "no"]


def test_check_measures_again_what_is_built(workshop: Path) -> None:
    checked = export("tiny", "--check", *options(workshop))
    assert checked.returncode == 0, checked.stderr
    assert {cells[2] for cells in table(checked.stdout) if cells[:2] == ["tiny", "fp32"]} == {"embedding", "tokens"}


def test_check_of_what_is_not_built_fails(workshop: Path) -> None:
    checked = export("ranker", "--check", *options(workshop))
    assert (checked.returncode, checked.stderr) == (
        1,
        f"export: [ranker] {workshop}/repository/ranker is not built: run python -m export ranker\n",
    )


def test_entry_that_no_table_names_is_told_of(workshop: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "models.toml"
    manifest.write_text("")
    stray = export("--manifest", str(manifest), "--repository", str(workshop / "repository"))
    assert stray.returncode == 0
    assert stray.stdout.strip() == "export: not in models.toml; remove these folders to stop serving them: tiny"


def test_failure_is_one_sentence_and_a_non_zero_exit(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text('[tiny]\ntask = "text-embedding"\nsource = "/no/such/folder"\n')
    failed = export(*options(tmp_path))
    assert (failed.returncode, failed.stderr) == (1, "export: [tiny] source: /no/such/folder holds no config.json\n")


HOLDS = "export: without what failed, the repository holds: tiny\n"
BROKEN = f'{MANIFEST}\n[missing]\ntask = "text-embedding"\nsource = "/no/such/folder"\n'


def test_failed_model_does_not_keep_others_from_being_served(workshop: Path, tmp_path: Path) -> None:
    for name in ("model", "repository"):
        shutil.copytree(workshop / name, tmp_path / name)
    (tmp_path / "models.toml").write_text(BROKEN)
    failed = export("missing", "tiny", *options(tmp_path))
    assert (failed.returncode, failed.stderr) == (
        3,
        f"export: [missing] source: /no/such/folder holds no config.json\n{HOLDS}",
    )
    checked = export("missing", "--check", *options(tmp_path))
    assert checked.returncode == 1
    (tmp_path / "repository" / "tiny" / "1" / "model.onnx").unlink()
    assert export("missing", *options(tmp_path)).returncode == 1


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(".export-*")}


@pytest.mark.parametrize(
    ("action", "limit", "message", "code", "more"),
    [
        ("--force", ("--time-limit", "0.01"), "exceeded the --time-limit of 0.01 s", 3, HOLDS),
        ("--check", ("--memory-limit", "0.001"), "exceeded the --memory-limit of 0.001 GiB", 1, ""),
    ],
)
def test_model_beyond_a_limit_is_one_sentence(
    workshop: Path, tmp_path: Path, action: str, limit: tuple[str, str], message: str, code: int, more: str
) -> None:
    repository = Path(shutil.copytree(workshop / "repository", tmp_path / "repository"))
    manifest = ("--manifest", str(workshop / "models.toml"))
    failed = export("tiny", action, *manifest, "--repository", str(repository), *limit)
    assert (failed.returncode, failed.stderr) == (code, f"export: [tiny] source: {message}\n{more}")
    assert {file.name for file in repository.iterdir()} == {"tiny"}
    assert left(tmp_path) <= {".export-repository.lock"}


@pytest.mark.parametrize("limit", ["--time-limit", "--memory-limit"])
@pytest.mark.parametrize("value", ["0", "-1", "much"])
def test_limit_must_be_positive(limit: str, value: str) -> None:
    refused = export(limit, value)
    assert refused.returncode == 2
    assert f"argument {limit}: invalid" in refused.stderr


def test_interrupted_export_leaves_nothing(workshop: Path, tmp_path: Path) -> None:
    arguments = ("--manifest", str(workshop / "models.toml"), "--repository", str(tmp_path / "repository"))
    command = [sys.executable, "-m", "export", *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in its background has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - there are none
    ) as running:
        while not left(tmp_path) - {".export-repository.lock"}:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=200)
    assert (running.returncode, stderr) == (130, "")
    assert left(tmp_path) == {".export-repository.lock"}
    assert list((tmp_path / "repository").iterdir()) == []


@pytest.mark.parametrize("action", [(), ("--list",), ("--check",)])
def test_unknown_name_lists_the_known_ones(workshop: Path, action: tuple[str, ...]) -> None:
    failed = export("other", *action, *options(workshop))
    assert (failed.returncode, failed.stderr) == (1, "export: no table [other]; the tables are tiny, ranker\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--all", "tiny"), "--all cannot be combined with names of models"),
        (("--list", "--check"), "not allowed with argument"),
        (("--backend", "openvino"), "invalid choice"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments: tuple[str, ...], message: str) -> None:
    refused = export(*arguments)
    assert refused.returncode == 2
    assert message in refused.stderr


def test_all_models_are_chosen_where_none_is_named(workshop: Path) -> None:
    assert export("--all", "--list", *options(workshop)).stdout == export("--list", *options(workshop)).stdout


def test_force_exports_what_is_built(workshop: Path, tmp_path: Path) -> None:
    shutil.copytree(workshop / "repository", tmp_path / "repository")
    proof = tmp_path / "repository" / "tiny" / "export.json"
    before = proof.stat().st_ino
    forced = export(
        "tiny", "--force", "--manifest", str(workshop / "models.toml"), "--repository", str(tmp_path / "repository")
    )
    assert forced.returncode == 0, forced.stderr
    assert "Compared with the reference" in forced.stdout
    assert proof.stat().st_ino != before
