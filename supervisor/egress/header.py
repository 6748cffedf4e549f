"""Secrets that the broker adds to requests, so that the server that asks never has them.

Runs in the broker. The server says plain HTTP to the name inside its own namespace; outside it is TLS, verified, to
that host alone. One request a connection, without what could make its end, its host or the secret ambiguous; the
answer is passed on with the secret's characters replaced, should they come back. No redirect is followed.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - ssl looks it up, when no file can be opened any more
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from supervisor.egress import confine, http
from supervisor.egress.dial import Unreachable
from supervisor.egress.match import Refusal
from supervisor.secrets import marks

_CHUNK = 64 * 1024
_SECONDS = 10.0
# shorter spellings would take ordinary words out of everything
_SHORTEST = 4
# said by the broker itself, or about the connection; ranges could bring a secret back in pieces
_DROPPED = (
    "accept-encoding", "connection", "host", "if-range", "keep-alive", "proxy-authorization", "proxy-connection",
    "range", "te", "trailer",
)  # fmt: skip
_HOP = ("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "trailer", "upgrade")
_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n\0]*)?")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\x20-\x7e]*)?\r\n")


@dataclass(frozen=True)
class Added:
    """A field of every request to a host: `value` as it is sent, `secret` the part that must not come back."""

    field: str
    value: bytes
    secret: bytes


class Trust:
    """The host's certificate authorities, read when they are first needed."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """What a connection is verified by. Unreachable when this host has no list of authorities."""
        if self._context is None:
            path = next(filter(os.path.isfile, confine.BUNDLES), None)
            if path is None:
                raise Unreachable("this host has no certificate authorities: apt-get install ca-certificates")
            self._context = ssl.create_default_context(cafile=path)
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context


