"""Answers over HTTP as they form: messages in order, sent once, kept for a while where a client may come back.

Runs unprivileged. A stream is what one POST gets, or the one that a legacy session's GET opens.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

# of one stream: what is kept for a client that comes back, and what waits for one that reads slowly
MAX_KEPT, MAX_WAITING = 1 << 20, 4 << 20
# of all streams of a session whose last message has been said
MAX_DONE = 4 << 20


class Stream:
    """Messages for one reader. `number` is in the ids of its events, if it has any."""

    def __init__(self, number: int = 0, *, resumable: bool = False) -> None:
        self.number = number
        self.resumable = resumable
        self.over = False
        self.silent = False
        self.size = 0
        self.count = 0
        self.read = False
        self.drained: Callable[[], None] = lambda: None
        # takes an answer that nothing came before, at once; its reader finds nothing when it wakes up
        self.alone: Callable[[bytes], None] | None = None
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._kept: deque[tuple[int, bytes]] = deque()
        self.kept = 0
        self._reader: asyncio.Future[None] | None = None

    def put(self, line: bytes, *, last: bool) -> None:
        """One more message; an empty one only ends the stream."""
        if self.over:
            return
        if last and self.alone is not None and not self.count:
            self.over = True
            self.alone(line)
        elif line:
            self.count += 1
            self._waiting.append((self.count, line))
            self.size += len(line)
            if self.resumable:
                self._keep(self.count, line)
            while not self.read and self.resumable and self.size > MAX_KEPT and len(self._waiting) > 1:
                self.size -= len(self._waiting.popleft()[1])  # nobody has come for it
        self.over = self.over or last
        self.wake()

    def trim(self) -> None:
        """Forget the oldest of what a reader does not come to read: it is not waited for."""
        while self.size > MAX_WAITING and len(self._waiting) > 1:
            self.size -= len(self._waiting.popleft()[1])

    def _keep(self, number: int, line: bytes) -> None:
        self._kept.append((number, line))
        self.kept += len(line)
        while self.kept > MAX_KEPT and len(self._kept) > 1:
            self.kept -= len(self._kept.popleft()[1])

    def wake(self) -> None:
        """Let the reader look again."""
        if self._reader and not self._reader.done():
            self._reader.set_result(None)

    def take(self) -> tuple[int, bytes] | None:
        """The next message, if there is one."""
        return self._next() if self._waiting else None

    async def get(self) -> tuple[int, bytes] | None:
        """The next message and its number; None at the end, or when somebody only woke the reader."""
        if not self._waiting and not self.over:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._next() if self._waiting else None

    def _next(self) -> tuple[int, bytes]:
        number, line = self._waiting.popleft()
        before, self.size = self.size, self.size - len(line)
        if before > MAX_WAITING >= self.size:
            self.drained()
        return number, line

    @property
    def ended(self) -> bool:
        """Nothing will come any more."""
        return self.over and not self._waiting

    def replay(self, after: int) -> None:
        """Start again behind the message of that number."""
        self._waiting = deque((number, line) for number, line in self._kept if number > after)
        self.size = sum(len(line) for _, line in self._waiting)


def event(line: bytes, event_id: str = "") -> bytes:
    """A message as an event."""
    head = f"id: {event_id}\n".encode() if event_id else b""
    return head + b"event: message\ndata: " + line.rstrip(b"\n") + b"\n\n"


def priming(event_id: str, retry: int) -> bytes:
    """An event without a message, so that a client has an id to come back with; `retry` in milliseconds."""
    return f"id: {event_id}\nretry: {retry}\ndata: \n\n".encode()


class Asked:
    """The outlet of one modern request: everything goes to its one stream."""

    def __init__(self) -> None:
        self.on_writable: Callable[[], None] = lambda: None
        self.stream = Stream()
        self.stream.drained = self._drained

    def _drained(self) -> None:
        self.on_writable()

    def deliver(self, line: bytes, about: bytes | None, *, last: bool) -> None:
        """See conversation.Outlet."""
        self.stream.put(line, last=last)

    def writable(self) -> bool:
        """See conversation.Outlet."""
        return self.stream.size <= MAX_WAITING


class Session:
    """The outlet of one legacy session: a stream for each request, one for everything else."""

    def __init__(self, principal: str) -> None:
        self.on_writable: Callable[[], None] = lambda: None
        self.principal = principal
        self.used = time.monotonic()
        self.general = Stream(0, resumable=True)
        self.general.drained = self._drained
        self.streams: dict[bytes, Stream] = {}
        self._numbers = 0
        self._done: deque[Stream] = deque(maxlen=16)

    def expect(self, key: bytes) -> Stream:
        """The stream of a request that is about to be received."""
        self._numbers += 1
        stream = self.streams[key] = Stream(self._numbers, resumable=True)
        stream.drained = self._drained
        return stream

    def find(self, number: int) -> Stream | None:
        """A stream that a client comes back to."""
        if number == 0:
            return self.general
        for each in (*self.streams.values(), *self._done):
            if each.number == number:
                return each
        return None

    def deliver(self, line: bytes, about: bytes | None, *, last: bool) -> None:
        """See conversation.Outlet."""
        stream = self.streams.get(about) if about is not None else None
        if stream is None:
            if line and not last:
                self.general.put(line, last=False)
                self.general.trim()
            return
        stream.put(line, last=last)
        if last and about is not None:
            # a client whose connection broke may still come for the answer
            self._done.append(self.streams.pop(about))
            while sum(each.kept for each in self._done) > MAX_DONE:
                self._done.popleft()

    def writable(self) -> bool:
        """See conversation.Outlet."""
        # what nobody has come to read is bounded, and does not hold anybody up
        return all(each.size <= MAX_WAITING for each in self.streams.values() if each.read)

    def _drained(self) -> None:
        if self.writable():
            self.on_writable()
