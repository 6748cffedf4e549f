"""Entry points of the kernel that a server has no business with, and ways around a system call filter.

A control succeeds, or gets as far as the kernel looking at the arguments. Entry points that this machine's
kernel does not have (x32, loadable modules) have no control; what is asserted instead stands at the test.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import struct

from tests.escape.arena import CHECKOUT, PYTHON, Arena
from tests.escape.batch import Batch, Case, assert_held
from tests.escape.hostile import PROFILES, STRICT, Bait, address, hostile, in_child, prepared, syscall, taken

ENTRY = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static long int80(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
static void attempt(const char *name, long (*attack)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        long result = attack();
        if (result < 0 && result > -4096) printf("%s HELD %s\n", name, strerror(-result));
        else printf("%s CROSSED %ld\n", name, result);
        fflush(stdout);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) printf("%s HELD signal %d\n", name, WTERMSIG(status));
}
static long raw(long number) {
    long result = syscall(number, 0, 0, 0, 0, 0, 0);
    return result == -1 ? -errno : result;
}
static long by_int80(void) { return int80(20, 0, 0, 0); }
static long open_by_int80(void) {
    char *low = mmap((void *)0x10000, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED) return -errno;
    strcpy(low, "/dev/null");
    return int80(5, (long)low, 0, 0);
}
static long unshare_by_int80(void) { return int80(310, 0x10000000, 0, 0); }
static long keyring_by_int80(void) { return int80(288, 0, -3, 1); }
static long by_x32(void) { return raw(0x40000000L + 39); }
static long unshare_by_x32(void) { return raw(0x40000000L + 272); }
static long cut_short(void) { return raw(0x100000000L + 272); }
int main(void) {
    attempt("int80", by_int80);
    attempt("open_by_int80", open_by_int80);
    attempt("unshare_by_int80", unshare_by_int80);
    attempt("keyring_by_int80", keyring_by_int80);
    attempt("x32", by_x32);
    attempt("unshare_by_x32", unshare_by_x32);
    attempt("number_cut_short", cut_short);
    return 0;
}
"""
GATES = ("int80", "open_by_int80", "unshare_by_int80", "keyring_by_int80")
ABSENT = ("x32", "unshare_by_x32")
# vhangup, swapon, swapoff, reboot, iopl, ioperm, init_module, delete_module, kexec_load, finit_module,
# kexec_file_load, nfsservctl, lookup_dcookie
UNTRIED = {153, 167, 168, 169, 172, 173, 175, 176, 246, 313, 320, 180, 212}

# What the selftest counts with: every number twice, with arguments that are all wrong and all zero.
REACH = (CHECKOUT / "supervisor/cli/probes.py").read_text().partition("if __name__")[
    0
] + "print(json.dumps(answered()))"


@hostile()
def set_up_a_ring(bait: Bait) -> str:
    params = ctypes.create_string_buffer(120)
    return str(syscall(425, 4, address(params)))


@hostile(control="root")
def load_a_bpf_program(bait: Bait) -> str:
    code = ctypes.create_string_buffer(struct.pack("<QQ", 0xB7, 0x95))
    licence = ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("<IIQQ", 1, 2, address(code), address(licence)) + bytes(100)
    return str(syscall(321, 5, attr, len(attr)))


@hostile(control="root")
def create_a_bpf_map(bait: Bait) -> str:
    attr = struct.pack("<5I", 2, 4, 8, 1, 0) + bytes(100)
    return str(syscall(321, 0, attr, len(attr)))


@hostile()
def count_its_own_cycles(bait: Bait) -> str:
    """perf_event_open(2) of a software event, user space only: what the kernel lets anybody do."""
    attr = struct.pack("<IIQQQQQ", 1, 112, 1, 0, 0, 0, 0x61) + bytes(64)
    return str(syscall(298, attr, 0, -1, -1, 0))


@hostile()
def handle_its_own_faults(bait: Bait) -> str:
    return str(syscall(323, 1))


@hostile()
def trace_a_child(bait: Bait) -> str:
    child = os.fork()
    if child == 0:
        os.read(os.pipe()[0], 1)
    syscall(101, 0x4206, child, 0, 0)
    return "seized"


@hostile()
def listen_to_its_own_filter(bait: Bait) -> str:
    """A filter of its own that hands its children's calls to user space."""
    syscall(157, 38, 1, 0, 0, 0)
    code = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000))
    program = struct.pack("<H6xQ", 1, address(code))
    return str(syscall(317, 1, 8, program))


@hostile()
def make_a_secret_memory(bait: Bait) -> str:
    return str(syscall(447, 0))


@hostile()
def change_its_personality(bait: Bait) -> str:
    """ADDR_NO_RANDOMIZE and READ_IMPLIES_EXEC make the next exploit easier."""
    syscall(135, 0x0040000 | 0x0400000)
    return "no randomisation"


@hostile()
def become_a_32_bit_personality(bait: Bait) -> str:
    syscall(135, 8)
    return os.uname().machine


@hostile()
def write_its_descriptor_table(bait: Bait) -> str:
    """modify_ldt(2): segments, the ground of several old exploits."""
    return str(syscall(154, 1, struct.pack("IIII", 0, 0, 0xFFFFF, 0x51), 16))


@hostile(control="root")
def read_the_kernel_log(bait: Bait) -> str:
    buffer = ctypes.create_string_buffer(4096)
    return str(syscall(103, 3, address(buffer), 4096))


