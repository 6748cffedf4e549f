"""Which addresses a name may lead to.

Pure. A table of our own, because `ipaddress.is_global` is False for documentation ranges, and True for NAT64 and
6to4 around private addresses and for multicast. An address that is written as such in a profile does not come
here.
"""

from __future__ import annotations

import ipaddress

_REFUSED = {
    "0.0.0.0/8": "this host",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared by a carrier or an overlay network",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "a cloud's metadata",
    "169.254.0.0/16": "link-local, metadata",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved for protocols, metadata",
    "192.88.99.0/24": "a relay",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "for tests; here it stands for names inside a sandbox",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved or broadcast",
}
_TABLE = [(ipaddress.IPv4Network(network), reason) for network, reason in _REFUSED.items()]
_GLOBAL6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# fec0::/10 and ULA (fd00:ec2::254 among them) lie outside 2000::/3 already
_INTERFACE_IDS = (0x00005EFE, 0x02005EFE)


def refused(text: str) -> str:
    """Why an address may not be dialled, "" when it may. What is no address is refused as well."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "no address"
    if isinstance(address, ipaddress.IPv4Address):
        return _refused4(address)
    if address not in _GLOBAL6 and address not in _NAT64:
        return "not a global IPv6 address"
    for inner in _embedded(address):
        if reason := _refused4(inner):
            return f"it leads to {inner}: {reason}"
    return ""


def _refused4(address: ipaddress.IPv4Address) -> str:
    return next((reason for network, reason in _TABLE if address in network), "")


def _embedded(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that routers or hosts may take out of an IPv6 one: 6to4, Teredo, NAT64, ISATAP."""
    number = int(address)
    found = []
    if number >> 112 == 0x2002:
        found.append(number >> 80)
    if number >> 96 == 0x20010000:
        found += [number >> 64, ~number]
    if address in _NAT64 or (number >> 32) & 0xFFFFFFFF in _INTERFACE_IDS:
        found.append(number)
    return [ipaddress.IPv4Address(each & 0xFFFFFFFF) for each in found]
