"""The hosts and addresses that the gateway may fetch images from."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PORTS = (80, 443)
"""Allowed by default. Other ports may belong to services that are not web servers."""
ENTRY = re.compile(r"(?P<host>\[[^\]]+\]|[^:=\[\]]+)(:(?P<port>[0-9]{1,5}))?(=(?P<network>.+))?")
GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
"""The global unicast addresses allocated so far (IANA's IPv6 address space registry)."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses with an IPv4 address in their last four bytes (RFC 6052, section 2.1)."""
ISATAP = (b"\0\0\x5e\xfe", b"\2\0\x5e\xfe")
"""Bytes 8 to 12 of addresses with an IPv4 address in their last four bytes (RFC 5214, section 6.1)."""
RESERVED: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            # https://www.iana.org/assignments/iana-ipv4-special-registry/ and .../iana-ipv6-special-registry/, and for
            # multicast RFC 5771. Listed here because the standard library's is_global differs between versions of
            # Python, and includes multicast.
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local; most clouds' metadata service
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments; Oracle's metadata service
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
            "168.63.129.16/32",  # Azure's virtual host address, which is public but reachable from its guests only
            "2001::/23",  # protocol assignments, including Teredo
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which embeds an IPv4 address
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)


def is_global(address: Address) -> bool:
    """Whether an address is publicly routable, also if it is an IPv4 address embedded in an IPv6 address."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_global(address.ipv4_mapped)
        if address.packed[8:12] in ISATAP and not is_global(ipaddress.IPv4Address(address.packed[-4:])):
            return False
        if address in NAT64:
            return is_global(ipaddress.IPv4Address(address.packed[-4:]))
        if address not in GLOBAL_IPV6:
            return False
    return not any(address in network for network in RESERVED)


@dataclass(frozen=True, slots=True)
class AddressRule:
    """The addresses that a host may resolve to: public ones, and those of some networks."""

    networks: tuple[Network, ...] = ()

    def __contains__(self, address: Address) -> bool:
        """Whether the gateway may connect to an address."""
        return self.is_public(address) or any(address in network for network in self.networks)

    def is_public(self, address: Address) -> bool:
        """Whether an address is publicly routable."""
        return is_global(address)


@dataclass(frozen=True, slots=True)
class Entry:
    """A host or a network on the allowlist."""

    name: str | None
    """A host name in lower case; "*.example.com" stands for all subdomains of example.com. None if URLs must contain
    an address in `network`."""
    network: Network | None = None
    """Addresses that are allowed even if they are not public."""
    port: int | None = None
    """None for all of PORTS."""

    def matches(self, host: str, port: int) -> bool:
        """Whether the entry covers a URL's host (a name in lower case, or an address) and port."""
        if port not in (PORTS if self.port is None else (self.port,)):
            return False
        if self.name is not None:
            return host == self.name or (self.name.startswith("*.") and host.endswith(self.name[1:]))
        address = _address(host)
        return address is not None and self.network is not None and address in self.network


@dataclass(frozen=True, slots=True)
class Allowlist:
    """The hosts that images may be fetched from."""

    any_public: bool = False
    """Whether every host with a public address is allowed."""
    entries: frozenset[Entry] = frozenset()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """Parse host names, addresses and networks, each with an optional port, and host names with their network.

        Examples: images.example.com, 10.1.0.0/16, [fd12::1]:9000, minio.internal:9000=10.1.0.0/16.

        Raises:
            ValueError: an entry is none of these.
        """
        return cls(entries=frozenset(map(_entry, entries)))

    def rule(self, host: str, port: int) -> AddressRule | None:
        """The addresses that a URL's host may resolve to; None if nothing may be fetched from this host and port."""
        host = host.lower().rstrip(".")
        matching = [entry for entry in self.entries if entry.matches(host, port)]
        if not matching and not (self.any_public and port in PORTS):
            return None
        return AddressRule(tuple(entry.network for entry in matching if entry.network is not None))


def _entry(text: str) -> Entry:
    if (network := _network(text)) is not None:
        return Entry(None, network)
    match = ENTRY.fullmatch(text)
    if match is not None and (match["port"] is None or 1 <= int(match["port"]) <= 65535):
        host, port = match["host"].strip("[]"), int(match["port"]) if match["port"] else None
        network = _network(host if match["network"] is None else match["network"])
        if match["network"] is None and network is not None:
            return Entry(None, network, port)
        if _is_name(host) and _network(host) is None and (match["network"] is None) == (network is None):
            return Entry(host.lower().rstrip("."), network, port)
    raise ValueError(f"{text!r} is not a host name, IP address, network or NAME=NETWORK, each with an optional port")


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_name(entry: str) -> bool:
    labels = entry.rstrip(".").removeprefix("*.").split(".")
    return all(label and label.replace("-", "a").replace("_", "a").isalnum() and label.isascii() for label in labels)
