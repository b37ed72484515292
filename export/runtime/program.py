"""A torch program: the files of a model that needs torch only, and the inputs that a host prepares.

A model of texts that may have images has two programs, which share their weights: one for packs without images, and one
for packs of which some rows have some. Entries of the torch backend hold a copy of this file.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from . import operators  # noqa: F401 - a program names its operators
from .contract import Output
from .inputs import Expansion
from .vision import Vision

PROGRAM = "program.pt2"
IMAGES = "images.pt2"
"""The program for packs with images, beside one for texts alone."""
WEIGHTS = "program.safetensors"
SPEC = "program.json"
TYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""The types of weights by the names of precisions."""


class ProgramError(RuntimeError):
    """A program cannot be run here."""


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """program.json."""

    torch: str
    """The version of torch that saved the program."""
    precision: str
    """One of TYPES."""
    fields: tuple[str, ...]
    """Names of the fields of a row, as contract.FIELDS has them."""
    outputs: tuple[Output, ...]
    """The program's outputs, in order."""
    inputs: tuple[str, ...]
    """The program's inputs, in order: see docs/repository-entry.md."""
    padded: bool
    """Whether it pads rows to the longest in some step, so that memory grows with rows x longest."""
    heads: int
    """Attention heads; where it is padded, a score takes memory for each."""
    head_width: int
    """Their dimensions, at most; 0 without attention by lengths."""
    expansion: Expansion | None = None
    vision: Vision | None = None
    """Its images, if those of a row are of any number and size."""
    image_inputs: tuple[str, ...] = ()
    """The inputs of the program for packs with images, in order, if there is one."""

    def inputs_of(self, *, images: bool) -> tuple[str, ...]:
        """The inputs of the program that computes a pack with or without images."""
        return self.image_inputs if images and self.image_inputs else self.inputs

    def write(self, path: Path) -> None:
        """Write program.json."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "ProgramSpec":
        """Read program.json.

        Raises:
            ProgramError: it is missing or damaged, or another version of the export wrote it.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as exc:
            raise ProgramError(_damaged(path)) from exc
        try:
            expansion, vision = content.pop("expansion"), content.pop("vision", None)
            content |= {key: tuple(content.get(key, ())) for key in ("fields", "inputs", "image_inputs")}
            content["outputs"] = tuple(
                Output(**output | {"shape": tuple(output["shape"])}) for output in content["outputs"]
            )
            spec = cls(
                expansion=Expansion(**expansion) if expansion else None,
                vision=Vision.read(vision) if vision else None,
                **content,
            )
            TYPES[spec.precision]  # a precision that is known
        except (AttributeError, KeyError, TypeError) as exc:
            raise ProgramError(f"another version of the export wrote {path.name}; export the entry again") from exc
        return spec


def save(program: ExportedProgram, folder: Path, images: ExportedProgram | None = None) -> None:
    """Write a program, and its weights beside it: a program file is read whole, weights are mapped into memory.

    Args:
        program: for all packs, or for those without images.
        folder: where to.
        images: for packs with images; of the same module.
    """
    _save(program, folder / PROGRAM)
    weights = dict(program.state_dict)
    if images is not None:
        _save(images, folder / IMAGES)
        weights |= images.state_dict
    save_file({name: weight.detach().contiguous().clone() for name, weight in weights.items()}, folder / WEIGHTS)


def _save(program: ExportedProgram, path: Path) -> None:
    weights = dict(program.state_dict)
    for name, weight in weights.items():
        program._state_dict[name] = _like(weight, torch.empty_like(weight, device="meta"))
    torch.export.save(program, path)
    program._state_dict.update(weights)


def load(
    folder: Path, device: torch.device, file: str = PROGRAM, held: Mapping[str, Tensor] | None = None
) -> ExportedProgram:
    """Read what `save` wrote, with its weights on a device.

    Args:
        folder: where from.
        device: where the weights go.
        file: PROGRAM or IMAGES.
        held: weights that are on the device already, by name.

    Raises:
        ProgramError: a file is missing or damaged, the weights are not the program's, or this version of torch does not
            read it.
    """
    spec = ProgramSpec.read(folder / SPEC)
    try:
        with _quiet():
            program = torch.export.load(folder / file)
    except Exception as exc:  # what it raises depends on its version
        if spec.torch == torch.__version__:
            raise ProgramError(_damaged(folder / file)) from exc
        raise ProgramError(
            f"torch {torch.__version__} cannot read the program that torch {spec.torch} saved; export the entry with"
            " the version of torch that serves"
        ) from exc
    try:
        weights = dict(held) if held is not None else load_file(folder / WEIGHTS, device=str(device))
    except (OSError, SafetensorError) as exc:
        raise ProgramError(_damaged(folder / WEIGHTS)) from exc
    for name, weight in program.state_dict.items():
        given = weights.get(name)
        if given is None or (given.shape, given.dtype) != (weight.shape, weight.dtype):
            raise ProgramError(f"{WEIGHTS} does not fit {file}: {name}; export the entry again")
        program._state_dict[name] = _like(weight, given)
    return program if device.type == "cpu" else move_to_device_pass(program, device)


def _damaged(path: Path) -> str:
    return f"{path.name} is damaged or missing; export the entry again"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's pages about a file that it cannot read."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _like(old: Tensor, new: Tensor) -> Tensor:
    return torch.nn.Parameter(new, requires_grad=False) if isinstance(old, torch.nn.Parameter) else new
