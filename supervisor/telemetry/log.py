"""Standard error as JSON lines: what any process of ours writes there, a line a record.

Runs unprivileged, as a process of its own, so that also the last words of one that breaks arrive. Nothing is lost
on the way: who writes waits for who reads, as without it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
from collections.abc import Callable

_SERVER = re.compile(r"\[([a-z0-9][a-z0-9._-]{0,63})\] (.*)", re.DOTALL)
_OURS = "supervisor: "
_LONGEST = 1 << 16


def record(line: bytes, now: float) -> bytes:
    """One line as a record: who said it, and what; the gateway has marked a server's lines."""
    text = line.decode(errors="replace").rstrip("\r\n")
    when = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="milliseconds")
    made = {"time": when.replace("+00:00", "Z")}
    if found := _SERVER.fullmatch(text):
        made |= {"source": "server", "server": found[1], "message": found[2]}
    elif text.startswith(_OURS):
        made |= {"source": "supervisor", "message": text.removeprefix(_OURS)}
    else:
        made |= {"source": "other", "message": text}
    return json.dumps(made, ensure_ascii=False).encode(errors="replace") + b"\n"


def run(source: int, sink: int, clock: Callable[[], float]) -> None:
    """Until the last writer has closed its end; when nobody reads any more, read on and drop."""
    rest = b""
    while data := os.read(source, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _LONGEST:
            lines, rest = [*lines, rest], b""
        for each in lines:
            _write(sink, record(each, clock()))
    if rest:
        _write(sink, record(rest, clock()))


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    with contextlib.suppress(OSError):
        while view:
            view = view[os.write(sink, view) :]
