"""What plots and tables of runs have in common."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from loadtest.tools.benchmark import CONCH, INT8, LLAMA_CPP, ONNX_RUNTIME, Run

COLOURS = {
    CONCH: "#d1495b",
    INT8: "#edae49",
    "infinity (optimum)": "#30638e",
    "infinity (torch)": "#9fb8cc",
    LLAMA_CPP: "#6a994e",
    ONNX_RUNTIME: "#8d6a9f",
    "engine": "#555555",
}

mpl.rcParams.update({"svg.hashsalt": "conch", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def rate(run: Run) -> float:
    """Items a second."""
    return run.items / run.seconds


def median(runs: Sequence[Run], of: Callable[[Run], float]) -> float:
    """The median over rounds."""
    return statistics.median(map(of, runs))


def by_server(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs of each server."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.server].append(run)
    return found


def save(figure: "mpl.figure.Figure", file: Path) -> None:
    """Write a picture that is the same whenever it is made."""
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
