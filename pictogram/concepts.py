"""The drawn concepts: emoji with all their names."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictogram import packages

SHORTCODES = ("emojibase", "cldr", "github", "iamcal", "joypixels")
COMPONENTS = 2
"""The group of skin tones and hair, which are no emoji of their own."""
GENDERS = {"man": "woman", "men": "women", "woman": None, "women": None}
"""Whose drawings hardly differ from each other: one of each is kept."""


@dataclass(frozen=True, slots=True)
class Concept:
    """One emoji."""

    label: str
    group: str
    code: str
    """Its code points in lower-case hexadecimal, joined by dashes, without the variation selector."""
    tags: tuple[str, ...]
    shortcodes: tuple[str, ...]
    icon_names: tuple[str, ...]
    """Possible names in sets of drawings, the likeliest first; no other concept has a name after the first."""

    @property
    def is_flag(self) -> bool:
        """Whether it is one of the many that hardly anything but their colours tells apart."""
        return self.group == "flags"


def read(folder: Path = packages.FOLDER) -> list[Concept]:
    """All concepts, in emojibase's order; raises what `packages.read` does."""
    entries = packages.read(packages.TEXTS, "en/data.json", folder)
    groups = packages.read(packages.TEXTS, "meta/groups.json", folder)["groups"]
    shortcodes: dict[str, set[str]] = {}
    for dialect in SHORTCODES:
        for code, names in packages.read(packages.TEXTS, f"en/shortcodes/{dialect}.json", folder).items():
            shortcodes.setdefault(code, set()).update([names] if isinstance(names, str) else names)
    return collect(entries, groups, shortcodes)


def collect(
    entries: Iterable[Mapping[str, Any]], groups: Mapping[str, str], shortcodes: Mapping[str, Iterable[str]]
) -> list[Concept]:
    """Concepts out of emojibase's entries, less those that look like another."""
    drawn = [entry for entry in entries if entry.get("group") not in (None, COMPONENTS)]
    labels = {entry["label"] for entry in drawn}
    kept = [entry for entry in drawn if not _is_variant(entry["label"], labels)]
    names = _unique([_names(entry, sorted(shortcodes.get(entry["hexcode"], ()))) for entry in kept])
    return [
        Concept(
            label=entry["label"],
            group=groups[str(entry["group"])],
            code=code(entry["hexcode"]),
            tags=tuple(entry.get("tags", ())),
            shortcodes=tuple(
                re.sub("[_-]", " ", shortcode) for shortcode in sorted(shortcodes.get(entry["hexcode"], ()))
            ),
            icon_names=tuple(own),
        )
        for entry, own in zip(kept, names, strict=True)
    ]


def code(hexcode: str) -> str:
    """A key of code points that all sources agree on."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def _is_variant(label: str, labels: set[str]) -> bool:
    if re.match(r"(family|kiss|couple with heart|people holding hands):", label) or "facing right" in label:
        return True
    for gender, other in GENDERS.items():
        for prefix in (f"{gender} ", f"{gender}: "):
            if label.startswith(prefix):
                rest = label.removeprefix(prefix)
                if {f"person {rest}", f"person: {rest}", f"people {rest}", rest} & labels:
                    return True
                if other is not None and other + label.removeprefix(gender) in labels:
                    return True
    return False


def _names(entry: Mapping[str, Any], shortcodes: Sequence[str]) -> list[str]:
    label = entry["label"]
    names = [slug(label)]
    if label.startswith("flag: "):
        country = slug(label.removeprefix("flag: "))
        names += [f"flag-for-{country}", f"flag-for-flag-{country}"]
    points = [point for point in entry["hexcode"].split("-") if point not in ("FE0F", "200D")]
    if len(points) == 1:
        names.append(slug(unicodedata.name(chr(int(points[0], 16)), "")))
    names += [slug(shortcode) for shortcode in shortcodes if len(shortcode) > 2]
    return [name for name in names if name]


def _unique(candidates: Sequence[Sequence[str]]) -> list[list[str]]:
    """Keep each concept's first name, and of the others those that no other concept has."""
    first = {names[0] for names in candidates}
    uses = Counter(name for names in candidates for name in set(names[1:]))
    return [
        [names[0], *(name for name in dict.fromkeys(names[1:]) if uses[name] == 1 and name not in first)]
        for names in candidates
    ]


def slug(text: str) -> str:
    """A name as sets of drawings write it: "woman's hat" is womans-hat."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("&", "and").replace("'", "")).strip("-")
