"""One running process of a server: its stream, who waits for which answer, its handshake and its end.

Runs unprivileged. Ids and progress tokens are rewritten here, because several clients may share one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from supervisor.errors import SessionLost, SupervisorError
from supervisor.proxy import envelope, eras, lines, message, pump
from supervisor.proxy.link import Exited, Opened
from supervisor.proxy.manifests import KINDS, Lists
from supervisor.proxy.message import Fields
from supervisor.proxy.meter import Meter

if TYPE_CHECKING:
    from supervisor.proxy.channel import Channel
    from supervisor.proxy.conversation import Conversation

MAX_PAGES = 100
_TOLD = 20


class Waiter:
    """Whoever waits for an answer of the server; this one does not care."""

    __slots__ = ()

    @property
    def is_work(self) -> bool:
        """Whether the server owes us something: with a stream that is merely open it counts as idle."""
        return True

    def answered(self, fields: Fields) -> None:
        """The answer."""

    def lost(self, code: int, reason: str) -> None:
        """There will be none."""

    def progressed(self, fields: Fields, params: Fields) -> None:
        """How far the server is."""

    def asked(self, instance: Instance, fields: Fields, method: str) -> bool:
        """The server asks its client something meanwhile: whether that could be passed on."""
        return False


class Own(Waiter):
    """A request of the gateway's own."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[Fields] = asyncio.get_running_loop().create_future()

    def answered(self, fields: Fields) -> None:
        if not self.future.done():
            self.future.set_result(fields)

    def lost(self, code: int, reason: str) -> None:
        if not self.future.done():
            self.future.set_exception(SessionLost(reason))


class Hello:
    """What the client side of a handshake says: raw capabilities and client, and the version to ask for."""

    def __init__(self, version: str, capabilities: msgspec.Raw, client: msgspec.Raw) -> None:
        self.version, self.capabilities, self.client = version, capabilities, client
        self.level = ""


