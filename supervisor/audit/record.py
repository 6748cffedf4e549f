"""From plain values to records of the audit log: OCSF API Activity, redacted, bounded, in one spelling.

Runs in the proxy, which knows what a call was; the ledger checks the shape (audit/schema.py) and adds who spoke. An
intent says what will be done and by whose leave, an outcome what came of it; both carry the call's id. Nothing here
fails for what a client or a server said: what cannot be written as it is, is written as what it was. What is the
same for all calls of a session is put together once, and the rest in the order of its keys: that takes a third of
the time of building and encoding it.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from json.encoder import encode_basestring_ascii as _escaped
from typing import Literal, NamedTuple

import msgspec

from supervisor.audit import lenient, schema
from supervisor.audit.bounded import LONGEST, MOST, NAME, count, fit, listed, quoted, texts
from supervisor.audit.forms import Short
from supervisor.audit.reached import Reached
from supervisor.audit.redact import MARK, Redactor
from supervisor.audit.resources import resources_of

VERSION = "0.1.0"

_ARGUMENTS = 16 * 1024
_FIRST = 4 * 1024
# tools that one session's calls are remembered of
_SHAPES = 256
_MARK = MARK.encode()
# as numbers: a search for one is one call of memchr
_DELETE, _QUOTE = 0x7F, 0x22
_VERSION, _PROFILE, _SCHEMA = VERSION.encode(), schema.PROFILE.encode(), schema.VERSION.encode()
_encoder = msgspec.json.Encoder(order="sorted")
_decode = msgspec.json.Decoder().decode
_numbers = itertools.count(1)
PLAIN = Redactor()

# action, disposition and severity of a decision
_ACTIONS = {"allow": (1, 1, 1), "deny": (2, 2, 3), "hold": (99, 14, 1)}
# status and severity of an answer
_STATUSES = {"ok": (1, 1), "failed": (2, 2), "refused": (2, 3), "lost": (99, 3)}


class Decision(NamedTuple):
    """Who let it pass, or not: the rule, and where it stands in `reason`."""

    outcome: Literal["allow", "deny", "hold"] = "allow"
    rule: str = ""
    reason: str = ""


class Opened(NamedTuple):
    """A file that was opened, or was not let be opened: `mode` is "r", "w" or "rw", with "x" if it was executed."""

    path: str
    mode: str = "r"
    denied: bool = False


class Answer(NamedTuple):
    """What came back: `status` as the client saw it, `code` of a JSON-RPC error; `first` bytes if policy says so.

    Of `content` size and digest are written down, nothing else.
    """

    status: Literal["ok", "failed", "refused", "lost"] = "ok"
    code: int = 0
    message: str = ""
    content: bytes = b""
    first: int = 0


Seen = Literal["all", "part", "none"]


class Touched(NamedTuple):
    """What a call touched. `attribution` is "exact", or "window" for "during these calls" (`during`).

    `seen`: whether `files` is all that was opened, a part of it, or nobody watched. `more`: how often hosts
    were told of that are not among `hosts`.
    """

    files: Sequence[Opened] = ()
    hosts: Sequence[Reached] = ()
    attribution: Literal["exact", "window"] = "exact"
    during: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    seen: Seen = "none"
    more: int = 0


_ALLOWED, _OK, _NOTHING = Decision(), Answer(), Touched()


def _encode(value: object) -> bytes:
    """Any JSON in ASCII, keys sorted."""
    try:
        data = _encoder.encode(value)
        if data.isascii() and _DELETE not in data:
            return data
    except UnicodeEncodeError:
        pass  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("\x7f", "\\u007f").encode("ascii")


def _digest(data: bytes) -> bytes:
    return b'{"algorithm_id":3,"value":"%b"}' % sha256(data).hexdigest().encode()


class Shape(NamedTuple):
    """A tool in JSON: what is done, by which method, and the end of `unmapped`, which names it.

    `number` is its own, so that the ledger can be told of it once; 0 if nobody will remember it.
    """

    operation: bytes
    method: bytes
    end: bytes
    number: int


@dataclass(frozen=True)
class Context:
    """What all calls of a session have in common. `user` is "uid:1000" or a token's subject; digests are in hex."""

    user: str
    session: str
    client: str
    server: str
    groups: tuple[str, ...] = ()
    transport: str = "stdio"
    address: str = ""
    port: int = 0
    profile: str = ""
    spec: str = ""
    image: str = ""
    runtime: str = ""
    manifest: str = ""
    posture: str = ""
    accepted: tuple[str, ...] = ()
    redactor: Redactor = PLAIN

    @cached_property
    def actor(self) -> bytes:
        """Who."""
        groups = b",".join(b'{"name":%b}' % each for each in listed(self.groups))
        user = (
            (b'{"groups":[%b],"uid":%b}' % (groups, quoted(self.user)))
            if groups
            else b'{"uid":%b}' % quoted(self.user)
        )
        client = quoted(self.redactor.text(self.client))
        return b'{"app_name":%b,"session":{"uid":%b},"user":%b}' % (client, quoted(self.session, NAME), user)

    @cached_property
    def source(self) -> bytes:
        """From where."""
        if not self.address:
            return b'{"svc_name":%b}' % quoted(self.transport)
        return b'{"ip":%b,"port":%d,"svc_name":%b}' % (quoted(self.address), self.port, quoted(self.transport))

    @cached_property
    def service(self) -> bytes:
        """To whom."""
        return b'{"name":%b}' % quoted(self.server)

    @cached_property
    def shapes(self) -> dict[tuple[str, str], Shape]:
        """What is the same for all calls of one tool."""
        return {}

    @cached_property
    def about(self) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        """Members of `unmapped`, with commas: accepted, image, manifest, posture and profile, runtime and spec."""
        names = ("image", "manifest", "posture", "profile", "runtime", "spec")
        named = {name: getattr(self, name) for name in names}
        made = {
            name: b'"%b":%b,' % (name.encode(), quoted(value)) if value else b"" for name, value in named.items()
        }
        accepted = b'"accepted":%b,' % texts(self.accepted) if self.accepted else b""
        profile, spec = made["posture"] + made["profile"], made["runtime"] + made["spec"]
        return accepted, made["image"], made["manifest"], profile, spec


