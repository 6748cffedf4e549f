"""From a name to a connected socket: resolve once, check every address, dial what was checked.

Runs in the broker. A resolver of its own, because the C library's wants files, threads and Unix sockets that
the broker does not have: name servers from /etc/resolv.conf over UDP and TCP, and /etc/hosts. No search list.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from itertools import chain, zip_longest

from supervisor.egress import confine, dns, policy
from supervisor.egress.match import Entry, Refusal, canonical

CONNECT_SECONDS = 5.0
_ASK_SECONDS, _ROUNDS = 2.0, 2
_STAGGER = 0.25
_MAX_CACHED, _MAX_ADDRESSES = 1024, 16


class Unreachable(OSError):
    """The name does not resolve, or nobody answers at any of its addresses; nothing to do with the rules."""


class Resolver:
    """Names to addresses, remembered for as long as the answers say (1 s to 5 min)."""

    def __init__(self) -> None:
        self._servers: list[str] = []
        self._hosts: dict[str, list[str]] = {}
        self._cache: dict[str, tuple[float, tuple[str, ...]]] = {}

    def reload(self) -> None:
        """Read the two files again; one that can no longer be read stays as it was."""
        with contextlib.suppress(OSError):
            lines = [line.split() for line in _lines(confine.FILES[0])]
            named = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
            self._servers = [each for each in named if _is_address(each)][:3] or ["127.0.0.1"]
        with contextlib.suppress(OSError):
            lines = [line.split("#")[0].split() for line in _lines(confine.FILES[1])]
            self._hosts = {}
            for address, *names in filter(None, lines):
                for name in names if _is_address(address) else []:
                    self._hosts.setdefault(name.lower(), []).append(address)

    async def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a canonical name; Unreachable when there are none."""
        if name in self._hosts:
            return tuple(self._hosts[name])
        known = self._cache.get(name)
        if known and known[0] > time.monotonic():
            return known[1]
        answers = await asyncio.gather(
            self._ask_all(name, dns.A), self._ask_all(name, dns.AAAA), return_exceptions=True
        )
        found = [each for each in answers if isinstance(each, dns.Found)]
        addresses = tuple(chain.from_iterable(each.addresses[:_MAX_ADDRESSES] for each in found))
        if not addresses:
            raise Unreachable(f"{name} does not resolve" if found else f"no name server answers for {name}")
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        life = min(each.ttl for each in found if each.addresses)
        self._cache[name] = (time.monotonic() + max(1, life), addresses)
        return addresses

    async def _ask_all(self, name: str, kind: int) -> dns.Found:
        for server in self._servers * _ROUNDS:
            with contextlib.suppress(OSError, TimeoutError, dns.Malformed):
                async with asyncio.timeout(_ASK_SECONDS):
                    found = await _ask(server, name, kind)
                if found.code in (dns.NOERROR, dns.NXDOMAIN):
                    return found
        raise Unreachable(f"no name server answers for {name}")


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(1 << 20).splitlines()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


async def _ask(server: str, name: str, kind: int) -> dns.Found:
    """One question; only an answer to it, from that server, is taken."""
    loop = asyncio.get_running_loop()
    number = int.from_bytes(os.urandom(2))
    asked = dns.query(number, name, kind)
    with socket.socket(_family(server), socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((server, 53))
        sock.send(asked)
        while True:
            data = await loop.sock_recv(sock, 65535)
            with contextlib.suppress(dns.Malformed):
                found = dns.found(data, number, name, kind)
                break
    if not found.cut:
        return found
    with socket.socket(_family(server), socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (server, 53))
        await loop.sock_sendall(sock, len(asked).to_bytes(2) + asked)
        size = int.from_bytes(await exactly(sock, 2))
        return dns.found(await exactly(sock, size), number, name, kind)


async def exactly(sock: socket.socket, count: int) -> bytes:
    """`count` bytes; Unreachable when the stream ends before."""
    data = b""
    while len(data) < count:
        more = await asyncio.get_running_loop().sock_recv(sock, count - len(data))
        if not more:
            raise Unreachable("the connection was closed")
        data += more
    return data


def _is_own(address: str) -> bool:
    """Whether this host itself has the address: then packets to it start from it."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))
        except OSError:
            return False
        return str(sock.getsockname()[0]) == address


def check(name: str, addresses: Sequence[str]) -> None:
    """Refusal when even one of the addresses may not be dialled: nobody has an honest mixture."""
    for address in addresses:
        reason = policy.refused(address) or ("the host's own" if _is_own(address) else "")
        if reason:
            raise Refusal(f"{name} leads to {address}: {reason}; only an address written as such is dialled there")


async def connect(resolver: Resolver, entry: Entry, name: str, port: int) -> socket.socket:
    """A connection to `name`, canonical, as `entry` allows it; Refusal, or Unreachable."""
    if entry.address:
        return await _race([entry.host], port)
    addresses = await resolver.addresses(canonical(name))
    check(name, addresses)
    return await _race(addresses, port)


async def _race(addresses: Sequence[str], port: int) -> socket.socket:
    """The first to answer, IPv6 and IPv4 in turn, each 250 ms after the one before (RFC 8305)."""
    six = [each for each in addresses if ":" in each]
    four = [each for each in addresses if ":" not in each]
    waiting = [each for pair in zip_longest(six, four) for each in pair if each is not None]
    running: set[asyncio.Task[socket.socket]] = set()
    reason = "nobody answers"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while waiting or running:
                if waiting:
                    running.add(asyncio.create_task(_one(waiting.pop(0), port)))
                done, running = await asyncio.wait(
                    running, timeout=_STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                reason = _failures(done) or reason
                won = [task.result() for task in done if not task.exception()]
                for late in won[1:]:
                    late.close()
                if won:
                    return won[0]
    except TimeoutError:
        reason = f"nobody answers within {CONNECT_SECONDS:g} s"
    finally:
        for task in running:
            task.add_done_callback(_close)
            task.cancel()
    raise Unreachable(reason)


def _failures(done: set[asyncio.Task[socket.socket]]) -> str:
    errors = [task.exception() for task in done]
    return next((os.strerror(each.errno) for each in errors if isinstance(each, OSError) and each.errno), "")


def _close(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and not task.exception():
        task.result().close()


async def _one(address: str, port: int) -> socket.socket:
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock
