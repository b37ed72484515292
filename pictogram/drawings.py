"""Drawings of concepts, rendered out of icon sets."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from pictogram import packages
from pictogram.concepts import Concept, code

SIDE = 72
"""Pixels of a drawing: a little more than the tower sees, so that turning and scaling lose nothing."""
INK = "#222"
"""The colour of icons that take the colour of the text."""
FAINTEST = 4
"""The least mean of alpha, of 255: below it a drawing is empty."""


@dataclass(frozen=True, slots=True)
class Drawings:
    """All drawings, one behind the other."""

    pixels: NDArray[np.uint8]
    """[n, SIDE, SIDE, 4], RGBA."""
    concept: NDArray[np.int64]
    """[n], the index of what each shows."""
    style: NDArray[np.int64]
    """[n], the index of its style among `packages.STYLES`."""


def load(
    concepts: Sequence[Concept],
    folder: Path = packages.FOLDER,
    progress: Callable[[str], object] = lambda _: None,
) -> Drawings:
    """Render every style, or read what was rendered before; raises what `packages.read` does."""
    file = folder / "drawings.npz"
    if not file.exists():
        drawings = _render(concepts, folder, progress)
        np.savez(file, pixels=drawings.pixels, concept=drawings.concept, style=drawings.style)
    with np.load(file) as arrays:
        return Drawings(**{name: arrays[name] for name in ("pixels", "concept", "style")})


def _render(concepts: Sequence[Concept], folder: Path, progress: Callable[[str], object]) -> Drawings:
    sets = {name: IconSet.read(style.package, folder) for name, style in packages.STYLES.items()}
    by_code: dict[str, list[str]] = {}
    for icons in sets.values():
        for key, name in icons.by_code.items():
            by_code.setdefault(key, []).append(name)
    pixels: list[NDArray[np.uint8]] = []
    place: list[tuple[int, int]] = []
    for style, (name, icons) in enumerate(sets.items()):
        progress(f"render {name}")
        for concept, svg in icons.match(concepts, by_code):
            drawing = render(svg)
            if drawing[..., 3].mean() >= FAINTEST:
                pixels.append(drawing)
                place.append((concept, style))
    concept, style_of = np.array(place).T
    return Drawings(np.stack(pixels), concept, style_of)


@dataclass(frozen=True, slots=True)
class IconSet:
    """One of Iconify's sets: https://iconify.design/docs/types/iconify-json.html."""

    icons: Mapping[str, Any]
    by_code: Mapping[str, str]
    """Names of icons by the code of their emoji."""

    @classmethod
    def read(cls, package: packages.Package, folder: Path) -> "IconSet":
        """Read a package."""
        codes = packages.read(package, "chars.json", folder)
        return cls(packages.read(package, "icons.json", folder), {code(key): name for key, name in codes.items()})

    def match(self, concepts: Sequence[Concept], by_code: Mapping[str, Sequence[str]]) -> Iterator[tuple[int, str]]:
        """Find each concept's icon: by its code here, by its name, then by what other sets call its code.

        Yields:
            The indices of concepts that there is an icon for, each with its SVG; no icon comes twice.
        """
        # FxEmoji writes its names without dashes, and what other sets call an emoji misleads there.
        joined = {name.replace("-", ""): name for name in self.icons["icons"]} if not self.by_code else {}
        used: set[str] = set()
        for index, concept in enumerate(concepts):
            names = [concept.icon_names[0], *concept.icon_names[1:]]
            if joined:
                names = [joined.get(name.replace("-", ""), "") for name in names]
            else:
                own = [self.by_code[concept.code]] if concept.code in self.by_code else []
                names = [*own, names[0], *by_code.get(concept.code, ()), *names[1:]]
            for name in names:
                body = self._find(name) if name not in used else None
                if body is not None:
                    used.add(name)
                    yield index, self._svg(body)
                    break

    def _find(self, name: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.icons["icons"].get(name)
        alias = self.icons.get("aliases", {}).get(name)
        if found is None and alias is not None and not {"hFlip", "vFlip", "rotate"} & set(alias):
            return self._find(alias["parent"])
        return found

    def _svg(self, icon: Mapping[str, Any]) -> str:
        left, top, width, height = (
            icon.get(key, self.icons.get(key, default))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            f' viewBox="{left} {top} {width} {height}" width="{SIDE}" height="{SIDE}">'
            f"{icon['body'].replace('currentColor', INK)}</svg>"
        )


def render(svg: str) -> NDArray[np.uint8]:
    """Pixels of an SVG, RGBA [SIDE, SIDE, 4]."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA").resize((SIDE, SIDE)))
