"""HTTP answers: whole, or a stream of events; which of the two is decided by the first message.

Runs unprivileged. An answer that comes alone is JSON with the status of its error; anything else is a stream.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from supervisor.proxy import message
from supervisor.proxy.http_streams import Stream, event, priming

JSON = "application/json"
# seconds: until we look whether a client that waits is still there, until it is sent the beginning of a stream, and
# between signs of life on one
_PATIENCE, _LONG, _ALIVE = 0.25, 10.0, 15.0
# milliseconds after which a client whose stream broke may come back
_RETRY = 1000
# the statuses of errors that came alone (transports, 2026-07-28)
STATUS = {
    message.PARSE_ERROR: 400,
    message.INVALID_REQUEST: 400,
    message.INVALID_PARAMS: 400,
    message.METHOD_NOT_FOUND: 404,
    -32020: 400,
    message.MISSING_CAPABILITY: 400,
    message.UNSUPPORTED_VERSION: 400,
}
Header = tuple[bytes, bytes]


class Reply:
    """One request's end of ASGI."""

    def __init__(
        self,
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        self._receive, self._send = receive, send

    async def body(self, most: int) -> bytes | None:
        """The whole body; None when there is more than `most`."""
        found = await self._receive()
        data = found.get("body", b"")
        if not found.get("more_body"):
            return data if len(data) <= most else None
        parts, size = [data], len(data)
        while found.get("more_body"):
            found = await self._receive()
            if found["type"] != "http.request":
                return None
            parts.append(found.get("body", b""))
            size += len(parts[-1])
            if size > most:
                return None
        return b"".join(parts)

    async def gone(self) -> None:
        """Wait until the client has hung up."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def whole(self, status: int, body: bytes, kind: str = JSON, more: list[Header] | None = None) -> None:
        """An answer of known length."""
        headers = [(b"content-length", b"%d" % len(body)), *(more or [])]
        if kind:
            headers.append((b"content-type", kind.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, more: list[Header]) -> None:
        """The head of a stream of events."""
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
            *more,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def part(self, data: bytes) -> None:
        """More of a stream; waits for a slow reader."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The end of a stream."""
        await self._send({"type": "http.response.body", "body": b""})


async def plain(reply: Reply, status: int, said: str, more: list[Header] | None = None) -> None:
    """A refusal that is not about a JSON-RPC message."""
    await reply.whole(status, f"{said}\n".encode(), "text/plain; charset=utf-8", more)


async def stream_answer(
    reply: Reply,
    stream: Stream,
    *,
    events: bool,
    whole: bool = False,
    modern: bool = False,
    more: list[Header] | None = None,
    primed: bool = False,
) -> None:
    """Send what a stream holds, until it ends or the client hangs up.

    `whole`: JSON will do if the answer comes alone. `primed`: a stream begins with an event to come back to.
    """
    stream.read = True
    watcher: asyncio.Task[None] | None = None
    try:
        first = await _within(stream, _PATIENCE) if whole else None
        if first is None and not stream.ended:
            watcher = asyncio.create_task(_watch(reply, stream))
            if whole:
                first = await _within(stream, _LONG)
        if whole and stream.ended:
            await _alone(reply, first, modern, more)
        elif not events:
            await _last_only(reply, stream, first, more)
        else:
            await reply.begin(more or [])
            if primed:
                await reply.part(priming(f"{stream.number}-0", _RETRY))
            await _events(reply, stream, first, watcher or asyncio.create_task(_watch(reply, stream)))
    finally:
        stream.read = False
        if watcher:
            watcher.cancel()


async def _within(stream: Stream, seconds: float) -> tuple[int, bytes] | None:
    """The next message, if there is one so soon."""
    handle = asyncio.get_running_loop().call_later(seconds, stream.wake)
    found = await stream.get()
    handle.cancel()
    return found


async def _alone(reply: Reply, found: tuple[int, bytes] | None, modern: bool, more: list[Header] | None) -> None:
    """An answer that came alone, or none at all: the request was cancelled."""
    if found is None:
        await reply.whole(202, b"", "", more)
    else:
        await reply.whole(_status(found[1]) if modern else 200, found[1].rstrip(b"\n"), more=more)


async def _events(
    reply: Reply, stream: Stream, found: tuple[int, bytes] | None, watcher: asyncio.Task[None]
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        if found is not None:
            name = f"{stream.number}-{found[0]}" if stream.resumable else ""
            await reply.part(event(found[1], name))
        elif stream.ended:
            await reply.end()
            return
        elif watcher.done():
            return
        elif stream.silent:
            await reply.part(b": still here\n\n")
        stream.silent = False
        handle = loop.call_later(_ALIVE, _wake, stream)
        found = await stream.get()
        handle.cancel()


def _wake(stream: Stream) -> None:
    stream.silent = True
    stream.wake()


async def _last_only(
    reply: Reply, stream: Stream, found: tuple[int, bytes] | None, more: list[Header] | None
) -> None:
    """For a client that takes JSON only: the answer, without what came before it."""
    while not stream.ended:
        following = await stream.get()
        found = following or found
        if following is None and stream.silent:
            return
    await reply.whole(200, (found[1] if found else b"").rstrip(b"\n"), more=more)


async def _watch(reply: Reply, stream: Stream) -> None:
    """The client has hung up: whoever waits for a message need not."""
    await reply.gone()
    stream.silent = True
    stream.wake()


def _status(line: bytes) -> int:
    """The HTTP status of an answer that came alone."""
    if b'"error"' not in line:
        return 200
    error = json.loads(line).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return STATUS.get(code, 200) if isinstance(code, int) else 200
