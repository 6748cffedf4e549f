"""Personal mode: the whole tree of processes for one typed command, taken down with it.

The process that was typed starts the planner, to which it hands one registry entry, and the monitor, which gets the
plan and starts the spawner; then it gives up its own privileges and is from there on the proxy. It starts them
before it imports what it needs itself: they get ready side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from typing import TYPE_CHECKING

import supervisor
from supervisor import given
from supervisor.cli import vault
from supervisor.errors import SupervisorError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

# Thousands of objects are made and none is dropped while modules are imported: collecting is put off. The
# interpreter's own clean-up is left out, because somebody waits for these processes to end.
# The spawner first: it gets ready while the monitor imports.
# msgspec does without typing_extensions, whose import takes as long as its own.
_LEAN = 'sys.modules["typing_extensions"] = None; import msgspec; del sys.modules["typing_extensions"]'
_MONITOR = f"""import gc, os, sys; gc.disable(); sys.path.insert(0, sys.argv[1])
for fd in (3, 4, 5): os.set_inheritable(fd, False)
from supervisor.monitor.children import Spawner; spawner = Spawner(); {_LEAN}
from supervisor.monitor.main import personal; gc.freeze(); gc.enable(); os._exit(personal(spawner, 3, 4, 5))"""
_PLANNER = f"""import gc, sys; gc.disable(); sys.path.insert(0, sys.argv[1]); {_LEAN}
from supervisor.registry.{{}} import main; main()"""
# where a user's own engine listens, among them
_PASSED = ("LANG", "LC_ALL", "TZ", "XDG_RUNTIME_DIR")
# no package that lies beside it gets to change what pydantic accepts
_SET = {"PYDANTIC_DISABLE_PLUGINS": "1"}


class Planner:
    """A started planner: where it takes its question, and where the monitor takes its answer."""

    def __init__(self, program: str) -> None:
        self.program = program
        asked, self.question = os.pipe()
        # a pair of sockets: an image comes with its descriptor
        import socket

        self.answered, answer = (each.detach() for each in socket.socketpair())
        self.pid = _spawn(_PLANNER.format(program), [asked, answer])
        os.close(asked)
        os.close(answer)

    def drop(self) -> None:
        """It will be asked nothing."""
        os.close(self.question)
        os.close(self.answered)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def early(arguments: list[str]) -> Planner | None:
    """The planner of an `exec`, before its options are read: it takes longest.

    None where variables have to be hidden first. Whoever does not give it to `start` drops it.
    """
    if any(each.startswith("--s") for each in arguments):
        return None
    return Planner("imaged" if any(each.startswith("--i") for each in arguments) else "planner")


class Tree:
    """The started processes, and our end of the connection to the monitor."""

    def __init__(self, monitor: socket.socket, children: list[int], reader: vault.Reader) -> None:
        self.monitor, self._children, self._reader = monitor, children, reader

    def close(self) -> None:
        """Hang up and wait until the monitor has cleaned up after everything."""
        self.monitor.close()
        for pid in self._children:
            os.waitpid(pid, 0)
        self._reader.close()


def _spawn(code: str, descriptors: list[int]) -> int:
    """A fresh interpreter with `descriptors` as 0, 1, 3, 4, 5 and nothing else of ours; its pid."""
    root = os.path.dirname(os.path.dirname(os.path.realpath(supervisor.__file__)))
    # copies, so that none has a number that another is about to get
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 6) for fd in descriptors]
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(copies, (0, 1, 3, 4, 5), strict=False)]
    env = {name: os.environ[name] for name in _PASSED if name in os.environ} | _SET
    try:
        # a session of its own: Ctrl-C is for the proxy, which then ends things in order
        return os.posix_spawn(
            sys.executable, [sys.executable, "-I", "-c", code, root], env, file_actions=actions, setsid=True
        )
    finally:
        for fd in copies:
            os.close(fd)


def _program(entry: dict[str, object]) -> str:
    """Which planner: one that was not to expect images or policies refuses to leave one out."""
    if "catalog" not in entry:
        return "imaged" if entry.get("image") else "planner"
    folder = os.path.dirname(str(entry["catalog"]))
    if os.path.isdir(f"{folder}/policies") or os.path.isdir(f"{folder}/servers.d"):
        return "governed"
    try:
        text = given.read(str(entry["catalog"]), 1 << 20)
    except SupervisorError:
        return "planner"  # it says what is wrong with it
    if b"grant" in text or b"policy" in text:
        return "governed"
    return "imaged" if b"image" in text else "planner"


def _variables(entry: dict[str, object]) -> set[str]:
    """Those of our environment that are secrets of `entry`; of a registry they have been hidden before."""
    secrets = entry.get("secrets")
    return {str(each["env"]) for each in secrets.values() if "env" in each} if isinstance(secrets, dict) else set()


def start(
    entry: dict[str, object], before: Callable[[int], None] | None = None, planner: Planner | None = None
) -> Tree:
    """Start planner, monitor and spawner for `entry` (a ServerEntry as a table); does not wait for them.

    And who reads its secrets: that one's variables are taken out of our environment first. `before` is called with
    the monitor's pid while the planner has no question: nothing is forked yet. `planner` was started early.
    """
    if planner and planner.program != _program(entry):
        planner.drop()
        planner = None
    vault.hide(_variables(entry))
    # what takes longest goes first, even before imports
    planner = planner or Planner(_program(entry))
    import json

    from supervisor import wire

    reader = vault.start(needed=bool(entry.get("secrets") or "catalog" in entry))
    ours, theirs = wire.pair()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    monitor = _spawn(_MONITOR, [null, null, theirs.fileno(), planner.answered, reader.socket.fileno()])
    theirs.close()
    # we are about to hear strangers: who reads secrets must not hear us
    reader.socket.close()
    for fd in (planner.answered, null):
        os.close(fd)
    if before:
        try:
            before(monitor)
        except BaseException:
            os.close(planner.question)
            Tree(ours, [planner.pid, monitor], reader).close()
            raise
    # a planner that has ended already is reported by the monitor
    with contextlib.suppress(BrokenPipeError), open(planner.question, "wb") as file:
        file.write(json.dumps(entry if "catalog" in entry else {"entry": entry}).encode())
    return Tree(ours, [planner.pid, monitor], reader)
