import ipaddress

import pytest

from gateway.addresses import Allowed, is_global


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


def test_names_are_listed_one_by_one_or_with_all_below() -> None:
    allowed = Allowed.listed(["Images.example.com", "*.cdn.example.com"])
    assert all(
        map(allowed.host, ("images.example.com", "IMAGES.EXAMPLE.COM.", "a.cdn.example.com", "a.b.cdn.example.com"))
    )
    refused = (
        "example.com",
        "cdn.example.com",
        "images.example.com.evil.org",
        "evilcdn.example.com",
        "127.0.0.1",
        "1.1.1.1",
    )
    assert not any(map(allowed.host, refused))


def test_listed_name_is_no_way_to_a_private_address() -> None:
    allowed = Allowed.listed(["images.example.com"])
    assert allowed.address(ipaddress.ip_address("1.1.1.1"))
    assert not allowed.address(ipaddress.ip_address("10.0.0.1"))


def test_listed_network_allows_its_addresses_and_no_others() -> None:
    allowed = Allowed.listed(["minio.internal", "10.1.0.0/16", "fd12::/16"])
    assert allowed.host("10.1.2.3")
    assert allowed.host("fd12::1")
    assert not allowed.host("10.2.0.1")
    assert [allowed.address(ipaddress.ip_address(text)) for text in ("10.1.2.3", "fd12::1", "10.2.0.1")] == [
        True,
        True,
        False,
    ]


def test_public_allows_every_name_but_no_private_address() -> None:
    allowed = Allowed(everybody=True)
    assert allowed.host("anything.example")
    assert allowed.address(ipaddress.ip_address("1.1.1.1"))
    assert not allowed.address(ipaddress.ip_address("127.0.0.1"))


@pytest.mark.parametrize(
    "entry", ["http://example.com", "10.0.0.1/8", "a b", "*", "exa*mple.com", "example.com/images", "a..b"]
)
def test_entry_that_is_neither_name_nor_network_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is neither the name of a host nor an address or network"):
        Allowed.listed([entry])
