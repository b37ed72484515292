"""`make parity`: exports every family for every backend, and measures how exact each is.

Each model is tiny, its architecture real, its weights random, its tokenizer of the kind that it comes with.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.progress import Progress

from export.entry import Entry
from export.manifest import Backend, ModelSpec, Precision, Task
from export.repository import build
from loadtest.tools import tiny, tiny_pages, tiny_tiles, tiny_vision
from loadtest.tools.results import STORED, store

Run = tuple[Backend, Precision | None]

RESULTS = STORED / "parity.json"

RUNS: Sequence[Run] = (
    ("python", None),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "fp16"),
    ("tensorrt", "fp32"),
    ("tensorrt", "fp16"),
    ("torch", None),
)
"""The backends and precisions of every family. The first compares in fp32 and in bf16, the last in fp32 and in fp16 or
bf16, as the family is served."""


@dataclass(frozen=True, slots=True)
class Case:
    """One family in one role."""

    label: str
    task: Task
    write: Callable[[Path], Path]
    keys: Mapping[str, Any] = field(default_factory=dict)
    """More of its table."""
    backends: Sequence[Backend] = tuple(dict.fromkeys(backend for backend, _ in RUNS))
    """Those that serve it."""

    @property
    def by_output(self) -> bool:
        """Whether each of several outputs has a row of its own; otherwise the main one has the only row."""
        return self.label == M3


def _pair(folder: Path) -> Path:
    tiny.write_image_classifier(folder / "image")
    return tiny.write_embedding(folder / "text")


M3 = "bge-m3"
TEMPLATE = "<|im_start|>Query: {query}\nDocument: {document}<|im_end|>"
EXPANSION = {"strategy": "fixed", "length": 32}

VISION: Sequence[tuple[Task, Callable[..., Path]]] = (
    ("text-embedding", tiny_vision.write_embedding),
    ("cross-encoder", tiny_vision.write_reranker),
)

PAGES: Mapping[str, Callable[[Path], Path]] = {
    "ColPali": tiny_pages.write_colpali,
    "ColPali (PaliGemma 2)": partial(tiny_pages.write_colpali, text="gemma2"),
    "ColQwen2": tiny_pages.write_colqwen2,
    "ColQwen2 (Qwen2.5-VL)": partial(tiny_pages.write_colqwen2, backbone="Qwen2.5-VL"),
    "ColQwen2 (Qwen3-VL)": partial(tiny_pages.write_colqwen2, backbone="Qwen3-VL"),
    "multi-vector (Qwen3-VL)": tiny_pages.write_chat,
}

TILES: Sequence[tuple[str, Task, Callable[[Path], Path]]] = (
    ("ModernVBERT", "text-embedding", tiny_tiles.write_modernvbert),
    ("EmbeddingGemma 2 (images)", "text-embedding", tiny_tiles.write_embedding_gemma2),
    ("ColModernVBERT", "multi-vector", tiny_tiles.write_colmodernvbert),
)

CASES: Sequence[Case] = (
    *(Case(name, "text-embedding", partial(tiny.write_embedding, name=name)) for name in tiny.ENCODERS),
    *(
        Case(name, "text-embedding", partial(tiny.write_embedding, name=name, pooling="lasttoken"))
        for name in tiny.DECODERS
    ),
    *(Case(f"BERT, {kind}", "text-embedding", partial(tiny.write_modules, kind=kind)) for kind in tiny.MODULES),
    Case("StaticEmbedding", "text-embedding", tiny.write_static),
    Case("Router (StaticEmbedding, BERT)", "text-embedding", tiny.write_router, {"variants": ("query", "document")}),
    *(
        Case(
            f"{name}, adapters",
            "text-embedding",
            partial(tiny.write_adapters, names=("retrieval", "clustering"), name=name),
            {"variants": ("retrieval", "clustering")},
        )
        for name in ("BERT", "Qwen3")
    ),
    *(
        Case(name, "cross-encoder", partial(tiny.write_cross_encoder, name=name))
        for name in tiny.ENCODERS
        if name != "T5"  # its classifier has a decoder
    ),
    Case(
        "BERT, 3 classes",
        "cross-encoder",
        partial(tiny.write_cross_encoder, labels=3),
        {"positive_class": "LABEL_2"},
    ),
    Case("BERT, one label", "classification", tiny.write_cross_encoder),
    Case("RoBERTa, three labels", "classification", partial(tiny.write_cross_encoder, name="RoBERTa", labels=3)),
    Case(
        "ModernBERT, 28 labels at once",
        "classification",
        partial(tiny.write_cross_encoder, name="ModernBERT", labels=28, problem_type="multi_label_classification"),
    ),
    Case("Qwen3, three labels", "classification", partial(tiny.write_cross_encoder, name="Qwen3", labels=3)),
    Case("Qwen3, classifier", "cross-encoder", partial(tiny.write_cross_encoder, name="Qwen3"), {"template": TEMPLATE}),
    Case(
        "Qwen3, yes or no",
        "cross-encoder",
        tiny.write_decoder_reranker,
        {"template": TEMPLATE, "true_token": "yes", "false_token": "no"},
    ),
    *(
        Case(
            f"{name} ({template})",
            "cross-encoder",
            partial(tiny.write_decoder_reranker, name=name, tokens=tokens, max_position_embeddings=1024),
            {"template": template, "max_tokens": 768},
        )
        for name, tokens, template in (
            ("Qwen3", tiny.decoder_pairs, "qwen3-reranker"),
            ("Qwen2", tiny.decoder_pairs, "mxbai-rerank-v2"),
            ("Gemma", tiny.gemma_pairs, "bge-reranker-v2-gemma"),
        )
    ),
    Case("Qwen3 (LogitScore)", "cross-encoder", partial(tiny.write_logit_score, chat_template=tiny.PAIRS_TEMPLATE)),
    Case("SPLADE (BERT)", "sparse", tiny.write_splade),
    Case(
        "SPLADE (ModernBERT, sum, log1p_relu)",
        "sparse",
        partial(tiny.write_splade, name="ModernBERT", pooling_strategy="sum", activation_function="log1p_relu"),
    ),
    Case(
        "inference-free SPLADE (DistilBERT)", "sparse", tiny.write_inference_free, {"variants": ("document", "query")}
    ),
    Case(M3, "text-embedding", tiny.write_m3),
    Case("any (BERT)", "multi-vector", tiny.write_plain),
    Case("ColBERT (Stanford)", "multi-vector", partial(tiny.write_colbert, pylate=False)),
    Case("ColBERT (PyLate)", "multi-vector", partial(tiny.write_colbert, pylate=True)),
    Case("multi-vector (BERT)", "multi-vector", partial(tiny.write_multi_vector, query_expansion=EXPANSION)),
    Case(
        "multi-vector (ModernBERT)",
        "multi-vector",
        partial(tiny.write_multi_vector, name="ModernBERT", query_expansion=EXPANSION),
    ),
    Case("multi-vector (Qwen3)", "multi-vector", partial(tiny.write_multi_vector, name="Qwen3")),
    *(
        Case(name, task, partial(write, name=name), backends=("torch",))
        for name in tiny_vision.FAMILIES
        for task, write in VISION
    ),
    *(Case(name, "multi-vector", write, backends=("torch",)) for name, write in PAGES.items()),
    *(Case(name, task, write, backends=("torch",)) for name, task, write in TILES),
    *(
        Case(name, "image-text", partial(tiny.write_image_text, name=name))
        for name in ("CLIP", "ChineseCLIP", "SigLIP", "SigLIP 2")
    ),
    Case("two folders (BERT, ViT)", "image-text", _pair),
)
LABELS = tuple(dict.fromkeys(case.label for case in CASES))


class Found(msgspec.Struct, frozen=True):
    """The results of one Triton model of a case, or of one of its outputs."""

    label: str
    role: str
    rows: str
    """The form in which the encoder computes rows."""
    errors: dict[str, float]
    """The largest error in any batches, by backend and precision."""


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    found: list[Found]


def main() -> int:
    """Measure all cases and store."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.parity", description=__doc__)
    backends = list(dict.fromkeys(backend for backend, _ in RUNS))
    parser.add_argument("--backends", nargs="+", default=backends, choices=backends, help="keep what others stored")
    parser.add_argument("--families", nargs="+", metavar="LABEL", choices=LABELS, help="keep what others stored")
    arguments = parser.parse_args()
    cases = [case for case in CASES if case.label in (arguments.families or LABELS)]
    runs = [run for run in RUNS if run[0] in arguments.backends]
    found: list[Found] = []
    with Progress() as progress:
        for case in progress.track(cases, description="families"):
            with tempfile.TemporaryDirectory() as scratch:
                found += measure(case, runs, Path(scratch))
    kept = msgspec.json.decode(RESULTS.read_bytes(), type=Results).found if RESULTS.exists() else []
    store(Results(join(kept, found, arguments.backends)), RESULTS)
    return 0


