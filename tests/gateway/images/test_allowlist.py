import ipaddress

import pytest

from gateway.images.allowlist import Allowlist, is_global


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",  # Alibaba's metadata service
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",  # Azure's
        "169.254.169.254",  # most others'
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",  # Oracle's
        "192.0.2.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "2001:470::5efe:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",  # Amazon's
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_address_of_no_public_service_is_not_global(address: str) -> None:
    assert not is_global(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_address_of_a_public_service_is_global(address: str) -> None:
    assert is_global(ipaddress.ip_address(address))


def reaches(allowlist: Allowlist, host: str, address: str, port: int = 443) -> bool:
    rule = allowlist.rule(host, port)
    return rule is not None and ipaddress.ip_address(address) in rule


def test_names_are_allowed_individually_or_with_all_subdomains() -> None:
    allowlist = Allowlist.parse(["Images.example.com", "*.cdn.example.com"])
    for name in ("images.example.com", "IMAGES.EXAMPLE.COM.", "a.cdn.example.com", "a.b.cdn.example.com"):
        assert reaches(allowlist, name, "1.1.1.1")
    for name in ("example.com", "cdn.example.com", "images.example.com.evil.org", "evilcdn.example.com", "1.1.1.1"):
        assert allowlist.rule(name, 443) is None


def test_allowed_name_gives_no_access_to_private_addresses() -> None:
    allowlist = Allowlist.parse(["images.example.com", "10.0.0.0/8"])
    assert not reaches(allowlist, "images.example.com", "10.0.0.1")


def test_name_may_have_a_network() -> None:
    allowlist = Allowlist.parse(["minio.internal=10.1.0.0/16", "minio.internal=fd12::/16"])
    for address, reached in (("10.1.2.3", True), ("fd12::1", True), ("1.1.1.1", True), ("10.2.0.1", False)):
        assert reaches(allowlist, "minio.internal", address) == reached
    assert allowlist.rule("10.1.2.3", 443) is None


def test_listed_network_allows_its_addresses_and_no_others() -> None:
    allowlist = Allowlist.parse(["10.1.0.0/16", "fd12::/16"])
    assert reaches(allowlist, "10.1.2.3", "10.1.2.3")
    assert reaches(allowlist, "fd12::1", "fd12::1")
    assert allowlist.rule("10.2.0.1", 443) is None


@pytest.mark.parametrize(
    ("entry", "host", "address"),
    [
        ("images.example.com:8443", "images.example.com", "1.1.1.1"),
        ("minio.internal:8443=10.1.0.0/16", "minio.internal", "10.1.2.3"),
        ("10.1.2.3:8443", "10.1.2.3", "10.1.2.3"),
        ("10.1.0.0/16:8443", "10.1.2.3", "10.1.2.3"),
        ("[fd12::1]:8443", "fd12::1", "fd12::1"),
        ("[fd12::/16]:8443", "fd12::1", "fd12::1"),
    ],
)
def test_only_the_given_port_is_allowed(entry: str, host: str, address: str) -> None:
    for port in (80, 443, 8000, 8443):
        assert reaches(Allowlist.parse([entry]), host, address, port) == (port == 8443)
        assert reaches(Allowlist.parse([entry.replace(":8443", "")]), host, address, port) == (port in (80, 443))


def test_public_allows_every_name_but_no_private_address() -> None:
    allowlist = Allowlist(any_public=True)
    assert reaches(allowlist, "anything.example", "1.1.1.1")
    assert not reaches(allowlist, "anything.example", "127.0.0.1")
    assert allowlist.rule("anything.example", 8080) is None


@pytest.mark.parametrize(
    "entry",
    [
        "http://example.com",
        "10.0.0.1/8",
        "a b",
        "*",
        "exa*mple.com",
        "example.com/images",
        "a..b",
        "a.example:0",
        "a.example:65536",
        "a.example:http",
        "a.example=",
        "a.example=b.example",
        "10.0.0.1=10.0.0.0/8",
        "[a.example]:",
        "",
    ],
)
def test_entry_that_is_neither_name_nor_network_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a host name, IP address, network or NAME=NETWORK"):
        Allowlist.parse([entry])
