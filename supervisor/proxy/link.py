"""A proxy's end of proxy.sock: asks the monitor for sessions, gets descriptors and news of their end.

Runs unprivileged. Blocking, but for `post_close` and `news`, which are for an event loop.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

from supervisor import wire
from supervisor.audit.reached import Reached
from supervisor.errors import (
    FAILED,
    REFUSED,
    UNENFORCEABLE,
    USAGE,
    ConfigError,
    Refused,
    SupervisorError,
    WireError,
)


def arrived(sock: socket.socket, *, max_fds: int = 0) -> Iterator[tuple[wire.Message, list[int]] | None]:
    """For an event loop: what a peer has said, to the end of what is there; None when nothing more will come.

    Not one message a turn: libuv looks at a socket with an error once, and then no more.
    """
    received: tuple[wire.Message, list[int]] | None = ({}, [])
    while received is not None:
        try:
            received = wire.receive(sock, max_fds=max_fds)
        except BlockingIOError:
            return
        except (OSError, WireError):
            received = None
        yield received


class Denied(SupervisorError):
    """The monitor said no; its message and exit status are passed on as they are."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status


class Opened(NamedTuple):
    """A running session: its pipes, its pidfd, and the bounds that the proxy holds (bytes, seconds).

    `files` is the socket on which is told which files it opens (supervisor.proxy.touched), -1 where nobody knows.
    `secrets`: marks by which their values are found in what is written down (supervisor.secrets.marks).
    """

    session: int
    pid: int
    stdin: int
    stdout: int
    stderr: int
    pidfd: int
    spec: str
    profile: str
    accepted: tuple[str, ...]
    summary: str
    start: float
    grace: float
    output_line: int
    stderr_limit: int
    output: int
    output_rate: int
    reaches: bool = False
    image: str = ""
    runtime: str = ""
    files: int = -1
    secrets: object = None

    @property
    def posture(self) -> str:
        """What the monitor found when it read back what the kernel applied, and whether files are told of."""
        return "ok" if self.files >= 0 else "ok, files unseen"


class Greeting(NamedTuple):
    """The monitor's pid, and two system call filters: the proxy's own, and that of the audit ledger."""

    pid: int
    filter: str
    ledger: str


class Exited(NamedTuple):
    """The end of a session: its exit code (negative: a signal; None: ended from outside) and why."""

    session: int
    code: int | None
    reason: str

    @property
    def status(self) -> int:
        """As a shell would put it."""
        if self.code is None:
            return 128 + 9
        return self.code if self.code >= 0 else 128 - self.code


