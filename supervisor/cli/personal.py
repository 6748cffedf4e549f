"""Personal mode: the whole tree of processes for one typed command, taken down with it.

The process that was typed starts the planner, to which it hands one registry entry, and the monitor, which gets the
plan and starts the spawner; then it gives up its own privileges and is from there on the proxy. It starts them
before it imports what it needs itself: they get ready side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from typing import TYPE_CHECKING

import supervisor

if TYPE_CHECKING:
    import socket

# Thousands of objects are made and none is dropped while modules are imported: collecting is put off. The
# interpreter's own clean-up is left out, because somebody waits for these processes to end.
# The spawner first: it gets ready while the monitor imports.
_MONITOR = """import gc, os, sys; gc.disable(); sys.path.insert(0, sys.argv[1])
from supervisor.monitor.children import Spawner; spawner = Spawner()
from supervisor.monitor.main import personal; gc.freeze(); gc.enable(); os._exit(personal(spawner, 3, 4))"""
_PLANNER = """import gc, sys; gc.disable(); sys.path.insert(0, sys.argv[1])
from supervisor.registry.planner import main; main()"""
_IMAGES = """import gc, sys; gc.disable(); sys.path.insert(0, sys.argv[1])
from supervisor.registry.images import find; from supervisor.registry.planner import main; main(find)"""
_PASSED = ("LANG", "LC_ALL", "TZ")
# no package that lies beside it gets to change what pydantic accepts
_SET = {"PYDANTIC_DISABLE_PLUGINS": "1"}


class Tree:
    """The started processes, and our end of the connection to the monitor."""

    def __init__(self, monitor: socket.socket, children: list[int]) -> None:
        self.monitor = monitor
        self._children = children

    def close(self) -> None:
        """Hang up and wait until the monitor has cleaned up after everything."""
        self.monitor.close()
        for pid in self._children:
            os.waitpid(pid, 0)


def _spawn(code: str, descriptors: list[int]) -> int:
    """A fresh interpreter with `descriptors` as 0, 1, 3, 4 and nothing else of ours; its pid."""
    root = os.path.dirname(os.path.dirname(os.path.realpath(supervisor.__file__)))
    # copies, so that none has a number that another is about to get
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 5) for fd in descriptors]
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(copies, (0, 1, 3, 4), strict=False)]
    env = {name: os.environ[name] for name in _PASSED if name in os.environ} | _SET
    try:
        # a session of its own: Ctrl-C is for the proxy, which then ends things in order
        return os.posix_spawn(
            sys.executable, [sys.executable, "-I", "-c", code, root], env, file_actions=actions, setsid=True
        )
    finally:
        for fd in copies:
            os.close(fd)


def start_catalog(path: str) -> Tree:
    """The same over a registry file."""
    return start({"catalog": path})


def start(entry: dict[str, object]) -> Tree:
    """Start planner, monitor and spawner for `entry` (a ServerEntry as a table); does not wait for them."""
    import socket

    (asked, question), (answered, answer) = os.pipe(), (each.detach() for each in socket.socketpair())
    # what takes longest goes first, even before imports
    planner = _spawn(_IMAGES if entry.get("image") or "catalog" in entry else _PLANNER, [asked, answer])
    import json

    from supervisor import wire

    ours, theirs = wire.pair()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    monitor = _spawn(_MONITOR, [null, null, theirs.fileno(), answered])
    theirs.close()
    for fd in (asked, answered, answer, null):
        os.close(fd)
    # a planner that has ended already is reported by the monitor
    with contextlib.suppress(BrokenPipeError), open(question, "wb") as file:
        file.write(json.dumps(entry if "catalog" in entry else {"entry": entry}).encode())
    return Tree(ours, [planner, monitor])
