"""The containers of docker and podman, asked for over the engine's Unix socket: two GET requests, nothing else.

Runs as whoever types `supervisor discover`. Both speak the same list call. An answer is bounded in size, and all of
a source in time, because whoever listens on a socket may be anybody.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import time
from collections.abc import Mapping
from urllib.parse import quote

from supervisor.errors import ConfigError

LIMIT = 4 << 20
SECONDS = 5.0
_LIST = "/containers/json?all=true&filters=" + quote('{"label":["supervisor.server"]}')
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})\b")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]{1,12})")


class Engine:
    """One socket of an engine, for one look."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._deadline = time.monotonic() + SECONDS

    def containers(self) -> list[Mapping[str, object]]:
        """Those with a label of ours, also those that do not run; ConfigError says what went wrong."""
        listed = self._get(_LIST)
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise ConfigError(f"{self.path}: its list of containers is no list")
        return listed

    def names(self, image: str) -> list[str]:
        """Under which `repository@sha256:...` the engine knows an image."""
        about = self._get(f"/images/{quote(image, safe=':')}/json")
        listed = about.get("RepoDigests") if isinstance(about, dict) else None
        return [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []

    def _get(self, target: str) -> object:
        try:
            data = self._exchange(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        except TimeoutError:
            raise ConfigError(f"{self.path}: no whole answer within {SECONDS:g} s") from None
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror or error}") from None
        if len(data) > LIMIT:
            raise ConfigError(f"{self.path}: an answer of more than {LIMIT >> 20} MiB")
        head, _, body = data.partition(b"\r\n\r\n")
        status, length = _STATUS.match(head), _LENGTH.search(head)
        if not status or (length and int(length[1]) != len(body)):
            raise ConfigError(f"{self.path}: what it answered is no HTTP, or not all of it")
        if status[1] != b"200":
            shown = target.partition("?")[0]
            raise ConfigError(f"{self.path}: the engine answered {status[1].decode()} to GET {shown}")
        return _json(body, self.path)

    def _exchange(self, question: bytes) -> bytes:
        """Everything that is answered up to its end: HTTP/1.0 knows no chunks and no second answer."""
        data = b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self._left())
            connection.connect(self.path)
            connection.sendall(question)
            while len(data) <= LIMIT and (part := connection.recv(1 << 16)):
                data += part
                connection.settimeout(self._left())
        return data

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _json(data: bytes, path: str) -> object:
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: what it answered is no JSON") from None
    return found


def sockets(kind: str, environ: Mapping[str, str]) -> list[str]:
    """Where an engine of this user listens by default, if it does."""
    named = environ.get("DOCKER_HOST" if kind == "docker" else "CONTAINER_HOST", "")
    own = environ.get("XDG_RUNTIME_DIR", "")
    if named.startswith("unix://"):
        places = [named.removeprefix("unix://")]
    elif kind == "docker":
        places = ["/run/docker.sock", *([f"{own}/docker.sock"] if own else [])]
    else:
        places = ["/run/podman/podman.sock", *([f"{own}/podman/podman.sock"] if own else [])]
    return [each for each in places if _is_socket(each)]


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