class Call(NamedTuple):
    """One call, `call` our number of it. `activity`: OCSF's, 1 create, 2 read, 3 update, 4 delete, 99 other."""

    context: Context
    call: str
    tool: str
    method: str = "tools/call"
    activity: int = 99


def _metadata(uid: bytes, code: bytes, size: int = 0) -> bytes:
    """`uid`, the call's, and `code` are in JSON."""
    cut = b'"is_truncated":true,' if size else b""
    untruncated = b'"untruncated_size":%d,' % size if size else b""
    return (
        b'"metadata":{"correlation_uid":%b,"event_code":%b,%b"product":{"name":"supervisor","vendor_name":"supervisor",'
        b'"version":"%b"},"profiles":["%b"],"uid":%b.%b,%b"version":"%b"},'
    ) % (uid, code, cut, _VERSION, _PROFILE, uid[:-1], code[1:], untruncated, _SCHEMA)


def _shape(call: Call) -> Shape:
    """What is the same for all calls of this tool in this session."""
    shapes = call.context.shapes
    found = shapes.get((call.tool, call.method))
    if found is None:
        if len(shapes) >= _SHAPES:
            shapes.clear()
        text = call.context.redactor.text
        operation = quoted(text(f"{call.method} {call.tool}".rstrip()))
        number = next(_numbers) if len(call.tool) + len(call.method) <= LONGEST else 0
        found = Shape(operation, quoted(call.method), b'"tool":%b}' % quoted(text(call.tool)), number)
        if number:
            shapes[call.tool, call.method] = found
    return found


