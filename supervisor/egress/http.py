"""Plain HTTP/1: request heads and where bodies end, so that every request on a connection is looked at.

Pure. Whatever two parsers could read differently is refused: bare line feeds, folded or repeated framing fields,
spaces before a colon, two hosts. A request is passed on as it came, or not at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from supervisor.egress.match import Refusal, canonical

LIMIT = 64 * 1024
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_ONCE = (b"host", b"content-length", b"transfer-encoding", b"upgrade")
CHUNKED = -1


@dataclass(frozen=True)
class Head:
    """A request's head. `host` is canonical (or an address), `length` of the body in bytes or CHUNKED."""

    method: str
    target: bytes
    version: bytes
    host: str
    port: int
    absolute: bool
    length: int
    upgrade: bool
    fields: tuple[bytes, ...]

    def rewritten(self) -> bytes:
        """An absolute-form request as its server wants it, one for the connection."""
        path = re.sub(rb"^[a-zA-Z]+://[^/?]*", b"", self.target)
        dropped = (b"connection:", b"proxy-connection:", b"proxy-authorization:", b"keep-alive:")
        kept = [each for each in self.fields if not each.lower().startswith(dropped)]
        path = path if path.startswith(b"/") else b"/" + path
        line = b" ".join((self.method.encode(), path, self.version))
        return b"\r\n".join((line, *kept, b"Connection: close", b"", b""))


def end_of_head(data: bytes) -> int:
    """Where the head ends in `data`, 0 when it does not yet; Refusal when it never may."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        # a server that takes bare line feeds would see an end, and another request, that we do not
        if len(data) > LIMIT or b"\n" in data.replace(b"\r\n", b""):
            raise Refusal("a request head that is too long, or with bare line feeds")
        return 0
    return end + 4


def head(raw: bytes, *, proxy: bool = False) -> Head:
    """One whole head. `proxy`: CONNECT and absolute-form are what is wanted; otherwise they are refused."""
    line, *fields = raw[:-4].split(b"\r\n")
    if any(b"\n" in each or b"\r" in each or b"\0" in each for each in (line, *fields)):
        raise Refusal("a request head with bare line feeds or NUL")
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise Refusal("a malformed request line")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise Refusal("not HTTP/1.0 or 1.1")
    values = _values(fields)
    absolute = not target.startswith(b"/") and target != b"*"
    if method == b"CONNECT" or (absolute and not proxy):
        if not proxy or not values.get(b"content-length", b"0") == b"0" or b"transfer-encoding" in values:
            raise Refusal("CONNECT and absolute request targets are for proxies")
        host, port = authority(target, None)
        return Head("CONNECT", target, version, host, port, True, 0, False, tuple(fields))
    if proxy and not absolute:
        raise Refusal("this is a proxy: it wants CONNECT, or an absolute request target")
    _unframed(values, version)
    host, port = authority(values.get(b"host", b""), 80)
    if absolute:
        found = re.fullmatch(rb"[hH][tT][tT][pP]://([^/?#@]+)([/?].*)?", target)
        if not found or (host, port) != authority(found[1], 80):
            raise Refusal("the request's target is not http://, or its Host is another")
    upgrade = _upgrade(values)
    name = method.decode()
    return Head(name, target, version, host, port, absolute, _length(values), upgrade, tuple(fields))


def _values(fields: list[bytes]) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    for each in fields:
        name, colon, value = each.partition(b":")
        if not colon or not _TOKEN.fullmatch(name):
            raise Refusal("a malformed or folded header field")
        lower = name.lower()
        if lower in values and lower in _ONCE:
            raise Refusal(f"two {lower.decode()} fields")
        values[lower] = values[lower] + b"," + value.strip(b" \t") if lower in values else value.strip(b" \t")
    return values


def _unframed(values: dict[bytes, bytes], version: bytes) -> None:
    """Refuse what makes a server, or a proxy before it, see another end or host of the request than we do."""
    if version == b"HTTP/1.0" and b"transfer-encoding" in values:
        raise Refusal("chunks in HTTP/1.0, which does not have them")
    named = {each.strip(b" \t") for each in values.get(b"connection", b"").lower().split(b",")}
    if not named.isdisjoint(_ONCE[:3]):
        raise Refusal("a Connection field that has the host or the length taken out")


def authority(raw: bytes, default: int | None) -> tuple[str, int]:
    """(canonical name or address, port); Refusal without a name, or without a port where there is no default."""
    found = re.fullmatch(rb"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", raw)
    if not found or (found[2] is None and default is None):
        raise Refusal("no host in the request, or a malformed one")
    text = found[1].decode("ascii", "replace")
    port = int(found[2]) if found[2] else default or 0
    if text.startswith("[") or re.fullmatch(r"[0-9.]+", text):
        return text.strip("[]"), port
    try:
        return canonical(text), port
    except ValueError:
        raise Refusal("the request's host is no host name") from None


def _upgrade(values: dict[bytes, bytes]) -> bool:
    if b"http2-settings" in values:
        raise Refusal("an upgrade to HTTP/2 without TLS")
    if b"upgrade" not in values:
        return False
    if values[b"upgrade"].lower() != b"websocket":
        raise Refusal("an upgrade to something other than websocket")
    return True


def _length(values: dict[bytes, bytes]) -> int:
    coding, length = values.get(b"transfer-encoding"), values.get(b"content-length")
    if coding is not None:
        if length is not None or coding.lower() != b"chunked":
            raise Refusal("a body with two lengths, or in another coding than chunked")
        return CHUNKED
    if length is not None and not re.fullmatch(rb"[0-9]{1,18}", length):
        raise Refusal("a malformed Content-Length")
    return int(length or 0)


class Body:
    """Finds the end of one request's body in the bytes as they come."""

    def __init__(self, length: int) -> None:
        self._left = max(length, 0)
        # of a chunked body: "size" and "trailer" are lines, "end" is the line end after a chunk's data
        self._state = "size" if length == CHUNKED else "data"
        self._chunked = length == CHUNKED
        self._line = bytearray()
        self.done = length == 0

    def feed(self, data: bytes) -> int:
        """How many of the bytes belong to the body; all of them until `done`."""
        at = 0
        while at < len(data) and not self.done:
            if self._state == "data":
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                if not self._left:
                    self._state, self.done = "end", not self._chunked
                continue
            newline = data.find(b"\n", at)
            stop = len(data) if newline < 0 else newline + 1
            self._line += data[at:stop]
            at = stop
            if len(self._line) > 4096:
                raise Refusal("a line of more than 4 KiB in a chunked body")
            if newline >= 0:
                self._end_of_line()
        return at

    def _end_of_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise Refusal("a bare line end in a chunked body")
        if self._state == "trailer":
            self.done = line == b"\r\n"
        elif self._state == "end":
            if line != b"\r\n":
                raise Refusal("a chunk longer than it says")
            self._state = "size"
        else:
            size = re.fullmatch(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\x20-\x7e]*)?\r\n", line)
            if not size:
                raise Refusal("a malformed chunk size")
            self._left = int(size[1], 16)
            self._state = "data" if self._left else "trailer"
