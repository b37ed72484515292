"""The gateway's settings, all from the environment."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.access.keys import read
from gateway.images.allowlist import Allowlist

PREFIX = "GATEWAY_"
KEYS = (f"{PREFIX}API_KEYS", f"{PREFIX}API_KEYS_FILE")
"""Set but empty is a mistake there, a secret that did not arrive, and must not open the server."""

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z?#@,*]+")
"""As browsers send it; programs made of pages have schemes of their own, such as app://obsidian.md."""


class SettingsError(Exception):
    """A setting is wrong. Names the variable."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One field a variable: `request_timeout_s` is GATEWAY_REQUEST_TIMEOUT; docs/operations.md lists them."""

    host: str = "127.0.0.1"
    """GATEWAY_HOST, the address to listen on. Any but a loopback address needs API keys."""
    port: int = 8080
    """GATEWAY_PORT."""
    triton_urls: tuple[str, ...] = ("127.0.0.1:8001",)
    """GATEWAY_TRITON_URL, host:port of Triton's gRPC service, dns:///name:port, or several, separated by commas."""
    model_repository: Path = Path("model_repository")
    """GATEWAY_MODEL_REPOSITORY, the folder of entries; only the tokenizers are read from it."""
    api_keys: frozenset[str] = frozenset()
    """GATEWAY_API_KEYS, separated by commas."""
    api_keys_file: Path | None = None
    """GATEWAY_API_KEYS_FILE, with a key a line; read again when it changes."""
    request_timeout_s: float = 30.0
    """GATEWAY_REQUEST_TIMEOUT, seconds until a request is given up."""
    requests_a_minute: int | None = None
    """GATEWAY_REQUESTS_PER_MINUTE, of one key; without keys, of all clients together."""
    tokens_a_minute: int | None = None
    """GATEWAY_TOKENS_PER_MINUTE, the same."""
    drain_timeout_s: float = 10.0
    """GATEWAY_DRAIN_TIMEOUT, seconds that accepted requests have to be answered after a signal to stop."""
    max_body_bytes: int = 32 * 2**20
    """GATEWAY_MAX_BODY_BYTES."""
    max_bodies_bytes: int = 256 * 2**20
    """GATEWAY_MAX_BODIES_BYTES, of all requests under way; each takes up to six times as much memory meanwhile."""
    max_image_pixels: int = 40_000_000
    """GATEWAY_MAX_IMAGE_PIXELS, which an image may declare, and all that are decoded at a time."""
    image_hosts: Allowlist | None = None
    """GATEWAY_IMAGE_URLS (`off`, `allowlist` or `public`) and GATEWAY_IMAGE_URL_HOSTS: where images are fetched."""
    heartbeat_file: Path | None = None
    """GATEWAY_HEARTBEAT_FILE, which is touched every second while the event loop goes round: for supervisors."""
    pages: bool = True
    """GATEWAY_PAGES, `on` or `off`: whether `/` and `/docs` are served."""
    cors_origins: frozenset[str] = frozenset()
    """GATEWAY_CORS_ORIGINS, separated by commas: whose pages may send requests; `*` is anyone's."""
    ignores_unknown_fields: bool = True
    """GATEWAY_UNKNOWN_FIELDS, `ignore` or `refuse`: what to do with fields that requests should not have."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings out of an environment.

        Raises:
            SettingsError: a value cannot be read or is out of range, or the host is open to others without keys.
        """
        default = cls()
        # Empty is not set, as in a line of an .env file whose value was taken out.
        environ = {name: value for name, value in environ.items() if value or name in KEYS}
        max_body_bytes = int(_number(environ, "MAX_BODY_BYTES", default.max_body_bytes, 1024, 2**30))
        room = max(default.max_bodies_bytes, max_body_bytes)
        settings = cls(
            host=environ.get(f"{PREFIX}HOST", default.host),
            port=int(_number(environ, "PORT", default.port, 1, 65535)),
            triton_urls=_triton_urls(environ) or default.triton_urls,
            model_repository=Path(environ.get(f"{PREFIX}MODEL_REPOSITORY", default.model_repository)),
            api_keys=_api_keys(environ),
            api_keys_file=_api_keys_file(environ),
            request_timeout_s=_number(environ, "REQUEST_TIMEOUT", default.request_timeout_s, 0.1, 3600),
            requests_a_minute=_quota(environ, "REQUESTS_PER_MINUTE"),
            tokens_a_minute=_quota(environ, "TOKENS_PER_MINUTE"),
            drain_timeout_s=_number(environ, "DRAIN_TIMEOUT", default.drain_timeout_s, 0, 3600),
            max_body_bytes=max_body_bytes,
            max_bodies_bytes=int(_number(environ, "MAX_BODIES_BYTES", room, 1024, 2**40)),
            max_image_pixels=int(_number(environ, "MAX_IMAGE_PIXELS", default.max_image_pixels, 2**16, 2**30)),
            image_hosts=_image_hosts(environ),
            heartbeat_file=Path(beat) if (beat := environ.get(f"{PREFIX}HEARTBEAT_FILE")) else None,
            pages=_choice(environ, "PAGES", "on", "off"),
            cors_origins=_cors_origins(environ),
            ignores_unknown_fields=_choice(environ, "UNKNOWN_FIELDS", "ignore", "refuse"),
        )
        if not settings.api_keys and settings.api_keys_file is None and not _is_loopback(settings.host):
            raise SettingsError(
                f"{PREFIX}HOST={settings.host} would let anyone in: set {PREFIX}API_KEYS or {PREFIX}API_KEYS_FILE,"
                " or listen on 127.0.0.1"
            )
        if settings.max_bodies_bytes < settings.max_body_bytes:
            raise SettingsError(
                f"{PREFIX}MAX_BODIES_BYTES={settings.max_bodies_bytes} has no room for one body of"
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
        raise SettingsError(f"{PREFIX}{name}={text!r} is not a number") from None
    if not low <= value <= high:
        raise SettingsError(f"{PREFIX}{name}={text} is not in {low:g}..{high:g}")
    return value


def _quota(environ: Mapping[str, str], name: str) -> int | None:
    return int(_number(environ, name, 1, 1, 2**53)) if f"{PREFIX}{name}" in environ else None


def _triton_urls(environ: Mapping[str, str]) -> tuple[str, ...]:
    urls = tuple(url.strip() for url in environ.get(f"{PREFIX}TRITON_URL", "").split(",") if url.strip())
    for url in urls:
        if not re.fullmatch(r"(dns:///)?[^/\s]+:\d{1,5}", url):
            raise SettingsError(f"{PREFIX}TRITON_URL={url} is neither host:port nor dns:///name:port")
    return urls


def _api_keys(environ: Mapping[str, str]) -> frozenset[str]:
    given = environ.get(f"{PREFIX}API_KEYS")
    found = frozenset(key.strip() for key in (given or "").split(",") if key.strip())
    if given is not None and not found:
        raise SettingsError(f"{PREFIX}API_KEYS is set but holds no key")
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
        raise SettingsError(f"{PREFIX}API_KEYS_FILE={given} holds no key")
    return Path(given)


def _image_hosts(environ: Mapping[str, str]) -> Allowlist | None:
    mode = environ.get(f"{PREFIX}IMAGE_URLS", "off")
    entries = [entry.strip() for entry in environ.get(f"{PREFIX}IMAGE_URL_HOSTS", "").split(",") if entry.strip()]
    if mode not in ("off", "allowlist", "public"):
        raise SettingsError(f"{PREFIX}IMAGE_URLS={mode} is none of off, allowlist, public")
    if bool(entries) != (mode == "allowlist"):
        raise SettingsError(f"{PREFIX}IMAGE_URL_HOSTS, a list of hosts, goes with {PREFIX}IMAGE_URLS=allowlist")
    try:
        return {"off": None, "public": Allowlist(any_public=True), "allowlist": Allowlist.parse(entries)}[mode]
    except ValueError as exc:
        raise SettingsError(f"{PREFIX}IMAGE_URL_HOSTS: {exc}") from exc


def _choice(environ: Mapping[str, str], name: str, default: str, other: str) -> bool:
    """Whether a setting is its default, and not the one other thing that it can be."""
    given = environ.get(f"{PREFIX}{name}", default)
    if given not in (default, other):
        raise SettingsError(f"{PREFIX}{name}={given} is neither {default} nor {other}")
    return given == default


def _cors_origins(environ: Mapping[str, str]) -> frozenset[str]:
    origins = frozenset(one.strip() for one in environ.get(f"{PREFIX}CORS_ORIGINS", "").split(",") if one.strip())
    for origin in origins - {"*"}:
        if not ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"{PREFIX}CORS_ORIGINS: {origin!r} is no origin, such as https://app.example.com or"
                " http://localhost:3000, without a path, in lower case"
            )
    if "*" in origins and len(origins) > 1:
        raise SettingsError(f"{PREFIX}CORS_ORIGINS: * stands for all origins, and alone")
    return origins


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
