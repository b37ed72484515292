"""Traces a tower into a torch program, which computes rows as a host has laid them out."""

import copy
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from export.errors import SourceError
from export.loading.models import Model
from export.manifest import Precision
from export.packing.encoder import RowEncoder
from export.packing.heads import ImageEmbedding
from export.packing.rows import PackedRows
from export.packing.sparse import WordLogits
from export.runtime import program as files
from export.runtime.contract import Output, Prefix, Tokens
from export.runtime.inputs import ALIGNMENT
from export.runtime.program import TYPES, ProgramSpec
from export.tower import Tower

MOST_TOKENS = 1 << 17
"""Of one execution. Beyond it a compiler could not count the values of the widest layers in 32 bits."""
MOST_ROWS = 1 << 16

EXAMPLE = (5, 19, 12)
"""Tokens of the rows to trace with: no two sizes may be equal, or one would be taken for the other."""

TOKENS = Dim("tokens", min=ALIGNMENT, max=MOST_TOKENS)
ROWS = Dim("rows", min=2, max=MOST_ROWS)


def write(tower: Tower, folder: Path, precision: Precision) -> Path:
    """Write a tower's program, its weights and program.json, and return the program's file.

    Raises:
        SourceError: the model's code does not let itself be traced.
    """
    given, sizes = _example(tower)
    module = _Program(_in(precision, tower), tuple(given), tower.outputs).eval()
    program = _export(module, given, sizes, tower.name)
    files.save(program, folder)
    encoders = [one for one in module.head.modules() if isinstance(one, RowEncoder)]
    ProgramSpec(
        torch=torch.__version__,
        precision=precision,
        fields=tuple(field.name for field in tower.fields),
        outputs=tower.outputs,
        inputs=tuple(given),
        padded="longest" in given and pads(program, tuple(given).index("longest")),
        head_width=max(_head_widths(program), default=0),
        heads=max((encoder.heads for encoder in encoders), default=0),
        expansion=tower.expansion,
    ).write(folder / files.SPEC)
    return folder / files.PROGRAM


def is_causal(tower: Tower) -> bool:
    """Whether a tower is a decoder, whose values are made for bf16: those of Gemma exceed fp16."""
    return any(module.is_causal for module in tower.head.modules() if isinstance(module, RowEncoder))


