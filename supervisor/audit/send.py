"""Where exports go: a file, a syslog receiver over TCP, TLS or a Unix socket, an OTLP receiver over HTTP.

Runs in the command line, as the readers' uid or the user; standard library only. `deliver` returns when the
receiver has a batch and raises Undelivered otherwise; then the same batch is sent again. Plain syslog has no
acknowledgement: each batch is a connection that we close for writing, and the receiver's own close says that it has
read to the end.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import ssl
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Protocol

from supervisor.audit import formats
from supervisor.audit.formats import Event
from supervisor.errors import ConfigError, SupervisorError

_SECONDS = 20.0
_AGAIN = (408, 429, 500, 502, 503, 504)

Encode = Callable[[Event], bytes]


class Undelivered(SupervisorError):
    """The receiver did not take it; it may later."""


class Sender(Protocol):
    """A destination."""

    def deliver(self, batch: Sequence[Event]) -> None:
        """All of it, or Undelivered. SupervisorError: it will never be taken."""


class File:
    """A file that grows, a record a line, on disk before it counts as delivered."""

    def __init__(self, path: str, encode: Encode) -> None:
        self._path, self._encode = path, encode
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)

    def deliver(self, batch: Sequence[Event]) -> None:
        """Append and sync."""
        data = b"".join(self._encode(each) + b"\n" for each in batch)
        size = os.fstat(self._fd).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, size)
            raise Undelivered(f"{self._path}: {error.strerror}") from None


def _frames(batch: Sequence[Event], encode: Encode) -> bytes:
    """Octet counting (RFC 6587, 3.4.1; RFC 5425)."""
    messages = (formats.syslog(each, encode(each)) for each in batch)
    return b"".join(b"%d %b" % (len(each), each) for each in messages)


def _finish(sock: socket.socket) -> None:
    """Wait until the other side has read everything and closed as well."""
    while sock.recv(4096):
        pass


class Stream:
    """A syslog receiver over TCP, or TLS when there is a context."""

    def __init__(self, host: str, port: int, encode: Encode, tls: ssl.SSLContext | None = None) -> None:
        self._where, self._encode, self._tls = (host, port), encode, tls

    def deliver(self, batch: Sequence[Event]) -> None:
        """A connection for each batch."""
        name = f"{self._where[0]}:{self._where[1]}"
        try:
            with socket.create_connection(self._where, _SECONDS) as plain:
                if self._tls:
                    self._secured(plain, batch)
                else:
                    plain.sendall(_frames(batch, self._encode))
                    plain.shutdown(socket.SHUT_WR)
                    _finish(plain)
        except ssl.SSLCertVerificationError as error:
            raise Undelivered(f"{name}: its certificate is not to be trusted: {error.verify_message}") from None
        except OSError as error:
            raise Undelivered(f"{name}: {error.strerror or error}") from None

    def _secured(self, plain: socket.socket, batch: Sequence[Event]) -> None:
        """Our close_notify says that this is all; that the other side closes too, that it has it."""
        if self._tls:
            with self._tls.wrap_socket(plain, server_hostname=self._where[0]) as sock:
                sock.sendall(_frames(batch, self._encode))
                try:
                    _finish(sock.unwrap())
                except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                    return  # closed without a close_notify of its own


class Unix:
    """A syslog receiver on a Unix socket: datagrams, which the kernel holds until they are read, or a stream."""

    def __init__(self, path: str, encode: Encode) -> None:
        self._path, self._encode = path, encode

    def deliver(self, batch: Sequence[Event]) -> None:
        """One connection for each batch, of the kind that the receiver listens for."""
        try:
            try:
                self._send(socket.SOCK_DGRAM, batch)
            except OSError as error:
                if error.errno != errno.EPROTOTYPE:
                    raise
                # it listens for streams
                self._send(socket.SOCK_STREAM, batch)
        except OSError as error:
            raise Undelivered(f"{self._path}: {error.strerror or error}") from None

    def _send(self, kind: int, batch: Sequence[Event]) -> None:
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.settimeout(_SECONDS)
            sock.connect(self._path)
            if kind == socket.SOCK_STREAM:
                sock.sendall(_frames(batch, self._encode))
                sock.shutdown(socket.SHUT_WR)
                _finish(sock)
            else:
                for each in batch:
                    sock.send(formats.syslog(each, self._encode(each)))


class Otlp:
    """An OTLP receiver, over HTTP with JSON: POST of `path`, usually /v1/logs."""

    def __init__(self, url: urllib.parse.SplitResult, headers: dict[str, str], tls: ssl.SSLContext | None) -> None:
        self._url, self._headers, self._tls = url, headers, tls

    def deliver(self, batch: Sequence[Event]) -> None:
        """A request for each batch; what the receiver rejects in part is told, not left out."""
        host, port = self._url.hostname or "", self._url.port
        path = self._url.path if self._url.path not in ("", "/") else "/v1/logs"
        connection = (
            http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=self._tls)
            if self._tls
            else http.client.HTTPConnection(host, port, timeout=_SECONDS)
        )
        try:
            headers = {"Content-Type": "application/json"} | self._headers
            connection.request("POST", path, formats.otlp(list(batch)), headers)
            answer = connection.getresponse()
            text = answer.read(1 << 20)
        except (OSError, http.client.HTTPException) as error:
            raise Undelivered(f"{self._url.geturl()}: {error}") from None
        finally:
            connection.close()
        self._judge(answer.status, text)

    def _judge(self, status: int, text: bytes) -> None:
        if status in _AGAIN:
            raise Undelivered(f"{self._url.geturl()}: HTTP {status}")
        if status // 100 != 2:
            raise SupervisorError(f"{self._url.geturl()}: HTTP {status}: {text[:200]!r}; nothing more is exported")
        try:
            partial = json.loads(text or b"{}").get("partialSuccess", {})
            rejected = int(partial.get("rejectedLogRecords", 0))
        except (ValueError, AttributeError, TypeError):
            rejected, partial = 0, {}
        if rejected:
            reason = str(partial.get("errorMessage", ""))[:200]
            raise SupervisorError(
                f"{self._url.geturl()}: rejected {rejected} records: {reason}; nothing more is exported"
            )


def context(authorities: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """For TLS: whom to trust (the system's list if None), and who we are. ConfigError: a file is not usable."""
    try:
        made = ssl.create_default_context(cafile=authorities)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate:
            made.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(each for each in (authorities, certificate, key) if each)
        raise ConfigError(f"{named}: {error.strerror or error}") from None
    return made


def sender(to: str, encode: Encode, tls: Callable[[], ssl.SSLContext], headers: dict[str, str]) -> Sender:
    """What an address means. ConfigError: nothing."""
    url = urllib.parse.urlsplit(to)
    path = url.netloc + url.path
    try:
        port = url.port
    except ValueError:
        port = None
    if url.scheme == "file" and path.startswith("/"):
        return File(path, encode)
    if url.scheme == "unix" and path.startswith("/"):
        return Unix(path, encode)
    if url.scheme in ("tcp", "tls") and url.hostname and port:
        return Stream(url.hostname, port, encode, tls() if url.scheme == "tls" else None)
    if url.scheme in ("http", "https") and url.hostname:
        return Otlp(url, headers, tls() if url.scheme == "https" else None)
    raise ConfigError(
        f"{to!r} is no destination: file:/PATH, tcp://HOST:PORT, tls://HOST:PORT, unix:/PATH or http(s)://HOST/v1/logs"
    )
