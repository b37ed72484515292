"""`python -m loadtest.experiments.gpu [STAGE...]`: measures the torch backend on this machine's GPU.

Each stage stores its part of the results, so that stages can also be run one by one. Nothing is downloaded: what is not
installed is left out, and the results say so.
"""

import argparse
import importlib
import importlib.util
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

EXPORT = (
    *("google.protobuf", "msgspec", "numpy", "onnx", "onnxruntime", "orjson", "peft", "psutil", "safetensors"),
    *("sentence_transformers", "tokenizers", "torch", "transformers", "tritonclient", "uvloop"),
)
SERVER = ("grpc", "pytriton", "starlette", "tritonclient", "uvicorn")
STAGES: Mapping[str, Sequence[str]] = {
    "export": EXPORT,
    "compile": (),
    "verify": (),
    "engine": (),
    "peers": EXPORT,
    "vision": EXPORT,
    "triton": SERVER,
    "gateway": SERVER,
}
"""What each stage imports beyond BASE. A stage is the module of its name."""
BASE = ("msgspec", "numpy", "orjson", "PIL", "psutil", "rich", "safetensors", "tokenizers", "torch", "uvloop")


def main() -> int:
    """Run the stages; the exit code is 1 if one failed, 2 if nothing can be measured here."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.gpu", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="every step with tiny models, without a GPU; not stored")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="measure only these; all by default")
    parser.add_argument("--out", type=Path, help="file of the results (default: loadtest/results/gpu.json)")
    arguments = parser.parse_args()
    if unknown := [stage for stage in arguments.stages if stage not in STAGES]:
        parser.error(f"unknown stage {unknown[0]}; the stages are {', '.join(STAGES)}")
    if missing := _missing(BASE):
        print(f"gpu: not installed in {sys.executable}: {', '.join(missing)}", file=sys.stderr)
        return 2
    return _run(arguments.stages or list(STAGES), arguments)


def _missing(modules: Iterable[str]) -> list[str]:
    return [module for module in modules if not _is_there(module)]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # what it is a part of
        return False


def _run(stages: Sequence[str], arguments: argparse.Namespace) -> int:
    # Imported here, since these need packages that main has looked for.
    from loadtest.experiments.gpu import device  # noqa: PLC0415
    from loadtest.experiments.gpu.plan import FULL, QUICK  # noqa: PLC0415
    from loadtest.experiments.gpu.results import RESULTS, reason  # noqa: PLC0415
    from loadtest.tools.results import store  # noqa: PLC0415

    try:
        plan = (QUICK if arguments.quick else FULL).only(arguments.models)
    except ValueError as exc:
        print(f"gpu: {exc}", file=sys.stderr)
        return 2
    if not arguments.quick and (problem := device.problem()):
        print(f"gpu: {problem}; --quick tries every step on the CPU", file=sys.stderr)
        return 2
    if arguments.quick:
        device.take_one_thread()
    plan.folder.mkdir(parents=True, exist_ok=True)
    out = arguments.out or (plan.folder / "gpu.json" if arguments.quick else RESULTS)
    results = device.results(out)
    failed = False
    for stage in stages:
        print(f"--- {stage}", flush=True)
        started = time.perf_counter()
        left_out: dict[str, str] = {}
        results.left_out[stage] = left_out
        given = plan if stage == "export" else plan.exported()
        left_out |= {model.name: "not exported" for model in plan.models if model not in given.models}
        if missing := _missing(STAGES[stage]):
            left_out[stage] = f"not installed: {', '.join(missing)}"
        elif not given.models:
            failed = True
        else:
            try:
                importlib.import_module(f"loadtest.experiments.gpu.{stage}").run(given, results, left_out.__setitem__)
            except Exception as exc:  # noqa: BLE001 - what other stages measure must not be lost
                traceback.print_exc()
                left_out[stage] = f"failed: {reason(exc)}"
                failed = True
        results.seconds[stage] = round(time.perf_counter() - started, 1)
        store(results, out)
        print(*(f"left out: {what}: {why}" for what, why in left_out.items()), sep="\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
