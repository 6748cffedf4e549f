"""Two sessions of the same caller at the same time: neither finds anything of the other.

The neighbour leaves a file in /tmp, listens on its loopback and under an abstract name, and shares memory,
in a sandbox of the same profile; outside, in none.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from pathlib import Path

from tests.escape.arena import MARKER, MODES, PYTHON, Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import CI, Bait, Held, hostile, others, peek, secret, slurp, syscall, taken

PORT = 8475

# argv: a folder, a port, a name, a key
NEIGHBOUR = """
import ctypes, os, socket, sys
folder, port, name, key = sys.argv[1:5]
with open(folder + "/" + name, "w") as stream:
    stream.write("BAIT")
os.chmod(folder + "/" + name, 0o666)
kept = []
for family, where in ((socket.AF_INET, ("127.0.0.1", int(port))), (socket.AF_UNIX, "\\0" + name)):
    try:
        listener = socket.socket(family)
        listener.bind(where)
        listener.listen()
        kept.append(listener)
    except OSError:
        pass
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(int(key), 4096, 0o1666)
if segment != -1:
    ctypes.memmove(libc.shmat(segment, None, 0), b"BAIT", 5)
print("ready", flush=True)
sys.stdin.read()
libc.shmctl(segment, 0, None)
os.unlink(folder + "/" + name)
"""


@hostile()
def read_its_temporary_file(bait: Bait) -> str:
    return secret(f"{bait.text('tmp')}/{bait.text('name')}")


@hostile()
def see_its_arguments(bait: Bait) -> str:
    for pid in others():
        with contextlib.suppress(OSError):
            if bait.text("name").encode() in slurp(f"/proc/{pid}/cmdline"):
                return str(pid)
    raise Held("not listed")


@hostile()
def signal_it(bait: Bait) -> str:
    os.kill(bait.number("pid"), 0)
    return "reached"


@hostile()
def read_its_memory(bait: Bait) -> str:
    return peek(bait.number("pid"))


@hostile()
def read_its_file_through_its_root(bait: Bait) -> str:
    return secret(f"/proc/{bait.number('pid')}/root{bait.text('tmp')}/{bait.text('name')}")


@hostile()
def trace_it(bait: Bait) -> str:
    syscall(101, 0x4206, bait.number("pid"), 0, 0)
    return "seized"


@hostile()
def attach_its_memory(bait: Bait) -> str:
    segment = syscall(29, bait.number("key"), 0, 0)
    where = syscall(30, segment, 0, 0o10000)
    return taken(ctypes.string_at(where, 4) == b"BAIT", "attached", "another segment")


@hostile(profiles=CI)
def connect_to_its_port(bait: Bait) -> str:
    with socket.create_connection(("127.0.0.1", bait.number("port")), 5):
        return "connected"


@hostile(profiles=CI)
def connect_to_its_abstract_socket(bait: Bait) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + bait.text("name"))
        return "connected"


def neighbour(place: Place) -> tuple[int, str]:
    """Start the neighbour of that place; its number on the host, and its name."""
    where = place.profile or "outside"
    name = f"{MARKER}-{where}-{place.mode}"
    folder = str(place.plot.base) if place.profile is None else "/tmp"
    argv = [*PYTHON, "-c", NEIGHBOUR, folder, str(port(place)), name, str(key(place))]
    if place.profile is not None:
        argv = place.arena.command(place.profile, place.mode, argv)
    place.arena.companion(f"neighbour-{where}", argv, place.mode)
    return next(pid for pid in guests(name)), name


def guests(name: str) -> list[int]:
    """The processes of the host with that argument that are not the command line itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if name.encode() in words and b"exec" not in words:
                    found.append(int(entry.name))
    return found


def port(place: Place) -> int:
    return PORT + MODES.index(place.mode)


def key(place: Place) -> int:
    return 0x53570000 + os.getpid() % 0x1000 * 16 + MODES.index(place.mode)


def bait(place: Place) -> Values:
    pid, name = neighbour(place)
    folder = str(place.plot.base) if place.profile is None else "/tmp"
    return {"pid": pid, "name": name, "tmp": folder, "port": port(place), "key": key(place)}


BATCH = Batch.of(globals(), bait=bait)


def test_a_neighbour_is_out_of_reach(case: Case, arena: Arena) -> None:
    assert_held(arena, case)


def test_two_sessions_of_root_have_two_users(arena: Arena, profile: str) -> None:
    """A user id of its own for each, so that nothing between them hangs on namespaces alone. (Sessions of an
    ordinary user are all that user: it has no other id to give.)"""
    seen: set[str] = set()
    for number in range(2):
        name = f"{MARKER}-{profile}-twin-{number}"
        argv = [*PYTHON, "-c", "import sys; print('ready', flush=True); sys.stdin.read()", name]
        arena.companion(name, arena.command(profile, "root", argv), "root")
        status = Path(f"/proc/{guests(name)[0]}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("Uid:"))
        uids = set(line.split()[1:])
        assert len(uids) == 1
        assert "0" not in uids
        assert not seen & uids
        seen |= uids
