"""One running process of a server: who waits for which answer, its handshake, its lists.

Runs unprivileged. Ids and progress tokens are rewritten here, because several clients may share one process.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from supervisor.errors import SessionLost, SupervisorError
from supervisor.proxy import envelope, eras, message
from supervisor.proxy.asking import Asking
from supervisor.proxy.manifests import KINDS, MAX_BYTES, Lists
from supervisor.proxy.message import Fields
from supervisor.proxy.process import Process, Traffic
from supervisor.shown import printable

if TYPE_CHECKING:
    from supervisor.proxy.auditing import Mark
    from supervisor.proxy.channel import Channel
    from supervisor.proxy.conversation import Conversation

# of one list: pages, and bytes of them
MAX_PAGES, MAX_LIST = 100, MAX_BYTES // len(KINDS)
_TOLD = 20


class Waiting(Protocol):
    """Whoever waits for a process to be ready. `exclusive`: where calls take turns, it takes one."""

    exclusive: bool

    def go(self, instance: Instance) -> None: ...
    def lost(self, code: int, reason: str) -> None: ...
    def asked(self, instance: Instance, fields: Fields, method: str) -> bool: ...


class Waiter:
    """Whoever waits for an answer of the server; this one does not care. `is_call`: a client's."""

    __slots__ = ()
    is_call = False

    @property
    def is_work(self) -> bool:
        """Whether the server owes us something: with a stream that is merely open it counts as idle."""
        return True

    @property
    def asked_at(self) -> float:
        """Since when it is the client's turn (monotonic time); never, as long as it is the server's."""
        return math.inf

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


