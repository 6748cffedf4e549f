"""Objects that processes share without a file: System V and POSIX IPC, sockets with names, keyrings.

The test lays out one of each for everybody to use; a program of the same user reaches all of them, a guest
none. What a guest makes is not seen from outside either.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import socket
import stat
import struct
from pathlib import Path

from tests.escape.arena import BAIT, MARKER, PYTHON, Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import FOLDER, SCOPE, Bait, address, hostile, slurp, syscall, taken

KEY = 0x53560000 + os.getpid() % 0x10000

# Lays out everything under the names given on its command line and waits for the end of its input.
OFFER = """
import ctypes, os, socket, sys
key, marker, abstract, *paths = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
os.umask(0)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget(int(key), 4096, 0o1666)
ctypes.memmove(libc.shmat(segment, None, 0), b"BAIT", 5)
queue, counters = libc.msgget(int(key), 0o1666), libc.semget(int(key), 1, 0o1666)
libc.msgsnd(queue, (1).to_bytes(8, "little") + b"BAIT", 4, 0)
message = libc.mq_open(("/" + marker).encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
serial = libc.syscall(248, b"user", marker.encode(), b"BAIT", 4, -4)
libc.syscall(250, 5, serial, 0x3F3F3F3F)
listeners = []
for name in ("\\0" + abstract, *paths):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen(64)
    listeners.append(listener)
for name in ("\\0" + abstract, *paths):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(name + "-datagrams")
    listeners.append(listener)
print(segment, serial, flush=True)
sys.stdin.read()
libc.shmctl(segment, 0, None)
libc.msgctl(queue, 0, None)
libc.semctl(counters, 0, 0)
libc.mq_unlink(("/" + marker).encode())
"""


def attach(segment: int) -> str:
    where = syscall(30, segment, 0, 0o10000)
    return taken(ctypes.string_at(where, 4) == b"BAIT", "attached", "another segment")


def connect(name: str, kind: int = socket.SOCK_STREAM) -> str:
    with socket.socket(socket.AF_UNIX, kind) as connection:
        connection.settimeout(5)
        connection.connect(name)
    return f"connected to {name!r}"


@hostile()
def attach_a_segment_by_key(bait: Bait) -> str:
    return attach(syscall(29, bait.number("key"), 0, 0))


@hostile()
def attach_a_segment_by_number(bait: Bait) -> str:
    return attach(bait.number("segment"))


@hostile()
def receive_a_message(bait: Bait) -> str:
    buffer = ctypes.create_string_buffer(64)
    queue = syscall(68, bait.number("key"), 0)
    size = syscall(70, queue, address(buffer), 32, 0, 0o4000 | 0o40000)
    return str(size)


@hostile()
def count_the_segments(bait: Bait) -> str:
    """shmctl(SHM_INFO) says how many there are, to anybody."""
    buffer = ctypes.create_string_buffer(128)
    syscall(31, 0, 14, address(buffer))
    used = struct.unpack_from("i", buffer.raw)[0]
    return taken(used, f"{used} segments", "none")


@hostile()
def use_a_semaphore(bait: Bait) -> str:
    semaphore = syscall(64, bait.number("key"), 1, 0)
    return str(syscall(65, semaphore, struct.pack("Hhh", 0, 1, 0), 1))


@hostile()
def list_system_v_objects(bait: Bait) -> str:
    lines = slurp("/proc/sysvipc/shm").splitlines()
    return taken(len(lines) > 1, f"{len(lines) - 1} segments", "none")


@hostile()
def open_a_message_queue(bait: Bait) -> str:
    return str(syscall(240, bait.text("marker").encode(), os.O_RDONLY, 0, None))


@hostile()
def open_shared_memory(bait: Bait) -> str:
    fd = os.open(f"/dev/shm/{bait.text('marker')}", os.O_RDWR)
    with mmap.mmap(fd, 4) as area:
        return taken(area[:4] == b"BAIT", "mapped", "something else")


@hostile()
def connect_to_an_abstract_socket(bait: Bait) -> str:
    return connect("\0" + bait.text("abstract"))


@hostile()
def send_to_an_abstract_socket(bait: Bait) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        return str(sender.sendto(b"hello", "\0" + bait.text("abstract") + "-datagrams"))


@hostile()
def send_from_a_pair_to_an_abstract_socket(bait: Bait) -> str:
    """A socket that socketpair(2) made can still send to a name."""
    left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return str(left.sendto(b"hello", "\0" + bait.text("abstract") + "-datagrams"))


@hostile(profiles=FOLDER)
def send_from_a_pair_to_a_socket_in_the_folder(bait: Bait) -> str:
    """To a log, a bus, a service manager: neither a read-only mount nor Landlock stops a datagram."""
    left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return str(left.sendto(b"hello", socket.MSG_DONTWAIT, f"{bait.text('folder')}/datagrams"))


@hostile(profiles=FOLDER)
def send_a_descriptor_from_a_pair_to_a_socket_in_the_folder(bait: Bait) -> str:
    """sendmsg(2) has its address behind a pointer, where no filter sees it."""
    left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 0))]
    return str(left.sendmsg([b"hello"], rights, socket.MSG_DONTWAIT, f"{bait.text('folder')}/datagrams"))


@hostile(profiles=SCOPE)
def connect_one_of_a_pair_to_a_socket_in_the_scope(bait: Bait) -> str:
    left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.connect(f"{bait.text('scope')}/datagrams")
    return str(left.send(b"hello", socket.MSG_DONTWAIT))


@hostile(profiles=FOLDER)
def connect_to_a_socket_in_the_folder(bait: Bait) -> str:
    return connect(f"{bait.text('folder')}/socket")


@hostile(profiles=SCOPE)
def connect_to_a_socket_in_the_scope(bait: Bait) -> str:
    return connect(f"{bait.text('scope')}/socket")


@hostile(profiles=FOLDER)
def connect_through_a_descriptor(bait: Bait) -> str:
    fd = os.open(f"{bait.text('folder')}/socket", os.O_PATH)
    return connect(f"/proc/self/fd/{fd}")


@hostile()
def connect_to_a_socket_of_the_host(bait: Bait) -> str:
    return connect(bait.text("host_socket"))


@hostile()
def find_a_socket_by_walking(bait: Bait) -> str:
    found = []
    for directory, below, names in os.walk("/"):
        below[:] = [] if directory.count("/") > 4 else [b for b in below if b not in {"proc", "sys", "data"}]
        for name in names:
            with contextlib.suppress(OSError):
                path = os.path.join(directory, name)
                if stat.S_ISSOCK(os.lstat(path).st_mode) and not path.startswith(bait.text("scope")):
                    found.append(path)
    return taken(found, str(found), "none")


@hostile()
def list_the_sockets_of_the_host(bait: Bait) -> str:
    content = slurp("/proc/net/unix", limit=1 << 20).decode()
    return taken(bait.text("abstract") in content, "listed", "not listed")


@hostile()
def read_a_key_by_its_serial(bait: Bait) -> str:
    buffer = ctypes.create_string_buffer(64)
    size = syscall(250, 11, bait.number("serial"), address(buffer), 64)
    return f"{buffer.raw[:size]!r}"


@hostile()
def search_the_keyrings(bait: Bait) -> str:
    return str(syscall(250, 10, -4, b"user", bait.text("marker").encode(), 0))


@hostile()
def describe_its_session_keyring(bait: Bait) -> str:
    return str(syscall(250, 0, -3, 1))


@hostile()
def join_a_keyring(bait: Bait) -> str:
    return str(syscall(250, 1, None))


@hostile()
def add_a_key(bait: Bait) -> str:
    """Keys of a user are counted for all its processes: enough of them and the user has no more."""
    return str(syscall(248, b"user", b"svtest", b"x", 1, -2))


@hostile(control="root")
def request_a_key(bait: Bait) -> str:
    """request_key(2) with a text to call out makes the kernel start /sbin/request-key, as root, outside."""
    return str(syscall(249, b"user", bait.text("marker").encode(), None, -4))


@hostile()
def list_the_keys(bait: Bait) -> str:
    content = slurp("/proc/keys").decode()
    return taken(content, content[:80], "none")


def bait(place: Place) -> Values:
    arena, mode = place.arena, place.mode
    host_socket = arena.base / mode / "host-socket"
    names = [str(place.plot.base / f"socket-{part}") for part in ("folder", "scope")]
    key, abstract = KEY + (mode == "user"), f"{MARKER}-{mode}"
    argv = [*PYTHON, "-c", OFFER, str(key), abstract, abstract, str(host_socket), *names]
    segment, serial = (int(word) for word in arena.companion("ipc", argv, mode).said.split())
    shared = Path("/dev/shm") / abstract
    if not shared.exists():
        shared.write_text(BAIT)
        shared.chmod(0o666)
        arena.stack.callback(shared.unlink)
    for directory, name in zip((place.plot.folder, place.plot.scope), names, strict=True):
        os.link(name, directory / "socket")
        os.link(f"{name}-datagrams", directory / "datagrams")
    return {
        "key": key,
        "segment": segment,
        "serial": serial,
        "marker": abstract,
        "abstract": abstract,
        "folder": place.folder,
        "scope": place.scope,
        "host_socket": str(host_socket),
    }


BATCH = Batch.of(globals(), helpers=(attach, connect), bait=bait)


def test_nothing_shared_is_reached(case: Case, arena: Arena) -> None:
    assert_held(arena, case)
