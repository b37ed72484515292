import re
from pathlib import Path

import pytest

from gateway.images.allowlist import Allowlist
from gateway.settings import KEYS, Settings, SettingsError


def test_default_is_loopback_without_keys() -> None:
    settings = Settings.from_env({})
    assert (settings.host, settings.port, settings.api_keys) == ("127.0.0.1", 8080, frozenset())


def test_image_urls_are_disabled_by_default() -> None:
    assert Settings.from_env({}).image_hosts is None
    assert Settings.from_env({"GATEWAY_IMAGE_URLS": "public"}).image_hosts == Allowlist(any_public=True)


def test_every_setting_comes_from_its_variable(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("three\n\n four \n")
    settings = Settings.from_env(
        {
            "GATEWAY_HOST": "0.0.0.0",
            "GATEWAY_PORT": "9000",
            "GATEWAY_TRITON_URL": "triton-0:8001, dns:///triton:8001",
            "GATEWAY_MODEL_REPOSITORY": "/models",
            "GATEWAY_API_KEYS": "one, two,",
            "GATEWAY_API_KEYS_FILE": str(keys),
            "GATEWAY_REQUEST_TIMEOUT": "2.5",
            "GATEWAY_REQUESTS_PER_MINUTE": "60",
            "GATEWAY_TOKENS_PER_MINUTE": "100000",
            "GATEWAY_DRAIN_TIMEOUT": "3",
            "GATEWAY_MAX_BODY_BYTES": "4096",
            "GATEWAY_MAX_IMAGE_PIXELS": "1000000",
            "GATEWAY_CACHE_BYTES": "65536",
            "GATEWAY_IMAGE_URLS": "allowlist",
            "GATEWAY_IMAGE_URL_HOSTS": "images.example.com, 10.0.0.0/8",
            "GATEWAY_PAGES": "off",
            "GATEWAY_CORS_ORIGINS": "https://app.example, http://localhost:3000",
            "GATEWAY_UNKNOWN_FIELDS": "refuse",
            "GATEWAY_BATCH_FOLDER": str(tmp_path / "all" / "batches"),
            "GATEWAY_BATCH_FILE_BYTES": "10000",
            "GATEWAY_BATCH_BYTES_PER_KEY": "20000",
            "GATEWAY_BATCH_BYTES": "30000",
        }
    )
    assert settings == Settings(
        host="0.0.0.0",
        port=9000,
        triton_urls=("triton-0:8001", "dns:///triton:8001"),
        model_repository=Path("/models"),
        api_keys=frozenset({"one", "two"}),
        api_keys_file=keys,
        request_timeout_s=2.5,
        requests_per_minute=60,
        tokens_per_minute=100_000,
        drain_timeout_s=3,
        max_body_bytes=4096,
        max_image_pixels=1_000_000,
        cache_bytes=65_536,
        image_hosts=Allowlist.parse(["images.example.com", "10.0.0.0/8"]),
        pages=False,
        cors_origins=frozenset({"https://app.example", "http://localhost:3000"}),
        ignores_unknown_fields=False,
        batch_folder=tmp_path / "all" / "batches",
        batch_file_bytes=10_000,
        batch_bytes_per_key=20_000,
        batch_bytes=30_000,
    )
    assert (tmp_path / "all" / "batches").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"GATEWAY_PORT": "http"}, "GATEWAY_PORT='http' must be a number"),
        ({"GATEWAY_TRITON_URL": "triton"}, "GATEWAY_TRITON_URL=triton must be host:port or dns:///name:port"),
        ({"GATEWAY_TRITON_URL": "http://triton:8000"}, "must be host:port or dns:///name:port"),
        ({"GATEWAY_PORT": "0"}, "GATEWAY_PORT=0 must be between 1 and 65535"),
        ({"GATEWAY_TOKENS_PER_MINUTE": "0"}, "GATEWAY_TOKENS_PER_MINUTE=0 must be between"),
        ({"GATEWAY_CACHE_BYTES": "-1"}, "GATEWAY_CACHE_BYTES=-1 must be between 0 and"),
        ({"GATEWAY_REQUEST_TIMEOUT": "nan"}, "GATEWAY_REQUEST_TIMEOUT=nan must be between"),
        ({"GATEWAY_API_KEYS": " , "}, "contains no key"),
        ({"GATEWAY_PAGES": "no"}, "GATEWAY_PAGES=no must be on or off"),
        ({"GATEWAY_UNKNOWN_FIELDS": "off"}, "GATEWAY_UNKNOWN_FIELDS=off must be ignore or refuse"),
        ({"GATEWAY_CORS_ORIGINS": "app.example"}, "GATEWAY_CORS_ORIGINS: 'app.example' is not an origin"),
        ({"GATEWAY_CORS_ORIGINS": "https://app.example/"}, "GATEWAY_CORS_ORIGINS: 'https://app.example/' is not"),
        (
            {"GATEWAY_CORS_ORIGINS": "https://App.example"},
            "GATEWAY_CORS_ORIGINS: 'https://App.example' is not",
        ),
        ({"GATEWAY_CORS_ORIGINS": "https://*.example"}, "GATEWAY_CORS_ORIGINS: 'https://*.example' is not an origin"),
        ({"GATEWAY_CORS_ORIGINS": "*, https://a.example"}, "GATEWAY_CORS_ORIGINS: * allows all origins"),
        ({"GATEWAY_IMAGE_URLS": "on"}, "GATEWAY_IMAGE_URLS=on must be off, allowlist or public"),
        ({"GATEWAY_IMAGE_URLS": "allowlist"}, "GATEWAY_IMAGE_URLS=allowlist must be set together"),
        ({"GATEWAY_IMAGE_URL_HOSTS": "a.example"}, "GATEWAY_IMAGE_URLS=allowlist must be set together"),
        ({"GATEWAY_IMAGE_URLS": "public", "GATEWAY_IMAGE_URL_HOSTS": "a.example"}, "must be set together"),
        (
            {"GATEWAY_IMAGE_URLS": "allowlist", "GATEWAY_IMAGE_URL_HOSTS": "http://a.example"},
            "'http://a.example' is not a host name",
        ),
        ({"GATEWAY_BATCH_FOLDER": "/dev/null"}, "GATEWAY_BATCH_FOLDER=/dev/null: [Errno 17] File exists"),
        (
            {"GATEWAY_BATCH_FOLDER": "/proc"},
            "GATEWAY_BATCH_FOLDER=/proc: [Errno",
        ),
        ({"GATEWAY_BATCH_FILE_BYTES": "1"}, "GATEWAY_BATCH_FILE_BYTES=1 must be between 1024 and"),
        ({"GATEWAY_API_KEYS_FILE": "/no/such/file"}, "GATEWAY_API_KEYS_FILE=/no/such/file: [Errno 2] No such file"),
    ],
)
def test_invalid_setting_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environ)
    assert message in str(caught.value)


