"""HTTP over an engine's Unix socket: requests with JSON, and the upgrade to a raw stream.

Runs in the process that holds the engine's socket, which is as good as root: the standard library only, and every
answer is bounded. It never reads a byte of an attached stream: what follows the header of an upgrade stays in the
socket for the pump.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterable
from urllib.parse import quote

from supervisor import wire

_SECONDS = 60.0
_MAX_ANSWER = 16 << 20
_MAX_HEAD = 16 << 10
Table = dict[str, object]


class ApiError(OSError):
    """What an engine answered instead of doing it, or why it could not be asked."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = _connected(self._path)


def _connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(_SECONDS)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise ApiError(0, f"{path}: {error.strerror or error}") from None
    if wire.peer(sock)[1] not in (0, os.geteuid()):
        sock.close()
        raise ApiError(0, f"{path}: who listens there is neither root nor this user")
    return sock


def table(value: object) -> Table:
    """An object of an answer; anything else is taken for an empty one."""
    return value if isinstance(value, dict) else {}


def entries(value: object) -> list[object]:
    """A list of an answer; anything else is taken for an empty one."""
    return value if isinstance(value, list) else []


class Api:
    """An engine behind `socket`; `prefix` stands before each path."""

    def __init__(self, path: str, prefix: str = "") -> None:
        self.socket = path
        self.prefix = prefix

    def get(self, path: str, **query: object) -> object:
        """The JSON behind `path`."""
        return self.request("GET", path, query)

    def post(self, path: str, body: object = None, **query: object) -> object:
        """Send a document."""
        data = b"" if body is None else json.dumps(body).encode()
        return self.request("POST", path, query, data)

    def delete(self, path: str, **query: object) -> object:
        """Remove what is behind `path`."""
        return self.request("DELETE", path, query)

    def request(
        self,
        method: str,
        path: str,
        query: Table,
        body: bytes | Iterable[bytes] = b"",
        kind: str = "application/json",
    ) -> object:
        """One request on a connection of its own: the answer's JSON, or None. ApiError with the engine's reason."""
        connection = _Connection(self.socket)
        try:
            connection.request(method, self._target(path, query), body, {"Content-Type": kind})
            answer = connection.getresponse()
            data = answer.read(_MAX_ANSWER + 1)
        except ApiError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(0, f"{self.socket}: {error!s:.200}") from None
        finally:
            connection.close()
        if len(data) > _MAX_ANSWER:
            raise ApiError(0, f"{method} {path}: an answer of more than {_MAX_ANSWER} bytes")
        if answer.status >= 300 and answer.status != 304:  # 304: it is as asked for already
            raise ApiError(answer.status, _reason(data))
        # what a load answers is a stream of reports, and nobody needs it
        return _parsed(data)

    def upgrade(self, path: str, **query: object) -> socket.socket:
        """The raw stream behind `path`."""
        sock = _connected(self.socket)
        try:
            lines = [
                f"POST {self._target(path, query)} HTTP/1.1",
                *("Host: engine", "Connection: Upgrade", "Upgrade: tcp", "Content-Length: 0"),
            ]
            sock.sendall("\r\n".join([*lines, "", ""]).encode())
            head = _head(sock)
            status = int(head.split(b" ", 2)[1])
            if status not in (101, 200):
                raise ApiError(status, _reason(sock.recv(4096)))
        except (ValueError, IndexError):
            sock.close()
            raise ApiError(0, f"{path}: not an answer of HTTP") from None
        except OSError:
            sock.close()
            raise
        sock.settimeout(None)
        return sock

    def _target(self, path: str, query: Table) -> str:
        words = [f"{name}={quote(_word(value), safe='')}" for name, value in query.items()]
        return f"{self.prefix}{path}" + ("?" + "&".join(words) if words else "")


def _word(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _head(sock: socket.socket) -> bytes:
    """The header, byte by byte: what follows it is not ours."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = sock.recv(1)
        if not part or len(head) > _MAX_HEAD:
            raise ApiError(0, "the engine hung up")
        head += part
    return head


def _parsed(data: bytes) -> object:
    try:
        found: object = json.loads(data) if data else None
    except ValueError:
        return None
    return found


def _reason(data: bytes) -> str:
    said = table(_parsed(data))
    return str(said.get("message") or said.get("cause") or data.decode(errors="replace"))[:1000]
