"""Programs from outside, which some tests need."""

import os
import shutil

import pytest


def program(*names: str, package: str) -> str:
    """The path of the first of these that is installed; where none is, the test is skipped, or fails in CI."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is not None:
        return found
    why = f"{names[0]} is not installed: apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