class Link:
    """One connection to a monitor.

    `refused` is told, in words, of what a session was not let reach; `reached` of that and of what it was.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.refused: Callable[[str], None] = lambda _: None
        self.reached: Callable[[Reached], None] = lambda _: None
        self._next = 0
        self._events: list[Exited] = []

    def hello(self) -> Greeting:
        """Greet. Denied: what was wrong in personal mode."""
        answer, _ = self._ask("hello", version=1)
        return Greeting(int(str(answer["pid"])), str(answer["filter"]), str(answer["ledger"]))

    def servers(self) -> list[dict[str, object]]:
        """Name and profile of each server that this user may open."""
        answer, _ = self._ask("list")
        found = answer.get("servers")
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    def describe(self, server: str) -> wire.Message:
        """What the registry says of a server; its manifest is not looked at."""
        answer, fds = self._ask("describe", server=server)
        for fd in fds:
            os.close(fd)
        return answer

    def open(self, server: str) -> Opened:
        """Start a session, or raise Denied with the reason."""
        return opened(*self._ask("open", server=server))

    def close_session(self, session: int) -> None:
        """Ask for the end of a session; `event` tells when it has ended."""
        try:
            self._ask("close", session=session)
        except ConnectionError:
            return  # the monitor is gone, and the session with it

    def event(self) -> Exited | None:
        """The next end of a session; None when the monitor itself is gone."""
        if self._events:
            return self._events.pop(0)
        while True:
            try:
                received = wire.receive(self.socket)
            except ConnectionError:
                return None
            if received is None:
                return None
            if ended := self._heard(received[0]):
                return ended

    def has_event(self, seconds: float) -> bool:
        """Whether `event` would not have to wait, now or within so many seconds."""
        return bool(self._events or select.select([self.socket], [], [], seconds)[0])

    def post_close(self, session: int) -> None:
        """As `close_session`, for an event loop: does not wait for the answer."""
        self._next += 1
        with contextlib.suppress(OSError):
            wire.send(self.socket, {"id": self._next, "req": "close", "session": session})

    def news(self) -> list[Exited] | None:
        """What a readable socket holds: ends of sessions, perhaps none; None when the monitor is gone."""
        ends: list[Exited] = []
        try:
            # to the end of what is there: libuv looks at a socket with an error once, and then no more
            while received := wire.receive(self.socket):
                if ended := self._heard(received[0]):
                    ends.append(ended)
        except BlockingIOError:
            return ends
        except ConnectionError:
            pass
        return ends or None

    def catch_up(self) -> None:
        """Hear what has been said so far, for a caller that is about to hang up."""
        self.socket.setblocking(False)
        with contextlib.suppress(OSError):
            while received := wire.receive(self.socket):
                self._heard(received[0])

    def close(self) -> None:
        """Hang up; every session of this connection is killed."""
        self.socket.close()

    def _heard(self, message: wire.Message) -> Exited | None:
        """The end of a session, if that is what the message tells."""
        if message.get("event") == "refused":
            self.refused(refusal(message))
        if message.get("event") in ("refused", "reached"):
            self.reached(reached(message))
        return exited(message) if message.get("event") == "exited" else None

    def _ask(self, req: str, **fields: str | int) -> tuple[wire.Message, list[int]]:
        self._next += 1
        try:
            wire.send(self.socket, {"id": self._next, "req": req, **fields})
            while True:
                received = wire.receive(self.socket, max_fds=5)
                if received is None:
                    raise ConnectionResetError
                message, fds = received
                if ended := self._heard(message):
                    self._events.append(ended)
                elif message.get("id") == self._next:
                    break
        except ConnectionError:
            raise SupervisorError("the monitor ended unexpectedly; its sessions were killed with it") from None
        error = message.get("error")
        if isinstance(error, dict):
            raise denied(str(error["message"]), int(str(error["status"])))
        answer = message.get("ok")
        if not isinstance(answer, dict):
            raise WireError(f"{req}: an answer without a result")
        return answer, fds


def opened(answer: wire.Message, fds: list[int]) -> Opened:
    """The monitor's answer to `open` with its descriptors; WireError when some are missing."""
    if len(fds) != 4 + (answer["files"] is True):
        raise WireError("open: four descriptors expected, and a fifth where files are told of")
    return Opened(
        session=int(str(answer["session"])),
        pid=int(str(answer["pid"])),
        stdin=fds[0],
        stdout=fds[1],
        stderr=fds[2],
        pidfd=fds[3],
        spec=str(answer["spec"]),
        profile=str(answer["profile"]),
        accepted=_texts(answer["accepted"]),
        summary=str(answer["summary"]),
        start=float(str(answer["start"])),
        grace=float(str(answer["grace"])),
        output_line=int(str(answer["output_line"])),
        stderr_limit=int(str(answer["stderr"])),
        output=int(str(answer["output"])),
        output_rate=int(str(answer["output_rate"])),
        reaches=answer.get("reaches") is True,
        image=str(answer.get("image", "")),
        runtime=str(answer.get("runtime", "")),
        files=fds[4] if len(fds) > 4 else -1,
        secrets=answer.get("secrets"),
    )


def refusal(message: wire.Message) -> str:
    """A refused connection in words, with the option that would allow it."""
    port = f":{message['port']}" if message["port"] != "0" else ""
    hint = f"; {message['rule']} would allow it" if message["rule"] else ""
    return f"egress: {message['name']}{port}: {message['reason']}{hint}"


def reached(message: wire.Message) -> Reached:
    """A connection that was made or refused, as the monitor tells it."""
    port, sent, received = (int(str(message.get(name, 0))) for name in ("port", "sent", "received"))
    return Reached(str(message["name"]), port, sent, received, message["event"] == "refused")


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(each) for each in value) if isinstance(value, list) else ()


def exited(message: wire.Message) -> Exited:
    """The end of a session, as the monitor tells it."""
    code, limits = message["code"], message["limits"]
    code = code if isinstance(code, int) else None
    hit = {name: int(value) for name, value in limits.items()} if isinstance(limits, dict) else {}
    return Exited(int(str(message["session"])), code, _reason(code, hit, str(message["reason"])))


def _reason(code: int | None, hit: dict[str, int], given: str) -> str:
    """Why it ended, in words that name the limit if it was one; `given` is why the monitor ended it."""
    if "memory" in hit and code != 0:
        mib = hit["memory"] >> 20
        return f"killed by the kernel: it used more than its {mib} MiB of memory (limits.memory)"
    hint = f"; it was refused more than {hit['pids']} processes (limits.pids)" if "pids" in hit else ""
    if given:
        return given + hint
    if code is None:
        return "killed" + hint
    if code < 0:
        # real-time signals have no names of their own
        name = signal.Signals(-code).name if -code in set(signal.Signals) else signal.strsignal(-code)
        large = ": a file would have become too large (limits.file_size)" if -code == signal.SIGXFSZ else ""
        return f"killed by signal {-code} ({name}){large}{hint}"
    return f"exited with status {code}" + hint


def denied(message: str, status: int) -> SupervisorError:
    """A monitor's refusal as the error that it was there: its message, and its exit status."""
    known = {USAGE: ConfigError, REFUSED: Refused}
    if status in known:
        return known[status](message)
    return Denied(message, status if status in (FAILED, UNENFORCEABLE) else FAILED)


def connect(path: str) -> Link:
    """Connect to a daemon's proxy.sock; SupervisorError when nobody answers there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise SupervisorError(f"{path}: {error.strerror or error}") from None
    os.set_inheritable(sock.fileno(), False)
    return Link(sock)
