"""Who writes, signs and reads the audit log, where, and how each of the three gives up everything else.

Runs first in the ledger and in the signer, and in the command line before it reads a log as root. Standard library
only. Started by root each has a uid of its own, the same at every start, because its files are its own; started by
an ordinary user all are that user, and only the signed checkpoints that left the machine tell a log from a forgery.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from supervisor.errors import SupervisorError
from supervisor.sandbox import rights
from supervisor.sandbox import syscalls as sc

# just below the range of the sessions, the proxies and the broker: never one of theirs
LEDGER, SIGNER, READER = sc.FIRST_UID - 1, sc.FIRST_UID - 2, sc.FIRST_UID - 3

_CAP_DAC_READ_SEARCH = 2
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
_READ = _READ_FILE | _READ_DIR
_READ_WRITE = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG


class Place(NamedTuple):
    """The folders of an audit log: lines in `logs`, the signer's key, what readers remember."""

    root: Path

    @property
    def logs(self) -> Path:
        """One folder for each log. The ledger's; readers may read."""
        return self.root / "log"

    @property
    def key(self) -> Path:
        """The signing key, its public half, the last checkpoint of each log. The signer's; anybody may look in."""
        return self.root / "key"

    @property
    def indexes(self) -> Path:
        """The index. Made again from the log whenever it is not there."""
        return self.root / "index"

    @property
    def cursors(self) -> Path:
        """How far each export has come. The readers'; the ledger keeps what they still need."""
        return self.root / "cursor"


def default_root() -> Path:
    """Where this user's audit log is."""
    if os.geteuid() == 0:
        # what systemd calls the folder that it made for a service of root's
        return Path(os.environ.get("LOGS_DIRECTORY") or "/var/log/supervisor") / "audit"
    state = os.environ.get("XDG_STATE_HOME", "")
    return Path(state if state.startswith("/") else Path.home() / ".local/state") / "supervisor/audit"


def prepare(place: Place) -> None:
    """Make the folders, each its owner's. SupervisorError: somebody else could exchange them."""
    root = os.geteuid() == 0
    place.root.mkdir(mode=0o755 if root else 0o700, parents=True, exist_ok=True)
    owned = [
        (place.logs, LEDGER, READER, 0o2750),
        (place.key, SIGNER, SIGNER, 0o755),
        (place.indexes, READER, READER, 0o700),
        (place.cursors, READER, READER, 0o755),
    ]
    found = place.root.lstat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise SupervisorError(
            f"{place.root}: belongs to uid {found.st_uid}, mode {found.st_mode & 0o7777:o}: the audit log needs a "
            "folder that only its owner can write: chown and chmod go-w it"
        )
    for path, uid, gid, mode in owned:
        path.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if root:
                os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
        finally:
            os.close(fd)


def become(uid: int, *, keep: int = 0) -> None:
    """This identity if started by root, with the capabilities `keep` (a mask) and no way to gain any; no core.

    OSError when a step fails: then nothing may be done.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:
        sc.prctl(rights.PR_SET_KEEPCAPS, 1 if keep else 0, 0, 0, 0)
        rights.drop_bounding(sc.last_capability())
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        rights.keep_capabilities(keep)
    sc.prctl(rights.PR_SET_DUMPABLE, 0, 0, 0, 0)
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def become_reader() -> None:
    """What parses a log runs as nobody: root's own look at it, and at a copy elsewhere, may read and do no more."""
    # what the ledger has parsed, with few functions under it, must be parsed by who has many
    sys.setrecursionlimit(4 * sys.getrecursionlimit())
    become(READER, keep=1 << _CAP_DAC_READ_SEARCH)


def alone() -> None:
    """Not to be ended by a terminal or a session manager: it ends when its starter hangs up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # the signer is a child that nobody waits for
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.umask(0o022)


def only(writable: list[Path], readable: list[Path]) -> None:
    """From now on no file but below these can be opened."""
    abi = sc.landlock_abi()
    write = _READ_WRITE | (_TRUNCATE if abi >= 3 else 0)
    rules = [(str(path), write) for path in writable] + [(str(path), _READ) for path in readable]
    rights.landlock_only(abi, rules)
