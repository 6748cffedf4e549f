"""Which names may be reached: entries as people write them, canonical names, and the addresses that stand for them.

Pure: no socket, no clock, no file. The planner parses entries with it, the broker decides with it; both come to
the same table, so only the entries travel between them.

    example.test:443        TLS, the name checked in every ClientHello (port 80: plain HTTP as well)
    *.example.test:443      exactly one label more      **.example.test:443   one or more
    http:example.test:8080  plain HTTP as well, the host of every request checked
    tcp:db.example.test:22  anything: nothing in the bytes is checked
    192.0.2.7:443, [2001:db8::1]:443   that address, anything; the only way to reach a private one
    header:example.test:443 plain HTTP at port 80 inside, TLS to that port outside, a secret added on the way
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

from supervisor.errors import ConfigError

GATEWAY, PREFIX = "198.18.0.1", 15
DNS_PORT, PROXY_PORT, HTTP_PORT = 53, 3128, 80
POOL = 32
MAX_LISTENERS = 400
_FIRST = int(ipaddress.IPv4Address("198.18.1.0"))
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_KINDS = ("tls", "http", "tcp", "header")


class Refusal(Exception):
    """The rules say no to a connection.

    `alert` is the TLS alert that says so to a client that speaks TLS, `rule` what would allow it, if anything.
    """

    def __init__(self, reason: str, alert: int = 49, *, rule: str = "") -> None:
        self.reason = reason
        self.alert = alert
        self.rule = rule
        super().__init__(reason)


def canonical(name: str) -> str:
    """A host name as it is compared: A-labels, lower case, no dot at the end. ValueError for anything else."""
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            raise ValueError(f"{name!r} is no host name") from None
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{name[:300]!r} is no host name")
    # what inet_aton takes for an address (127.1, 0x7f.1, 2130706433) must never be a name
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        raise ValueError(f"{name[:300]!r} is no host name")
    return name


class Entry(NamedTuple):
    """One allowed target. `labels`: 0 the name itself, 1 one label in front of it, 2 any number from one.

    `outside`: the port that is dialled, if it is another than the one inside.
    """

    kind: str
    host: str
    port: int
    labels: int = 0
    address: bool = False
    outside: int = 0

    def __str__(self) -> str:
        if self.kind == "header":
            return f"header:{self.host}:{self.outside}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        plain = self.address or self.kind == ("http" if self.port == 80 else "tls")
        return f"{'' if plain else self.kind + ':'}{('', '*.', '**.')[self.labels]}{host}:{self.port}"

    def what(self) -> str:
        """The grant in words."""
        name = str(self).removeprefix(f"{self.kind}:")
        if self.kind == "header":
            return f"ask http://{self.host}/ inside; the broker adds a secret and asks https://{name}/"
        if self.address:
            return f"connect to the address {name}, any protocol"
        checked = {"tls": "TLS, its name checked", "http": "TLS or plain HTTP, its name checked"}
        return f"connect to {name} ({checked.get(self.kind, 'any protocol, nothing checked in it')})"

    def matches(self, name: str) -> bool:
        """Whether `name`, canonical, is one of those meant."""
        if not self.labels:
            return name == self.host
        front = name.removesuffix("." + self.host)
        return front != name and (self.labels == 2 or "." not in front)


def parse(text: str) -> Entry:
    """One entry. ConfigError names it and says what is wrong."""
    try:
        return _parse(text)
    except ValueError as error:
        raise ConfigError(f'network: "{text}": {error}') from None


def _parse(text: str) -> Entry:
    kind, colon, rest = text.partition(":")
    kind, rest = (kind, rest.strip()) if colon and kind in ("http", "tcp", "header") else ("", text.strip())
    host, colon, number = rest.rpartition(":")
    if not colon or not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
        raise ValueError("write HOST:PORT, as in example.test:443")
    port = int(number)
    address = _address(host)
    if address is not None:
        if kind == "header":
            raise ValueError("an address has no name that a certificate could be checked for; name the host")
        if kind == "http":
            raise ValueError("an address carries no name that could be checked; write it without http:")
        return Entry("tcp", address, port, address=True)
    labels = 2 if host.startswith("**.") else 1 if host.startswith("*.") else 0
    name = canonical(host[labels + 1 :] if labels else host)
    if kind == "header":
        if labels:
            raise ValueError("a secret goes to one host, not to a pattern")
        return Entry(kind, name, HTTP_PORT, outside=port)
    if labels and kind == "tcp":
        raise ValueError("tcp: has no name in it that tells one host of a pattern from another; name each host")
    return Entry(kind or ("http" if port == 80 else "tls"), name, port, labels)


def _address(host: str) -> str | None:
    """The address in canonical spelling, None for a name; ValueError for one that can never be a target."""
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        if bracketed:
            raise ValueError("there is no such IPv6 address") from None
        return None
    if (address.version == 6) != bracketed or "%" in host:
        raise ValueError("an IPv6 address stands in brackets, without a zone: [2001:db8::1]:443")
    if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        raise ValueError("this address is nobody's in particular")
    if address.version == 6 and address.ipv4_mapped:
        raise ValueError("write the IPv4 address itself")
    if address in ipaddress.ip_network("198.18.0.0/15"):
        raise ValueError("198.18.0.0/15 stands for names inside the sandbox")
    return str(address)


class Layout(NamedTuple):
    """What the sandbox's loopback needs. `pool` stands for names that match a pattern, as they are asked for."""

    names: dict[str, str]
    pool: tuple[str, ...]
    addresses: tuple[str, ...]
    listen: tuple[tuple[str, int], ...]


class Rules:
    """The entries of one session."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(dict.fromkeys(entries))
        self.exact = tuple(
            dict.fromkeys(each.host for each in self.entries if not each.labels and not each.address)
        )

    @classmethod
    def of(cls, texts: Iterable[str]) -> Rules:
        """From entries as written."""
        return cls(parse(text) for text in texts)

    def find(self, name: str, port: int) -> Entry | None:
        """The entry that allows a canonical name or address at a port: of several the one that checks least."""
        found = [each for each in self.entries if each.port == port and each.matches(name)]
        return max(found, key=lambda each: _KINDS.index(each.kind), default=None)

    def knows(self, name: str) -> bool:
        """Whether a name may be asked for."""
        return any(each.matches(name) for each in self.entries if not each.address)

    def layout(self) -> Layout:
        """The table of addresses. ConfigError when it would need too many sockets."""
        names = {name: str(ipaddress.IPv4Address(_FIRST + index)) for index, name in enumerate(self.exact)}
        patterns = [each for each in self.entries if each.labels]
        first = _FIRST + len(names)
        pool = [str(ipaddress.IPv4Address(first + index)) for index in range(POOL if patterns else 0)]
        listen = [(GATEWAY, PROXY_PORT)]
        for name, address in names.items():
            listen += [(address, each.port) for each in self.entries if not each.address and each.matches(name)]
        ports = sorted({each.port for each in patterns})
        listen += [(address, port) for address in pool for port in ports]
        listen += [(each.host, each.port) for each in self.entries if each.address]
        unique = tuple(dict.fromkeys(listen))
        if len(unique) > MAX_LISTENERS:
            raise ConfigError(
                f"network: {len(unique)} listening sockets, over the limit of {MAX_LISTENERS}: name fewer hosts, "
                f"or fewer ports of patterns (each port of a pattern takes {POOL})"
            )
        written = dict.fromkeys(each.host for each in self.entries if each.address)
        # every `lo` has these already
        addresses = [host for host in written if host != "::1" and not host.startswith("127.")]
        return Layout(names, tuple(pool), tuple(addresses), unique)
