"""Copying bytes between descriptors, one thread a direction: `exec`, and the standard error of every server.

Runs unprivileged. Blocking reads and writes, because the caller's terminal or log is shared with other programs
and must not be made non-blocking under them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType

from supervisor.proxy.link import Exited, Link, Opened

_CHUNK = 64 * 1024


class Interrupted(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def note(text: str) -> None:
    """A line of ours on standard error, whatever state that is in."""
    with contextlib.suppress(OSError):
        os.write(2, f"supervisor: {text}\n".encode(errors="replace"))


def printable(text: str) -> str:
    """`text` without anything a terminal would act on."""
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def write_all(fd: int, data: bytes) -> None:
    """All of `data`; OSError when the reader is gone."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def copy(source: int, sink: int, *, close: bool = False, limit: int = 0, what: str = "") -> None:
    """Copy to the end of `source` or until `sink` is gone; past `limit` bytes read on and drop."""
    total = 0
    with contextlib.suppress(OSError):
        while data := os.read(source, _CHUNK):
            total += len(data)
            if not limit or total <= limit:
                write_all(sink, data)
            elif total - len(data) <= limit:
                note(f"{what} is over its limit of {limit} bytes; the rest is dropped (limits.stderr)")
    if close:
        os.close(sink)


def start(source: int, sink: int, *, close: bool = False, limit: int = 0, what: str = "") -> threading.Thread:
    """`copy` in a thread that does not keep the process alive."""
    thread = threading.Thread(
        target=copy, args=(source, sink), kwargs={"close": close, "limit": limit, "what": what}, daemon=True
    )
    thread.start()
    return thread


def interruptible() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP raise Interrupted in the main thread."""

    def raise_it(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, raise_it)


def attend(link: Link, opened: Opened) -> int:
    """Connect a session to our own standard streams until it ends; its exit status."""
    start(0, opened.stdin, close=True)
    outputs = [start(opened.stdout, 1), start(opened.stderr, 2)]
    try:
        ended = link.event()
    except Interrupted as interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends us, and so the session, at once
        link.close_session(opened.session)
        link.event()
        return 128 + interrupt.number
    for thread in outputs:
        thread.join(5)
    return finish(ended)


def finish(ended: Exited | None) -> int:
    """Say how a session ended where that is worth saying; the exit status."""
    if ended is None:
        note("the monitor ended unexpectedly; the session was killed with it")
        return 1
    if not ended.reason.startswith(("exited with status", "closed")):
        note(ended.reason)
    return ended.status
