"""`python -m export.plans ENTRY`: builds the TensorRT plan of an entry on the GPU that will serve it, and verifies it.

A plan works with one version of TensorRT and one kind of GPU, so it is built where it runs: in the serving image,
before the server starts. This needs numpy, and either TensorRT's Python package or its `trtexec`.
"""

import argparse
import sys
from pathlib import Path

from export.errors import ExportError
from export.plans.build import build_plan, timing_cache
from export.plans.toolkit import find_toolkit


def main() -> int:
    """Run the command; the exit code is 1 if there is no plan to serve."""
    parser = argparse.ArgumentParser(prog="python -m export.plans", description=__doc__)
    parser.add_argument("entry", type=Path, metavar="ENTRY", help="folder of an entry in the model repository")
    help_cache = "measured times of kernels, kept between builds (default: a file beside the repository)"
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help=help_cache)
    arguments = parser.parse_args()
    folder = arguments.entry.resolve()
    try:
        toolkit = find_toolkit()
        times = arguments.timing_cache or timing_cache(folder.parent, toolkit)
        build_plan(folder, toolkit, times, lambda stage: print(stage, flush=True))
    except ExportError as exc:
        print(f"plan {folder.name}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