class Instance(Process):
    """A session of a server that speaks MCP.

    `notified` gets every notification of the server that is not about one request. `owner` is the one client whose
    it is, if it is; otherwise `principals` are those who have used it. `abandoned`: a call was given up, and what
    that has asked may still be on its way.
    """

    def __init__(self, name: str, channel: Channel, *, modern: bool, hello: Hello) -> None:
        super().__init__(name, channel, self.received)
        self.modern = modern
        self.hello = hello
        self.ready = False
        self.gone = ""
        self.used = time.monotonic()
        self.pending: dict[bytes, Waiter] = {}
        self.waiting: list[Waiting] = []
        self.traffic = Traffic()
        self.owner: Conversation | None = None
        self.principal = ""
        self.principals: set[str] = set()
        # calls that are under way here, for the log; whether they take turns, and whose turn it is
        self.marks: set[Mark] = set()
        self.serial = False
        self.turn: Waiting | None = None
        self.turn_mark: Mark | None = None
        self._over = False
        self.holders: set[object] = set()
        self.notified: Callable[[Instance, str, Fields], None] = lambda *_: None
        self.abandoned = False
        self.asking = Asking(self)
        capabilities = message.fields(hello.capabilities) or {}
        self._askable = not modern and not capabilities.keys().isdisjoint(eras.ASKED.values())
        self._number = 0
        self._dropped = 0
        self._level = ""

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
        return found

    def start(self) -> None:
        """It is ready: whoever has waited for that goes on."""
        self.ready = True
        if self.hello.level and not self.modern:
            self.set_level(self.hello.level)
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            self.give(each)

    def give(self, call: Waiting) -> None:
        """Let a call go as soon as the process is ready, and it is its turn."""
        if self.gone:
            call.lost(envelope.SERVER_ENDED, self.gone)
        elif not self.ready or (self.serial and call.exclusive and self.turn not in (None, call)):
            self.waiting.append(call)
        else:
            if self.serial and call.exclusive:
                self.turn = call
            call.go(self)

    @property
    def reaches(self) -> bool:
        """Whether there are hosts that it may reach."""
        return self.opened is not None and self.opened.reaches

    def over_with(self, call: Waiting) -> None:
        """It is the next one's turn, when it is known what this one has touched."""
        if self.turn is call:
            self._over = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def known(self, mark: Mark) -> None:
        """What a call has touched is known."""
        self.marks.discard(mark)
        self._next_turn()

    def _next_turn(self) -> None:
        if not self._over or self.turn_mark in self.marks:
            return
        self.turn, self.turn_mark, self._over = None, None, False
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            self.give(each)

    def withdraw(self, call: Waiting) -> bool:
        """Forget a call that still waits; whether it did."""
        if call in self.waiting:
            self.waiting.remove(call)
            return True
        return False

    def abandon(self, call: Waiting, number: bytes, fields: Fields | None = None) -> None:
        """Nobody waits for the answer to a call any more: the server is told, with the client's message if any."""
        if self.withdraw(call) or self.pending.pop(number, None) is None:
            return
        fields = fields or {"jsonrpc": message.TWO, "method": message.raw("notifications/cancelled")}
        params = message.fields(fields.get("params", message.EMPTY)) or {}
        params["requestId"] = msgspec.Raw(number)
        self.write(message.line(fields | {"params": message.raw(params)}))
        if self.owner is None:
            self.abandoned = True
            self.asking.settle()

    @property
    def calls(self) -> list[Waiter]:
        """Those of clients that wait for an answer."""
        return [each for each in self.pending.values() if each.is_call]

    @property
    def exclusive(self) -> bool:
        """Whether it has one call at a time: its client can be asked, and this server does ask."""
        return self._askable and self.traffic.asks

    @property
    def vacant(self) -> bool:
        """Whether it takes another call of a client that is not its owner."""
        return not self.exclusive or not (self.abandoned or self.waiting or self.calls)

    def set_level(self, level: str) -> None:
        """What a legacy server is to log from now on; it may not know how."""
        if level != self._level:
            self._level = level
            self.tell("logging/setLevel", {"level": level})

    def lower_level(self, level: str) -> None:
        """The same where several calls wish for different levels: the wordiest is the server's."""
        if level in eras.LEVELS and (not self._level or eras.LEVELS.index(level) < eras.LEVELS.index(self._level)):
            self.set_level(level)

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
        cursors: set[str | None] = {""}
        params: dict[str, object] = {}
        size = 0
        while True:
            try:
                page = await self.ask(KINDS[kind][0], params)
            except envelope.RequestFailed as error:
                if error.code == message.METHOD_NOT_FOUND:
                    return []  # many offer resources and no templates
                raise
            found.append(page)
            size += len(bytes(page))
            cursor = message.text((message.fields(page) or {}).get("nextCursor"))
            if cursor is None:
                return found
            if cursor in cursors or len(found) == MAX_PAGES or size > MAX_LIST:
                most = f"{MAX_PAGES} pages or {MAX_LIST} bytes"
                raise SupervisorError(f"{KINDS[kind][0]} does not come to an end, or has more than {most}")
            cursors.add(cursor)
            params = {"cursor": cursor}

    async def ask(self, method: str, params: Mapping[str, object]) -> msgspec.Raw:
        """A request of the gateway's own; its result. RequestFailed for an error, SessionLost at its end."""
        if self.gone:
            raise SessionLost(self.gone)
        own = Own()
        number = self.send(own, self._own(method, params))
        try:
            answer = await own.future
        finally:
            self.pending.pop(number, None)
        if "result" in answer:
            return answer["result"]
        raise envelope.RequestFailed(method, answer.get("error", message.EMPTY))

    def tell(self, method: str, params: Mapping[str, object]) -> None:
        """A request of the gateway's own whose answer does not matter."""
        self._number += 1
        self.write(message.line(self._own(method, params) | {"id": message.raw(self._number)}))

    def _own(self, method: str, params: Mapping[str, object]) -> Fields:
        if self.modern:
            meta = eras.stamped({}, eras.MODERN[0], self.hello.capabilities, self.hello.client, "")
            params = {**params, "_meta": meta}
        return {"jsonrpc": message.TWO, "method": message.raw(method), "params": message.raw(params)}

    def send(self, waiter: Waiter, fields: Fields, params: Fields | None = None) -> bytes:
        """Send a request under an id of its own, which is returned, and remember who waits for the answer.

        With these params, if any are given.
        """
        self._number += 1
        number = b"%d" % self._number
        fields["id"] = msgspec.Raw(number)
        self.pending[number] = waiter
        line = message.line(fields if params is None else fields | {"params": params})
        self.traffic.sent += len(line)
        self._writer.write(line)
        return number

    @property
    def busy(self) -> bool:
        """Whether anybody waits for an answer."""
        return bool(self.waiting) or any(each.is_work for each in self.pending.values())

    def forsaken(self, oldest: float) -> bool:
        """Whether all that is under way has waited for clients since before that time."""
        return not self.waiting and all(each.asked_at < oldest for each in self.pending.values())

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
        super().write(line)

    def received(self, line: bytes) -> None:
        """One line of the server's."""
        self.traffic.received += len(line)
        fields = message.incoming(line)
        if fields is None and not line.isascii():
            fields = message.repaired(line)
        if fields is None:
            self._garbage(line)
            return
        if "method" in fields:
            self._called(fields)
            return
        waiter = self.pending.pop(bytes(fields["id"]), None) if "id" in fields else None
        if waiter is None:
            waiter = self.pending.pop(message.number(fields.get("id")), None)
        if waiter is None:
            return  # cancelled, answered already, or never asked
        if "result" not in fields and "error" not in fields:
            waiter.lost(envelope.SERVER_ENDED, "the server sent an answer without a result")
        else:
            waiter.answered(fields)
        if self.asking.held or self.abandoned:
            self.asking.settle()

    def _called(self, fields: Fields) -> None:
        method = message.text(fields["method"])
        if method is None:
            return
        if "id" in fields:
            self.asking.ask(fields, method)
            return
        params = message.fields(fields.get("params", message.EMPTY)) or {}
        if method == "notifications/progress":
            waiter = self.pending.get(message.number(params.get("progressToken")))
            if waiter:
                waiter.progressed(fields, params)
            return
        self.notified(self, method, fields)

    def _garbage(self, line: bytes) -> None:
        self._dropped += 1
        if self._dropped <= _TOLD:
            shown = printable(line[:80].decode(errors="replace").rstrip("\n"))
            self.stderr(f"(it wrote a line that is not JSON-RPC; dropped: {shown})\n".encode(), True)

    async def over(self) -> str:
        """Wait for the end; the reason, in words. Everybody who waited has been told."""
        reason = await self.last_words()
        self.lose(envelope.SERVER_ENDED, f"the server's session has ended: {reason}")
        await self.shut()
        return reason

    def lose(self, code: int, reason: str) -> None:
        """Whoever waits, and whoever comes from now on, gets the reason why in vain."""
        self.ready = False
        self.gone = reason
        losers: list[Waiting | Waiter] = [*self.pending.values(), *self.waiting]
        self.pending, self.waiting = {}, []
        for each in losers:
            each.lost(code, reason)