def _arguments(raw: bytes, redactor: Redactor) -> tuple[bytes, int]:
    """The arguments as they may be written, and their size if that is not all of them."""
    try:
        given = _decode(raw or b"{}")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        given = lenient.read(raw)
    plain = redactor.harmless(raw)
    data = _cleaned(given, redactor, plain=plain)
    # of members with one name some servers take the first, and it goes with its quotes
    if not (plain and data.count(_QUOTE) == raw.count(_QUOTE)) and lenient.repeats(raw):
        data = _cleaned(lenient.read(raw), redactor)
    if len(data) > _ARGUMENTS:
        return _truncated(data), len(data)
    return data, 0


def _cleaned(given: object, redactor: Redactor, *, plain: bool = False) -> bytes:
    clean = given if plain else redactor.clean(given)
    return _encode(clean if isinstance(clean, dict) else {"value": clean})


def _truncated(data: bytes) -> bytes:
    return b'{"truncated":%b}' % fit(data[:_ARGUMENTS].decode("ascii"), _ARGUMENTS - 16)


def _now() -> int:
    return time.time_ns() // 1_000_000


def short_intent(call: Call, arguments: bytes) -> bytes | Short:
    """What is about to be done, for a ledger that may know the tool already."""
    shape, at = _shape(call), time.time_ns() // 1_000_000
    data, size = _arguments(arguments, call.context.redactor)
    if size or not shape.number or _MARK in data:
        return intent(call, arguments)
    values = f'{_escaped(call.call)},{at},"{sha256(arguments).hexdigest()}",'.encode("ascii") + data
    return Short((shape.number, call.activity), values, lambda: intent(call, arguments, at=at))


def short_outcome(call: Call, microseconds: int, answer: Answer, touched: Touched) -> bytes | Short:
    """What came of it, the same way; what is not as most are is written as a whole."""
    shape, at = _shape(call), time.time_ns() // 1_000_000
    resources, dropped = resources_of(touched, call.context.redactor)
    if not shape.number or dropped or touched.limits or answer.first or answer.message or answer.status != "ok":
        return outcome(call, microseconds, answer, touched)
    took, content = count(microseconds), answer.content
    numbers = f"{_escaped(call.call)},{at},{took // 1000},{took},{len(content)}"
    values = f'{numbers},"{sha256(content).hexdigest()}"'.encode("ascii")
    if touched.during:
        values += b"," + texts(touched.during)
    if resources:
        values += b",[%b]" % resources
    form = (shape.number, call.activity, touched.attribution, touched.seen, bool(touched.during), bool(resources))
    return Short(form, values, lambda: outcome(call, microseconds, answer, touched, at=at))


def intent(call: Call, arguments: bytes, decision: Decision = _ALLOWED, *, at: int = 0) -> bytes:
    """What is about to be done, or was refused: `arguments` as the client sent them, JSON. `at`: milliseconds."""
    context, shape, uid = call.context, _shape(call), _encode(call.call)
    data, size = _arguments(arguments, context.redactor)
    action, disposition, severity = _ACTIONS[decision.outcome]
    accepted, image, manifest, profile, spec = context.about
    redacted = data.count(_MARK)
    return b"".join(
        (
            b'{"action_id":%d,"activity_id":%d,"actor":%b,' % (action, call.activity, context.actor),
            b'"api":{"operation":%b,"request":{"data":%b,' % (shape.operation, data),
            b'"uid":%b},"service":%b},' % (uid, context.service),
            b'"category_uid":6,"class_uid":6003,"disposition_id":%d,' % disposition,
            _metadata(uid, b'"intent"', size),
            b'"policy":{"name":%b},' % quoted(decision.rule) if decision.rule else b"",
            b'"severity_id":%d,"src_endpoint":%b,' % (severity, context.source),
            b'"status_detail":%b,' % quoted(context.redactor.text(decision.reason)) if decision.reason else b"",
            b'"time":%d,"type_uid":%d,' % (at or _now(), schema.CLASS * 100 + call.activity),
            b'"unmapped":{%b"arguments":%b,%b%b' % (accepted, _digest(arguments), image, manifest),
            b'"method":%b,%b' % (shape.method, profile),
            b'"redacted":%d,' % redacted if redacted else b"",
            spec,
            shape.end,
            b"}",
        )
    )