class Traffic:
    """Bytes to a server and from it, of all its processes."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = self.sent = 0


class Instance:
    """A session of a server, from its start to its end.

    `notified` gets every notification of the server that is not about one request, `orphan` its requests that no
    waiting call claims; `over` is called once, with the reason and whether the end was asked for.
    """

    def __init__(self, name: str, channel: Channel, *, modern: bool, hello: Hello) -> None:
        self.name = name
        self.modern = modern
        self.hello = hello
        self.ready = False
        self.used = time.monotonic()
        self.pending: dict[bytes, Waiter] = {}
        self.opened: Opened | None = None
        self.ending = ""
        self.ended: asyncio.Future[Exited | None] = asyncio.get_running_loop().create_future()
        self.principal = ""
        self.traffic = Traffic()
        self.owner: Conversation | None = None
        self.holders: set[object] = set()
        self.notified: Callable[[Instance, str, Fields], None] = lambda *_: None
        self.orphan: Callable[[Instance, Fields, str], bool] = lambda *_: False
        self.stderr: Callable[[bytes], None] = lambda _: None
        self.blocked: Callable[[bool], None] = lambda _: None
        self._channel = channel
        self._number = 0
        self._dropped = 0
        self._level = ""
        self._drained = asyncio.Event()
        self._paused: set[object] = set()
        self._writer = lines.Writer(self._full, lambda: None)
        self._reader: lines.Reader | None = None

    async def open(self) -> Opened:
        """Start the process and connect to it."""
        opened = self.opened = await self._channel.open(self.name)
        meter = Meter(opened.output, opened.output_rate)
        self._reader = lines.Reader(
            opened.output_line,
            self.received,
            self._too_long,
            self._drained.set,
            meter=meter,
            over=lambda: self.end(meter.reason()),
        )
        errors = lines.Reader(1 << 16, self.stderr, lambda: None, lambda: None)
        await self._writer.open(opened.stdin)
        await self._reader.open(opened.stdout)
        await errors.open(opened.stderr)
        self._pause()
        return opened

    async def shake(self) -> msgspec.Raw:
        """The handshake of its era; its result."""
        if self.modern:
            return await self.ask("server/discover", {})
        params = {
            "protocolVersion": self.hello.version,
            "capabilities": self.hello.capabilities,
            "clientInfo": self.hello.client,
        }
        found = await self.ask("initialize", params)
        self.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        if self.hello.level:
            self.set_level(self.hello.level)
        return found

    def set_level(self, level: str) -> None:
        """What a legacy server is to log from now on; it may not know how."""
        if level != self._level:
            self._level = level
            body = message.raw({"level": level})
            fields = {"jsonrpc": message.TWO, "method": message.raw("logging/setLevel"), "params": body}
            self.send(Waiter(), fields)

    async def lists(self, handshake: msgspec.Raw) -> Lists:
        """Everything the server lists, asked for all at once."""
        table = message.fields(handshake) or {}
        offered = message.fields(table.get("capabilities", message.EMPTY)) or {}
        kinds = [kind for kind in KINDS if ("resources" if kind == "templates" else kind) in offered]
        pages = await asyncio.gather(*(self._pages(kind) for kind in kinds))
        version = eras.MODERN[0] if self.modern else message.text(table.get("protocolVersion")) or ""
        return Lists(version, handshake, dict(zip(kinds, pages, strict=True)))

    async def _pages(self, kind: str) -> list[msgspec.Raw]:
        found: list[msgspec.Raw] = []
        params: dict[str, object] = {}
        while len(found) < MAX_PAGES:
            try:
                page = await self.ask(KINDS[kind][0], params)
            except RequestFailed as error:
                if error.code == message.METHOD_NOT_FOUND:
                    return []  # many offer resources and no templates
                raise
            found.append(page)
            cursor = message.text((message.fields(page) or {}).get("nextCursor"))
            if cursor is None:
                return found
            params = {"cursor": cursor}
        raise SupervisorError(f"{KINDS[kind][0]} has more than {MAX_PAGES} pages")

    async def ask(self, method: str, params: Mapping[str, object]) -> msgspec.Raw:
        """A request of the gateway's own; its result. RequestFailed for an error, SessionLost at its end."""
        own = Own()
        if self.modern:
            meta = eras.stamped({}, eras.MODERN[0], self.hello.capabilities, self.hello.client, "")
            params = {**params, "_meta": meta}
        self.send(own, {"jsonrpc": message.TWO, "method": message.raw(method), "params": message.raw(params)})
        answer = await own.future
        if "result" in answer:
            return answer["result"]
        raise RequestFailed(method, answer.get("error", message.EMPTY))

    def send(self, waiter: Waiter, fields: Fields) -> bytes:
        """Send a request under an id of its own, which is returned, and remember who waits for the answer."""
        self._number += 1
        number = b"%d" % self._number
        fields["id"] = msgspec.Raw(number)
        self.pending[number] = waiter
        line = message.line(fields)
        self.traffic.sent += len(line)
        self._writer.write(line)
        return number

    @property
    def busy(self) -> bool:
        """Whether anybody waits for an answer."""
        return any(each.is_work for each in self.pending.values())

    @property
    def requests(self) -> int:
        """How many were sent, those of the gateway's own included."""
        return self._number

    @property
    def next_id(self) -> bytes:
        """The id that the next request gets."""
        return b"%d" % (self._number + 1)

    def write(self, line: bytes) -> None:
        """Send a line as it is."""
        self.traffic.sent += len(line)
        self._writer.write(line)

    def received(self, line: bytes) -> None:
        """One line of the server's."""
        self.traffic.received += len(line)
        fields = message.fields(line)
        if fields is None:
            self._garbage(line)
            return
        if "method" in fields:
            self._called(fields)
            return
        waiter = self.pending.pop(bytes(fields["id"]), None) if "id" in fields else None
        if waiter is None:
            return  # cancelled, answered already, or never asked
        if "result" not in fields and "error" not in fields:
            waiter.lost(envelope.SERVER_ENDED, "the server sent an answer without a result")
            return
        self.used = time.monotonic()
        waiter.answered(fields)

    def _called(self, fields: Fields) -> None:
        method = message.text(fields["method"])
        if method is None:
            return
        if "id" in fields:
            self._asked(fields, method)
            return
        params = message.fields(fields.get("params", message.EMPTY)) or {}
        if method == "notifications/progress":
            waiter = self.pending.get(bytes(params["progressToken"])) if "progressToken" in params else None
            if waiter:
                waiter.progressed(fields, params)
            return
        self.notified(self, method, fields)

    def _asked(self, fields: Fields, method: str) -> None:
        if method == "ping":
            self.write(message.result(bytes(fields["id"]), b"{}"))
            return
        # whoever asked last is the likeliest to be meant
        for waiter in reversed(self.pending.values()):
            if waiter.asked(self, fields, method):
                return
        if not self.orphan(self, fields, method):
            self.refuse(fields["id"], method)

    def refuse(self, request_id: msgspec.Raw, method: str) -> None:
        """Tell the server that no client here can do this for it."""
        said = f"no client that is connected supports {method}"
        self.write(message.error(bytes(request_id), message.METHOD_NOT_FOUND, said))

    def _full(self, full: bool) -> None:
        self.blocked(full)

    def pause(self, who: object, *, paused: bool) -> None:
        """Stop reading as long as anybody who gets what it says cannot take more."""
        (self._paused.add if paused else self._paused.discard)(who)
        self._pause()

    def _pause(self) -> None:
        if self._reader:
            self._reader.pause(paused=bool(self._paused))

    def _garbage(self, line: bytes) -> None:
        self._dropped += 1
        if self._dropped <= _TOLD:
            shown = pump.printable(line[:80].decode(errors="replace").rstrip("\n"))
            pump.note(f"{self.name} wrote a line that is not JSON-RPC; dropped: {shown}")

    def _too_long(self) -> None:
        most = self.opened.output_line if self.opened else 0
        self.end(f"it wrote a line of more than {most} bytes (limits.output_line)")

    def end(self, reason: str) -> None:
        """End the session: SIGTERM, its grace, SIGKILL; `ended` tells when it has ended."""
        if not self.ending:
            self.ending = reason
            if self.opened and not self.ended.done():
                asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        if self.opened:
            await self._writer.flush_and_close(0.1)
            await self._channel.close_session(self.opened.session)

    async def over(self) -> str:
        """Wait for the end; the reason, in words. Every request that waited has been told."""
        exited = await self.ended
        with contextlib.suppress(TimeoutError):
            # what it said before it ended is still in the pipe
            await asyncio.wait_for(self._drained.wait(), 2)
        self.ready = False
        reason = self.ending or (exited.reason if exited else "the supervisor's monitor ended")
        await self._writer.flush_and_close(0)
        self.lose(envelope.SERVER_ENDED, f"the server's session has ended: {reason}")
        return reason

    def lose(self, code: int, reason: str) -> None:
        """Every request that waits gets the reason why it waits in vain."""
        waiting, self.pending = list(self.pending.values()), {}
        for waiter in waiting:
            waiter.lost(code, reason)


class RequestFailed(SupervisorError):
    """A server answered a request of the gateway's own with an error."""

    def __init__(self, method: str, error: msgspec.Raw) -> None:
        table = message.fields(error) or {}
        try:
            self.code = int(bytes(table.get("code", b"0")))
        except ValueError:
            self.code = 0
        said = pump.printable(message.text(table.get("message")) or "an error without words")
        super().__init__(f"{method}: {said}")
