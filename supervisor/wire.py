"""The wire between our processes: one JSON object a message, descriptors beside it.

AF_UNIX SOCK_SEQPACKET, at most 64 KiB a message, descriptors only with the message that names them and always
close-on-exec. Used on both sides of every privilege border, the spawner included: standard library only.
Whatever does not fit raises WireError, and the caller closes the connection.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterable

from supervisor.errors import WireError

LIMIT = 64 * 1024
MAX_FDS = 8
# of one message that carries many; the kernel takes 253
CHUNK = 64
Message = dict[str, object]


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of wire sockets, neither inheritable."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encode(message: Message) -> bytes:
    """One message as bytes; WireError when it is too long to be sent."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > LIMIT:
        raise WireError(f"message of {len(data)} bytes is over the limit of {LIMIT}")
    return data


def decode(data: bytes) -> Message:
    """The object in `data`; WireError for anything else: other types, duplicate keys, NaN, too deep to parse."""
    try:
        value = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"malformed message: {error}") from None
    if not isinstance(value, dict):
        raise WireError("malformed message: not an object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> Message:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def send(sock: socket.socket, message: Message, fds: list[int] | None = None) -> None:
    """Send one message with its descriptors, which stay open here. OSError when the peer is gone."""
    data = encode(message)
    if fds:
        socket.send_fds(sock, [data], fds)
    else:
        sock.send(data)


def close(fds: Iterable[int]) -> None:
    """Close descriptors that came with a message, or went with one."""
    for fd in fds:
        os.close(fd)


def take(sock: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int], int]:
    """recvmsg(2) with at most so many descriptors, close-on-exec: socket.recv_fds drops its flags."""
    want = size, socket.CMSG_SPACE(struct.calcsize("i") * most), flags | socket.MSG_CMSG_CLOEXEC
    try:
        data, ancillary, flags, _ = sock.recvmsg(*want)
    except ConnectionResetError:
        # told once, when the peer ended with something of ours unread; what it said before that comes after it
        data, ancillary, flags, _ = sock.recvmsg(*want)
    # the kernel passes whole ones only
    whole = b"".join(each[2] for each in ancillary if each[:2] == (socket.SOL_SOCKET, socket.SCM_RIGHTS))
    return data, list(struct.unpack(f"{len(whole) // 4}i", whole)), flags


def receive(sock: socket.socket, *, max_fds: int = 0) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors; None at end of file.

    More descriptors than `max_fds`, or control data cut short, close whatever arrived and raise WireError.
    """
    data, fds, flags = take(sock, LIMIT + 1, max(MAX_FDS, max_fds))
    try:
        if flags & socket.MSG_CTRUNC or len(fds) > max_fds:
            raise WireError("more descriptors than the message may carry")
        if flags & socket.MSG_TRUNC or len(data) > LIMIT:
            raise WireError(f"message over the limit of {LIMIT} bytes")
        return (decode(data), fds) if data or fds else None
    except WireError:
        close(fds)
        raise


def hear(sock: socket.socket, *, max_fds: int = 0) -> tuple[Message, list[int]] | None:
    """As `receive`; None also when the connection broke, or when what came does not fit: nothing good follows."""
    try:
        return receive(sock, max_fds=max_fds)
    except (OSError, WireError):
        return None


def peer(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of whoever connected, from SO_PEERCRED."""
    return struct.unpack("iii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
