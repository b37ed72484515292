"""Reads models.toml, which lists the models to export."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from export.errors import ManifestError
from export.rerankers import RERANKERS

MANIFEST = Path(__file__).with_name("models.toml")

Task = Literal["text-embedding", "sparse", "multi-vector", "classification", "cross-encoder", "image-text"]
FORMER_TASKS: Mapping[str, Task] = {"late-interaction": "multi-vector"}
"""Former names of tasks, which are still read."""
Backend = Literal["python", "torch", "onnxruntime", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
AskedPrecision = Literal[Precision, "auto"]
"""What a table may name. A graph computes in a precision; `auto` has the export measure which."""
Pooling = Literal["cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"]

PRECISIONS: Mapping[Backend, tuple[Precision, ...]] = {
    "python": ("bf16", "fp32", "int8"),
    "torch": ("fp16", "bf16", "fp32"),
    "onnxruntime": ("fp16", "fp32"),
    "tensorrt": ("fp16", "fp32"),
}
"""The precisions of each backend, the default first. On a processor without bf16, bf16 means fp32."""
ASKED: Mapping[Backend, tuple[AskedPrecision, ...]] = {**PRECISIONS, "python": (*PRECISIONS["python"], "auto")}
"""What a table of each backend may name. The others have no precision that only a measurement can recommend."""
ENDPOINTS: Mapping[str, tuple[Task, ...]] = {
    "/v1/embeddings": ("text-embedding", "image-text"),
    "/embed_sparse": ("sparse",),
    "/v1/rerank": ("cross-encoder", "multi-vector"),
    "/classify": ("classification",),
}
"""The tasks whose models answer requests to each."""
TASKS_OF: Mapping[str, tuple[Task, ...]] = {
    "dimensions": ("text-embedding", "image-text"),
    "false_token": ("cross-encoder",),
    "image_revision": ("image-text",),
    "image_source": ("image-text",),
    "instruction": ("cross-encoder",),
    "pooling": ("text-embedding", "image-text"),
    "positive_class": ("cross-encoder",),
    "prompts": ("text-embedding", "sparse"),
    "template": ("cross-encoder",),
    "text_weight": ("image-text",),
    "true_token": ("cross-encoder",),
    "variants": ("text-embedding", "sparse"),
}
"""The tasks that a key is for; any other key is for all."""

COMMANDS = ("add",)
"""First words of `python -m export` that name no model."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
ALIAS = r"\A[^,<>\s\x00-\x1f\x7f]{1,256}\Z"  # not $, which a line feed may follow


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the manifest."""

    name: str
    """The table's name: what clients call the model, and the name of its Triton model."""
    task: Task
    source: Annotated[str, Meta(min_length=1)]
    revision: str | None = None
    """Branch, tag or commit, for sources on the hub."""
    image_source: str | None = None
    """The folder of the image tower, for image-text models made of two; `source` is then the text tower's."""
    image_revision: str | None = None
    """Like `revision`, for `image_source`."""
    backend: Backend = "python"
    precision: AskedPrecision | None = None
    """One of ASKED, the first by default."""
    instances: Annotated[int, Meta(ge=1)] = 1
    """Instances on each GPU, for backends that run on GPUs."""
    gpus: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    """The device ids of the GPUs to serve on; all visible ones by default."""
    pooling: Pooling | None = None
    """The pooling, for sources that do not say."""
    prompts: dict[Annotated[str, Meta(min_length=1)], str] = {}
    """Prefixes of texts, by the name of a purpose such as query, for sources that name no prompts."""
    variants: tuple[Annotated[str, Meta(pattern=rf"\A{NAME}\Z")], ...] = ()
    """The routes or adapters to serve, the default first, of a source that has one for each of several purposes."""
    positive_class: str | None = None
    """The label that means relevant, for cross-encoders of several classes."""
    template: str | None = None
    """The prompt of a decoder reranker, with {query} and {document} in it, or the name of one of RERANKERS."""
    instruction: Annotated[str, Meta(min_length=1)] | None = None
    """The text for {instruction} in the template if a request has none."""
    true_token: Annotated[str, Meta(min_length=1)] | None = None
    """The answer of a decoder reranker that means relevant."""
    false_token: Annotated[str, Meta(min_length=1)] | None = None
    """The answer that means not relevant. Without it the logit of `true_token` is the score."""
    allow_pickle: bool = False
    """Whether weights may be read from a pickle, which runs code of its author."""
    allow_remote_code: bool = False
    """Whether code that comes with the weights may run."""
    default: bool = False
    aliases: tuple[Annotated[str, Meta(pattern=ALIAS)], ...] = ()
    license: str | None = None
    max_tokens: Annotated[int, Meta(ge=8)] | None = None
    dimensions: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    text_weight: Annotated[float, Meta(ge=0, le=1)] | None = None
    """The weight of the text in an input with text and image, 0 to 1; 0.5 by default."""

    @property
    def computes_in(self) -> Precision:
        """The precision asked for, or the backend's default, which `auto` leaves only for a faster one."""
        if self.precision is None or self.precision == "auto":
            return PRECISIONS[self.backend][0]
        return self.precision

    @property
    def triton_names(self) -> tuple[str, ...]:
        """The Triton models that it becomes: a variant is one, and so is a tower of an image-text model."""
        parts = ("text", "image") if self.task == "image-text" else self.variants
        return tuple(f"{self.name}-{part}" for part in parts) or (self.name,)


KEYS = tuple(field.name for field in msgspec.structs.fields(ModelSpec) if field.name != "name")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "task": get_args(Task),
    "backend": get_args(Backend),
    "precision": get_args(AskedPrecision),
    "pooling": get_args(Pooling),
}
"""The values of keys that have a few."""