@hostile(control="root")
def silence_the_console(bait: Bait) -> str:
    """The size of the log only: the same gate as its clearing."""
    return str(syscall(103, 10, 0, 0))


@hostile(control="root")
def switch_accounting_off(bait: Bait) -> str:
    syscall(163, None)
    return "off"


@hostile(control="root")
def set_the_clock(bait: Bait) -> str:
    """adjtimex(2) with the tick that the clock has already: the right is the same as for any other."""
    buffer = ctypes.create_string_buffer(208)
    syscall(159, address(buffer))
    tick = struct.unpack_from("q", buffer.raw, 88)[0]
    struct.pack_into("I", buffer, 0, 0x4000)
    struct.pack_into("q", buffer, 88, tick)
    return str(syscall(159, address(buffer)))


@hostile(control="root")
def set_the_time_of_day(bait: Bait) -> str:
    """clock_adjtime(2), the same through the other door."""
    buffer = ctypes.create_string_buffer(208)
    syscall(305, 0, address(buffer))
    struct.pack_into("I", buffer, 0, 0x4000)
    return str(syscall(305, 0, address(buffer)))


@hostile(control="root")
def watch_every_file(bait: Bait) -> str:
    return str(syscall(300, 4, 0))


@hostile()
def watch_files_as_a_user(bait: Bait) -> str:
    """fanotify(7) without privileges, as kernels since 5.13 allow."""
    return str(syscall(300, 0x200, 0))


@hostile()
def name_a_file_by_handle(bait: Bait) -> str:
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.create_string_buffer(8)
    syscall(303, -100, b"/tmp", address(buffer), address(mount), 0)
    return buffer.raw[:24].hex()


@hostile(profiles=STRICT)
def gift_pages_to_a_pipe(bait: Bait) -> str:
    """vmsplice(2): half of more than one page cache exploit."""
    with prepared():
        _, writer = os.pipe()
    buffer = ctypes.create_string_buffer(4096)
    return str(syscall(278, writer, struct.pack("QQ", address(buffer), 4096), 1, 0))


@hostile(control="root")
def find_the_disk_quota(bait: Bait) -> str:
    """quotactl(2) Q_SYNC: asks for nothing but the gate."""
    return str(syscall(179, 0x80000100, 0, 0, 0))


@hostile()
def set_its_memory_policy(bait: Bait) -> str:
    return str(syscall(238, 0, 0, 0))


@hostile()
def remap_file_pages(bait: Bait) -> str:
    """remap_file_pages(2), emulated since 4.0 and needed by nobody."""
    with prepared():
        area = mmap.mmap(-1, 8192)
    where = ctypes.addressof(ctypes.c_char.from_buffer(area))
    return str(syscall(216, where, 4096, 0, 1, 0))


@hostile()
def push_a_byte_into_a_terminal(bait: Bait) -> str:
    """Even into a terminal of its own; a sandbox has no /dev/ptmx to begin with."""

    def push() -> str:
        os.setsid()
        follower = os.openpty()[1]
        fcntl.ioctl(follower, 0x540E, 0)
        fcntl.ioctl(follower, 0x5412, b"x")
        return "pushed"

    return in_child(push)


@hostile()
def list_the_mounts_by_system_call(bait: Bait) -> str:
    request, buffer = struct.pack("<IIQQQ", 24, 0, 0xFFFFFFFFFFFFFFFF, 0, 0), ctypes.create_string_buffer(512)
    count = syscall(458, request, address(buffer), 64, 0)
    return taken(count > 0, f"{count} mounts", "none")


BATCH = Batch.of(globals())


def test_the_kernel_does_not_answer(case: Case, arena: Arena) -> None:
    assert_held(arena, case)


def gates(output: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in output.splitlines())


def test_no_second_system_call_table_gets_around_the_filter(arena: Arena, profile: str, mode: str) -> None:
    """int 0x80 has other numbers for the same calls. This kernel has no x32 table, so for those calls there
    is no control: only that they are refused inside as well is asserted. A number above 32 bits is cut by
    the kernel, and must not mean another call to the filter."""
    binary = str(arena.compile("entry", ENTRY))
    control = gates(arena.outside([binary], mode).stdout)
    assert all(control[name].startswith("CROSSED") for name in (*GATES, "number_cut_short")), control
    done = arena.inside(profile, mode, [binary])
    said = gates(done.stdout)
    assert set(said) == set(control), done.stderr
    assert all(said[name].startswith("HELD") for name in (*GATES, *ABSENT)), said
    assert said["number_cut_short"].startswith("HELD"), said


def test_few_system_calls_are_reachable(arena: Arena, mode: str) -> None:
    """At most 150 for the strict profiles; the control, as an ordinary user, reaches twice as many.

    Some calls have no control on every machine (this kernel has no modules, no iopl, no ioperm) or one that
    would harm it (reboot, kexec, swap): of those it is asserted that they are not among the reachable.
    """
    argv = [*PYTHON, "-c", REACH]
    control = arena.finish(arena.start(argv, "user"))
    assert len(json.loads(control.stdout)) > 250, control.stdout
    for profile in PROFILES:
        done = arena.inside(profile, mode, argv)
        assert done.returncode == 0, done.stderr
        reached = json.loads(done.stdout)
        assert not UNTRIED & set(reached), f"{profile}: {reached}"
        assert len(reached) <= (150 if profile in STRICT else 254), f"{profile}: {len(reached)}: {reached}"
