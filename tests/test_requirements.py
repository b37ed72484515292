"""The pinned requirements can be installed on arm64, from wheels alone."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

UV = Path(sys.executable).with_name("uv")
REQUIREMENTS = Path(__file__).parents[1] / "requirements"
INSTALLED = (("bulk", "export", "gateway", "serve"), ("triton",))
"""What users and images install, together where the versions are the same. The rest is for development, on x86-64."""
OFFLINE = ("Failed to fetch", "error sending request", "dns error", "Connection refused")
"""What uv says where there is no network."""


@pytest.mark.parametrize("names", INSTALLED, ids=" ".join)
def test_requirements_have_wheels_for_arm64(names: Sequence[str]) -> None:
    pins = {
        line.partition(" ")[0]
        for name in names
        for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        if "==" in line
    }
    assert "numpy" in {pin.partition("==")[0] for pin in pins}
    # glibc 2.35 is the oldest that openvino's and Triton's wheels take. Debian 12, which the images are, has 2.36.
    platform = ("--python-version", "3.11", "--python-platform", "aarch64-manylinux_2_35")
    done = subprocess.run(
        [UV, "pip", "compile", "-", "--quiet", "--no-deps", "--only-binary", ":all:", *platform],
        input="\n".join(sorted(pins)),
        capture_output=True,
        text=True,
        check=False,
    )
    if any(word in done.stderr for word in OFFLINE) and not os.environ.get("CI"):
        pytest.skip("needs the network: run it where uv reaches the index of packages, such as by UV_INDEX_URL")
    assert done.returncode == 0, done.stderr
