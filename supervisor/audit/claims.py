"""What a sender may claim in a record, how fast he may write, and how many connections he may have.

Runs in the ledger; standard library only. Whoever started it (on a host root), and the uids that its proxies get,
are believed: a gateway of root's writes down what others do. Everybody else writes in his own name, which the
kernel knows, never as the monitor, and so much a second. The uids that somebody was given for his user namespaces
(subuid(5)) are one user: he may speak as each of them.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
import pwd
import sys
import time
from collections.abc import Mapping
from typing import Protocol

from supervisor.sandbox import syscalls as sc

# connections of one ordinary user while there are many left, while there are not, of all of them, and in all
MOST_EACH, FEW, MOST, MOST_PEERS = 64, 4, 480, 512
# bytes of the forms of one ordinary user: 64 connections of real ones have less
FORMS = 8 << 20
# bytes a second of one ordinary user, and how many seconds of it may come at once
RATE, _SECONDS = 4 << 20, 60
_PROXY = "supervisor-proxy"
# a proxy's uid is the first and its pid (PID_MAX_LIMIT)
_PROXIES = range(sc.FIRST_UID, sc.FIRST_UID + (1 << 22))
_SUBUID, _SUBUID_LIMIT = "/etc/subuid", 16 << 20
# seconds in which the same refusal is written down once
_AGAIN = 60.0


def _text(found: str | None) -> str:
    if found and "\\" in found:
        return str(json.loads(found))
    return found[1:-1] if found else ""


class Said(Protocol):
    """What a record says, by name, in JSON."""

    def __getitem__(self, name: str, /) -> str | None: ...


def share(own: int, ordinary: int) -> bool:
    """Whether an ordinary user who has `own` connections may have one more, of `ordinary` of all of them.

    The second half is for those who have few: to shut others out takes many users, not a handful.
    """
    return own < MOST_EACH and ordinary < (MOST if own < FEW else MOST // 2)


class Delegated:
    """Ranges of uids that were given away, as the file says now; none if it cannot be read."""

    def __init__(self, path: str = _SUBUID) -> None:
        found = []
        with contextlib.suppress(OSError), open(path, "rb") as file:
            for line in file.read(_SUBUID_LIMIT).split(b"\n"):
                _, *numbers = line.split(b":")
                if len(numbers) == 2 and all(each.isdigit() and len(each) < 11 for each in numbers):
                    found.append((int(numbers[0]), int(numbers[0]) + int(numbers[1])))
        self._ranges = sorted(found)

    def one(self, uid: int) -> int:
        """Whom a uid counts as: the first of its range, or itself."""
        first, end = self._range(uid)
        return first if uid < end else uid

    def __contains__(self, uid: int) -> bool:
        return uid < self._range(uid)[1]

    def _range(self, uid: int) -> tuple[int, int]:
        """The last that begins at or before a uid: its first, and where it ends."""
        at = bisect.bisect(self._ranges, (uid, sys.maxsize)) - 1
        return self._ranges[at] if at >= 0 else (0, 0)


class Claims:
    """Of a ledger that this process is about to become; `rate` in bytes a second."""

    def __init__(self, rate: int = RATE, delegated: Delegated | None = None) -> None:
        self._own = {0, os.getuid()}
        self._delegated = delegated or Delegated()
        self._rate = rate
        try:
            self._proxy = pwd.getpwnam(_PROXY).pw_uid
        except KeyError:
            self._proxy = -1
        # bytes of the forms of all connections of an ordinary user
        self._forms: dict[int, int] = {}
        # of whom something was not long ago: bytes above nothing, and when that was
        self._levels: dict[int, tuple[float, float]] = {}
        # when a reason may be told again, and how many records were refused for it meanwhile
        self._told: dict[str, tuple[float, int]] = {}

    def trusted(self, uid: int) -> bool:
        """One of ours. The uids above the first are of proxies and sessions; a session has no socket of ours."""
        return uid in self._own or uid == self._proxy or (uid in _PROXIES and uid not in self._delegated)

    def one(self, uid: int) -> int:
        """Whom a uid counts as."""
        return self._delegated.one(uid)

    def room(self, uid: int, had: Mapping[int, int]) -> bool:
        """Whether he may have one more connection; `had` is how many each has."""
        if self.trusted(uid):
            return sum(had.values()) < MOST_PEERS
        ordinary = sum(count for each, count in had.items() if not self.trusted(each))
        return share(had.get(uid, 0), ordinary) and sum(had.values()) < MOST_PEERS

    def keep(self, uid: int, size: int) -> bool:
        """Count so many more bytes of forms, or fewer, for the user of a connection; whether there is room."""
        kept = self._forms.get(uid, 0) + size
        if size > 0 and kept > FORMS and not self.trusted(uid):
            return False
        self._forms[uid] = kept
        if not kept:
            del self._forms[uid]
        return True

    def refused(self, uid: int, kind: str, found: Said, size: int) -> str:
        """Why a record that says this is not taken from him, or ""."""
        if uid in self._own:
            return ""
        if "monitor" in (_text(found["app"]), _text(found["svc"])):
            return f"uid {uid} is not the monitor, and may not write as it"
        if self.trusted(uid):
            return ""
        user = _text(found["user"])
        if user.startswith("uid:") and user != f"uid:{uid}":
            return f"uid {uid} may not write in another user's name"
        return self._over(self.one(uid), kind, size)

    def news(self, reason: str, count: int) -> int:
        """How many were refused for it since it was told; 0 when that was not long ago."""
        now = time.monotonic()
        again, before = self._told.get(reason, (0.0, 0))
        if now < again:
            self._told[reason] = again, before + count
            return 0
        self._told[reason] = now + _AGAIN, 0
        return before + count

    def drops(self, uid: int) -> int:
        """How often he was hung up on since that was told; 0 when it was told not long ago. Of ours each is."""
        return 1 if self.trusted(uid) else self.news(f"uid {self.one(uid)} was hung up on", 1)

    def _over(self, uid: int, kind: str, size: int) -> str:
        """Count what he writes; what came of a call that was let through has twice the room."""
        now = time.monotonic()
        level, at = self._levels.get(uid, (0.0, now))
        level = max(0.0, level - (now - at) * self._rate) + size
        if level > self._rate * _SECONDS * (2 if kind == "outcome" else 1):
            return f"uid {uid} writes more than {self._rate >> 20} MiB/s to the audit log"
        self._levels[uid] = level, now
        return ""