def test_empty_setting_counts_as_unset() -> None:
    names = set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", Path("gateway/settings.py").read_text())) - set(KEYS)
    assert Settings.from_env(dict.fromkeys(names, "")) == Settings()


@pytest.mark.parametrize("name", KEYS)
def test_empty_keys_are_an_error(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: ""})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_other_hosts_require_keys(host: str) -> None:
    with pytest.raises(SettingsError, match="API keys are required"):
        Settings.from_env({"GATEWAY_HOST": host})
    assert Settings.from_env({"GATEWAY_HOST": host, "GATEWAY_API_KEYS": "k"}).host == host


@pytest.mark.parametrize("host", ["localhost", "::1", "127.0.0.2"])
def test_loopback_requires_no_keys(host: str) -> None:
    assert Settings.from_env({"GATEWAY_HOST": host}).host == host


def test_limit_of_all_responses_is_read() -> None:
    assert Settings.from_env({"GATEWAY_MAX_RESPONSES_BYTES": "1048576"}).max_responses_bytes == 2**20
    with pytest.raises(SettingsError, match="GATEWAY_MAX_RESPONSES_BYTES=1000 must be between 1048576 and"):
        Settings.from_env({"GATEWAY_MAX_RESPONSES_BYTES": "1000"})


def test_total_body_limit_is_at_least_that_of_one() -> None:
    assert Settings.from_env({"GATEWAY_MAX_BODY_BYTES": "1000000000"}).max_bodies_bytes == 1_000_000_000
    with pytest.raises(SettingsError, match="GATEWAY_MAX_BODIES_BYTES=1024 must be at least GATEWAY_MAX_BODY_BYTES="):
        Settings.from_env({"GATEWAY_MAX_BODIES_BYTES": "1024"})
