"""Models with several ways to embed: routes of sentence-transformers' Router, or LoRA adapters on one base.

Each becomes a Triton model of its own, with all of its weights: those that it shares with others are stored again.
"""

import copy
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Transformer

from export.errors import SourceError
from export.loading.models import Model, loading
from export.manifest import ModelSpec

ADAPTER = "adapter_config.json"
OWN = "default"
"""The name of an adapter that is the only one beside its base."""


def check(spec: ModelSpec, reference: Model) -> None:
    """Raise SourceError if the table does not name variants of a source that has some, or names others."""
    has = _names(reference)
    unknown = [variant for variant in spec.variants if variant not in has]
    if unknown:
        there = f"it has {', '.join(has)}" if has else "it has no routes and no adapters in folders"
        raise SourceError(f"[{spec.name}] variants: the source has no {unknown[0]}; {there}")
    if len(has) > 1 and not spec.variants:
        raise SourceError(f"[{spec.name}] variants: must name those to serve, of {', '.join(has)}, the default first")


def _names(reference: Model) -> list[str]:
    routers = [module for module in reference.modules() if isinstance(module, Router)]
    routes = [name for router in routers for name in _routes(router)]
    adapters = [name for module in reference for name in _adapters(module) if name != OWN]
    return list(dict.fromkeys([*routes, *adapters]))


def _routes(router: Model) -> list[str]:
    """The tasks that a router takes texts for."""
    mapped = [task for task, modality in router.route_mappings if task is not None and modality in (None, "text")]
    return mapped or list(router.sub_modules)


def chain(modules: Iterable[Model], variant: str) -> Iterator[Model]:
    """The modules that texts pass for a variant: those of the routes in place of the routers."""
    for module in modules:
        if isinstance(module, Router):
            route: Any = module._resolve_route(task=variant or None, modality="text")
            routed: Any = module.sub_modules[route]
            yield from chain(routed, variant)
        else:
            yield module


def located(modules: Iterable[Model], folder: Path) -> Iterator[tuple[Model, Path]]:
    """All modules of a folder, those of routers too, each with the folder that it was read from."""
    entries = json.loads((folder / "modules.json").read_text())
    for module, entry in zip(modules, entries, strict=True):
        yield from _with_routes(module, folder / entry["path"])


def _with_routes(module: Model, folder: Path) -> Iterator[tuple[Model, Path]]:
    yield module, folder
    if isinstance(module, Router):
        file = next(file for name in ("router_config.json", "config.json") if (file := folder / name).is_file())
        structure: Mapping[str, list[str]] = json.loads(file.read_text())["structure"]
        for route, names in structure.items():
            routed: Any = module.sub_modules[route]
            for own, name in zip(routed, names, strict=True):
                yield from _with_routes(own, folder / name)


@contextmanager
def without_adapters(spec: ModelSpec, folder: Path) -> Iterator[Path]:
    """A folder, as it would be without adapters.

    Libraries that find an adapter look for its base by the name that it gives, on the hub or anywhere on this machine.

    Raises:
        SourceError: the base of an adapter is not in the folder.
    """
    files = list(folder.rglob(ADAPTER))
    if not files:
        yield folder
        return
    for file in files:
        if not any((one / "config.json").is_file() for one in file.parents if one.is_relative_to(folder)):
            raise SourceError(
                f"[{spec.name}] source: {file.relative_to(folder)} is an adapter whose base model is not in the folder;"
                " merge them, or put the adapter into the folder of its base model"
            )
    with tempfile.TemporaryDirectory() as scratch:
        bare = Path(scratch) / folder.name
        shutil.copytree(folder.resolve(), bare, copy_function=os.symlink, ignore=shutil.ignore_patterns("adapter_*.*"))
        yield bare


def load_adapters(spec: ModelSpec, reference: Model, folder: Path) -> None:
    """Put the adapters of a folder on its transformer, each called after its own folder.

    Raises:
        SourceError: one cannot be loaded, is of another kind than LoRA, or belongs to no transformer.
    """
    files = sorted(folder.rglob(ADAPTER))
    if not files:
        return
    first = reference[0]
    if not isinstance(first, Transformer):
        raise SourceError(f"[{spec.name}] source: has adapters, but its first module is not a Transformer")
    for file in files:
        beside = (file.parent / "config.json").is_file()  # the base's
        if beside and len(files) > 1:
            raise SourceError(f"[{spec.name}] source: has an adapter beside its base model and others in subfolders")
        with loading(spec), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings: dict[str, Any] = json.loads(file.read_text())
            if settings.get("peft_type") != "LORA":
                raise SourceError(f"[{spec.name}] source: {file.name} is of type {settings.get('peft_type')}, not LORA")
            name = OWN if beside else file.parent.name.replace(".", "_")  # PEFT makes modules of it
            if not isinstance(first.auto_model, PeftModel):
                first.model = PeftModel(first.auto_model, LoraConfig.from_pretrained(str(file.parent)), name)
            loaded = first.auto_model.load_adapter(str(file.parent), name, torch_device="cpu")
        missing = [key for key in loaded.missing_keys if f".{name}." in key]
        if missing:
            raise SourceError(f"[{spec.name}] source: weights are missing: {', '.join(missing[:3])}")


def _adapters(module: Model) -> list[str]:
    has = isinstance(module, Transformer) and isinstance(module.auto_model, PeftModel)
    return list(module.auto_model.peft_config) if has else []


def adapter(module: Model, variant: str) -> str | None:
    """The adapter of a first module that a variant is computed with, if there is one."""
    return next((name for name in (variant, OWN) if name in _adapters(module)), None)


def merged(model: Model, adapter: str) -> Model:
    """A copy of a model, with an adapter's products added to its weights (LoRA, arXiv 2106.09685, section 4.1)."""
    return copy.deepcopy(model).merge_and_unload(adapter_names=[adapter]).requires_grad_(requires_grad=False)
