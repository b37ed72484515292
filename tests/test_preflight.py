"""images/preflight.sh, with programs that answer as NVIDIA's do."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

SMI = """#!/bin/sh
case "$1" in
--query-gpu=driver_version) printf '{driver}\\n{driver}\\n' ;;
--query-gpu=compute_cap,name) printf '9.0, NVIDIA H100 80GB HBM3\\n{capability}, NVIDIA A GPU\\n' ;;
esac
"""
TOOLKIT = """#!/bin/sh
printf 'NVIDIA Container Toolkit CLI version {version}\\ncommit: 20edf1c0\\n'
"""
GOOD = {"driver": "580.95.05", "capability": "7.5", "version": "1.19.1"}


def preflight(folder: Path, programs: Mapping[str, str], **variables: str) -> str:
    """What it says on a host with these programs."""
    for name in ("sort", "head", "sed"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "images/preflight.sh"],
        env={"PATH": str(folder)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    assert done.returncode == (1 if done.stderr else 0)
    return done.stderr


def programs(**found: str) -> dict[str, str]:
    return {"nvidia-smi": SMI.format(**GOOD | found), "nvidia-ctk": TOOLKIT.format(**GOOD | found)}


@pytest.mark.parametrize("found", [{}, {"driver": "615.61"}, {"capability": "12.1"}, {"version": "1.20.0"}])
def test_host_that_can_serve_passes(found: dict[str, str], tmp_path: Path) -> None:
    assert preflight(tmp_path, programs(**found)) == ""


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"driver": "575.57.08"}, "driver is 575.57.08: update it on the host to 580 or newer"),
        ({"driver": "99.1"}, "driver is 99.1"),
        ({"capability": "7.0"}, "the GPU NVIDIA A GPU has compute capability 7.0"),
        ({"version": "1.18.2"}, "toolkit is 1.18.2: update it to 1.19.1 or newer"),
        ({"version": "1.9.0"}, "toolkit is 1.9.0"),
    ],
)
def test_what_is_too_old_is_named_with_what_to_do(found: dict[str, str], sentence: str, tmp_path: Path) -> None:
    said = preflight(tmp_path, programs(**found))
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("missing", ["nvidia-smi", "nvidia-ctk"])
def test_what_is_missing_is_named(missing: str, tmp_path: Path) -> None:
    there = programs()
    del there[missing]
    assert f"{missing} is not found: install NVIDIA's" in preflight(tmp_path, there)


def test_driver_that_fails_is_quoted(tmp_path: Path) -> None:
    smi = "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n"
    said = preflight(tmp_path, programs() | {"nvidia-smi": smi})
    assert said.endswith("it says: Failed to initialize NVML: Driver/library version mismatch\n")
    assert said.count("\n") == 1


def test_gpu_that_works_without_its_inforom_passes(tmp_path: Path) -> None:
    there = programs()
    there["nvidia-smi"] += "echo 'WARNING: infoROM is corrupted at gpu 0000:00:1E.0'\nexit 14\n"
    assert preflight(tmp_path, there) == ""


def test_only_gpus_that_serve_are_asked_about(tmp_path: Path) -> None:
    smi = """#!/bin/sh
    [ "$3 $4" = "-i 1,2" ] || exit 1
    case "$1" in *driver*) echo 580.95.05 ;; *) echo '9.0, NVIDIA H100' ;; esac
    """
    assert preflight(tmp_path, programs() | {"nvidia-smi": smi}, CUDA_VISIBLE_DEVICES="1,2") == ""