def join(kept: Sequence[Found], found: Sequence[Found], backends: Sequence[str]) -> list[Found]:
    """What is found for some families and backends, with what was found before for others: in the order of CASES."""
    before = {(one.label, one.role): one.errors for one in kept}
    joined = [
        msgspec.structs.replace(
            one,
            errors={
                key: error
                for key, error in before.get((one.label, one.role), {}).items()
                if key.partition(" ")[0] not in backends
            }
            | one.errors,
        )
        for one in found
    ]
    measured = {(one.label, one.role.partition(" ")[0]) for one in found}
    joined += [one for one in kept if (one.label, one.role.partition(" ")[0]) not in measured]
    order: dict[tuple[str, str], int] = {(case.label, case.task): place for place, case in enumerate(CASES)}
    known = [one for one in joined if (one.label, one.role.partition(" ")[0]) in order]
    return sorted(known, key=lambda one: order[one.label, one.role.partition(" ")[0]])


def measure(case: Case, runs: Sequence[Run], scratch: Path) -> list[Found]:
    """Export a case for backends, and read its proofs.

    Raises:
        ExportError: a graph is not exact.
    """
    keys = write(case, scratch / "source")
    found: dict[str, dict[str, float]] = {}
    forms: dict[str, str] = {}
    for backend, precision in runs:
        if backend not in case.backends:
            continue
        spec = ModelSpec(**keys, backend=backend, precision=precision)
        for entry in build(spec, scratch / f"{backend}-{precision}", lambda _: None):
            parities = entry.proof["parity"]
            for parity in parities:
                if parity["output"] != parities[0]["output"] and not case.by_output:
                    continue
                role = role_of(case, entry, parity["output"])
                if backend != "tensorrt" or role not in forms:  # tensorrt's rows are always padded
                    forms[role] = "packed" if entry.proof["packed"] else "" if role.endswith("image") else "padded"
                errors = found.setdefault(role, {})
                key = f"{backend} {parity['precision']}"
                errors[key] = max(errors.get(key, 0), parity["worst"])
    return [Found(case.label, role, forms[role], errors) for role, errors in found.items()]


def write(case: Case, folder: Path) -> dict[str, Any]:
    """Write the source of a case, and return its table without backend and precision."""
    source = case.write(folder)
    images = {"image_source": str(folder / "image")} if (folder / "image").is_dir() else {}
    return {"name": "tiny", "task": case.task, "source": str(source), **images, **case.keys}


def role_of(case: Case, entry: Entry, output: str = "") -> str:
    """The task of a case, which tower of it an entry is, and which of its outputs."""
    tower = entry.folder.name.removeprefix("tiny").removeprefix("-")
    return " ".join(filter(None, (case.task, tower, output if case.by_output else "")))


if __name__ == "__main__":
    sys.exit(main())
