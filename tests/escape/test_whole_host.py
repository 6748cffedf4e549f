"""What looks like the guest's own and is counted or kept for the whole host: queued signals, cookies of sockets,
the clock's discipline, groups of the scheduler, file systems by their number.

Also a few doors that are open in most sandboxes and lead nowhere good: urgent data of local sockets, descriptor
tables of the processor, namespaces behind the descriptor of a child.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct

from tests.escape.arena import Arena
from tests.escape.batch import Batch, Case, assert_held
from tests.escape.hostile import Bait, address, hostile, slurp, syscall, taken


@hostile()
def take_every_queued_signal_of_the_host(bait: Bait) -> str:
    """They are counted for whoever made the user namespace: root. Without any, no timer can be made on the host."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [40])
    for _ in range(5000):
        os.kill(os.getpid(), 40)
    line = next(each for each in slurp("/proc/self/status").decode().splitlines() if each.startswith("SigQ"))
    waiting = int(line.split()[1].split("/")[0])
    return taken(waiting > 2000, line, line)


@hostile()
def count_the_sockets_of_the_host(bait: Bait) -> str:
    """SO_COOKIE: the next number of all sockets that were ever asked for one."""
    return f"{socket.socketpair()[0].getsockopt(1, 57, 8)!r}"


@hostile()
def count_the_networks_of_the_host(bait: Bait) -> str:
    """SO_NETNS_COOKIE: how many network namespaces there have been, and with them how many sessions."""
    return f"{socket.socketpair()[0].getsockopt(1, 71, 8)!r}"


@hostile()
def hold_its_peer_by_a_descriptor(bait: Bait) -> str:
    """SO_PEERPIDFD."""
    return f"{socket.socketpair()[0].getsockopt(1, 77, 4)!r}"


@hostile()
def ask_for_the_groups_of_its_peer(bait: Bait) -> str:
    """SO_PEERGROUPS."""
    return f"{socket.socketpair()[0].getsockopt(1, 59, 64)!r}"


@hostile()
def ask_which_device_took_its_packets(bait: Bait) -> str:
    """SO_INCOMING_NAPI_ID, SO_INCOMING_CPU: where the host's interrupts go."""
    return str(socket.socketpair()[0].getsockopt(1, 49))


@hostile()
def send_an_urgent_byte_to_a_local_socket(bait: Bait) -> str:
    """MSG_OOB: CVE-2025-38236 led from there out of a browser's sandbox."""
    first, second = socket.socketpair()
    first.send(b"x", socket.MSG_OOB)
    return repr(second.recv(1, socket.MSG_OOB))


@hostile()
def send_an_urgent_message_to_a_local_socket(bait: Bait) -> str:
    first, second = socket.socketpair()
    first.sendmsg([b"x"], [], socket.MSG_OOB)
    return repr(second.recv(1, socket.MSG_OOB))


@hostile()
def read_how_the_clock_is_kept(bait: Bait) -> str:
    """adjtimex(2): which servers' time the host follows, how well, and its processor's exact frequency."""
    buffer = ctypes.create_string_buffer(256)
    return str(syscall(159, address(buffer)))


@hostile()
def read_how_one_clock_is_kept(bait: Bait) -> str:
    buffer = ctypes.create_string_buffer(256)
    return str(syscall(305, 0, address(buffer)))


@hostile(control="root")
def slow_its_scheduling_group_down(bait: Bait) -> str:
    """A scheduling group is shared with all of a session of terminals: with whoever started the spawner."""
    with open("/proc/self/autogroup", "w", encoding="ascii") as file:
        file.write("19")
    return "slowed"


@hostile()
def forget_which_pages_were_used(bait: Bait) -> str:
    """clear_refs: the marks by which the host chooses what to put out of memory."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("1")
    return "cleared"


@hostile()
def measure_a_disk_by_its_number(bait: Bait) -> str:
    """ustat(2): how full a file system is, known by the number that stat gives for any of its files."""
    buffer = ctypes.create_string_buffer(64)
    syscall(136, os.stat("/usr").st_dev, address(buffer))
    return f"{struct.unpack_from('i4xQ', buffer.raw)}"


@hostile()
def count_the_kinds_of_file_systems(bait: Bait) -> str:
    return str(syscall(139, 3))


@hostile()
def read_the_local_descriptor_table(bait: Bait) -> str:
    """modify_ldt(2): segments of 16-bit programs, and many an error of the kernel."""
    buffer = ctypes.create_string_buffer(64)
    return str(syscall(154, 0, address(buffer), 64))


@hostile()
def take_a_namespace_from_the_descriptor_of_a_child(bait: Bait) -> str:
    """PIDFD_GET_UTS_NAMESPACE: clone(CLONE_PIDFD) is allowed, and one's own child asks for no capability."""
    child = ctypes.c_int(-1)
    pid = syscall(56, 0x1000 | signal.SIGCHLD, 0, ctypes.addressof(child), 0, 0)
    if pid == 0:
        signal.pause()
    try:
        return str(fcntl.ioctl(child.value, 0xFF0A))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


BATCH = Batch.of(globals())


def test_nothing_that_belongs_to_the_whole_host_is_had(case: Case, arena: Arena) -> None:
    assert_held(arena, case)
