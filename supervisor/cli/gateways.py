"""The gateways that run on this host: how they are, and what their servers said.

Runs as whoever typed it. A gateway is found by the name of its control socket, and believed only if the kernel says
that the process and user of that name are the ones who listen there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import selectors
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

from supervisor import wire
from supervisor.errors import SupervisorError
from supervisor.proxy import identity
from supervisor.shown import printable

_LINE = re.compile(
    r"^\S+: \S+ \S+ (?P<flags>\S+) \S+ \S+ +\d+ @(?P<name>supervisor-(?P<uid>\d+)-(?P<pid>\d+)(-\w+)?)$"
)
_LISTENS = 1 << 16  # __SO_ACCEPTCON
_SECONDS = 5.0


class Gateway(NamedTuple):
    """A gateway's process, the user who started it, and the name of its socket."""

    pid: int
    uid: int
    name: str


def gateways() -> list[Gateway]:
    """Those that this user may ask: his own, and for root all."""
    found = {}
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        for line in file:
            match = _LINE.match(line.rstrip("\n"))
            if match and int(match["flags"], 16) & _LISTENS:
                each = Gateway(int(match["pid"]), int(match["uid"]), match["name"])
                found[each.name] = each
    return sorted(each for each in found.values() if os.getuid() in (0, each.uid) and _is_itself(each))


def _is_itself(gateway: Gateway) -> bool:
    try:
        _connect(gateway).close()
    except SupervisorError:
        return False
    return True


def _connect(gateway: Gateway) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(_SECONDS)
        sock.connect("\0" + gateway.name)
    except OSError as error:
        sock.close()
        raise SupervisorError(f"the gateway {gateway.pid}: {error.strerror or error}") from None
    pid, uid, _ = wire.peer(sock)
    # root's gateways listen as whom they become
    if pid != gateway.pid or uid not in {gateway.uid, gateway.uid or identity.account(pid)[0]}:
        sock.close()
        raise SupervisorError(f"@{gateway.name} belongs to process {pid} of uid {uid}: somebody took the name")
    return sock


def _ask(gateway: Gateway, **request: object) -> socket.socket:
    sock = _connect(gateway)
    try:
        sock.sendall(json.dumps(request).encode() + b"\n")
    except OSError as error:
        sock.close()
        raise SupervisorError(f"the gateway {gateway.pid}: {error.strerror or error}") from None
    return sock


def status(gateway: Gateway) -> dict[str, object]:
    """How a gateway is; see proxy/status. SupervisorError when it does not answer."""
    try:
        with _ask(gateway, req="status") as sock, sock.makefile("rb") as answer:
            found = json.loads(answer.readline() or b"null")
    except (OSError, ValueError) as error:
        raise SupervisorError(f"the gateway {gateway.pid} did not answer: {error}") from None
    if not isinstance(found, dict) or "servers" not in found:
        raise SupervisorError(f"the gateway {gateway.pid} did not answer")
    return found


def statuses() -> Iterator[dict[str, object]]:
    """What every gateway says of itself; one that is just ending says nothing."""
    for each in gateways():
        with contextlib.suppress(SupervisorError):
            yield status(each)


def logs(options: argparse.Namespace, _command: list[str]) -> int:
    """What a server wrote on its standard error, as far as its gateways have kept it."""
    found = [each for each in gateways() if _has(each, options.name)]
    if not found:
        raise SupervisorError(f'no gateway of yours runs a server "{options.name}"; supervisor serve starts one')
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for each in found:
            sock = stack.enter_context(_ask(each, req="logs", server=options.name, follow=options.follow))
            sock.setblocking(False)
            head = f"[{each.pid}] " if len(found) > 1 else ""
            selector.register(sock, selectors.EVENT_READ, _Reader(head))
        while selector.get_map():
            for key, _ in selector.select():
                if not key.data.read(key.fileobj):
                    selector.unregister(key.fileobj)
    return 0


def _has(gateway: Gateway, server: str) -> bool:
    try:
        servers = status(gateway)["servers"]
    except SupervisorError:
        return False  # it has ended meanwhile
    return isinstance(servers, list) and any(each["name"] == server for each in servers)


class _Reader:
    """One gateway's answer, as it comes."""

    def __init__(self, head: str) -> None:
        self._head, self._rest = head, b""

    def read(self, sock: socket.socket) -> bool:
        """Print what has come; whether more can."""
        try:
            data = sock.recv(1 << 16)
        except ConnectionError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._show(json.loads(line))
        sys.stdout.flush()
        return bool(data)

    def _show(self, said: dict[str, object]) -> None:

        if "error" in said:
            raise SupervisorError(str(said["error"]))
        if "dropped" in said:
            print(f"supervisor: {said['dropped']} lines came faster than they were read", file=sys.stderr)
        else:
            print(self._head + printable(str(said["line"])))