def pads(program: ExportedProgram, longest: int) -> bool:
    """Whether a program has a tensor of rows padded to the longest: the size of input number `longest` is in it."""
    nodes = [node for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    inputs = {node.name: node.meta["val"] for node in nodes if node.op == "placeholder"}
    (size,) = _symbols(inputs[program.graph_signature.user_inputs[longest]].shape[0])
    made = (node.meta["val"] for node in nodes if node.op == "call_function")
    return any(size in _symbols(length) for value in made for length in value.shape)


def _head_widths(program: ExportedProgram) -> Iterator[int]:
    """The dimensions of the heads of every attention by lengths."""
    for node in program.graph.nodes:
        if str(node.target).startswith("conch.attend"):
            yield int(node.args[0].meta["val"].shape[2])


def _symbols(size: object) -> set[object]:
    node = getattr(size, "node", None)
    return set(node.expr.free_symbols) if node is not None else set()


def _in(precision: Precision, tower: Tower) -> torch.nn.Module:
    """A tower's head with the weights of its models in a type; what little work follows them stays in float32."""
    if precision == "fp32":
        return tower.head
    head, kind = copy.deepcopy(tower.head), TYPES[precision]
    behind = set(_behind(head))
    for module in head.modules():
        if isinstance(module, RowEncoder | ImageEmbedding):
            _convert(module.model, kind, behind)
        if isinstance(module, ImageEmbedding):
            module.dtype = kind
        if isinstance(module, WordLogits):  # a fifth of BERT's work
            module.table = module.table.to(kind)
    return head


def _behind(head: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The modules of a head that are not its models', such as poolers, even if a model holds them too."""
    for module in head.children():
        if not isinstance(module, RowEncoder | ImageEmbedding):
            yield module
            yield from _behind(module)


def _convert(model: Model, kind: torch.dtype, but: Container[torch.nn.Module]) -> None:
    """Convert weights, and no tables that the model's code makes up: angles of positions need float32."""
    names = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    kept = {module for name in names for module in getattr(model, name, None) or ()}  # T5's would overflow
    for path, module in model.named_modules():
        if module in but or kept & set(path.split(".")):
            continue
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_floating_point():
                module._parameters[name] = torch.nn.Parameter(weight.to(kind), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point() and name not in module._non_persistent_buffers_set:
                module._buffers[name] = buffer.to(kind)


class _Program(torch.nn.Module):
    """The traced module: rows out of a program's inputs, which go to the head; returns the outputs in order."""

    def __init__(self, head: torch.nn.Module, inputs: Sequence[str], outputs: Sequence[Output]) -> None:
        super().__init__()
        self.head = head
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.inputs, tensors, strict=True))
        values: dict[str, Tensor] = self.head(given["pixels"] if "pixels" in given else self._rows(given))
        return tuple(values[output.name] if output.per == "row" else values[output.name][0] for output in self.outputs)

    def _rows(self, given: Mapping[str, Tensor]) -> PackedRows:
        whole = {name: given[name].to(torch.int64) for name in ("first_length", "prompt_length") if name in given}
        return PackedRows(
            ids=given["ids"].to(torch.int64)[None],
            place=given["position"].to(torch.int64),
            row=given["row"].to(torch.int64),
            starts=given["starts"],
            longest=given["longest"].shape[0],
            visible=given.get("visible"),
            keys=given.get("keys"),
            queries=given.get("query"),
            longest_query=given["longest_query"].shape[0] if "longest_query" in given else 0,
            **whole,
        )


def _example(tower: Tower) -> tuple[dict[str, Tensor], dict[str, dict[int, Dim]]]:
    """The inputs to trace with, by name, and their sizes that change."""
    if tower.vocabulary is None:
        pixels = torch.from_numpy(tower.samples()[0][0])[None].repeat(3, 1, 1, 1)
        return {"pixels": pixels}, {"pixels": {0: Dim("images", min=1, max=MOST_ROWS)}}
    rows = PackedRows.of([torch.arange(length) % tower.vocabulary.size for length in EXAMPLE])
    count = len(EXAMPLE) + 1
    given = {
        "ids": rows.ids[0],
        "position": rows.place,
        "row": rows.row,
        "starts": rows.starts,
        "longest": torch.empty(rows.longest, 0),
    }
    sizes = {
        **{name: {0: TOKENS} for name in ("ids", "position", "row")},
        "starts": {0: ROWS + 1},
        "longest": {0: Dim("longest", min=ALIGNMENT, max=MOST_TOKENS)},
    }
    for field in tower.fields:
        if isinstance(field, Prefix):
            given[field.name] = torch.tensor((2, 7, 1, 0), dtype=torch.int32)
            sizes[field.name] = {0: ROWS}
    if sum(isinstance(field, Tokens) for field in tower.fields) > 1:  # one query, and the others are documents
        given["query"] = torch.zeros(count - 2, dtype=torch.int32)
        given["longest_query"] = torch.empty(2 * ALIGNMENT, 0)
        sizes["query"] = {0: Dim("pairs", min=1, max=MOST_ROWS)}
        sizes["longest_query"] = {0: Dim("longest_query", min=ALIGNMENT, max=MOST_TOKENS)}
    if tower.expansion is not None and not tower.expansion.attended:
        given["visible"] = torch.tensor((3, 19, 12, 0), dtype=torch.int32)
        given["keys"] = torch.tensor([0, 1, 2, *range(5, 36)], dtype=torch.int32)
        sizes["visible"] = {0: ROWS}
        sizes["keys"] = {0: Dim("keys", min=ALIGNMENT, max=MOST_TOKENS)}
    return {
        name: value.to(torch.int32) if value.dtype == torch.int64 else value for name, value in given.items()
    }, sizes


def _export(
    module: torch.nn.Module, given: dict[str, Tensor], sizes: dict[str, dict[int, Dim]], name: str
) -> ExportedProgram:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                module,
                tuple(given.values()),
                dynamic_shapes={"tensors": tuple(sizes[name] for name in given)},
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as exc:  # of many kinds, by what the model's code does
        reason = str(exc).partition("\n")[0]
        raise SourceError(f"[{name}] source: this architecture cannot be traced: {reason}") from exc
    program.graph_module.graph.eliminate_dead_code()
    return program
