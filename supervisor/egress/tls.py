"""The readable beginning of TLS: whole ClientHellos out of records, the name in them, and HelloRetryRequest.

Pure; fed with strangers' bytes as they come. What is unusual in a way that no client needs is refused, because
a server might read it differently from us. The bytes themselves are never changed.
"""

from __future__ import annotations

from supervisor.egress.match import Refusal, canonical

LIMIT = 64 * 1024
ALERT, CHANGE_CIPHER, HANDSHAKE, DATA = 21, 20, 22, 23
NOT_ALLOWED, DECODE, INTERNAL, NO_NAME, UNKNOWN_NAME = 49, 50, 80, 109, 112
_MAX_RECORD = 16384 + 256
# RFC 8446 4.1.3: the random of a ServerHello that is a HelloRetryRequest
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
# encrypted_client_hello, its drafts, and ESNI before it
_ENCRYPTED = {0xFE0D, 0xFE0A, 0xFE09, 0xFE08, 0xFFCE}


def alert(number: int) -> bytes:
    """A fatal alert, in a record of its own."""
    return bytes((ALERT, 3, 1, 0, 2, 2, number))


class HelloReader:
    """Collects one ClientHello. `raw` holds all that came, `end` where the hello's last record ends in it."""

    def __init__(self) -> None:
        self.raw = bytearray()
        self.end = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> bool:
        """Whether the hello is complete; Refusal for what cannot become one."""
        self.raw += data
        while len(self.raw) - self.end >= 5:
            kind, major = self.raw[self.end], self.raw[self.end + 1]
            length = int.from_bytes(self.raw[self.end + 3 : self.end + 5])
            if kind != HANDSHAKE or major != 3 or not 0 < length <= _MAX_RECORD:
                raise Refusal("the connection does not begin with a TLS ClientHello", DECODE)
            if len(self.raw) - self.end - 5 < length:
                break
            self._message += self.raw[self.end + 5 : self.end + 5 + length]
            self.end += 5 + length
            if self._complete():
                return True
        if len(self.raw) > LIMIT:
            raise Refusal(f"a ClientHello of more than {LIMIT >> 10} KiB", DECODE)
        return False

    def _complete(self) -> bool:
        if len(self._message) < 4:
            return False
        need = 4 + int.from_bytes(self._message[1:4])
        if self._message[0] != 1 or len(self._message) > need:
            raise Refusal("the first TLS message is not one ClientHello in records of its own", DECODE)
        if need > LIMIT:
            raise Refusal(f"a ClientHello of more than {LIMIT >> 10} KiB", DECODE)
        return len(self._message) == need

    def server_name(self, *, ech: bool) -> str:
        """The canonical name in the hello; Refusal without one, with two, or with ECH unless `ech`."""
        return server_name(bytes(self._message), ech=ech)


class _Cursor:
    """Length-prefixed fields, one after the other."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, count: int) -> bytes:
        taken = self.data[self.at : self.at + count]
        if len(taken) != count:
            raise Refusal("a malformed ClientHello", DECODE)
        self.at += count
        return taken

    def vector(self, width: int) -> bytes:
        return self.take(int.from_bytes(self.take(width)))

    def done(self) -> bool:
        return self.at == len(self.data)


def server_name(message: bytes, *, ech: bool) -> str:
    """See HelloReader.server_name; `message` is the handshake message with its header."""
    cursor = _Cursor(message, 4)
    cursor.take(34)
    cursor.vector(1)
    cursor.vector(2)
    cursor.vector(1)
    extensions = _Cursor(b"" if cursor.done() else cursor.vector(2))
    if not cursor.done():
        raise Refusal("a malformed ClientHello", DECODE)
    seen: dict[int, bytes] = {}
    while not extensions.done():
        kind = int.from_bytes(extensions.take(2))
        body = extensions.vector(2)
        if kind in seen:
            raise Refusal(f"a ClientHello with the extension {kind} twice", DECODE)
        seen[kind] = body
    if not ech and _ENCRYPTED & seen.keys():
        raise Refusal(
            'Encrypted Client Hello hides the name: switch it off in the client, or see [network] ech = "pass"'
        )
    if 0 not in seen:
        raise Refusal("no server name (SNI) in the ClientHello", NO_NAME)
    return _listed_name(seen[0])


def _listed_name(body: bytes) -> str:
    outer = _Cursor(body)
    names = _Cursor(outer.vector(2))
    kind, raw = names.take(1), names.vector(2)
    if kind != b"\0" or not names.done() or not outer.done():
        raise Refusal("a list of server names that is not exactly one host name", DECODE)
    try:
        return canonical(raw.decode("ascii"))
    except ValueError:
        raise Refusal("the server name is no host name", UNKNOWN_NAME) from None


def first_answer(data: bytes) -> str:
    """What a server's first bytes are: "more" are needed, "retry" (HelloRetryRequest), or "other"."""
    message, at = b"", 0
    while len(data) - at >= 5:
        kind, length = data[at], int.from_bytes(data[at + 3 : at + 5])
        body = data[at + 5 : at + 5 + length]
        if kind == HANDSHAKE:
            message += body
        elif kind not in (ALERT, CHANGE_CIPHER):
            return "other"
        if len(message) >= 38:
            return "retry" if message[0] == 2 and message[6:38] == _RETRY else "other"
        if len(body) < length:
            break
        at += 5 + length
    return "more" if len(data) < LIMIT and (not data or data[0] in (ALERT, CHANGE_CIPHER, HANDSHAKE)) else "other"


def record(data: bytes) -> tuple[int, int] | None:
    """(type, size with header) of the record at the start, None when it is not whole yet; Refusal for none."""
    if len(data) < 5:
        return None
    kind, length = data[0], int.from_bytes(data[3:5])
    if kind not in (ALERT, CHANGE_CIPHER, HANDSHAKE, DATA) or data[1] != 3 or not 0 < length <= _MAX_RECORD:
        raise Refusal("not a TLS record where the second ClientHello is due", DECODE)
    return (kind, 5 + length) if len(data) >= 5 + length else None
