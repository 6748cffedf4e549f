"""A proxy's end of the ledger: an intent before each call, an outcome after it, many under way at once.

Runs in the proxy, in its event loop; standard library only. No audit, no call: when the ledger is gone or refuses,
the future that a call waits for fails, and so does every one after it until the ledger takes records again.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
from collections import deque
from collections.abc import Callable, Hashable, Iterable

from supervisor.audit import forms
from supervisor.audit.forms import Short
from supervisor.errors import SupervisorError

# messages that wait for room in the socket
_MOST_WAITING = 4096
_ANSWER = 64 * 1024
_OK = b'{"ok":['
# what is called when a record is written (with nothing), or is not going to be (with the reason)
Done = Callable[[str], None]


class Unrecorded(SupervisorError):
    """The ledger did not take a record; the call that it is about must not be made."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no audit, no call: {reason}")


class Client:
    """`sock` is the proxy's end of a pair whose other end the ledger has been given; it is closed by `close`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._asked: dict[int, Done] = {}
        self._waiting: deque[bytes] = deque()
        # numbers of the forms that the ledger has learned, what each was given to last, and the last of them
        self._forms: dict[Hashable, int] = {}
        self._given: dict[int, Hashable] = {}
        self._last = 0
        # why nothing can be recorded any more, and who is told of it
        self._gone = ""
        self._broken = False
        self.lost: Callable[[], None] = lambda: None
        sock.setblocking(False)
        # with it set on this end too, the kernel names the sender of messages that are sent before the ledger looks
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._loop.add_reader(sock.fileno(), self._readable)

    def intent(self, record: bytes, *, power: bool = False) -> asyncio.Future[None]:
        """What is about to be done; done when it is written (`power`: when it survives a loss of power).

        `record` is from audit.record, ASCII. Raises Unrecorded, or the future does.
        """
        return self._send(b"intent", record, power=power)

    def outcome(self, record: bytes, *, power: bool = False) -> asyncio.Future[None]:
        """What came of it. Need not be waited for."""
        return self._send(b"outcome", record, power=power)

    def event(self, record: bytes, *, power: bool = False) -> asyncio.Future[None]:
        """Anything that is no call: an approval, a session's end, a policy."""
        return self._send(b"event", record, power=power)

    def _send(self, kind: bytes, record: bytes, *, power: bool) -> asyncio.Future[None]:
        if self._gone:
            raise Unrecorded(self._gone)
        future: asyncio.Future[None] = self._loop.create_future()
        self.tell(kind, record, functools.partial(_settle, future), power=power)
        return future

    def tell(self, kind: bytes, record: bytes | Short, done: Done, *, power: bool = False) -> None:
        """The same for who has better to do than to await a future; `done` may be called at once."""
        if self._gone:
            done(self._gone)
            return
        self._next = number = self._next + 1
        policy = b"power" if power else b"process"
        if isinstance(record, bytes):
            message = b'{"id":%d,"kind":"%b","policy":"%b","record":%b}' % (number, kind, policy, record)
        elif (form := self._forms.get(record.form)) is not None:
            message = b'{"id":%d,"form":%d,"policy":"%b","values":[%b]}' % (number, form, policy, record.values)
        else:
            body, new = record.whole(), b""
            if len(body) <= forms.LIMIT and record.form not in self._given.values():
                done = self._formed(record.form, done)
                new = b'"form":%d,' % self._last
            message = b'{"id":%d,"kind":"%b","policy":"%b",%b"record":%b}' % (number, kind, policy, new, body)
        self._asked[number] = done
        if self._waiting:
            self._queue(message)
            return
        try:
            self._socket.send(message)
        except BlockingIOError:
            self._queue(message)
            self._loop.add_writer(self._socket.fileno(), self._writable)
        except OSError as error:
            self._lost(error.strerror or str(error))

    def _formed(self, form: Hashable, done: Done) -> Done:
        """Give it the next number, which it has when the ledger says that it took the record."""
        self._last = number = (self._last + 1) % forms.MOST
        self._forms.pop(self._given.get(number), None)
        self._given[number] = form

        def written(reason: str) -> None:
            if self._given.get(number) == form:
                if reason:
                    del self._given[number]
                else:
                    self._forms[form] = number
            done(reason)

        return written

    @property
    def gone(self) -> bool:
        """Whether its ledger takes nothing any more."""
        return bool(self._gone)

    @property
    def unsent(self) -> bool:
        """Whether anything waits for room in the socket; what is there reaches the ledger in any case."""
        return bool(self._waiting)

    def _queue(self, message: bytes) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._tell([self._next], f"{_MOST_WAITING} records wait for the audit ledger already")
        else:
            self._waiting.append(message)

    def _writable(self) -> None:
        try:
            while self._waiting:
                self._socket.send(self._waiting[0])
                self._waiting.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_ANSWER)
        except BlockingIOError:
            return
        except ConnectionResetError:
            # it ended without reading all of ours; what it answered before that comes after this error
            self._broken = True
            self._loop.call_soon(self._readable)
            return
        except OSError:
            data = b""
        if self._broken and not self._gone:
            # libuv looks at a socket with an error once
            self._loop.call_soon(self._readable)
        if not data:
            self._lost("its ledger is gone")
            return
        if data.startswith(_OK):
            self._tell(map(int, data[len(_OK) : -2].split(b",")), "")
            return
        answer = json.loads(data)
        self._tell(answer["no"], f"the audit log takes no records: {answer['reason']}")

    def _tell(self, numbers: Iterable[int], reason: str) -> None:
        """Tell who waits for these; one that raises takes nothing from the others."""
        left = iter(numbers)
        try:
            for number in left:
                self._asked.pop(number)(reason)
        finally:
            for number in left:
                self._loop.call_soon(self._asked.pop(number), reason)

    def _lost(self, reason: str) -> None:
        if self._gone:
            return
        self._gone = reason
        self._waiting.clear()
        self._loop.remove_writer(self._socket.fileno())
        self._loop.remove_reader(self._socket.fileno())
        try:
            self._tell(list(self._asked), reason)
        finally:
            self.lost()

    def close(self) -> None:
        """Hang up. What has not been acknowledged fails."""
        if self._socket.fileno() >= 0:
            self._lost("the audit connection was closed")
            self._socket.close()


def _settle(future: asyncio.Future[None], reason: str) -> None:
    if future.done():
        return
    if reason:
        future.set_exception(Unrecorded(reason))
        # who does not wait for it does not want to hear of it either
        future.exception()
    else:
        future.set_result(None)


class Plain:
    """The same without an event loop: one record at a time, acknowledged before the next."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._socket = sock
        self._next = 0
        sock.settimeout(seconds)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def tell(self, kind: bytes, record: bytes) -> None:
        """Write it down. Unrecorded: it was not."""
        self._next += 1
        message = b'{"id":%d,"kind":"%b","policy":"process","record":%b}' % (self._next, kind, record)
        try:
            self._socket.send(message)
            answer = json.loads(self._socket.recv(_ANSWER) or b"null")
        except OSError as error:
            raise Unrecorded(f"its ledger does not answer ({error.strerror or error})") from None
        if answer is None:
            raise Unrecorded("its ledger is gone")
        if "no" in answer:
            raise Unrecorded(f"the audit log takes no records: {answer['reason']}")
