"""Personal mode: the whole tree of processes for one typed command, taken down with it.

The process that was typed starts the planner, to which it hands one registry entry, and the monitor, which gets the
plan and starts the spawner; then it gives up its own privileges and is from there on the proxy.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

import supervisor
from supervisor import wire
from supervisor.proxy import identity
from supervisor.proxy.link import Link

# the spawner first: it gets ready while the monitor imports
_MONITOR = """import sys; sys.path.insert(0, sys.argv[1])
from supervisor.monitor.children import Spawner; spawner = Spawner()
from supervisor.monitor.main import personal; sys.exit(personal(spawner, 3, 4))"""
_PLANNER = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.registry.planner import main; main()"
_PASSED = ("LANG", "LC_ALL", "TZ")


class Tree:
    """The running monitor and our connection to it."""

    def __init__(self, link: Link, children: list[int]) -> None:
        self.link = link
        self._children = children

    def close(self) -> None:
        """Hang up and wait until the monitor has cleaned up after everything."""
        self.link.close()
        for pid in self._children:
            os.waitpid(pid, 0)


def _spawn(code: str, descriptors: list[int]) -> int:
    """A fresh interpreter with `descriptors` as 0, 1, 3, 4 and nothing else of ours; its pid."""
    root = str(Path(supervisor.__file__).resolve().parent.parent)
    # copies, so that none has a number that another is about to get
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in descriptors]
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(copies, (0, 1, 3, 4), strict=False)]
    env = {name: os.environ[name] for name in _PASSED if name in os.environ}
    try:
        # a session of its own: Ctrl-C is for the proxy, which then ends things in order
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-c", code, root],
            env,
            file_actions=actions,
            setsid=True,
        )
    finally:
        for fd in copies:
            os.close(fd)


def start(entry: dict[str, object]) -> Tree:
    """Start planner, monitor and spawner for `entry` (a ServerEntry as a table), drop privileges, greet.

    They get ready side by side. Raises what planning raised, with its message and exit status.
    """
    ours, theirs = wire.pair()
    (asked, question), (answered, answer) = os.pipe(), os.pipe()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    children = [_spawn(_PLANNER, [asked, answer]), _spawn(_MONITOR, [null, null, theirs.fileno(), answered])]
    theirs.close()
    for fd in (asked, answered, answer, null):
        os.close(fd)
    with open(question, "wb") as file:
        file.write(json.dumps({"entry": entry}).encode())
    identity.drop()
    tree = Tree(Link(ours), children)
    try:
        tree.link.hello()
    except BaseException:
        tree.close()
        raise
    return tree
