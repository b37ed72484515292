"""Small torch programs of every role, as the export writes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.runtime.contract import FIELDS, Output, Row
from export.runtime.inputs import Expansion, Layout, Pack
from export.runtime.operators import attend, attend_visible, maxsim
from export.runtime.program import SPEC, TYPES, ProgramSpec, save
from export.runtime.torch_engine import arguments

WIDTH, HEADS, VOCABULARY = 32, 4, 50
PACKED = ("ids", "position", "row", "starts", "longest")


class Encoder(nn.Module):
    """One layer of attention over rows; every second head of keys and values is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(4096, WIDTH)
        self.segments = nn.Embedding(2, WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH // 2)
        self.value = nn.Linear(WIDTH, WIDTH // 2)

    def forward(self, given: Mapping[str, Tensor]) -> Tensor:
        position, row, starts = given["position"], given["row"], given["starts"]
        hidden = self.tokens(given["ids"]) + self.places(position)
        if "first_length" in given:
            hidden = hidden + self.segments((position >= given["first_length"][row]).long())
        query, key, value = (
            layer(hidden).unflatten(1, (-1, WIDTH // HEADS)) for layer in (self.query, self.key, self.value)
        )
        longest, scale = given["longest"].shape[0], (WIDTH // HEADS) ** -0.5
        if "visible" in given:
            seen = (given["visible"], given["keys"])
            mixed: Tensor = attend_visible(query, key, value, starts, *seen, longest, scale, -1, -1)
        else:
            mixed = attend(query, key, value, starts, longest, scale, -1, -1)
        both: Tensor = hidden + mixed.flatten(1)
        return both


class Program(nn.Module):
    """A model whose inputs have names."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.names = names
        self.encoder = Encoder()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.compute(dict(zip(self.names, inputs, strict=True)))

    def compute(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        raise NotImplementedError


class Mean(Program):
    """The mean of a row's tokens behind its prompt, and the tokens."""

    def compute(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        hidden, starts = self.encoder(given).float(), given["starts"]
        counted = torch.ones_like(hidden[:, :1])
        if "prompt_length" in given:
            counted = (given["position"] >= given["prompt_length"][given["row"]])[:, None].float()
        total, number = (
            torch.segment_reduce(each, "sum", offsets=starts.long(), axis=0, unsafe=True)
            for each in (hidden * counted, counted)
        )
        return total / number.clamp(min=1), hidden


class MaxSim(Program):
    """Late interaction, and the vector and a weight of each token."""

    def compute(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        hidden, longest = self.encoder(given), (given["longest_query"].shape[0], given["longest"].shape[0])
        score: Tensor = maxsim(hidden, given["ids"] >= 0, given["starts"], given["query"], *longest)
        tokens = hidden.float()
        return score, tokens, tokens, tokens[:, 0].relu()


class Image(Program):
    """A projection of pixels."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.project = nn.Linear(3 * 5 * 5, WIDTH)

    def compute(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        projected: Tensor = self.project(given["pixels"].flatten(1).to(self.project.weight.dtype) / 255)
        return (projected.float(),)


@dataclass(frozen=True)
class Kind:
    """A role's model and rows."""

    model: type[Program]
    fields: tuple[str, ...]
    inputs: tuple[str, ...]
    expansion: Expansion | None = None

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Of the model."""
        return next(outputs for model, outputs in OUTPUTS.items() if issubclass(self.model, model))

    def rows(self, lengths: Sequence[int], seed: int = 0) -> list[Row]:
        """Random rows; of pairs, these are the lengths of the documents."""
        random = np.random.default_rng(seed)

        def value(field: str, length: int) -> np.ndarray:
            match field:
                case "pixels":
                    return random.integers(0, 255, (3, 5, 5)).astype(np.uint8)
                case "first_length":
                    return np.array(1 + length // 2, np.int32)
                case "prompt_length":
                    return np.array(length // 2, np.int32)
                case "query_ids":
                    return np.arange(1 + length % 3)
                case _:
                    return random.integers(0, VOCABULARY, length)

        return [tuple(value(field, length) for field in self.fields) for length in lengths]


OUTPUTS: Mapping[type[Program], tuple[Output, ...]] = {
    Mean: (Output("embedding", (WIDTH,)), Output("tokens", (WIDTH,), "token")),
    MaxSim: (
        Output("score", (1,)),
        Output("tokens", (WIDTH,), "token"),
        Output("query_tokens", (WIDTH,), "query token"),
        Output("sparse_weights", (), "token"),
    ),
    Image: (Output("embedding", (WIDTH,)),),
}
PAIR = ("query_ids", "document_ids")
KINDS = {
    "text": Kind(Mean, ("input_ids",), PACKED),
    "segments": Kind(Mean, ("input_ids", "first_length"), (*PACKED, "first_length")),
    "prompt": Kind(Mean, ("input_ids", "prompt_length"), (*PACKED, "prompt_length")),
    "filled": Kind(Mean, ("input_ids",), PACKED, Expansion("input_ids", 12, 1, attended=True)),
    "pair": Kind(MaxSim, PAIR, (*PACKED, "query", "longest_query")),
    "expanded": Kind(MaxSim, PAIR, (*PACKED, "query", "longest_query"), Expansion("query_ids", 5, 1, attended=True)),
    "unseen": Kind(
        MaxSim,
        PAIR,
        (*PACKED, "query", "longest_query", "visible", "keys"),
        Expansion("query_ids", 5, 1, attended=False),
    ),
    "image": Kind(Image, ("pixels",), ("pixels",)),
}


def write(kind: Kind, folder: Path, precision: str = "fp32") -> Path:
    """Export a model of a kind, and return its program."""
    model = kind.model(kind.inputs).to(TYPES[precision]).eval()
    pack = Pack(kind.fields, kind.rows([3, 9, 7]), kind.expansion)
    layout = Layout(kind.inputs, pack.sizes, (3, 5, 5))
    buffer = torch.zeros(layout.size, dtype=torch.int32)
    pack.write(layout.views(buffer.numpy()), pack.sizes)
    given = tuple(arguments(kind.inputs, layout, pack.sizes, buffer))
    program = torch.export.export(model, given, dynamic_shapes=(tuple(shapes(kind.inputs)),))
    folder.mkdir(parents=True, exist_ok=True)
    save(program, folder)
    known = {field.name for field in FIELDS}
    assert known.issuperset(kind.fields)
    spec = ProgramSpec(
        torch.__version__,
        precision,
        kind.fields,
        kind.outputs,
        kind.inputs,
        False,
        HEADS,
        WIDTH // HEADS,
        kind.expansion,
    )
    spec.write(folder / SPEC)
    return folder / "program.pt2"


def shapes(inputs: Sequence[str]) -> list[dict[int, object]]:
    """The dynamic sizes of inputs."""
    dim = torch.export.Dim
    tokens, rows = dim("tokens", min=8, max=1 << 17), dim("rows", min=2, max=1 << 13)
    sizes = {
        **dict.fromkeys(("ids", "position", "row"), tokens),
        **dict.fromkeys(("first_length", "prompt_length", "visible"), rows),
        "starts": rows + 1,
        "longest": dim("longest", min=8, max=1 << 17),
        "longest_query": dim("longest_query", min=8, max=1 << 17),
        "query": dim("pairs", min=2, max=1 << 13),
        "keys": dim("keys", min=8, max=1 << 17),
        "pixels": dim("images", min=2, max=1 << 13),
    }
    return [{0: sizes[name]} for name in inputs]
