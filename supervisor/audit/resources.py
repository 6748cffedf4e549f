"""What a call touched, as the resources of its outcome: as many as a record has room for, denials first.

Pure; runs in the proxy; standard library only. How many there was no room for is told as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.audit.bounded import NAME, count, quoted

if TYPE_CHECKING:
    from supervisor.audit.reached import Reached
    from supervisor.audit.record import Opened, Touched
    from supervisor.audit.redact import Redactor

_TOUCHED = 24 * 1024
_MOST_TOUCHED = 500
_EXAMINED = 10_000
# of an opened file; what is none of them is told as the most that it can have been
_MODES = frozenset(("r", "w", "rw", "rx", "wx", "rwx"))


def resources_of(touched: Touched, redactor: Redactor) -> tuple[bytes, bytes]:
    """As many of the files and hosts as fit, denials first, and how many did not."""
    if not touched.hosts and not touched.files:
        return b"", b""
    hosts, files = touched.hosts[:_EXAMINED], touched.files[:_EXAMINED]
    dropped = {"files": len(touched.files) - len(files), "hosts": len(touched.hosts) - len(hosts) + touched.more}
    made = [(not each.denied, "hosts", _reached(each)) for each in hosts]
    made += [(not each.denied, "files", _opened(each, redactor)) for each in files]
    room = _TOUCHED
    kept: list[bytes] = []
    for _, kind, data in sorted(made, key=lambda each: each[0]):
        if len(data) <= room and len(kept) < _MOST_TOUCHED:
            room -= len(data)
            kept.append(data)
        else:
            dropped[kind] += 1
    counts = b"".join(b'"%b_dropped":%d,' % (kind.encode(), count(more)) for kind, more in dropped.items() if more)
    return b",".join(kept), counts


def _opened(opened: Opened, redactor: Redactor) -> bytes:
    denied = b'"denied":true,' if opened.denied else b""
    name = quoted(redactor.text(opened.path), _TOUCHED)
    mode = opened.mode if opened.mode in _MODES else "rw"
    return b'{"data":{%b"mode":"%b"},"name":%b,"type":"file"}' % (denied, mode.encode(), name)


def _reached(reached: Reached) -> bytes:
    denied, name = b'"denied":true,' if reached.denied else b"", quoted(reached.host, NAME)
    numbers = (count(reached.port), count(reached.received), count(reached.sent))
    data = b'{%b"port":%d,"received":%d,"sent":%d}' % (denied, *numbers)
    return b'{"data":%b,"hostname":%b,"name":%b,"type":"host"}' % (data, name, name)
