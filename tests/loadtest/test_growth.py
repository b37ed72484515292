"""The section on how cost grows, out of made results."""

from pathlib import Path

from google.protobuf import text_format
from msgspec.structs import replace
from tritonclient.grpc import model_config_pb2 as pb

from loadtest.reports import growth
from loadtest.tools.benchmark import Run
from loadtest.tools.copies import copy
from loadtest.tools.growth import Results
from loadtest.tools.scaling import Model, Pack

MODEL = Model(pack_ms=0.5, token_ms=0.05, cell_ms=4e-5, serial=0.1, barrier_ms=0.4, contention=0.1)


def run(workload: str, server: str, requests: int, items: int = 1, number: int = 0) -> Run:
    return Run(workload, server, number, 16, 2.0, requests, requests * items, {}, {"model": 3.0, "gateway": 1.0}, {})


RESULTS = Results(
    machine={"date": "2026-11-30", "cores": 2, "cpu": "A CPU", "features": "avx2"},
    batches=[run(f"batch-{items}", "conch", 100, items) for items in (1, 64)],
    lengths=[run(f"words-{words}", server, 100) for words in (4, 64) for server in ("conch", "llama.cpp")],
    tokens={"words-4": 7.2, "words-64": 80.0},
    workloads={"short-64": "short texts"},
    cores={
        1: [run("short-64", "conch", requests, number=number) for number, requests in enumerate((180, 200, 300))],
        2: [run("short-64", "conch", 390)],
    },
    packs=[
        Pack(rows, tokens, streams, threads, MODEL.ms([tokens] * rows, threads, streams))
        for rows, tokens in ((1, 16), (16, 16), (1, 256), (16, 64))
        for streams, threads in ((1, 1), (1, 2), (2, 1))
    ],
    models_mib={1: {"gateway": 90.0, "model a": 500.0}, 2: {"gateway": 91.0, "model a": 500.0, "model b": 480.0}},
    rows_mib={1: {"gateway": 90.0, "model a": 400.0}, 64: {"gateway": 91.0, "model a": 500.0}},
)
PICTURES = {"growth.svg", "cores.svg", "growth-memory.svg"}


def test_throughput_by_cores_is_measured_and_simulated(tmp_path: Path) -> None:
    text = growth.write(RESULTS, tmp_path)
    assert "| texts/s by cores | 1 | 2 | 2, simulated | 4, simulated |" in text
    assert "| short texts | 100 | 195 | 186 | 327 |" in text
    assert "It is fitted to these, and at most 0% off." in text
    assert "| 16 x 64 | 54.32 ms (" in text
    assert "| 64 short texts | 2 x 1: 1.8 |" in text
    assert {file.name for file in tmp_path.iterdir()} == PICTURES


def test_parts_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    bare = replace(RESULTS, batches=[], lengths=[], packs=[], models_mib={}, rows_mib={})
    assert growth.write(bare, tmp_path).count("\n") == 3
    assert not list(tmp_path.iterdir())


def test_pictures_are_the_same_whenever_they_are_made(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        growth.write(RESULTS, tmp_path)
        made.append({file.name: file.read_bytes() for file in tmp_path.iterdir()})
    assert made[0] == made[1]


def test_a_copy_of_an_entry_has_another_name_and_no_alias(tmp_path: Path) -> None:
    entry = tmp_path / "first"
    (entry / "1").mkdir(parents=True)
    (entry / "1" / "model.onnx").write_bytes(b"graph")
    config = pb.ModelConfig(name="first")
    for name in ("aliases", "default", "max_tokens"):
        config.parameters[name].string_value = "1"
    (entry / "config.pbtxt").write_text(text_format.MessageToString(config))
    copy(entry, tmp_path / "second")
    found = text_format.Parse((tmp_path / "second" / "config.pbtxt").read_text(), pb.ModelConfig())
    assert found.name == "second"
    assert list(found.parameters) == ["max_tokens"]
    assert (tmp_path / "second" / "1" / "model.onnx").read_bytes() == b"graph"
    assert text_format.Parse((entry / "config.pbtxt").read_text(), pb.ModelConfig()) == config
