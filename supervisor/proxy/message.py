"""JSON-RPC messages as tables of raw values: what must be rewritten is, every other byte passes as it came.

Runs unprivileged. A message is decoded one level deep; a body is never re-encoded.
"""

from __future__ import annotations

import json

import msgspec

Fields = dict[str, msgspec.Raw]

TWO = msgspec.Raw(b'"2.0"')
EMPTY = msgspec.Raw(b"{}")
NULL = b"null"

# JSON-RPC's and the specification's own codes
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
RESOURCE_NOT_FOUND = -32002
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
# ours, outside every range that JSON-RPC and MCP keep for themselves (the first four: see envelope)
NOT_ALLOWED = -31010
DEGRADED = -31011
BUSY = -31012

_table = msgspec.json.Decoder(Fields)
_text = msgspec.json.Decoder(str)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def fields(data: bytes | msgspec.Raw) -> Fields | None:
    """The members of a JSON object, their values as they were written; None for anything else."""
    try:
        return _table.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return _with_surrogates(bytes(data))


def _with_surrogates(data: bytes) -> Fields | None:
    """Escapes of half a character are legal JSON, Node writes them, and msgspec takes none."""
    if b"\\ud" not in data.lower():
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return {name: msgspec.Raw(json.dumps(each, separators=(",", ":")).encode()) for name, each in value.items()}


def text(raw: msgspec.Raw | None) -> str | None:
    """A JSON string's value; None for anything else."""
    if raw is None:
        return None
    try:
        return _text.decode(raw)
    except msgspec.DecodeError:
        return None


def items(raw: msgspec.Raw | None) -> list[msgspec.Raw]:
    """The elements of a JSON array; none for anything else."""
    if raw is None:
        return []
    try:
        return _raws.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return []


def is_batch(line: bytes) -> bool:
    """A JSON array: the batches of revision 2025-03-26."""
    try:
        _raws.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def raw(value: object) -> msgspec.Raw:
    """A value as raw JSON."""
    return msgspec.Raw(_encode(value))


def line(table: Fields) -> bytes:
    """One message as a line."""
    return _encode(table) + b"\n"


def encode(value: object) -> bytes:
    """JSON without a newline."""
    return _encode(value)


def identifier(written: msgspec.Raw) -> bytes | None:
    """A request id in one spelling; None when it is neither text nor a whole number."""
    data = bytes(written)
    if data[:1] == b'"':
        if b"\\" not in data:
            return data
        value = text(written)
        return None if value is None else _encode(value)
    return data if data.lstrip(b"-").isdigit() else None


class _Flag(msgspec.Struct):
    isError: object = False  # noqa: N815 - the protocol's name


_flag = msgspec.json.Decoder(_Flag)
_NAME, _FALSE = b'"isError"', (b'"isError":false', b'"isError": false')
# servers put that member before the content, or behind it
_HEAD, _TAIL = 32, 256


def outcome(answer: Fields) -> str:
    """How a request went, from its answer: "ok", "tool_error", or the code of the error.

    Of a long result only both ends are looked at: this is for those who count, and a call must not wait for them.
    """
    if "result" not in answer:
        table = fields(answer.get("error", EMPTY)) or {}
        return bytes(table.get("code", b"0")).decode(errors="replace")
    result = bytes(answer["result"])
    found = result.rfind(_NAME, max(0, len(result) - _TAIL))
    if found < 0 and (found := result.find(_NAME, 0, _HEAD)) < 0:
        return "ok"
    if result.startswith(_FALSE, found):
        return "ok"
    try:
        return "tool_error" if _flag.decode(result).isError is True else "ok"
    except (msgspec.DecodeError, RecursionError):
        return "ok"


def error(request_id: bytes, code: int, said: str, data: object = None) -> bytes:
    """An error of ours as a line."""
    body: dict[str, object] = {"code": code, "message": said}
    if data is not None:
        body["data"] = data
    return b'{"jsonrpc":"2.0","id":' + request_id + b',"error":' + _encode(body) + b"}\n"


def result(request_id: bytes, body: bytes) -> bytes:
    """A result of ours as a line."""
    return b'{"jsonrpc":"2.0","id":' + request_id + b',"result":' + body + b"}\n"


def notification(method: str, params: object) -> bytes:
    """A notification of ours as a line."""
    return _encode({"jsonrpc": "2.0", "method": method, "params": params}) + b"\n"
