"""Which hosts and addresses the gateway may fetch images from."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

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
class Allowed:
    """The hosts that images may come from."""

    everybody: bool = False
    """Whether any host with a global address will do."""
    hosts: frozenset[str] = frozenset()
    """Names in lower case; "*.example.com" stands for every name below example.com."""
    networks: frozenset[Network] = frozenset()
    """Addresses that may be used though they are not global."""

    @classmethod
    def listed(cls, entries: Iterable[str]) -> Self:
        """Read a list of names, addresses and networks such as 10.1.0.0/16.

        Raises:
            ValueError: an entry is none of these.
        """
        hosts, networks = set(), set()
        for entry in entries:
            try:
                networks.add(ipaddress.ip_network(entry))
            except ValueError:
                if "/" in entry or not _is_name(entry):
                    raise ValueError(f"{entry!r} is neither the name of a host nor an address or network") from None
                hosts.add(entry.lower().rstrip("."))
        return cls(hosts=frozenset(hosts), networks=frozenset(networks))

    def host(self, name: str) -> bool:
        """Whether a URL may name this host; its addresses are another question."""
        name = name.lower().rstrip(".")
        if self.everybody or name in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return any(entry.startswith("*.") and name.endswith(entry[1:]) for entry in self.hosts)
        return any(address in network for network in self.networks)

    def address(self, address: Address) -> bool:
        """Whether a connection may be made to this address."""
        return is_global(address) or any(address in network for network in self.networks)


def _is_name(entry: str) -> bool:
    labels = entry.rstrip(".").removeprefix("*.").split(".")
    return all(label and label.replace("-", "a").replace("_", "a").isalnum() and label.isascii() for label in labels)
