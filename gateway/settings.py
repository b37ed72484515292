"""The settings of the gateway, read from environment variables."""

import ipaddress
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.access.keys import read
from gateway.images.allowlist import Allowlist

PREFIX = "GATEWAY_"
KEYS = (f"{PREFIX}API_KEYS", f"{PREFIX}API_KEYS_FILE")
"""If one of these is set but empty, a secret is missing. That is an error: it must not open the server."""

MAX_WORKERS = 64
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z?#@,*]+")
"""An origin as browsers send it. Desktop apps have schemes of their own, such as app://obsidian.md."""


class SettingsError(Exception):
    """A setting is invalid; the message names the variable."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One field per variable; docs/configuration.md describes them."""

    host: str = "127.0.0.1"
    """GATEWAY_HOST: address to listen on. Addresses other than loopback require API keys."""
    port: int = 8080
    """GATEWAY_PORT."""
    workers: int | None = None
    """GATEWAY_WORKERS: processes that serve; None (`auto`) for one per core, at most eight."""
    triton_urls: tuple[str, ...] = ("127.0.0.1:8001",)
    """GATEWAY_TRITON_URL: host:port or dns:///name:port of Triton's gRPC service; several are separated by commas."""
    model_repository: Path = Path("model_repository")
    """GATEWAY_MODEL_REPOSITORY: folder of the entries; the gateway reads only tokenizers from it."""
    api_keys: frozenset[str] = frozenset()
    """GATEWAY_API_KEYS: separated by commas."""
    api_keys_file: Path | None = None
    """GATEWAY_API_KEYS_FILE: one key per line; read again when it changes."""
    request_timeout_s: float = 30.0
    """GATEWAY_REQUEST_TIMEOUT: seconds until a request fails."""
    requests_per_minute: int | None = None
    """GATEWAY_REQUESTS_PER_MINUTE: limit per key; without keys, for all clients together."""
    tokens_per_minute: int | None = None
    """GATEWAY_TOKENS_PER_MINUTE: limit per key; without keys, for all clients together."""
    drain_timeout_s: float = 10.0
    """GATEWAY_DRAIN_TIMEOUT: seconds that accepted requests have to finish after a signal to stop."""
    max_body_bytes: int = 32 * 2**20
    """GATEWAY_MAX_BODY_BYTES: limit per request body."""
    max_bodies_bytes: int = 256 * 2**20
    """GATEWAY_MAX_BODIES_BYTES: limit for all bodies in flight; they take up to six times as much memory."""
    max_responses_bytes: int = 512 * 2**20
    """GATEWAY_MAX_RESPONSES_BYTES: limit for all large responses in flight."""
    cache_bytes: int = 0
    """GATEWAY_CACHE_BYTES: memory for the results of texts that come again, in all workers together; 0 for none."""
    max_image_pixels: int = 40_000_000
    """GATEWAY_MAX_IMAGE_PIXELS: limit per image, and for all images that are decoded at a time."""
    image_hosts: Allowlist | None = None
    """GATEWAY_IMAGE_URLS (`off`, `allowlist` or `public`) and GATEWAY_IMAGE_URL_HOSTS: hosts of image URLs."""
    heartbeat_file: Path | None = None
    """GATEWAY_HEARTBEAT_FILE: touched every second while the event loop runs, for supervisors."""
    pages: bool = True
    """GATEWAY_PAGES: `on` or `off`; whether to serve `/` and `/docs`."""
    cors_origins: frozenset[str] = frozenset()
    """GATEWAY_CORS_ORIGINS: origins whose pages may send requests, separated by commas; `*` allows all."""
    batch_folder: Path | None = None
    """GATEWAY_BATCH_FOLDER: folder of the files and batches of /v1/files and /v1/batches; None turns them off."""
    batch_file_bytes: int = 200 * 2**20
    """GATEWAY_BATCH_FILE_BYTES: limit per uploaded file."""
    batch_bytes_per_key: int = 10 * 2**30
    """GATEWAY_BATCH_BYTES_PER_KEY: limit for all files of a key, results included."""
    batch_bytes: int = 50 * 2**30
    """GATEWAY_BATCH_BYTES: limit for the files of all keys."""
    ignores_unknown_fields: bool = True
    """GATEWAY_UNKNOWN_FIELDS: `ignore` or `refuse` unknown fields of requests."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from environment variables.

        Raises:
            SettingsError: a value is malformed or out of range, or the host is not loopback and there are no keys.
        """
        default = cls()
        # Empty variables count as unset, such as lines of an .env file without a value.
        environ = {name: value for name, value in environ.items() if value or name in KEYS}
        max_body_bytes = int(_number(environ, "MAX_BODY_BYTES", default.max_body_bytes, 1024, 2**30))
        default_max_bodies = max(default.max_bodies_bytes, max_body_bytes)
        settings = cls(
            host=environ.get(f"{PREFIX}HOST", default.host),
            port=int(_number(environ, "PORT", default.port, 1, 65535)),
            workers=_workers(environ),
            triton_urls=_triton_urls(environ) or default.triton_urls,
            model_repository=Path(environ.get(f"{PREFIX}MODEL_REPOSITORY", default.model_repository)),
            api_keys=_api_keys(environ),
            api_keys_file=_api_keys_file(environ),
            request_timeout_s=_number(environ, "REQUEST_TIMEOUT", default.request_timeout_s, 0.1, 3600),
            requests_per_minute=_quota(environ, "REQUESTS_PER_MINUTE"),
            tokens_per_minute=_quota(environ, "TOKENS_PER_MINUTE"),
            drain_timeout_s=_number(environ, "DRAIN_TIMEOUT", default.drain_timeout_s, 0, 3600),
            max_body_bytes=max_body_bytes,
            max_bodies_bytes=int(_number(environ, "MAX_BODIES_BYTES", default_max_bodies, 1024, 2**40)),
            max_responses_bytes=int(_number(environ, "MAX_RESPONSES_BYTES", default.max_responses_bytes, 2**20, 2**40)),
            cache_bytes=int(_number(environ, "CACHE_BYTES", default.cache_bytes, 0, 2**40)),
            max_image_pixels=int(_number(environ, "MAX_IMAGE_PIXELS", default.max_image_pixels, 2**16, 2**30)),
            image_hosts=_image_hosts(environ),
            heartbeat_file=Path(beat) if (beat := environ.get(f"{PREFIX}HEARTBEAT_FILE")) else None,
            pages=_choice(environ, "PAGES", "on", "off"),
            cors_origins=_cors_origins(environ),
            batch_folder=_batch_folder(environ),
            batch_file_bytes=int(_number(environ, "BATCH_FILE_BYTES", default.batch_file_bytes, 1024, 2**40)),
            batch_bytes_per_key=int(_number(environ, "BATCH_BYTES_PER_KEY", default.batch_bytes_per_key, 1024, 2**50)),
            batch_bytes=int(_number(environ, "BATCH_BYTES", default.batch_bytes, 1024, 2**50)),
            ignores_unknown_fields=_choice(environ, "UNKNOWN_FIELDS", "ignore", "refuse"),
        )
        if not settings.api_keys and settings.api_keys_file is None and not _is_loopback(settings.host):
            raise SettingsError(
                f"{PREFIX}HOST={settings.host} is not a loopback address, so API keys are required: set"
                f" {PREFIX}API_KEYS or {PREFIX}API_KEYS_FILE, or listen on 127.0.0.1"
            )
        if settings.max_bodies_bytes < settings.max_body_bytes:
            raise SettingsError(
                f"{PREFIX}MAX_BODIES_BYTES={settings.max_bodies_bytes} must be at least"
                f" {PREFIX}MAX_BODY_BYTES={settings.max_body_bytes}"
            )
        return settings


