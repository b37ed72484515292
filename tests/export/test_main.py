import subprocess
import sys
from pathlib import Path

from tests.export.tiny import write_tiny


def export(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "export", *arguments], capture_output=True, text=True, check=False)


def test_five_lines_add_a_model_and_a_second_run_has_nothing_to_do(tmp_path: Path, minilm_folder: Path) -> None:
    write_tiny(tmp_path, minilm_folder)
    manifest = tmp_path / "models.toml"
    manifest.write_text('[tiny]\ntask = "text-embedding"\nsource = "./model"\n')
    arguments = ("--manifest", str(manifest), "--repository", str(tmp_path / "repository"))
    first = export(*arguments)
    assert first.returncode == 0, first.stderr
    assert "cosine >= 0.9999" in first.stdout
    assert (tmp_path / "repository" / "tiny" / "export.json").is_file()
    assert export(*arguments).stdout == ""

    manifest.write_text('["other"]\ntask = "text-embedding"\nsource = "./model"\n')
    stray = export(*arguments).stdout.strip().splitlines()[-1]
    assert stray == f"export: {tmp_path}/repository/tiny is not in models.toml: remove it to stop serving it"


def test_failure_is_one_sentence_and_a_non_zero_exit(tmp_path: Path) -> None:
    manifest = tmp_path / "models.toml"
    manifest.write_text('[tiny]\ntask = "text-embedding"\nsource = "/no/such/folder"\n')
    failed = export("--manifest", str(manifest), "--repository", str(tmp_path / "repository"))
    assert failed.returncode == 1
    assert failed.stderr == "export: [tiny] source: /no/such/folder holds no config.json\n"


def test_unknown_name_lists_the_known_ones() -> None:
    failed = export("no-such-model")
    assert failed.returncode == 1
    assert "no table [no-such-model]; there are all-minilm-l6-v2, minilm-late-interaction" in failed.stderr
