"""The pump: carries one session's bytes between an engine's attached stream and the session's pipes.

A fork of the process that holds the engine's socket, which must not see these bytes. Started by root it becomes a
uid of its own; it has four descriptors, no file, no capability and a system call filter of its own, and ends with
the stream or with its parent. Standard library only.

An engine sends frames: one byte for the stream (1 output, 2 errors), three of nothing, four for the length.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Callable

from supervisor.sandbox import rights
from supervisor.sandbox import syscalls as sc

_PART = 1 << 16
_HEAD = struct.Struct(">BxxxL")


class Pump:
    """What is on its way in both directions, at most one part each; a frame's length is only counted."""

    def __init__(self, stream: socket.socket, stdin: int, stdout: int, stderr: int, *, up: bytes = b"") -> None:
        self.stream = stream
        self.stdin = stdin
        self.outputs = {1: stdout, 2: stderr}
        self.up = up
        self.down = b""
        self.rest = 0
        self.kind = 0
        self.ended = False

    def run(self) -> None:
        """Until the engine hangs up and everything has been passed on."""
        while not (self.ended and not self._target()):
            poll = select.poll()
            target = self._target()
            events = select.POLLOUT if self.up else 0
            if not self.ended and target is None:
                events |= select.POLLIN
            if events:
                poll.register(self.stream.fileno(), events)
            if self.stdin >= 0 and not self.up:
                poll.register(self.stdin, select.POLLIN)
            if target is not None:
                poll.register(target, select.POLLOUT)
            ready = dict(poll.poll())
            with contextlib.suppress(BlockingIOError):
                self._move(ready)

    def _target(self) -> int | None:
        """Where the bytes at hand go; None when there are none, or not yet enough of them to know."""
        while True:
            if self.rest and self.kind not in self.outputs:
                # a stream that nobody asked for
                dropped = min(self.rest, len(self.down))
                self.down, self.rest = self.down[dropped:], self.rest - dropped
            if self.rest or len(self.down) < _HEAD.size:
                break
            self.kind, self.rest = _HEAD.unpack_from(self.down)
            self.down = self.down[_HEAD.size :]
        return self.outputs[self.kind] if self.rest and self.down else None

    def _move(self, ready: dict[int, int]) -> None:
        for fd, events in ready.items():
            if fd == self.stdin:
                self._take_in()
            elif fd == self.stream.fileno():
                self._exchange(events)
            else:
                self._put_out(fd)

    def _take_in(self) -> None:
        self.up = os.read(self.stdin, _PART)
        if not self.up:
            os.close(self.stdin)
            self.stdin = -1
            with contextlib.suppress(OSError):
                self.stream.shutdown(socket.SHUT_WR)

    def _exchange(self, events: int) -> None:
        fd = self.stream.fileno()
        if events & select.POLLOUT and self.up:
            try:
                self.up = self.up[os.write(fd, self.up) :]
            except (BrokenPipeError, ConnectionResetError):
                self.up = b""
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR) and self._target() is None:
            try:
                part = os.read(fd, _PART)
            except ConnectionError:
                part = b""
            self.down += part
            self.ended = not part

    def _put_out(self, fd: int) -> None:
        part = self.down[: self.rest]
        try:
            count = os.write(fd, part)
        except BrokenPipeError:
            count = len(part)  # nobody reads it any more
        self.down = self.down[count:]
        self.rest -= count


def _confine(program: bytes, parent: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    last = sc.last_capability()
    abi = sc.landlock_abi()
    if os.geteuid() == 0:
        identity = sc.FIRST_UID + os.getpid()
        rights.drop_bounding(last)
        os.setgroups([])
        os.setresgid(identity, identity, identity)
        os.setresuid(identity, identity, identity)
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    sc.prctl(rights.PR_SET_DUMPABLE, 0, 0, 0, 0)
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    rights.landlock_only(abi, [])
    rights.load_seccomp(program)


def start(stream: socket.socket, theirs: list[int], program: bytes, saying: Callable[[], bytes]) -> int:
    """Fork a pump over `stream` and its ends of the pipes (stdin, stdout, stderr); its pid. They stay open here.

    `saying` is called in the fork, and what it returns is said before anything else.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        up = saying()
        kept = sorted((stream.fileno(), *theirs))
        for first, after in zip([-1, *kept], [*kept, 1 << 31], strict=True):
            if first + 1 < after:
                sc.close_range(first + 1, after - 1, 0)
        for fd in kept:
            os.set_blocking(fd, False)
        _confine(program, parent)
        Pump(stream, *theirs, up=up).run()
        status = 0
    finally:
        os._exit(status)
