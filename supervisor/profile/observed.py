"""What a command did while it was watched: paths, calls, connections, and the most it had of anything.

Pure; runs as whoever types `supervisor profile learn`. Paths are those inside the sandbox. Everything is
bounded: of more than it keeps it says that there was more.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from supervisor.profile.strace import Call, Ended, Signalled, raw

MOST = 50_000
_O_ACCMODE, _O_CREAT, _O_TRUNC = 0o3, 0o100, 0o1000
_PROT_WRITE, _PROT_EXEC = 2, 4
_DIRECTORY = re.compile(r"st(?:x)?_mode=0?04\d{4}")


def _table() -> dict[str, tuple[tuple[int, str, bool], ...]]:
    """Call -> (index of a path, what is done to it, whether it stands alone and not behind a descriptor)."""
    looks = ("stat", "lstat", "access", "readlink", "statfs", "chdir")
    attributes = ("getxattr", "lgetxattr", "listxattr", "llistxattr")
    writes = ("mkdir", "rmdir", "unlink", "chmod", "chown", "lchown", "truncate", "creat", "mknod")
    looks_at = ("newfstatat", "statx", "faccessat", "faccessat2", "readlinkat")
    writes_at = ("mkdirat", "unlinkat", "fchmodat", "fchmodat2", "fchownat", "utimensat", "mknodat")
    found: dict[str, tuple[tuple[int, str, bool], ...]] = dict.fromkeys((*looks, *attributes), ((0, "look", True),))
    found |= dict.fromkeys((*writes, "utime", "utimes"), ((0, "write", True),))
    found |= dict.fromkeys(looks_at, ((1, "look", False),))
    found |= dict.fromkeys(writes_at, ((1, "write", False),))
    found |= dict.fromkeys(("rename", "link"), ((0, "write", True), (1, "write", True)))
    found |= dict.fromkeys(("renameat", "renameat2", "linkat"), ((1, "write", False), (3, "write", False)))
    found |= {"symlink": ((1, "write", True),), "symlinkat": ((2, "write", False),)}
    found |= {"execve": ((0, "exec", True),), "execveat": ((1, "exec", False),)}
    found |= {"open": ((0, "open", True),), "openat": ((1, "open", False),), "openat2": ((1, "open", False),)}
    return found


_PATHS = _table()
_FD = re.compile(r"(\d+)<")
_INET = re.compile(r'sin6?_port="((?:[^"\\]|\\.)*)".*?sin6?_addr="((?:[^"\\]|\\.)*)"')


@dataclass
class Observed:
    """`touched`: path -> what was done to it, of read, list, look (a folder), write, exec, made.

    `refused` is (call, path, errno) with how often; `missing` what was looked for and not there.
    """

    touched: dict[str, set[str]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    refused: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    connected: Counter[tuple[str, int]] = field(default_factory=Counter)
    groups: set[tuple[str, frozenset[str]]] = field(default_factory=set)
    write_execute: bool = False
    processes: int = 0
    files: int = 0
    killed: bool = False
    more: bool = False

    @property
    def ran(self) -> bool:
        """Whether the command was started at all."""
        return bool(self.calls)


# (call) -> the groups beyond the floor that would admit it: None if the floor does, an empty set if none does
Admits = Callable[[Call], frozenset[str] | None]
_REFUSALS = ("EPERM", "ENOSYS", "EAFNOSUPPORT")


class Watch:
    """Takes calls in their order; `ours` are the processes that made the sandbox, and are not looked at."""

    def __init__(self, cwd: str, admits: Admits, ours: Callable[[int], bool]) -> None:
        self.observed = Observed()
        self.live: set[int] = set()
        self._cwd: dict[int, str] = {}
        self._last = cwd
        self._admits = admits
        self._ours = ours
        self._known: dict[int, bool] = {}

    def take(self, seen: Call | Ended | Signalled) -> None:
        """One more thing that happened."""
        if seen.pid not in self._known:
            self._known[seen.pid] = self._ours(seen.pid)
        if self._known[seen.pid]:
            return
        if isinstance(seen, Ended):
            self.live.discard(seen.pid)
            del self._known[seen.pid]
        elif isinstance(seen, Signalled):
            self.observed.killed |= seen.name == "SIGSYS"
        elif self.observed.ran or (seen.name == "execve" and not seen.error):
            # what our own init does up to the command's execve is not the command's
            self._alive(seen.pid)
            self._call(seen)

    def _alive(self, pid: int) -> None:
        self.live.add(pid)
        self.observed.processes = max(self.observed.processes, len(self.live))

    def _call(self, call: Call) -> None:
        now = self.observed
        admitted = self._admits(call)
        if admitted == frozenset() and call.error in _REFUSALS:
            self._count(now.refused, (call.name, "", call.error))
            return
        now.calls[call.name] += 1
        if admitted:
            now.groups.add((call.name, admitted))
        self._descriptors(call)
        self._memory(call)
        self._network(call)
        self._paths(call)

    def _count(self, counter: Counter[tuple[str, str, str]], key: tuple[str, str, str]) -> None:
        if key in counter or len(counter) < MOST:
            counter[key] += 1
        else:
            self.observed.more = True

    def _descriptors(self, call: Call) -> None:
        numbers = [call.result] if call.made or call.name in ("dup", "dup2", "dup3") else []
        if call.name in ("pipe", "pipe2", "socketpair"):
            numbers = [int(each) for each in _FD.findall(call.text)]
        self.observed.files = max([self.observed.files, *(each + 1 for each in numbers)])

    def _memory(self, call: Call) -> None:
        if call.name not in ("mmap", "mprotect") or call.error:
            return
        rights = call.number(2) or 0
        if rights & _PROT_WRITE and rights & _PROT_EXEC:
            self.observed.write_execute = True
        path = call.folder(4) if call.name == "mmap" else ""
        if path and rights & _PROT_EXEC:
            self._touch(path, "exec")

    def _network(self, call: Call) -> None:
        if call.name not in ("connect", "sendto", "sendmsg", "sendmmsg"):
            return
        for found in _INET.finditer(call.text):
            port, address = raw(found[1]), raw(found[2])
            if len(port) == 2 and len(address) in (4, 16):
                place = str(ip_address(address)), int.from_bytes(port, "big")
                self.observed.connected[place] += 1

    def _touch(self, path: str, kind: str) -> None:
        touched = self.observed.touched
        if path in touched or len(touched) < MOST:
            touched.setdefault(path, set()).add(kind)
        else:
            self.observed.more = True

    def _paths(self, call: Call) -> None:
        if call.name in ("getdents64", "getdents"):
            self._touch(call.folder(0), "list")
            return
        for path, kind in self._named(call):
            if not call.error or call.error == "EEXIST":
                self._succeeded(call, path, kind)
            elif call.error in ("ENOENT", "ENOTDIR"):
                if len(self.observed.missing) < MOST:
                    self.observed.missing.add(path)
            elif call.error in ("EACCES", "EPERM", "EROFS"):
                self._count(self.observed.refused, (call.name, path, call.error))

    def _succeeded(self, call: Call, path: str, kind: str) -> None:
        if call.name in ("chdir", "fchdir"):
            self._cwd[call.pid] = self._last = path
        if kind == "look" and not _DIRECTORY.search(call.text) and call.name != "chdir":
            kind = "read"
        if call.error == "EEXIST":
            kind = "look" if call.name.startswith("mkdir") else "read"
        elif call.name.startswith("mkdir"):
            self._touch(path, "made")
        self._touch(call.made if kind in ("read", "write") and call.made.startswith("/") else path, kind)

    def _named(self, call: Call) -> Iterator[tuple[str, str]]:
        """Every path that a call names, absolute, and what it does to it."""
        for index, kind, plain in _PATHS.get(call.name, ()):
            done = kind
            if kind == "open":
                flags = call.number(index + 1) or 0
                done = "write" if flags & (_O_ACCMODE | _O_CREAT | _O_TRUNC) else "read"
            yield from self._at(call, index, done, plain=plain)

    def _at(self, call: Call, index: int, kind: str, *, plain: bool) -> Iterator[tuple[str, str]]:
        written = call.string(index)
        here = "" if plain else call.folder(index - 1)
        if here and call.args[index - 1].startswith("-100<"):
            self._cwd[call.pid] = self._last = here
        if not written:
            return
        if not written.startswith("/"):
            written = os.path.join(here or self._cwd.get(call.pid, self._last), written)
        yield os.path.normpath(written), kind
