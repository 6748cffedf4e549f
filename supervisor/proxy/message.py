"""JSON-RPC messages as tables of raw values: what must be rewritten is, every other byte passes as it came.

Runs unprivileged. A message is decoded one level deep; a body is never re-encoded.
"""

from __future__ import annotations

import codecs
import re
from typing import Literal, TypeVar

import msgspec

Fields = dict[str, msgspec.Raw]
_Shape = TypeVar("_Shape")

TWO = msgspec.Raw(b'"2.0"')
CALL = msgspec.Raw(b'"tools/call"')
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
NOT_RECORDED = -31013

# looked up now: a codec is a file, and later none can be opened
_UNITS = codecs.lookup("utf-16-le")
_table = msgspec.json.Decoder(Fields)
_text = msgspec.json.Decoder(str)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode

_WRONG = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# what is white space in JSON and ends a line for some readers
_BLANK = bytes.maketrans(b"\r\n", b"  ")
# as numbers, for which a search is one call of memchr
_NEWLINE, _RETURN = b"\n\r"
_CALL = bytes(CALL)
# the members that decide where a message goes: some readers do not tell cases apart, and take the last one
_MEMBERS = frozenset(("jsonrpc", "id", "method", "params", "result", "error"))
_AIMS = frozenset(("name", "uri", "ref", "type", "arguments", "_meta", "requestState", "inputResponses"))
_BATCH = "batches are gone from the protocol since 2025-06-18: send one message at a time"
_NO_MESSAGE = "not a JSON-RPC 2.0 message: jsonrpc, id, method or params is missing, wrong, or there twice"
# halves of characters as escapes, and the private characters that stand for them meanwhile
_HALVES = ((re.compile(rb"\\ud([89a-fA-F])"), rb"\\ue\1"), (re.compile(rb"\\uD([89a-fA-F])"), rb"\\uE\1"))
_BACK = ((re.compile(rb"\\ue([89a-fA-F])"), rb"\\ud\1"), (re.compile(rb"\\uE([89a-fA-F])"), rb"\\uD\1"))
_PRIVATE = re.compile(rb"\\u[eE][89a-fA-F]|\xee")


def incoming(line: bytes) -> Fields | None:
    """The members of a message from outside; None when it is no JSON object in UTF-8, or could be read as another.

    What stands between its tokens may not end a line: Python's text files end one at \\r as well, and would read a
    message of its own in the middle of this one. Nor may "ID" stand beside "id": some take the one for the other.
    """
    if not _is_plain(line):
        table = _unusual(line)
    else:
        try:
            table = _table.decode(line)
        except _WRONG:
            table = fields(line)
    if table is None or table.keys() <= _MEMBERS or not _folds(table, _MEMBERS):
        return table
    return None


