"""Copying bytes between descriptors, one thread a direction: `exec`, and the standard error of every server.

Runs unprivileged. Blocking reads and writes, because the caller's terminal or log is shared with other programs
and must not be made non-blocking under them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from supervisor.proxy.hints import Hints
from supervisor.proxy.link import Exited, Link, Opened
from supervisor.proxy.meter import Meter
from supervisor.proxy.terminal import Screen
from supervisor.shown import printable

_CHUNK = 64 * 1024
# seconds after its grace in which a session has ended
_LATE = 2.0


class Interrupted(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def note(text: str) -> None:
    """A line of ours on standard error, whatever state that is in."""
    with contextlib.suppress(OSError):
        os.write(2, f"supervisor: {told(text)}\n".encode(errors="replace"))


def told(text: str) -> str:
    """A reason of several lines, which may quote a stranger, without anything a terminal would act on."""
    return "\n".join(map(printable, text.split("\n")))


def write_all(fd: int, data: bytes) -> None:
    """All of `data`; OSError when the reader is gone.

    Waits for a slow reader also where somebody made the descriptor non-blocking: others share it.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])


def shown(sink: int) -> Callable[[bytes], bytes]:
    """What of a stranger's bytes is written to `sink`: all of them, unless that is a terminal."""
    return Screen().feed if os.isatty(sink) else bytes


def copy(
    source: int, sink: int, *, close: bool = False, meter: Meter | None = None, hints: Hints | None = None
) -> None:
    """Copy to the end of `source` or until `sink` is gone; with `close`, pass that end on to the other side.

    With a `meter`, no more and no faster than it allows; `hints` sees everything.
    """
    show = shown(sink)
    with contextlib.suppress(OSError):
        while data := os.read(source, _CHUNK):
            data = meter.take(data) if meter else data
            if hints:
                hints.look(data)
            try:
                write_all(sink, show(data))
            except OSError:
                if not close:
                    # whoever writes gets SIGPIPE, as without us between
                    os.close(source)
                raise
            if meter and meter.over:
                os.close(source)
                return
            if meter and (seconds := meter.wait()):
                time.sleep(seconds)
        write_all(sink, show(b""))
    if close:
        os.close(sink)


def errors(source: int, limit: int) -> None:
    """Copy a server's standard error to ours; past `limit` bytes, or when ours is gone, read on and drop."""
    total, gone, show, hints = 0, False, shown(2), Hints()
    while data := os.read(source, _CHUNK):
        total += len(data)
        if total <= limit and not gone:
            try:
                write_all(2, show(data))
            except OSError:
                gone = True
            for hint in hints.look(data):
                note(hint)
        elif total - len(data) <= limit:
            note(f"the server's standard error is over {limit} bytes; the rest is dropped (limits.stderr)")


def start_errors(opened: Opened) -> threading.Thread:
    """`errors` in a thread that does not keep the process alive."""
    return _thread(lambda: errors(opened.stderr, opened.stderr_limit))


def start(source: int, sink: int, *, close: bool = False) -> threading.Thread:
    """`copy` in a thread that does not keep the process alive."""
    return _thread(lambda: copy(source, sink, close=close))


def _thread(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def interruptible() -> int:
    """The first SIGINT, SIGTERM or SIGHUP raises Interrupted in the main thread; the second ends us at once.

    Then our connection breaks, and the monitor kills the session without its grace. What is returned becomes
    readable as well: a signal that comes just before a call that waits does not end that call.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def raise_it(number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise Interrupted(number)

    for each in numbers:
        # nohup, and a shell's background job, mean it
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, raise_it)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    return woken


def attend(link: Link, opened: Opened, woken: int) -> int:
    """Connect a session to our own standard streams until it ends; its exit status. `woken` as of interruptible."""
    meter, hints = Meter(opened.output, opened.output_rate), Hints()

    def output() -> None:
        copy(opened.stdout, 1, meter=meter)
        if meter.over:
            link.post_close(opened.session)

    start(0, opened.stdin, close=True)
    outputs = [_thread(output), _thread(lambda: copy(opened.stderr, 2, hints=hints))]
    ended: Exited | None = None
    try:
        end = link.socket.fileno()
        # nothing to be done but to be interrupted, where only the other one can be read
        while end not in select.select([end, woken], [], [])[0]:
            pass
        ended = link.event()
        # all of it, however slow the reader is: what a command said is not ours to cut
        for thread in outputs:
            thread.join()
    except Interrupted as interrupt:
        link.close_session(opened.session)
        # an end that has been told already is not told again
        if ended is None and link.has_event(opened.grace + _LATE):
            link.event()
        return 128 + interrupt.number
    if meter.over:
        note(f"the session was ended: {meter.reason()}")
        return 1
    for hint in hints.found if ended and ended.status else []:
        note(hint)
    return finish(ended)


def finish(ended: Exited | None) -> int:
    """Say how a session ended where that is worth saying; the exit status."""
    if ended is None:
        note("the monitor ended unexpectedly; the session was killed with it")
        return 1
    if not ended.reason.startswith(("exited with status", "closed")):
        note(ended.reason)
    return ended.status
