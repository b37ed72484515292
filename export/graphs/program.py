"""Traces a tower into a torch program, which computes rows as a host has laid them out."""

import copy
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from export.errors import SourceError
from export.loading.models import Model
from export.manifest import Precision
from export.packing.encoder import RowEncoder
from export.packing.heads import ImageEmbedding
from export.packing.rows import PackedImages, PackedRows
from export.packing.siglip import NaFlexEmbedding
from export.packing.sparse import WordLogits
from export.packing.vision import VisionEncoder
from export.runtime import program as files
from export.runtime.contract import Array, Output, Prefix, Row, Tokens
from export.runtime.inputs import ALIGNMENT, Layout, Pack
from export.runtime.program import TYPES, ProgramSpec
from export.runtime.torch_engine import arguments
from export.runtime.vision import MADE, Grid, Vision
from export.tower import Tower

MOST_TOKENS = 1 << 17
"""Of one execution. Beyond it a compiler could not count the values of the widest layers in 32 bits."""
MOST_ROWS = 1 << 16

EXAMPLE = (5, 19, 12)
"""Tokens of the rows to trace with: no two sizes may be equal, or one would be taken for the other."""
LONGEST = ("longest", "longest_image")
"""The inputs that say how long rows are at most, and images."""
EXAMPLE_GRIDS = (((3, 5), (2, 2)), ((1, 6),))
"""The images of those with images, in merged patches."""

TOKENS = Dim("tokens", min=ALIGNMENT, max=MOST_TOKENS)
ROWS = Dim("rows", min=2, max=MOST_ROWS)


def write(tower: Tower, folder: Path, precision: Precision) -> Path:
    """Write a tower's program, its weights and program.json, and return the program's file.

    Raises:
        SourceError: the model's code does not let itself be traced.
    """
    head = _in(precision, tower)

    def export(given: dict[str, Tensor], sizes: dict[str, dict[int, Dim]]) -> ExportedProgram:
        return _export(_Program(head, tuple(given), tower.outputs).eval(), given, sizes, tower.name)

    both = tower.vision is not None and tower.vocabulary is not None
    given, sizes = _image_example(tower) if tower.vision is not None and not both else _example(tower)
    program = export(given, sizes)
    seen, seen_sizes = _image_example(tower) if both else ({}, {})
    images = export(seen, seen_sizes) if both else None
    files.save(program, folder, images)
    programs = [(program, tuple(given)), *([(images, tuple(seen))] if images is not None else [])]
    encoders = [one for one in head.modules() if isinstance(one, RowEncoder)]
    ProgramSpec(
        torch=torch.__version__,
        precision=precision,
        fields=tuple(field.name for field in tower.fields),
        outputs=tower.outputs,
        inputs=tuple(given),
        padded=any(name in names and pads(one, names.index(name)) for one, names in programs for name in LONGEST),
        head_width=max((width for one, _ in programs for width in _head_widths(one)), default=0),
        heads=max((encoder.heads for encoder in encoders), default=0),
        expansion=tower.expansion,
        vision=tower.vision,
        image_inputs=tuple(seen),
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
        if isinstance(module, RowEncoder | ImageEmbedding | NaFlexEmbedding):
            _convert(module.model, kind, behind)
        if isinstance(module, VisionEncoder):
            _convert(module.visual, kind, behind)
        if isinstance(module, ImageEmbedding):
            module.dtype = kind
        if isinstance(module, WordLogits):  # a fifth of BERT's work
            module.table = module.table.to(kind)
    return head


def _behind(head: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The modules of a head that are not its models', such as poolers, even if a model holds them too."""
    if not isinstance(head, RowEncoder | ImageEmbedding | NaFlexEmbedding):
        yield head
        for module in head.children():
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
        values: dict[str, Tensor] = self.head(_rows(given))
        return tuple(values[output.name] if output.per == "row" else values[output.name][0] for output in self.outputs)


def _rows(given: Mapping[str, Tensor]) -> Tensor | PackedRows | PackedImages:
    """What a head takes of a program's inputs."""
    if "pixels" in given:
        return given["pixels"]
    return PackedRows.from_inputs(given) if "ids" in given else PackedImages.of(given)


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


def _image_example(tower: Tower) -> tuple[dict[str, Tensor], dict[str, dict[int, Dim]]]:
    """The same for a program for packs with images."""
    assert tower.vision is not None  # noqa: S101 - the caller has looked
    vision, fields = tower.vision, tuple(field.name for field in tower.fields)
    pack = Pack(fields, [_image_row(tower, vision, grids) for grids in EXAMPLE_GRIDS], tower.expansion, vision)
    text, sizes = _example(tower) if tower.vocabulary is not None else ({}, {})
    names = (*text, *vision.inputs)
    layout = Layout(names, pack.sizes, more=pack.shapes)
    buffer = torch.zeros(layout.size, dtype=torch.int32)
    pack.write(layout.views(buffer.numpy()), pack.sizes)
    given = [tensor.clone() for tensor in arguments(names, layout, pack.sizes, buffer)]
    merged = Dim("merged", min=2, max=MOST_TOKENS)
    patches = merged * vision.merge**2 if vision.merge > 1 else merged
    dims = {"P": patches, "V": merged, "W + 2": Dim("windows", min=3, max=MOST_TOKENS)}
    sizes |= {
        "patches": {0: patches},
        "places": {0: merged},
        "image_starts": {0: Dim("images", min=3, max=MOST_ROWS)},
        "longest_image": {0: Dim("longest_image", min=ALIGNMENT, max=MOST_TOKENS)},
        "positions": {1: TOKENS},
        **{name: {0: dims[shape[0]]} for name, shape in MADE.items()},
    }
    return dict(zip(names, given, strict=True)), sizes


def _image_row(tower: Tower, vision: Vision, grids: Sequence[Grid]) -> Row:
    """A row with images whose grids are given in merged patches, behind a token of text each."""
    count = sum(height * width for height, width in grids)
    merged = [1 + token % 7 for token in range(5)]
    for height, width in grids:
        merged += [vision.token] * (height * width) + [1, 2]
    values: dict[str, Array] = {
        "patches": np.zeros((count * vision.merge**2, vision.patch_bytes), np.uint8),
        "grids": np.array(grids, np.int32).reshape(-1, 2) * vision.merge,
    }
    texts = [field.name for field in tower.fields if isinstance(field, Tokens)]
    if texts:
        values |= dict.fromkeys(texts, np.arange(1, 10)) | {texts[-1]: np.array(merged)}
    values |= {field.name: np.array(2) for field in tower.fields if isinstance(field, Prefix)}
    return tuple(values[field.name] for field in tower.fields)


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