def outcome(
    call: Call, microseconds: int, answer: Answer = _OK, touched: Touched = _NOTHING, *, at: int = 0
) -> bytes:
    """What came of a call that took so long."""
    context, shape, uid = call.context, _shape(call), _encode(call.call)
    status, severity = _STATUSES[answer.status]
    accepted, image, manifest, profile, spec = context.about
    resources, dropped = resources_of(touched, context.redactor)
    took = count(microseconds)
    return b"".join(
        (
            b'{"activity_id":%d,"actor":%b,' % (call.activity, context.actor),
            b'"api":{"operation":%b,"request":{"uid":%b},' % (shape.operation, uid),
            b'"response":{%b},"service":%b},' % (_error(answer, context.redactor), context.service),
            b'"category_uid":6,"class_uid":6003,"duration":%d,' % (took // 1000),
            _metadata(uid, b'"outcome"'),
            b'"resources":[%b],' % resources if resources else b"",
            b'"severity_id":%d,"src_endpoint":%b,' % (severity, context.source),
            b'"status_code":"%b","status_id":%d,' % (answer.status.encode(), status),
            b'"time":%d,"type_uid":%d,' % (at or _now(), schema.CLASS * 100 + call.activity),
            b'"unmapped":{%b"attribution":"%b",' % (accepted, touched.attribution.encode()),
            b'"during":%b,' % texts(touched.during) if touched.during else b"",
            b'"files":"%b",' % touched.seen.encode(),
            dropped,
            image,
            b'"limits":%b,' % texts(touched.limits) if touched.limits else b"",
            b'%b"method":%b,"microseconds":%d,%b' % (manifest, shape.method, took, profile),
            b'"response":%b,%b' % (_response(answer, context.redactor), spec),
            shape.end,
            b"}",
        )
    )


def _error(answer: Answer, redactor: Redactor) -> bytes:
    code = max(-MOST, min(answer.code, MOST))
    if not answer.message:
        return b'"code":%d' % code if code else b""
    message = b'"error_message":%b' % quoted(redactor.text(answer.message))
    return b'"code":%d,%b' % (code, message) if code else message


def _response(answer: Answer, redactor: Redactor) -> bytes:
    made = b'{"bytes":%d,"digest":%b' % (len(answer.content), _digest(answer.content))
    if answer.first:
        # cleaned before it is cut: a secret that is cut in two is no longer known for one
        text = redactor.text(answer.content.decode("utf-8", "replace"))
        made += b',"first":%b' % quoted(text[: min(answer.first, _FIRST)], _FIRST)
    return made + b"}"


def event(call: Call, what: str, details: dict[str, object]) -> bytes:
    """What is no call: `what` is its name ("approval.granted"), `details` what there is to say of it."""
    context, shape, uid = call.context, _shape(call), _encode(call.call)
    data = _encode(context.redactor.clean(details))
    if len(data) > _ARGUMENTS:
        data = _truncated(data)
    accepted, image, manifest, profile, spec = context.about
    return b"".join(
        (
            b'{"activity_id":%d,"actor":%b,' % (call.activity, context.actor),
            b'"api":{"operation":%b,"request":{"uid":%b},' % (shape.operation, uid),
            b'"service":%b},"category_uid":6,"class_uid":6003,' % context.service,
            b'"message":%b,' % quoted(what, NAME),
            _metadata(uid, quoted(what, NAME)),
            b'"severity_id":1,"src_endpoint":%b,' % context.source,
            b'"time":%d,"type_uid":%d,' % (_now(), schema.CLASS * 100 + call.activity),
            b'"unmapped":{%b"details":%b,%b%b' % (accepted, data, image, manifest),
            b'"method":%b,%b%b' % (shape.method, profile, spec),
            shape.end,
            b"}",
        )
    )
