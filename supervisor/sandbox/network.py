"""The sandbox's own network: `lo`, the addresses on it that stand for names, and sockets for the egress broker.

Runs in the sandbox, while it still has the capabilities of its namespaces. Nothing leads out of the namespace: the
sockets made here are handed to the broker, which lives outside. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from supervisor import wire

Place = tuple[str, int]
_BACKLOG = 128
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_RTM_NEWADDR, _NLMSG_ERROR = 20, 2
_REQUEST_ACK_CREATE = 0x1 | 0x4 | 0x400
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 2
_LO = 1  # the first interface of every namespace


class Reach:
    """What a document says of its network: `addresses` for `lo`, and (address, port) of the broker's sockets."""

    def __init__(self, document: dict[str, object]) -> None:
        self.addresses = [str(each) for each in _listed(document, "addresses")]
        self.udp, self.tcp = (_places(document, key) for key in ("udp", "tcp"))


def _listed(document: dict[str, object], key: str) -> list[object]:
    value = document[key]
    return value if isinstance(value, list) else []


def _places(document: dict[str, object], key: str) -> list[Place]:
    pairs = [each for each in _listed(document, key) if isinstance(each, list)]
    return [(str(address), int(str(port))) for address, port in pairs]


def up() -> None:
    """Set `lo` up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def add(addresses: list[str]) -> None:
    """Put each ADDRESS/LENGTH on `lo`: a whole network is local then, and IPv4 there for AI_ADDRCONFIG."""
    for each in addresses:
        address, _, length = each.partition("/")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        raw = socket.inet_pton(family, address)
        body = struct.pack("=BBBBI", family, int(length), _IFA_F_NODAD if ":" in address else 0, 0, _LO)
        for kind in (_IFA_LOCAL, _IFA_ADDRESS):
            body += struct.pack("=HH", 4 + len(raw), kind) + raw
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
            sock.send(struct.pack("=IHHII", 16 + len(body), _RTM_NEWADDR, _REQUEST_ACK_CREATE, 1, 0) + body)
            answer = sock.recv(4096)
        kind, code = struct.unpack_from("=4xH10xi", answer)
        if kind != _NLMSG_ERROR or code:
            raise OSError(-code, f"{each}: {os.strerror(-code)}")


def sockets(udp: list[Place], tcp: list[Place]) -> list[socket.socket]:
    """Bound to exactly these; no option on UDP that would let anybody else bind the same."""
    made = []
    for kind, places in ((socket.SOCK_DGRAM, udp), (socket.SOCK_STREAM, tcp)):
        for address, port in places:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            made.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
            sock.bind((address, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(_BACKLOG)
    return made


def donate(made: list[socket.socket], go: socket.socket) -> None:
    """Hand all of them to the spawner; none stays here."""
    for start in range(0, len(made), wire.CHUNK):
        socket.send_fds(go, [b"sockets"], [each.fileno() for each in made[start : start + wire.CHUNK]])
    for each in made:
        each.close()
