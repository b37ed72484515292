"""The stages of `make gpu` that work on a CPU, and the section that its results become."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loadtest.experiments.gpu import device, engine, export, peers, plan, verify, vision
from loadtest.experiments.gpu.results import (
    Built,
    Exact,
    Latency,
    LongRow,
    Peak,
    Results,
    Served,
    Throughput,
    reason,
)
from loadtest.reports import gpu
from loadtest.tools.client import BenchmarkError
from loadtest.tools.perf_analyzer import Perf
from loadtest.tools.results import store

MACHINE: dict[str, str | int | float] = {
    "date": "2026-11-29",
    "gpu": "NVIDIA H200",
    "gpu_memory_gib": 140,
    "cores": 16,
    "cpu": "Intel Xeon",
    "python": "3.12.3",
    "torch": "2.11.0",
}
RESULTS = Results(
    machine=MACHINE,
    families=[
        Exact("BERT", "text-embedding", "fp16", "cosine", 2e-6, 1e-3),
        Exact("Qwen3", "text-embedding", "fp16", "cosine", 2e-3, 1e-3),
    ],
    built=[Built("bge-base", "compile", 61.0, "compiled")],
    throughput=[
        Throughput("bge-base", "conch", "128", 1, 128.0, [1000.0, 900.0, 1100.0]),
        Throughput("bge-base", "conch", "128", 64, 128.0, [20_000.0]),
        Throughput("bge-base", "conch", "mixed", 64, 34.0, [60_000.0]),
    ],
    latency=[Latency("bge-base", "conch", 16, 0.414, 0.52)],
    long_rows=[LongRow("bge-m3", 8192, 63, 12.34, 3e-7)],
    peaks=[Peak("bge-m3", 4096, 128.0), Peak("bge-m3", 8192, 256.0)],
    compared=[
        Throughput("bge-base", engine, "128", 64, 128.0, rates)
        for engine, rates in (("conch", [20_000.0]), ("a", [4000.0, 5000.0, 4500.0]), ("b", [8000.0]))
    ],
    triton=[Perf("triton", "single texts", 0, "16 clients", 5000.0, {"p50": 3.0, "p99": 5.0}, {"queue": 1.0})],
    served=[Served("conch", "bge-base", 1, 16, number, rate, 4.0, 9.0) for number, rate in enumerate((900, 1000, 950))],
    left_out={"gateway": {"vLLM": "vllm is not installed"}, "engine": {}},
)


def test_tables_hold_medians_and_the_ratio_to_the_best_other_engine() -> None:
    section = gpu.render(RESULTS)
    for line in (
        "2026-11-29, NVIDIA H200 (140 GiB), 16 cores of an Intel Xeon, Python 3.12.3; torch 2.11.0.",
        "| cosine | fp16 | 1 of 2 | 2e-03 | 0.001 | Qwen3, text-embedding |",
        "| bge-base | 128 | 1,000 | 20,000 | 2,560,000 |",
        "| bge-base | mixed | - | 60,000 | 2,040,000 |",
        "| bge-base | 16 | 0.41 ms | 0.52 ms |",
        "| bge-m3 | 8,192 | 63 | 12.3 ms | 3e-07 |",
        "| bge-m3 | 8,192 | 256 MiB | 32.0 KiB |",
        "| bge-base | 128 | 64 | 20,000 | 4,500 | 8,000 | **2.5** |",
        "| single texts | 16 clients | 5,000 | 3.00 ms | 5.00 ms | 1.00 ms | 0.00 ms |",
        "| conch | 1 | 16 | 950 | 4.0 ms | 9.0 ms |",
        "- vLLM: vllm is not installed",
    ):
        assert line in section.splitlines()


def test_stages_that_did_not_run_have_no_table() -> None:
    assert "|" not in gpu.render(Results(MACHINE))


def test_section_says_that_no_run_is_stored(tmp_path: Path) -> None:
    assert gpu.section(tmp_path / "gpu.json") == gpu.NO_RUN


def test_stages_of_one_machine_are_stored_together_and_others_replaced(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    store(Results(device.describe(), latency=RESULTS.latency), file)
    assert device.results(file).latency == RESULTS.latency
    store(Results(MACHINE, latency=RESULTS.latency), file)
    assert device.results(file) == Results(device.describe())


def test_mixed_texts_are_as_long_as_those_of_the_stored_figures() -> None:
    drawn = plan.lengths(plan.MIXED, 4096)
    assert (min(drawn), max(drawn)) == plan.MIXED_LIMITS
    assert 33 < np.mean(drawn) < 36
    assert plan.lengths(16, 3) == [16, 16, 16]


def test_errors_are_told_in_one_line() -> None:
    log = BenchmarkError("no answer; the end of log:\nstarting\nserve: libpython3.12 is missing\n")
    assert reason(log) == "BenchmarkError: no answer; the end of log: ... serve: libpython3.12 is missing"
    assert reason(ValueError()) == "ValueError: "


def test_models_can_be_chosen() -> None:
    assert [model.name for model in plan.FULL.only(["bge-m3"]).models] == ["bge-m3"]
    assert plan.FULL.only(None) == replace(plan.FULL, models=list(plan.FULL.models))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engines"], "unknown stage engines; the stages are export, compile"),
        (["--models", "bge"], "unknown model bge; the models are all-minilm-l6-v2, bge-base, bge-m3"),
        (["engine"], "finds no GPU; --quick tries every step on the CPU"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "loadtest.experiments.gpu", *arguments]
    without_gpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=without_gpu, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_packages_that_are_missing_are_named() -> None:
    command = [sys.executable, "-S", "-m", "loadtest.experiments.gpu", "engine"]  # -S: without installed packages
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search("not installed in .*: msgspec, numpy, .*torch", done.stderr)


def test_batches_of_peers_hold_rows_of_similar_length_within_their_budget() -> None:
    lengths = [1, 8192, 8000, 20, 16384, 30]
    assert list(peers.cut(lengths)) == [[4], [1, 2], [5, 3, 0]]


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    device.take_one_thread()
    yield
    torch.set_num_threads(threads)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("one_thread")
def test_stages_without_a_server_run_on_a_cpu(tmp_path: Path) -> None:
    trial = replace(plan.QUICK, folder=tmp_path, families=("BERT",), singles=3)
    results, left_out = Results(device.describe()), dict[str, str]()
    for stage in (export, verify, engine, peers):
        stage.run(trial, results, left_out.__setitem__)
    assert [one.role for one in results.families] == ["text-embedding", "cross-encoder"]
    assert all(one.worst <= 1e-6 for one in (*results.families, *results.verified))
    assert [(one.lengths, one.batch) for one in results.throughput] == [
        ("16", 1),
        ("16", 8),
        ("mixed", 1),
        ("mixed", 8),
    ]
    assert all(one.error <= 1e-6 for one in results.long_rows)
    assert {one.engine for one in results.compared} == {"conch", "sentence-transformers with sdpa", "ONNX Runtime"}
    assert set(left_out) == {
        "weights of tiny",
        "memory of long rows",
        "sentence-transformers with flash attention, tiny",
    }
    assert len(gpu.render(results).split("\n\n")) == 11  # the machine, and five tables with titles


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("one_thread")
def test_models_that_read_images_are_measured_on_a_cpu(tmp_path: Path) -> None:
    results, left_out = Results(device.describe()), dict[str, str]()
    vision.run(replace(plan.QUICK, folder=tmp_path), results, left_out.__setitem__)
    (found,) = results.vision
    assert (found.model, found.layers) == ("tiny-vl", (3, 3))
    ways = ("packed", "one at a time", "sentence-transformers")
    assert [(speed.items, speed.way) for speed in found.speeds] == [
        (items, way) for items in ("photos", "texts", "photos with texts") for way in ways
    ]
    assert all(speed.error <= 1e-6 for speed in found.speeds)
    assert [speed.images for speed in found.speeds[::3]] == [4, 0, 4]
    assert found.speeds[0].tokens > found.speeds[0].patches / 4
    assert set(left_out) == {
        "weights of models that read images",
        "compiled programs and memory of images",
    }
    assert "tiny-vl: 3 text and 3 vision layers" in gpu.render(results)
