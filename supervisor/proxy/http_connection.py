"""One HTTP connection: requests in, one after the other, and what is answered to each.

Runs unprivileged. Bounded: the size of a request's head, what is read of a body before somebody wants it, how long
a request may take to arrive, how long an answer may lie unread. A request whose client hangs up is cancelled.
Source: RFC 9110, RFC 9112; httptools (llhttp, with none of its leniencies) reads the bytes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, cast

import httptools

from supervisor.proxy import pump

# bytes of a head, bytes of a body before it is asked for, requests that wait for the answer to another
MAX_HEAD, MAX_AHEAD, MAX_QUEUE = 64 << 10, 64 << 10, 32
# seconds: for a request to arrive, between two requests, for what is written to be read
SECONDS, IDLE, UNREAD = 20.0, 75.0, 60.0
JSON = "application/json"
Header = tuple[bytes, bytes]
Visit = Callable[["Exchange"], Coroutine[Any, Any, None]]
_STREAM = b"content-type: text/event-stream\r\ncache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n"
_MALFORMED = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"content-length: 21\r\n\r\nthis is not HTTP/1.1\n"
)
_STATUS = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}


class Exchange:
    """One request and its answer. `keep`: the connection may carry another one after it."""

    def __init__(self, connection: Connection) -> None:
        self.client = connection.client
        self.method = self.path = ""
        self.headers: dict[bytes, list[bytes]] = {}
        self.keep = True
        self.chunked = True
        self.size = 0
        self.complete = self.wanted = self.over = False
        self.task: asyncio.Task[None] | None = None
        # when (monotonic time) whom to tell, about a second later, that it has become late
        self.late: tuple[float, Callable[[], None]] | None = None
        self._connection = connection
        self._parts: list[bytes] = []
        self._more: asyncio.Future[None] | None = None

    def came(self, data: bytes) -> None:
        """More of the body; none: that was all."""
        if data and not self.over:
            self._parts.append(data)
            self.size += len(data)
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def drop(self) -> None:
        """Nobody waits for an answer any more, and nothing more will come."""
        self.over = True
        self._parts.clear()
        if self.task is not None:
            self.task.cancel()

    async def body(self, most: int) -> bytes | None:
        """The whole body; None when there is more than `most`."""
        if not self.complete:
            if self.headers.get(b"expect", [b""])[0].lower() == b"100-continue" and not self.size:
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wanted = True
            self._connection.read_on()
            while not self.complete and self.size <= most:
                self._more = asyncio.get_running_loop().create_future()
                await self._more
        parts, self._parts = self._parts, []
        if self.size > most:
            return None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def whole(self, status: int, body: bytes, kind: str = JSON, more: list[Header] | None = None) -> None:
        """An answer of known length."""
        self.finish(status, body, kind, more)

    def finish(self, status: int, body: bytes, kind: str = JSON, more: list[Header] | None = None) -> None:
        """The same, for who does not wait."""
        head = [_STATUS[status], b"" if status == 204 else b"content-length: %d\r\n" % len(body)]
        if kind:
            head.append(b"content-type: " + kind.encode() + b"\r\n")
        self._head(head, more)
        if self.method != "HEAD":
            head.append(body)
        self._connection.write(b"".join(head))
        self._end()

    async def begin(self, more: list[Header]) -> None:
        """The head of a stream of events."""
        head = [_STATUS[200], _STREAM, b"transfer-encoding: chunked\r\n" if self.chunked else b""]
        self._head(head, more)
        self._connection.write(b"".join(head))

    def _head(self, head: list[bytes], more: list[Header] | None) -> None:
        for name, value in more or ():
            if b"\r" in value or b"\n" in value:
                raise ValueError(f"a header's value with the end of a line in it: {name!r}")
            head.append(name + b": " + value + b"\r\n")
        head.append(b"\r\n" if self.keep else b"connection: close\r\n\r\n")

    async def part(self, data: bytes) -> None:
        """More of a stream; waits for a slow reader."""
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        await self._connection.drained()

    async def end(self) -> None:
        """The end of a stream."""
        if self.chunked:
            self._connection.write(b"0\r\n\r\n")
        self._end()

    def _end(self) -> None:
        self.over = True
        self._parts.clear()
        self._connection.answered(self)


class Connection(asyncio.Protocol):
    """The protocol. `visit` answers an exchange; `left` is told of the connection's end."""

    def __init__(self, visit: Visit, left: Callable[[Connection], None]) -> None:
        self.client = ""
        self.current: Exchange | None = None
        self.since = time.monotonic()
        self._visit, self._left = visit, left
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._coming: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._url = b""
        self._head = 0
        self._fresh = True
        self._deaf = self._paused = False
        self._room: asyncio.Future[None] | None = None
        self._stuck = 0.0

    # asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's. uvloop's transports do not derive from asyncio's classes."""
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            uid = struct.unpack("iii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
            self.client = f"uid:{uid}"
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.client = str(transport.get_extra_info("peername")[0])

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        if self._deaf or self._parser is None:
            return
        self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last()  # what follows would be another protocol, which is not spoken here
        except httptools.HttpParserError:
            self._malformed()
        else:
            if self._head > MAX_HEAD:
                self.abort()  # no head was complete in all of this

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's. Whoever works for this client need not."""
        self._deaf = True
        for each in (self.current, self._coming, *self._queue):
            if each is not None:
                each.drop()
        self._queue.clear()
        # it holds us as we hold it, and what has come of a body with us
        self._coming, self._parser = None, None
        self.resume_writing()
        self._left(self)

    def pause_writing(self) -> None:
        """asyncio's."""
        self._stuck = time.monotonic()
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """asyncio's."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def eof_received(self) -> bool:
        """asyncio's. Half a connection is none."""
        return False

    # the parser's

    def on_message_begin(self) -> None:
        """The parser's."""
        self._coming = Exchange(self)
        self._url = b""
        self._fresh = False
        self.since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        """The parser's."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser's."""
        if self._coming is not None and not self._coming.method:  # not what follows a body in pieces
            self._coming.headers.setdefault(name.lower(), []).append(value)

    def on_headers_complete(self) -> None:
        """The parser's."""
        made = self._coming
        if made is None or self._deaf or self._parser is None:
            return
        self._head = 0
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise ValueError(f"HTTP/{version} is not spoken here")
        made.method = self._parser.get_method().decode("ascii")
        path = self._url.partition(b"?")[0]
        made.path = (path if path[:1] == b"/" else b"").decode("latin-1")
        made.chunked = version == "1.1"
        made.keep = version == "1.1" and self._parser.should_keep_alive()
        if self.current is None:
            self._start(made)
        elif len(self._queue) < MAX_QUEUE:
            self._queue.append(made)
            self._pause()
        else:
            self.abort()

    def on_body(self, body: bytes) -> None:
        """The parser's."""
        # what is counted is neither: sizes of pieces, and fields behind the last, which the parser keeps whole
        self._head = 0
        if self._coming is not None:
            self._coming.came(body)
            if self._coming.size > MAX_AHEAD and not (self._coming.over or self._coming.wanted):
                self._pause()

    def on_message_complete(self) -> None:
        """The parser's."""
        made, self._coming = self._coming, None
        self._head = 0
        if made is None:
            return
        made.complete = True
        made.came(b"")
        if made.over and not made.keep:
            self.close()

    # ours

    def _start(self, exchange: Exchange) -> None:
        self.current = exchange
        exchange.task = asyncio.get_running_loop().create_task(self._visit(exchange))
        exchange.task.add_done_callback(self._visited)

    def _visited(self, task: asyncio.Task[None]) -> None:
        """Its answer is complete; if not, that is an error of ours."""
        if not task.cancelled() and (error := task.exception()) is not None:
            pump.note(f"HTTP: {type(error).__name__}: {error}")
        if self.current is not None and self.current.task is task:
            self.abort()

    @property
    def waits(self) -> bool:
        """Whether nothing is being answered: there is no request, or not all of one."""
        return self._transport is not None and (self.current is None or not self.current.complete)

    def answered(self, exchange: Exchange) -> None:
        """The answer is written: the next request, or the end."""
        self.current = None
        self.since = time.monotonic()
        if not exchange.keep:
            self._queue.clear()
            if exchange.complete:
                self.close()
        elif self._queue:
            self._start(self._queue.popleft())
        if not self._queue:
            self.read_on()

    def _last(self) -> None:
        """Nothing is heard any more behind what is being answered."""
        self._queue.clear()
        if self._coming is None or self._coming is not self.current:
            self._deaf = True
        if self.current is not None:
            self.current.keep = False

    def _malformed(self) -> None:
        """What cannot be read gets an answer if none is under way."""
        if self.current is not None and self.current.complete:
            self._last()
            return
        if self.current is not None:
            self.abort()
            return
        self.write(_MALFORMED)
        self.close()

    def look(self, now: float) -> None:
        """Once a second: nobody is waited for without end."""
        stuck = self._room is not None and now - self._stuck > UNREAD
        late = (self._fresh or self._coming is not None) and now - self.since > SECONDS
        idle = self.current is None and now - self.since > IDLE
        if stuck or late or idle:
            self.abort()
        elif self.current is not None and self.current.late is not None and now > self.current.late[0]:
            self.current.late[1]()

    def write(self, data: bytes) -> None:
        """Queue it; nothing happens once the client is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait until the client has read most of what was written."""
        if self._room is not None:
            await self._room

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def read_on(self) -> None:
        """Somebody wants more."""
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def finish(self) -> None:
        """The server ends: what is being answered is the last."""
        if self.current is None:
            self.close()
        else:
            self.current.keep = False

    def close(self) -> None:
        """When everything is written."""
        self._deaf = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """At once."""
        self._deaf = True
        if self._transport is not None:
            self._transport.abort()