class Aim(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The params of most calls."""

    name: str
    arguments: msgspec.Raw


class Usual(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A tools/call as most are: nothing in it but this, under exactly these names."""

    id: msgspec.Raw
    params: Aim
    method: Literal["tools/call"]
    jsonrpc: Literal["2.0"]


_usual = msgspec.json.Decoder(Usual)


def usual(line: bytes) -> Usual | None:
    """A message from outside that is no more than that; None for every other, which `incoming` is for."""
    if line.find(_CALL) < 0 or not _is_plain(line):
        return None
    try:
        return _usual.decode(line)
    except _WRONG:
        return None


def _is_plain(line: bytes) -> bool:
    """ASCII, in which nothing but its end ends a line for anybody."""
    return _RETURN not in line and line.isascii() and line.find(_NEWLINE, 0, -1) < 0


def _unusual(line: bytes) -> Fields | None:
    if not _is_text(line):
        return None
    # within a text the end of a line is wrong
    return None if fields(line) is None else fields(blanked(line))


def blanked(line: bytes) -> bytes:
    """JSON with blanks for all that ends a line; it must have been found to be JSON, where a text has none."""
    return line.translate(_BLANK)


def repaired(line: bytes) -> Fields | None:
    """The same of a line that is not UTF-8, as a lenient reader has it."""
    return incoming(line.decode(errors="replace").encode())


def _folds(table: Fields, known: frozenset[str]) -> bool:
    return not known.isdisjoint(map(str.casefold, table.keys() - known))


def ambiguous(params: Fields) -> bool:
    """Whether what decides if params are allowed can be read as something else."""
    return not params.keys() <= _AIMS and _folds(params, _AIMS)


def fields(data: bytes | msgspec.Raw) -> Fields | None:
    """The members of a JSON object, their values as they were written; None for anything else.

    Of members with one name, the last.
    """
    try:
        return _table.decode(data)
    except _WRONG:
        found = _halved(bytes(data), _table)
    if found is None:
        return None
    try:
        return {_whole(name): _exchanged(bytes(value), _BACK) for name, value in found.items()}
    except UnicodeDecodeError:
        return None


def items(raw: msgspec.Raw | None) -> list[msgspec.Raw]:
    """The elements of a JSON array; none for anything else."""
    if raw is None:
        return []
    try:
        return _raws.decode(raw)
    except _WRONG:
        return [_exchanged(bytes(each), _BACK) for each in _halved(bytes(raw), _raws) or []]


def _halved(data: bytes, decoder: msgspec.json.Decoder[_Shape]) -> _Shape | None:
    """Escapes of half a character are legal JSON, Node writes them, and msgspec takes none.

    Private characters stand for them meanwhile; where there are such already, nobody could tell them apart.
    """
    if _PRIVATE.search(data):
        return None
    try:
        return decoder.decode(_exchanged(data, _HALVES))
    except _WRONG:
        return None


def _exchanged(data: bytes, pairs: tuple[tuple[re.Pattern[bytes], bytes], ...]) -> msgspec.Raw:
    for pattern, other in pairs:
        data = pattern.sub(other, data)
    return msgspec.Raw(data)


def _whole(name: str) -> str:
    """A name with what stands for its halves put together again; UnicodeDecodeError for one that has a half."""
    units = "".join(chr(ord(each) - 0x1000) if "\ue800" <= each <= "\uefff" else each for each in name)
    return _UNITS.decode(_UNITS.encode(units, "surrogatepass")[0])[0]


def text(raw: msgspec.Raw | None) -> str | None:
    """A JSON string's value; None for anything else."""
    if raw is None:
        return None
    try:
        return _text.decode(raw)
    except _WRONG:
        return None


def is_batch(line: bytes) -> bool:
    """A JSON array: the batches of revision 2025-03-26."""
    try:
        _raws.decode(line)
    except _WRONG:
        return False
    return True


def raw(value: object) -> msgspec.Raw:
    """A value as raw JSON."""
    return msgspec.Raw(_encode(value))


def line(table: Fields | dict[str, Fields | msgspec.Raw]) -> bytes:
    """One message as a line."""
    return _encode(table) + b"\n"


def encode(value: object) -> bytes:
    """JSON without a newline."""
    return _encode(value)


def identifier(written: msgspec.Raw) -> bytes | None:
    """A request id in one spelling; None when it is neither text nor a whole number."""
    data = bytes(written)
    if data.isdigit():
        return data
    if data[:1] == b'"':
        if b"\\" not in data:
            return data
        value = text(written)
        return None if value is None else _encode(value)
    return data if data[:1] == b"-" and data[1:].isdigit() else None


def wrong(line: bytes) -> tuple[bytes | None, int, str] | None:
    """The answer to a line that is no message: id, code, text. None for what is never answered."""
    code, said = INVALID_REQUEST, _NO_MESSAGE
    table = fields(line)
    if is_batch(line):
        said = _BATCH
    elif table is None or not _is_text(line):
        code, said = PARSE_ERROR, "this is not a JSON object in UTF-8"
        table = repaired(line)
    if not table or "method" not in table:
        # an answer to something gets none; and what has no method may have the id of something else
        is_answer = table and ("result" in table or "error" in table)
        return None if is_answer else (None, code, said)
    if "id" not in table and text(table["method"]):
        return None  # a notification
    return identifier(table["id"]) if "id" in table else None, code, said


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


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
    long = len(result) > _TAIL
    found = result.rfind(_NAME, -_TAIL) if long else result.rfind(_NAME)
    if found < 0 and (not long or (found := result.find(_NAME, 0, _HEAD)) < 0):
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


def number(written: msgspec.Raw | None) -> bytes:
    """An id or token as we write it: some send 5.0 or "5" back, and JavaScript takes "0x5" for the same."""
    data = b"" if written is None else bytes(written)
    if data.isdigit():
        return data
    said = text(written) or data.decode(errors="replace")
    try:
        value = float(said)
    except ValueError:
        try:
            return b"%d" % int(said, 0)
        except ValueError:
            return b""
    return b"%d" % int(value) if value.is_integer() else b""
