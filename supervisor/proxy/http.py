"""Streamable HTTP: both eras on /mcp (all servers) and /servers/NAME/mcp (one, names unchanged).

Runs unprivileged. A legacy client has a session, which is one conversation; a modern
request is a conversation of its own. Source: the transports pages of revisions 2025-11-25 and 2026-07-28.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from supervisor.proxy import envelope, eras, http_headers, message
from supervisor.proxy.authority import Denied
from supervisor.proxy.conversation import Conversation
from supervisor.proxy.gateway import Gateway
from supervisor.proxy.http_answers import plain, stream_answer
from supervisor.proxy.http_connection import Exchange
from supervisor.proxy.http_headers import Headers, Visitors, once
from supervisor.proxy.http_streams import Asked, Session
from supervisor.proxy.message import Fields
from supervisor.proxy.principal import Principal

MAX_BODY = 16 << 20
MAX_SESSIONS, MAX_SESSIONS_EACH = 1024, 256
IDLE = 1800.0
_EVENT = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_PATH = re.compile(r"(?:/servers/([a-z0-9][a-z0-9._-]{0,63}))?/mcp")


class Authority(Protocol):
    """Who a request is from; Denied when that cannot be told. `page`: what everybody may read at a path, if any."""

    ended: bool

    async def principal(self, headers: Headers, client: str, path: str) -> Principal: ...
    def page(self, path: str) -> bytes | None: ...


class Anybody:
    """No authentication: who reaches a loopback or Unix socket. The kernel names the user of a Unix socket."""

    ended = False

    async def principal(self, headers: Headers, client: str, path: str) -> Principal:
        """The local user."""
        return Principal(client if client.startswith("uid:") else "local")

    def page(self, path: str) -> bytes | None:
        """Nothing: there is nobody to get a token from."""
        return None


class Front:
    """The application. `pages` are other paths (GET): the content type and a function that makes the text."""

    def __init__(
        self,
        gateway: Gateway,
        authority: Authority,
        visitors: Visitors,
        pages: dict[str, tuple[str, Callable[[], bytes]]],
    ) -> None:
        self.gateway = gateway
        self.authority = authority
        self.visitors = visitors
        self.pages = pages
        self.sessions: dict[str, tuple[Session, Conversation]] = {}

    async def __call__(self, reply: Exchange) -> None:
        """Answer one request."""
        headers, path, method = reply.headers, reply.path, reply.method
        if refused := self.visitors.refused(headers, local=reply.client.startswith("uid:")):
            await plain(reply, 403, refused)
        elif method == "GET" and (page := self.authority.page(path)) is not None:
            await reply.whole(200, page)
        elif (found := _PATH.fullmatch(path)) is None and (path not in self.pages or method != "GET"):
            await plain(reply, 404, "there is /mcp, and /servers/NAME/mcp for each server")
        else:
            await self._visited(reply, found[1] if found else None)

    async def _visited(self, reply: Exchange, only: str | None) -> None:
        """Something that is there; not for everybody."""
        path = reply.path
        try:
            who = await self.authority.principal(reply.headers, reply.client, path)
        except Denied as denied:
            await plain(reply, denied.status, denied.said, [*denied.headers])
            return
        if path in self.pages:
            kind, text = self.pages[path]
            await reply.whole(200, text(), kind)
        elif only is not None and not self.gateway.knows(who, only):
            await plain(reply, 404, f'there is no server "{only}" here')
        else:
            await self._route(reply, who, only)

    async def _route(self, reply: Exchange, who: Principal, only: str | None) -> None:
        method, headers = reply.method, reply.headers
        if method == "POST":
            await self._post(reply, who, only)
        elif once(headers, http_headers.VERSION) in eras.MODERN or method not in ("GET", "DELETE"):
            await plain(reply, 405, "this revision has POST only", [(b"allow", b"POST")])
        elif (known := self._session(headers, who, only)) is None:
            given = http_headers.SESSION in headers
            await plain(reply, 404 if given else 400, "no such session" if given else "Mcp-Session-Id is missing")
        elif method == "DELETE":
            self._end(once(headers, http_headers.SESSION) or "")
            await reply.whole(204, b"", "")
        else:
            await self._get(reply, known[0])

    def _session(self, headers: Headers, who: Principal, only: str | None) -> tuple[Session, Conversation] | None:
        """That of the same principal at the same endpoint: a token for one server's opens no other.

        Nor does one of fewer groups: what a session may do is decided by those that it began with.
        """
        known = self.sessions.get(once(headers, http_headers.SESSION) or "")
        if known is None or known[0].principal != who.name or known[1].only != only:
            return None
        if set(known[1].principal.groups) != set(who.groups):
            return None
        known[0].used = time.monotonic()
        return known

    def _end(self, name: str) -> None:
        session, conversation = self.sessions.pop(name)
        conversation.close()
        for stream in (session.general, *session.streams.values()):
            stream.put(b"", last=True)

    async def _get(self, reply: Exchange, session: Session) -> None:
        """The stream of what is not about a request; or one that broke, from behind the last event seen."""
        if not http_headers.accepts(reply.headers)[1]:
            await plain(reply, 406, "Accept must have text/event-stream")
            return
        stream, after = session.general, None
        if (last := once(reply.headers, http_headers.LAST_EVENT)) is not None:
            seen = _EVENT.fullmatch(last)
            found = session.find(int(seen[1])) if seen else None
            if seen is None or found is None:
                await plain(reply, 404, "that stream is not here any more")
                return
            stream, after = found, int(seen[2])
        if stream.read:
            await plain(reply, 409, "that stream has a reader")
            return
        if after is not None:
            stream.replay(after)
        await stream_answer(reply, stream, events=True)

    async def _post(self, reply: Exchange, who: Principal, only: str | None) -> None:
        headers = reply.headers
        if not http_headers.is_json(headers):
            await plain(reply, 415, "Content-Type must be application/json")
            return
        if not any(http_headers.accepts(headers)):
            await plain(reply, 406, "Accept must have application/json or text/event-stream")
            return
        body = await reply.body(MAX_BODY)
        if body is None:
            await _refuse(reply, 413, envelope.TOO_LONG, f"a message is over the limit of {MAX_BODY} bytes")
            return
        line = compact(body)
        fields = message.incoming(line) if line is not None else None
        if line is None or fields is None:
            code = message.INVALID_REQUEST if line and message.is_batch(line) else message.PARSE_ERROR
            await _refuse(reply, 400, code, "the body must be one JSON-RPC message")
            return
        params = message.fields(fields["params"]) if "params" in fields else {}
        meta = message.fields(params["_meta"]) if params and "_meta" in params else None
        if eras.VERSION in (meta or ()) or once(headers, http_headers.VERSION) in eras.MODERN:
            await self._modern(reply, who, only, Posted(line, fields, params, meta))
        else:
            await self._legacy(reply, who, only, Posted(line, fields, params, meta))

    # 2026-07-28

    async def _modern(self, reply: Exchange, who: Principal, only: str | None, body: Posted) -> None:
        method = message.text(body.fields.get("method"))
        key = message.identifier(body.fields["id"]) if "id" in body.fields else None
        if key is None or method is None:
            # a notification: the end of a request is told by closing its connection
            await reply.whole(202, b"", "")
            return
        params, meta = body.params or {}, body.meta or {}
        if eras.VERSION not in meta:
            said = f'params._meta needs "{eras.VERSION}"'
            await _refuse(reply, 400, message.INVALID_PARAMS, said, key)
            return
        asked = Asked()
        conversation = self.gateway.conversation(asked, who, only)
        try:
            headers = reply.headers
            wrong = http_headers.compare(headers, method, params, meta)
            if wrong is None and method == "tools/call":
                wanted = conversation.mirrored(message.text(params.get("name")) or "")
                wrong = http_headers.compare_arguments(headers, wanted, params.get("arguments"))
            if wrong is not None:
                await _refuse(reply, 400, wrong.code, wrong.said, key)
                return
            conversation.receive(body.line, body.fields, body.params, body.meta)
            json_too, events = http_headers.accepts(headers)
            await stream_answer(reply, asked.stream, events=events, whole=json_too, modern=True)
        finally:
            conversation.close()

    # 2024-11-05 to 2025-11-25

    async def _legacy(self, reply: Exchange, who: Principal, only: str | None, body: Posted) -> None:
        headers = reply.headers
        version = once(headers, http_headers.VERSION)
        key = message.identifier(body.fields["id"]) if "id" in body.fields else None
        if http_headers.VERSION in headers and version not in eras.LEGACY:
            data = {"supported": [*eras.LEGACY, *eras.MODERN], "requested": version}
            said = f"protocol version {version} is not supported"
            await reply.whole(400, message.error(key or message.NULL, message.UNSUPPORTED_VERSION, said, data))
            return
        method = message.text(body.fields.get("method"))
        name = ""
        if method == "initialize" and http_headers.SESSION not in headers:
            name = self._begin(who, only)
            if not name:
                await plain(reply, 503, "too many sessions are open; end some")
                return
            known = self.sessions[name]
        elif (found := self._session(headers, who, only)) is None:
            given = http_headers.SESSION in headers
            said = "no such session: initialize again" if given else "Mcp-Session-Id is missing: initialize first"
            await _refuse(reply, 404 if given else 400, message.INVALID_REQUEST, said, key)
            return
        else:
            known = found
        session, conversation = known
        if key is None or method is None or key in session.streams:
            await self._unanswered(reply, session, conversation, body, key if method else None)
            return
        stream = session.expect(key)
        conversation.receive(body.line, body.fields, body.params, body.meta)
        _, events = http_headers.accepts(headers)
        more = [(http_headers.SESSION, name.encode())] if name else []
        # as the official servers do it: a stream wherever the client takes one
        primed = events and conversation.protocol >= "2025-11-25"
        await stream_answer(reply, stream, events=events, whole=not events, more=more, primed=primed)

    async def _unanswered(
        self, reply: Exchange, session: Session, conversation: Conversation, body: Posted, key: bytes | None
    ) -> None:
        """A notification, an answer, or a request under an id that is in use."""
        if key is not None:
            await _refuse(reply, 400, message.INVALID_REQUEST, "this request id is in use", key)
            return
        conversation.receive(body.line, body.fields, body.params, body.meta)
        await reply.whole(202, b"", "")

    def _begin(self, who: Principal, only: str | None) -> str:
        """A new session's name; empty when there are too many."""
        self.sweep()
        own = sum(session.principal == who.name for session, _ in self.sessions.values())
        if len(self.sessions) >= MAX_SESSIONS or own >= MAX_SESSIONS_EACH:
            return ""
        name = secrets.token_urlsafe(24)
        session = Session(who.name)
        self.sessions[name] = session, self.gateway.conversation(session, who, only)
        return name

    def sweep(self) -> None:
        """End the sessions that nobody has used for long."""
        oldest = time.monotonic() - IDLE
        for name, (session, conversation) in list(self.sessions.items()):
            if session.used < oldest and not session.general.read and not conversation.calls:
                self._end(name)

    async def watch(self) -> None:
        """Sweep once a minute, until it is cancelled."""
        while True:
            await asyncio.sleep(60)
            self.sweep()

    def close(self) -> None:
        """End every session."""
        for name in list(self.sessions):
            self._end(name)


class Posted:
    """The body of a POST: the line, and what of it was looked at."""

    def __init__(self, line: bytes, fields: Fields, params: Fields | None, meta: Fields | None) -> None:
        self.line, self.fields, self.params, self.meta = line, fields, params, meta


def compact(body: bytes) -> bytes | None:
    """A body as one line, nothing but white space between its tokens changed; None when it is not JSON."""
    if b"\n" in body or b"\r" in body:
        try:
            body = msgspec.json.format(body, indent=-1)
        except (msgspec.DecodeError, RecursionError):
            return None
    return body


async def _refuse(reply: Exchange, status: int, code: int, said: str, key: bytes | None = None) -> None:
    await reply.whole(status, message.error(key or message.NULL, code, said))