async def secured(
    server: socket.socket, name: str, trust: Trust
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """TLS over a connection that has been made; Unreachable when the host cannot prove its name."""
    own = server.dup()
    try:
        async with asyncio.timeout(_SECONDS):
            return await asyncio.open_connection(
                sock=own, ssl=trust.context(), server_hostname=name, limit=http.LIMIT
            )
    except (OSError, TimeoutError) as error:
        own.close()
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or error or "no answer"
        raise Unreachable(f"no TLS with {name}: {reason}") from None


def request(head: http.Head, added: Sequence[Added], name: str, port: int) -> bytes:
    """A checked head as it goes out; Refusal for what cannot be asked with a secret."""
    if not added:
        raise Refusal(f"there is no secret for {name}")
    if head.upgrade:
        raise Refusal("an upgrade: what follows one cannot be looked through for a secret")
    if head.version != b"HTTP/1.1":
        raise Refusal("HTTP/1.0: a secret is added to HTTP/1.1 only")
    if head.method in ("TRACE", "TRACK"):
        raise Refusal(f"{head.method}, which asks for the secret back")
    own = {each.field.lower() for each in added} | set(_DROPPED)
    # to some servers an underscore is a dash
    kept = [each for each in head.fields if _name(each).replace("_", "-") not in own]
    said = [b"Host: " + name.encode() + (b"" if port == 443 else b":%d" % port)]
    said += [each.field.encode() + b": " + each.value for each in added]
    line = b" ".join((head.method.encode(), head.target, b"HTTP/1.1"))
    return b"\r\n".join((line, *said, *kept, b"Accept-Encoding: identity", b"Connection: close", b"", b""))


def _name(field: bytes) -> str:
    return field.partition(b":")[0].decode("ascii", "replace").lower()


class Mask:
    """Puts asterisks in the place of secrets in a stream: as many, so that lengths stay true."""

    def __init__(self, added: Sequence[Added]) -> None:
        found = {each.encode() for one in added for each in marks.spellings(one.secret.decode("ascii"))}
        self._values = sorted((each for each in found if len(each) >= _SHORTEST), key=len, reverse=True)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be passed on now: an end that could be the beginning of a secret waits for what follows."""
        data = self._masked(self._held + data)
        kept = max((_begun(data, each) for each in self._values), default=0)
        self._held = data[len(data) - kept :]
        return data[: len(data) - kept]

    def whole(self, data: bytes) -> bytes:
        """Of a text that is complete, or of what waits, at the end."""
        held, self._held = self._held, b""
        return self._masked(held + data)

    def _masked(self, data: bytes) -> bytes:
        for each in self._values:
            data = data.replace(each, b"*" * len(each))
        return data


def _begun(data: bytes, value: bytes) -> int:
    """How many bytes at the end of `data` are the beginning of `value`."""
    return next((size for size in range(min(len(data), len(value) - 1), 0, -1) if data.endswith(value[:size])), 0)


class Answer:
    """An answer on its way back to who asked: framed anew, and looked through."""

    def __init__(
        self, reader: asyncio.StreamReader, send: Callable[[bytes], Awaitable[None]], method: str, mask: Mask
    ) -> None:
        self._reader, self._send, self._method, self._mask = reader, send, method, mask

    async def run(self) -> None:
        """All of it. Unreachable when it ends too early or is none; Refusal when it cannot be looked through."""
        try:
            await self._run()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise Unreachable("the host's answer ended too early, or has too long a head") from None

    async def _run(self) -> None:
        status = 100
        while status < 200:
            status, line, fields = await self._head()
            if status < 200 and status != 101:
                await self._send(self._mask.whole(b"\r\n".join((line, *fields, b"", b""))))
        values = {_name(each): each.partition(b":")[2].strip(b" \t") for each in fields}
        if values.get("content-encoding", b"identity").lower() not in (b"identity", b""):
            raise Refusal("an answer that is compressed although that was not asked for")
        coding, length = values.get("transfer-encoding"), values.get("content-length", b"")
        if coding is not None and (coding.lower() != b"chunked" or length):
            raise Refusal("an answer in another coding than chunked, or with two lengths")
        if length and not re.fullmatch(rb"[0-9]{1,18}", length):
            raise Refusal("an answer with a malformed length")
        kept = [each for each in fields if _name(each) not in _HOP]
        await self._send(self._mask.whole(b"\r\n".join((line, *kept, b"Connection: close", b"", b""))))
        if self._method == "HEAD" or status in (204, 304):
            return
        if coding is not None:
            await self._chunks()
        else:
            await self._plain(int(length) if length else None)

    async def _head(self) -> tuple[int, bytes, list[bytes]]:
        raw = await self._reader.readuntil(b"\r\n\r\n")
        line, *fields = raw[:-4].split(b"\r\n")
        found = _LINE.fullmatch(line)
        names = [_name(each) for each in fields]
        framing = [name for name in names if name in ("content-length", "transfer-encoding", "content-encoding")]
        if not found or any(b"\n" in each or b"\0" in each or b":" not in each for each in fields):
            raise Unreachable("what the host answers is no HTTP/1")
        if any(each[:1] in b" \t" for each in fields) or len(set(framing)) != len(framing):
            raise Refusal("an answer with folded or repeated fields")
        if found[1] == b"101":
            raise Refusal("an answer that changes the protocol")
        return int(found[1]), line, fields

    async def _plain(self, left: int | None) -> None:
        while left is None or left > 0:
            data = await self._reader.read(_CHUNK if left is None else min(_CHUNK, left))
            if not data and left:
                raise asyncio.IncompleteReadError(b"", left)
            if not data:
                break
            left = left if left is None else left - len(data)
            await self._pass(self._mask.feed(data), b"%b")
        await self._pass(self._mask.whole(b""), b"%b")

    async def _chunks(self) -> None:
        while size := await self._size():
            while size:
                data = await self._reader.read(min(_CHUNK, size))
                if not data:
                    raise asyncio.IncompleteReadError(b"", size)
                size -= len(data)
                await self._pass(self._mask.feed(data), b"%x\r\n%b\r\n")
            if await self._reader.readexactly(2) != b"\r\n":
                raise Refusal("a chunk longer than it says")
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            continue  # what stands after the last chunk is not passed on
        await self._pass(self._mask.whole(b""), b"%x\r\n%b\r\n")
        await self._send(b"0\r\n\r\n")

    async def _size(self) -> int:
        found = _SIZE.fullmatch(await self._reader.readuntil(b"\r\n"))
        if not found:
            raise Refusal("a malformed chunk size")
        return int(found[1], 16)

    async def _pass(self, data: bytes, frame: bytes) -> None:
        if data:
            await self._send(frame % ((len(data), data) if b"%x" in frame else (data,)))
