"""JSON-RPC envelopes: the few fields a relay needs, the body left as bytes.

Runs unprivileged; the only place where a message is parsed. Nothing is ever re-encoded but our own answers.
"""

from __future__ import annotations

import msgspec

from supervisor.errors import SupervisorError
from supervisor.proxy import message
from supervisor.shown import printable

# Application errors of ours: outside every range that JSON-RPC and MCP keep for themselves.
SERVER_ENDED = -31001
SERVER_SILENT = -31002
TOO_LONG = -31003
TOO_MANY = -31004
PARSE_ERROR = -32700


class Envelope(msgspec.Struct):
    """What kind of message this is. `id` keeps its spelling: a client's "1" and 1 are different."""

    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_request(self) -> bool:
        """It wants an answer."""
        return self.method is not msgspec.UNSET and self.id is not msgspec.UNSET

    @property
    def is_response(self) -> bool:
        """It is an answer."""
        return self.method is msgspec.UNSET and self.id is not msgspec.UNSET

    @property
    def is_both(self) -> bool:
        """It has a method, and is an answer to whoever looks for one first."""
        return self.is_answer and self.method is not msgspec.UNSET

    @property
    def is_answer(self) -> bool:
        """It has what an answer has."""
        return self.result is not msgspec.UNSET or self.error is not msgspec.UNSET


_decoder = msgspec.json.Decoder(Envelope)
_any = msgspec.json.Decoder(list[msgspec.Raw])


def parse(line: bytes) -> Envelope | None:
    """The envelope of one line; None when it is no JSON-RPC message (object, or batch of the old revision)."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, RecursionError):
        pass
    if found := message.fields(line):  # with half a character in it, which msgspec does not take
        method = message.text(found.get("method"))
        raw = [found.get(name, msgspec.UNSET) for name in ("id", "result", "error")]
        return Envelope(raw[0], msgspec.UNSET if method is None else method, *raw[1:])
    try:
        return Envelope() if _any.decode(line) else None
    except (msgspec.DecodeError, RecursionError):
        return None


def spelling(envelope: Envelope) -> bytes:
    """The request id as it was written."""
    return bytes(envelope.id) if isinstance(envelope.id, msgspec.Raw) else b"null"


def parts(line: bytes, head: Envelope) -> list[Envelope]:
    """The messages of a line that `parse` has taken: itself, or those of a batch."""
    if line.lstrip()[:1] != b"[":
        return [head]
    return [each for item in message.items(msgspec.Raw(line)) if (each := parse(bytes(item))) is not None]


def key(envelope: Envelope) -> bytes:
    """The request id in one spelling."""
    return spelled(spelling(envelope))


def spelled(written: bytes) -> bytes:
    """An id in one spelling: the two sides may write the same text differently, and 3.0 is 3."""
    if written.isdigit() or (written[:1] == b'"' and b"\\" not in written):
        return written
    try:
        value = msgspec.json.decode(written)
    except (msgspec.DecodeError, RecursionError):
        return written
    return msgspec.json.encode(int(value) if isinstance(value, float) and value.is_integer() else value)


def error(request_id: bytes, code: int, said: str) -> bytes:
    """A JSON-RPC error as one line."""
    body = msgspec.json.encode({"code": code, "message": said})
    return b'{"jsonrpc":"2.0","id":' + request_id + b',"error":' + body + b"}\n"


class RequestFailed(SupervisorError):
    """A server answered a request of the gateway's own with an error."""

    def __init__(self, method: str, error: msgspec.Raw) -> None:
        self.error = error
        table = message.fields(error) or {}
        try:
            self.code = int(bytes(table.get("code", b"0")))
        except ValueError:
            self.code = 0
        said = printable(message.text(table.get("message")) or "an error without words")
        super().__init__(f"{method}: {said}")