def _number(environ: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = environ.get(f"{PREFIX}{name}")
    if text is None:
        return default
    try:
        value = type(default)(text)
    except ValueError:
        raise SettingsError(f"{PREFIX}{name}={text!r} must be a number") from None
    if not low <= value <= high:
        raise SettingsError(f"{PREFIX}{name}={text} must be between {low:.16g} and {high:.16g}")
    return value


def _workers(environ: Mapping[str, str]) -> int | None:
    given = environ.get(f"{PREFIX}WORKERS", "auto")
    if given == "auto":
        return None
    if not given.isdecimal() or not 1 <= int(given) <= MAX_WORKERS:
        raise SettingsError(f"{PREFIX}WORKERS={given} must be auto or a number between 1 and {MAX_WORKERS}")
    return int(given)


def _quota(environ: Mapping[str, str], name: str) -> int | None:
    return int(_number(environ, name, 1, 1, 2**53)) if f"{PREFIX}{name}" in environ else None


def _triton_urls(environ: Mapping[str, str]) -> tuple[str, ...]:
    urls = tuple(url.strip() for url in environ.get(f"{PREFIX}TRITON_URL", "").split(",") if url.strip())
    for url in urls:
        if not re.fullmatch(r"(dns:///)?[^/\s]+:\d{1,5}", url):
            raise SettingsError(f"{PREFIX}TRITON_URL={url} must be host:port or dns:///name:port")
    return urls


def _api_keys(environ: Mapping[str, str]) -> frozenset[str]:
    given = environ.get(f"{PREFIX}API_KEYS")
    found = frozenset(key.strip() for key in (given or "").split(",") if key.strip())
    if given is not None and not found:
        raise SettingsError(f"{PREFIX}API_KEYS is set but contains no key")
    return found


def _api_keys_file(environ: Mapping[str, str]) -> Path | None:
    given = environ.get(f"{PREFIX}API_KEYS_FILE")
    if given is None:
        return None
    try:
        found = read(Path(given))
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{PREFIX}API_KEYS_FILE={given}: {exc}") from exc
    if not found:
        raise SettingsError(f"{PREFIX}API_KEYS_FILE={given} contains no key")
    return Path(given)


def _batch_folder(environ: Mapping[str, str]) -> Path | None:
    """The folder, which is created: a mistake in its name or its owner must not wait for the first client."""
    given = environ.get(f"{PREFIX}BATCH_FOLDER")
    if given is None:
        return None
    folder = Path(given)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as exc:
        raise SettingsError(f"{PREFIX}BATCH_FOLDER={given}: {exc}") from exc


def _image_hosts(environ: Mapping[str, str]) -> Allowlist | None:
    mode = environ.get(f"{PREFIX}IMAGE_URLS", "off")
    entries = [entry.strip() for entry in environ.get(f"{PREFIX}IMAGE_URL_HOSTS", "").split(",") if entry.strip()]
    if mode not in ("off", "allowlist", "public"):
        raise SettingsError(f"{PREFIX}IMAGE_URLS={mode} must be off, allowlist or public")
    if bool(entries) != (mode == "allowlist"):
        raise SettingsError(f"{PREFIX}IMAGE_URL_HOSTS and {PREFIX}IMAGE_URLS=allowlist must be set together")
    try:
        return {"off": None, "public": Allowlist(any_public=True), "allowlist": Allowlist.parse(entries)}[mode]
    except ValueError as exc:
        raise SettingsError(f"{PREFIX}IMAGE_URL_HOSTS: {exc}") from exc


def _choice(environ: Mapping[str, str], name: str, default: str, other: str) -> bool:
    """Whether a setting with two values has its default value."""
    given = environ.get(f"{PREFIX}{name}", default)
    if given not in (default, other):
        raise SettingsError(f"{PREFIX}{name}={given} must be {default} or {other}")
    return given == default


def _cors_origins(environ: Mapping[str, str]) -> frozenset[str]:
    origins = frozenset(one.strip() for one in environ.get(f"{PREFIX}CORS_ORIGINS", "").split(",") if one.strip())
    for origin in origins - {"*"}:
        if not ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"{PREFIX}CORS_ORIGINS: {origin!r} is not an origin; use a lower-case scheme and host without a path,"
                " such as https://app.example.com or http://localhost:3000"
            )
    if "*" in origins and len(origins) > 1:
        raise SettingsError(f"{PREFIX}CORS_ORIGINS: * allows all origins and must be the only one")
    return origins


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
