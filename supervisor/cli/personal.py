"""Personal mode: the whole tree of processes for one typed command, taken down with it.

The process that was typed starts the monitor (which starts the spawner), hands it one registry entry through a
pipe, gives up its own privileges and is from then on the proxy.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import supervisor
from supervisor import wire
from supervisor.proxy import identity
from supervisor.proxy.link import Link

# the spawner first: it gets ready while the monitor imports
_CODE = """import sys; sys.path.insert(0, sys.argv[1])
from supervisor.monitor.children import Spawner; spawner = Spawner()
from supervisor.monitor.main import personal; sys.exit(personal(spawner, 3, 4))"""
_PASSED = ("LANG", "LC_ALL", "TZ")


class Tree:
    """The running monitor and our connection to it."""

    def __init__(self, link: Link, pid: int) -> None:
        self.link = link
        self.pid = pid

    def close(self) -> None:
        """Hang up and wait until the monitor has cleaned up after everything."""
        self.link.close()
        os.waitpid(self.pid, 0)


def start(entry: dict[str, object]) -> Tree:
    """Start monitor and spawner for `entry` (a supervisor.model.ServerEntry as a table), drop privileges, greet.

    Raises what planning raised in the monitor, with its message and exit status.
    """
    ours, theirs = wire.pair()
    read, write = os.pipe()
    root = str(Path(supervisor.__file__).resolve().parent.parent)
    argv = [sys.executable, "-I", "-c", _CODE, root]
    # copies, so that neither is 3 or 4 already
    copies = [os.dup(theirs.fileno()), os.dup(read)]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, copies[0], 3),
        (os.POSIX_SPAWN_DUP2, copies[1], 4),
    ]
    env = {name: os.environ[name] for name in _PASSED if name in os.environ}
    # a session of its own: Ctrl-C is for the proxy, which then ends things in order
    pid = os.posix_spawn(sys.executable, argv, env, file_actions=actions, setsid=True)
    for fd in copies:
        os.close(fd)
    theirs.close()
    os.close(read)
    with open(write, "wb") as file:
        file.write(json.dumps(entry).encode())
    identity.drop()
    tree = Tree(Link(ours), pid)
    try:
        tree.link.hello()
    except BaseException:
        tree.close()
        raise
    return tree