def load(path: Path = MANIFEST) -> dict[str, ModelSpec]:
    """Read a manifest.

    Returns:
        The models by name, in the file's order.

    Raises:
        ManifestError: the file is missing or not TOML, a table has a wrong key or value, a name or alias is taken
            twice, or two models of one endpoint are its default.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file") from None
    return parse(text, path)


def parse(text: str, path: Path) -> dict[str, ModelSpec]:
    """Like `load`, for text that is not in the file yet."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ManifestError(f"{path.name}: {exc}") from exc
    specs = {name: _spec(path, name, table) for name, table in tables.items()}
    owners: dict[str, str] = {}
    for spec in specs.values():
        for name in sorted({spec.name, *spec.triton_names, *spec.aliases}):
            if name in owners:
                raise ManifestError(
                    f"{path.name} [{spec.name}]: the name or alias {name!r} is taken by [{owners[name]}]"
                )
            owners[name] = spec.name
    for endpoint, tasks in ENDPOINTS.items():
        defaults = [f"[{spec.name}]" for spec in specs.values() if spec.default and spec.task in tasks]
        if len(defaults) > 1:
            raise ManifestError(
                f"{path.name} {' and '.join(defaults)} default: only one model can be the default of {endpoint}"
            )
    return specs


def _spec(path: Path, name: str, table: object) -> ModelSpec:
    if not isinstance(table, dict):
        raise ManifestError(f"{path.name}: {name} must be in a table")
    where = f"{path.name} [{name}]"
    table = _rename_licence(where, table)
    table = {**table, "task": FORMER_TASKS.get(str(table["task"]), table["task"])} if "task" in table else table
    _check_keys(where, name, table)
    try:
        spec = msgspec.convert({"name": name, **table}, ModelSpec)
    except msgspec.ValidationError as exc:
        reason, _, key = str(exc).rstrip("`").partition(" - at `$.")
        raise ManifestError(f"{where} {key}: {reason}") from exc
    _check(path, spec)
    for key in ("source", "image_source"):
        folder = getattr(spec, key)
        if folder is not None and folder.startswith("."):  # relative to the file, wherever the export is started
            spec = msgspec.structs.replace(spec, **{key: str((path.parent / folder).resolve())})
    return spec


def _rename_licence(where: str, table: Mapping[str, object]) -> Mapping[str, object]:
    """The table with the key `licence` renamed to `license`."""
    if "licence" not in table:
        return table
    if "license" in table:
        raise ManifestError(f"{where} licence: the same key as license; keep one of them")
    return {"license" if key == "licence" else key: value for key, value in table.items()}


def _check_keys(where: str, name: str, table: Mapping[str, object]) -> None:
    """Refuse wrong names and keys with better messages than those of a schema."""
    if not re.fullmatch(NAME, name):
        raise ManifestError(f"{where}: a name may have up to 128 letters, digits, dots, dashes and underscores")
    if name in COMMANDS:
        raise ManifestError(f"{where}: this name is reserved for a command of python -m export")
    for key, value in table.items():
        if isinstance(value, dict) and key != "prompts":  # TOML takes a dot for a table in a table
            raise ManifestError(f'{where} {key}: is a table; quote a name that has a dot: ["{name}.{key}"]')
        if key not in KEYS:
            raise ManifestError(f"{where} {key}: unknown key; the keys are {', '.join(KEYS)}")
        if key in CHOICES and value not in CHOICES[key]:
            raise ManifestError(f"{where} {key}: {value!r} is not one of {', '.join(CHOICES[key])}")
    for key in ("task", "source"):
        if key not in table:
            raise ManifestError(f"{where} {key}: required")


def _check(path: Path, spec: ModelSpec) -> None:
    """Refuse keys that contradict each other.

    Raises:
        ManifestError: with the key that is at fault.
    """
    offered = ASKED[spec.backend]
    if spec.precision not in (None, *offered):
        raise ManifestError(
            f"{path.name} [{spec.name}] precision: backend {spec.backend!r} supports {', '.join(offered)}"
        )
    for key in ("instances", "gpus"):
        if spec.backend == "python" and getattr(spec, key) not in (1, ()):
            raise ManifestError(f"{path.name} [{spec.name}] {key}: backend 'python' runs on the CPU")
    if spec.precision in {"int8", "auto"} and spec.task != "text-embedding":
        raise ManifestError(
            f"{path.name} [{spec.name}] precision: {spec.precision} is supported for text-embedding only"
        )
    _check_template(path, spec)
    for key, tasks in TASKS_OF.items():
        if getattr(spec, key) not in (None, (), {}) and spec.task not in tasks:
            raise ManifestError(f"{path.name} [{spec.name}] {key}: is supported for {' and '.join(tasks)} only")


def _check_template(path: Path, spec: ModelSpec) -> None:
    """Refuse a decoder reranker's prompt that has no place for its parts."""
    if spec.template is not None and spec.template not in RERANKERS:
        places = re.findall(r"\{(?:query|document)\}", spec.template)
        if places != ["{query}", "{document}"] or spec.template.count("{instruction}") > 1:
            raise ManifestError(
                f"{path.name} [{spec.name}] template: must contain {{query}} and then {{document}}, once each, and"
                f" {{instruction}} at most once; or be one of {', '.join(RERANKERS)}"
            )
        if "{instruction}" in spec.template and spec.instruction is None:
            raise ManifestError(
                f"{path.name} [{spec.name}] instruction: required, since the template contains {{instruction}}"
            )
    if spec.false_token is not None and spec.true_token is None:
        raise ManifestError(f"{path.name} [{spec.name}] true_token: required with false_token")
