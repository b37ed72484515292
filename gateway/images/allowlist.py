"""Which hosts and addresses the gateway may fetch images from."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PORTS = (80, 443)
"""Where nothing else is said: other services than web servers listen at others."""
ENTRY = re.compile(r"(?P<host>\[[^\]]+\]|[^:=\[\]]+)(:(?P<port>[0-9]{1,5}))?(=(?P<network>.+))?")
GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
"""All that has been given out for use by everybody (IANA's IPv6 address space registry)."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""An IPv4 address in its last four bytes (RFC 6052, section 2.1)."""
ISATAP = (b"\0\0\x5e\xfe", b"\2\0\x5e\xfe")
"""What stands before an IPv4 address in the last eight bytes (RFC 5214, section 6.1)."""
RESERVED: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            # https://www.iana.org/assignments/iana-ipv4-special-registry/ and .../iana-ipv6-special-registry/, and for
            # multicast RFC 5771. Spelt out, since what the standard library calls global differs between versions of
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
            "168.63.129.16/32",  # Azure's host, a public address that only its guests reach
            "2001::/23",  # protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, an IPv4 address in it
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)


def is_global(address: Address) -> bool:
    """Whether an address is one that everybody may offer a service at, in whatever form it is written."""
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
class Reach:
    """The addresses that a host may have: global ones, and those of some networks."""

    networks: tuple[Network, ...] = ()

    def __contains__(self, address: Address) -> bool:
        """Whether a connection may be made to this address."""
        return self.public(address) or any(address in network for network in self.networks)

    def public(self, address: Address) -> bool:
        """Whether everybody may offer a service at this address."""
        return is_global(address)


@dataclass(frozen=True, slots=True)
class Entry:
    """A host, or a network, that images may come from."""

    name: str | None
    """In lower case; "*.example.com" stands for every name below example.com. None: URLs hold those of `network`."""
    network: Network | None = None
    """Addresses that may be used though they are not global."""
    port: int | None = None
    """None stands for all of PORTS."""

    def matches(self, host: str, port: int) -> bool:
        """Whether it is for this host of a URL, a name in lower case or an address, and port."""
        if port not in (PORTS if self.port is None else (self.port,)):
            return False
        if self.name is not None:
            return host == self.name or (self.name.startswith("*.") and host.endswith(self.name[1:]))
        address = _address(host)
        return address is not None and self.network is not None and address in self.network


@dataclass(frozen=True, slots=True)
class Allowed:
    """The hosts that images may come from."""

    everybody: bool = False
    """Whether any host with a global address will do."""
    entries: frozenset[Entry] = frozenset()

    @classmethod
    def listed(cls, entries: Iterable[str]) -> Self:
        """Read a list of names, addresses and networks, each with a port or without, and of names in a network.

        Such as images.example.com, 10.1.0.0/16, [fd12::1]:9000, and minio.internal:9000=10.1.0.0/16.

        Raises:
            ValueError: an entry is none of these.
        """
        return cls(entries=frozenset(map(_entry, entries)))

    def reach(self, host: str, port: int) -> Reach | None:
        """Which addresses a host of a URL may have; None if nothing is fetched from it."""
        host = host.lower().rstrip(".")
        matching = [entry for entry in self.entries if entry.matches(host, port)]
        if not matching and not (self.everybody and port in PORTS):
            return None
        return Reach(tuple(entry.network for entry in matching if entry.network is not None))


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
    raise ValueError(f"{text!r} is neither the name of a host nor an address or network, with or without a port")


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
