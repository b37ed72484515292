"""`python -m export.plans ENTRY`: builds what serves an entry on its device, and verifies it.

That is a TensorRT plan, or the torch program compiled. Both work with one version of their library and one kind of GPU,
so they are built where they run: in the serving image, before the server starts. This needs numpy, and either
TensorRT (its Python package or its `trtexec`) or torch with a C++ compiler.
"""

import argparse
import fcntl
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import ExportError
from export.plans.build import build_plan, timing_cache
from export.plans.gate import CASES, SPEC
from export.plans.toolkit import PlanError, find_toolkit

PROGRAM = "program.pt2"
"""The graph of an entry for torch."""


def main() -> int:
    """Run the command; the exit code is 1 if there is no plan to serve."""
    parser = argparse.ArgumentParser(prog="python -m export.plans", description=__doc__)
    parser.add_argument("entry", type=Path, metavar="ENTRY", help="folder of an entry in the model repository")
    help_cache = "measured times of kernels, kept between builds (default: a file beside the repository)"
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help=help_cache)
    help_device = "where a torch program will serve (default: the first GPU, or the CPU if there is none)"
    parser.add_argument("--device", metavar="DEVICE", help=help_device)
    arguments = parser.parse_args()
    folder = arguments.entry.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that scratch folders are removed
    try:
        with _locked(folder):
            _build(folder, arguments)
    except KeyboardInterrupt:
        return 130
    except (ExportError, OSError) as exc:
        print(f"plan {folder.name}: {exc}", file=sys.stderr)
        return 1
    return 0


def _build(folder: Path, arguments: argparse.Namespace) -> None:
    """Build what an entry needs.

    Raises:
        ExportError: it fails, or is not needed.
    """
    if (folder / "1" / PROGRAM).is_file():
        _compile(folder, arguments.device)
    elif any((folder / name).is_file() for name in (SPEC, CASES)):
        toolkit = find_toolkit()
        times = arguments.timing_cache or timing_cache(folder.parent, toolkit)
        build_plan(folder, toolkit, times, _say)
    else:
        raise PlanError("read: only entries for tensorrt and torch need this command")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let others of this command wait, and remove what those that were killed have left."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for left in folder.glob(".plan-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def _compile(folder: Path, device: str | None) -> None:
    # What the compiler keeps in between goes into the entry: /tmp may be closed to programs, and torch's own folder is
    # named after a user, whom a container need not know. Its commands break at white space.
    place = folder if os.access(folder, os.W_OK) and not _has_space(folder) else None
    with tempfile.TemporaryDirectory(dir=place, prefix=".plan-") as scratch:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", scratch)
        found = importlib.util.find_spec("torch")
        packages = Path(found.origin).parent.parent if found and found.origin else Path()
        if _has_space(packages):
            link = Path(scratch) / "packages"
            link.symlink_to(packages)
            sys.path.insert(0, str(link))
        _find_cuda()
        _compile_entry(folder, device)


def _has_space(path: Path) -> bool:
    return len(str(path).split()) > 1


def _find_cuda() -> None:
    """Name the headers of CUDA where pip has installed them, unless they are at a place that torch knows."""
    known = shutil.which("nvcc") or Path("/usr/local/cuda/include/cuda.h").is_file()
    if "CUDA_HOME" in os.environ or known:
        return
    for place in sys.path:
        for found in sorted(Path(place).glob("nvidia/cu*/include/cuda.h")):  # pragma: needs a GPU
            os.environ["CUDA_HOME"] = str(found.parent.parent)


def _compile_entry(folder: Path, device: str | None) -> None:
    # TensorRT's image has no torch.
    import torch  # noqa: PLC0415

    from export.plans.compile import compile_entry  # noqa: PLC0415

    compile_entry(folder, device or ("cuda:0" if torch.cuda.is_available() else "cpu"), _say)


def _say(stage: str) -> None:
    print(stage, flush=True)


if __name__ == "__main__":
    sys.exit(main())
