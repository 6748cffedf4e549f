"""HTTP answers: whole, or a stream of events; which of the two is decided by the first message.

Runs unprivileged. An answer that comes alone is JSON with the status of its error; anything else is a stream.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Callable

from supervisor.proxy import message
from supervisor.proxy.http_connection import Exchange, Header
from supervisor.proxy.http_streams import Stream, event, priming

# seconds until a client that waits is sent the beginning of a stream, and between signs of life on one
_LONG, _ALIVE = 10.0, 15.0
_CODE = re.compile(rb"-[0-9]{1,9}")
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


async def plain(reply: Exchange, status: int, said: str, more: list[Header] | None = None) -> None:
    """A refusal that is not about a JSON-RPC message."""
    await reply.whole(status, f"{said}\n".encode(), "text/plain; charset=utf-8", more)


async def stream_answer(
    reply: Exchange,
    stream: Stream,
    *,
    events: bool,
    whole: bool = False,
    modern: bool = False,
    more: list[Header] | None = None,
    primed: bool = False,
) -> None:
    """Send what a stream holds, until it ends; whoever hangs up cancels this.

    `whole`: JSON will do if the answer comes alone. `primed`: a stream begins with an event to come back to.
    """
    stream.read = True
    alone = functools.partial(_alone, reply, modern=modern, more=more)
    try:
        first = await _within(reply, stream, _LONG, alone) if whole else None
        if reply.over:
            return
        if whole and stream.ended:
            alone(first[1] if first else b"")
        elif not events:
            await _last_only(reply, stream, first, more)
        else:
            await reply.begin(more or [])
            if primed:
                await reply.part(priming(f"{stream.number}-0", _RETRY))
            await _events(reply, stream, first)
    finally:
        stream.read = False


async def _within(
    reply: Exchange, stream: Stream, seconds: float, alone: Callable[[bytes], None]
) -> tuple[int, bytes] | None:
    """The next message, if there is one so soon; one that comes alone meanwhile is `alone`'s."""
    if stream.over or (found := stream.take()) is not None:
        return stream.take() if stream.over else found
    # not a timer of its own, which would cost more than most answers
    reply.late, stream.alone = (time.monotonic() + seconds, stream.wake), alone
    try:
        return await stream.get()
    finally:
        reply.late, stream.alone = None, None


def _alone(reply: Exchange, line: bytes, *, modern: bool, more: list[Header] | None) -> None:
    """An answer that came alone, or none at all: the request was cancelled."""
    if line:
        reply.finish(_status(line) if modern else 200, line.rstrip(b"\n"), more=more)
    else:
        reply.finish(202, b"", "", more)


async def _events(reply: Exchange, stream: Stream, found: tuple[int, bytes] | None) -> None:
    loop = asyncio.get_running_loop()
    while True:
        if found is not None:
            name = f"{stream.number}-{found[0]}" if stream.resumable else ""
            await reply.part(event(found[1], name))
        elif stream.ended:
            await reply.end()
            return
        elif stream.silent:
            await reply.part(b": still here\n\n")
        stream.silent = False
        handle = loop.call_later(_ALIVE, _wake, stream)
        try:
            found = await stream.get()
        finally:
            handle.cancel()


def _wake(stream: Stream) -> None:
    stream.silent = True
    stream.wake()


async def _last_only(
    reply: Exchange, stream: Stream, found: tuple[int, bytes] | None, more: list[Header] | None
) -> None:
    """For a client that takes JSON only: the answer, without what came before it."""
    while not stream.ended:
        found = await stream.get() or found
    await reply.whole(200, (found[1] if found else b"").rstrip(b"\n"), more=more)


def _status(line: bytes) -> int:
    """The HTTP status of an answer that came alone."""
    if b'"error"' not in line:
        return 200
    error = message.fields((message.fields(line) or {}).get("error", message.EMPTY)) or {}
    code = bytes(error.get("code", b""))
    return STATUS.get(int(code), 200) if _CODE.fullmatch(code) else 200
