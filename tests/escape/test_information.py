"""What the guest learns about the host: its names, paths, addresses, uptime, load, log, neighbours.

A shared kernel cannot hide its release, the processor's model, and the size of memory. All else is asserted.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import resource
import signal
import socket
import struct
import time

from tests.escape.arena import MARKER, Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import FOLDER, SCOPE, Bait, Held, address, hostile, slurp, syscall, taken

OWN = "self thread-self"


def mentions(bait: Bait, paths: list[str]) -> str:
    """The files among `paths` that say where on the host this sandbox's files lie."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            text = slurp(path, limit=1 << 18).decode(errors="replace")
            if bait.text("marker") in text.replace(bait.text("granted"), ""):
                found.append(path)
    return taken(found, str(found), "not mentioned")


@hostile()
def learn_the_name_of_the_host(bait: Bait) -> str:
    return taken(os.uname().nodename == bait.text("host"), bait.text("host"), "another name")


@hostile()
def learn_the_name_by_the_library(bait: Bait) -> str:
    return taken(socket.gethostname() == bait.text("host"), bait.text("host"), "another name")


@hostile()
def find_the_name_in_a_file(bait: Bait) -> str:
    for path in ("/etc/hostname", "/proc/sys/kernel/hostname", "/etc/hosts", "/etc/mailname"):
        with contextlib.suppress(OSError):
            if bait.text("host") in slurp(path).decode():
                return path
    raise Held("in none")


@hostile()
def learn_the_identity_of_the_machine(bait: Bait) -> str:
    paths = ("/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/sys/class/dmi/id/product_uuid")
    for path in paths:
        with contextlib.suppress(OSError):
            return taken(len(slurp(path)) > 16, path, "empty")
    raise Held("none of them")


@hostile()
def read_more_of_proc_than_its_own(bait: Bait) -> str:
    """cmdline, cpuinfo, modules, interrupts, partitions, kallsyms, keys, mounts of the kernel's life."""
    names = {name for name in os.listdir("/proc") if not name.isdigit()}
    more = names - set(bait.text("own").split()) - {"mounts", "net"}
    return taken(more, str(sorted(more))[:200], "nothing")


@hostile()
def read_the_boot_parameters(bait: Bait) -> str:
    return f"{slurp('/proc/cmdline')[:60]!r}"


@hostile()
def read_the_load(bait: Bait) -> str:
    return f"{slurp('/proc/loadavg')!r}"


@hostile()
def read_the_kernel_symbols(bait: Bait) -> str:
    return f"{slurp('/proc/kallsyms')[:40]!r}"


@hostile()
def find_more_host_paths_in_the_mount_table(bait: Bait) -> str:
    """Field 4 of mountinfo is the folder of its file system that a mount shows; no mount option changes that,
    so the folders that the caller granted are named there. Nothing else of the caller's may be."""
    lines = slurp("/proc/self/mountinfo", limit=1 << 18).decode().splitlines()
    granted = {bait.text("folder_outside"), bait.text("scope")}
    places = {line.split()[3] for line in lines} if bait.number("inside") else {bait.text("base")}
    found = [place for place in places - granted if bait.text("marker") in place]
    return taken(found, str(found), "none but the granted folders")


@hostile()
def find_backing_files_in_the_mounts(bait: Bait) -> str:
    """Where an overlay or a loop device keeps its files, and the sockets of file servers."""
    lines = slurp("/proc/self/mounts", limit=1 << 18).decode().splitlines()
    words = ("upperdir", "lowerdir", "workdir", "/dev/loop", "fd=", "devpts", "cgroup", "mqueue")
    found = [line for line in lines if any(word in line for word in words)]
    return taken(found, str(found)[:300], "none")


@hostile()
def learn_its_control_group(bait: Bait) -> str:
    lines = slurp("/proc/self/cgroup").decode().splitlines()
    named = [line for line in lines if not line.endswith(":/")]
    outside = [] if bait.number("inside") else ["the whole tree is visible"]
    return taken(named or outside, str(named or outside), "only the root of its own")


@hostile()
def find_the_caller_in_its_own_process(bait: Bait) -> str:
    own = [path for path in glob.glob("/proc/self/*") if os.path.basename(path) not in {"mem", "mountinfo"}]
    return mentions(bait, [path for path in own if os.path.isfile(path)])


@hostile()
def find_the_caller_in_its_working_directory(bait: Bait) -> str:
    here = os.getcwd()
    return taken(bait.text("marker") in here and here != bait.text("scope"), here, "not mentioned")


@hostile()
def learn_the_user_on_the_host(bait: Bait) -> str:
    """The name of the caller, in the account file or as an id in the names of its folders."""
    text = slurp("/etc/passwd").decode()
    return taken(f"{bait.text('account')}:" in text, bait.text("account"), "another account")


@hostile()
def learn_how_long_the_host_is_up(bait: Bait) -> str:
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    return taken(abs(up - bait.number("up")) < 600, f"{up:.0f} s", f"another clock: {up:.0f} s")


@hostile()
def learn_how_long_by_sysinfo(bait: Bait) -> str:
    buffer = ctypes.create_string_buffer(128)
    syscall(99, address(buffer))
    up = struct.unpack_from("q", buffer.raw)[0]
    return taken(abs(up - bait.number("up")) < 600, f"{up} s", f"another clock: {up} s")


@hostile()
def learn_when_its_processes_started(bait: Bait) -> str:
    """Field 22 of stat counts from the boot of the host."""
    ticks = int(slurp("/proc/self/stat").rsplit(b")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return taken(abs(ticks - bait.number("up")) < 600, f"{ticks:.0f} s", f"another clock: {ticks:.0f} s")


@hostile(control="root")
def learn_where_its_memory_lies(bait: Bait) -> str:
    """The number of a page's frame, in /proc/self/pagemap: what attacks on memory chips begin with."""
    buffer = ctypes.create_string_buffer(b"x" * 4096)
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek(address(buffer) // 4096 * 8)
        frame = struct.unpack("Q", file.read(8))[0] & ((1 << 55) - 1)
    return taken(frame, f"frame {frame:#x}", "hidden")


@hostile(control="root")
def learn_where_the_kernel_is(bait: Bait) -> str:
    """The stack of a call that waits, in /proc/self/task/*/stack."""
    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    try:
        # one that has not got to waiting yet has none
        while slurp(f"/proc/{child}/stat").rpartition(b") ")[2][:1] == b"R":
            time.sleep(0.01)
        return taken(lines := slurp(f"/proc/{child}/stack"), f"{lines[:60]!r}", "empty")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@hostile()
def learn_the_addresses_of_the_host(bait: Bait) -> str:
    found = []
    for path in ("/proc/net/fib_trie", "/proc/net/route", "/proc/net/arp", "/proc/net/if_inet6"):
        with contextlib.suppress(OSError):
            lines = slurp(path, limit=1 << 20).decode().splitlines()
            found += [line for line in lines if "127." not in line and len(line.split()) > 2]
    hosts = [line for line in found if "eth" in line or "|--" in line or line.split()[-1] not in {"lo", "device"}]
    headings = ("Iface", "IP address", "HW type")
    hosts = [line for line in hosts if not line.strip().startswith(headings) and "lo" not in line.split()]
    return taken(hosts, str(hosts)[:200], "none")


@hostile()
def learn_the_name_servers_of_the_host(bait: Bait) -> str:
    """Inside, a name server is at most the one that stands for the broker."""
    text = slurp("/etc/resolv.conf").decode()
    servers = [line for line in text.splitlines() if line.startswith(("nameserver", "search", "domain"))]
    strange = [line for line in servers if line != "nameserver 198.18.0.1"]
    return taken(strange, str(strange), "none")


@hostile()
def learn_what_the_host_mounts(bait: Bait) -> str:
    lines = slurp("/proc/self/mounts", limit=1 << 18).decode().splitlines()
    expected = {"/", "/usr", "/proc", "/dev", "/etc", "/tmp", "/data", "/dev/shm", bait.text("scope")}
    targets = {line.split()[1] for line in lines}
    more = [target for target in targets if not target.startswith(("/dev/", "/etc/")) and target not in expected]
    return taken(more, str(more), "only its own")


@hostile(profiles=SCOPE)
def watch_the_folder_above(bait: Bait) -> str:
    """inotify on the folder in which the scope lies: who works on which project, and when."""
    watcher = syscall(294, 0o4000)
    above = os.path.dirname(bait.text("scope"))
    syscall(254, watcher, above.encode(), 0x3FF)
    return taken("outside" in os.listdir(above), str(os.listdir(above)), "an empty stand-in")


@hostile(profiles=FOLDER)
def list_beside_the_folder(bait: Bait) -> str:
    names = os.listdir(f"{bait.text('folder')}/..")
    return taken("outside" in names, str(names), "the sandbox's own root")


@hostile()
def leave_a_core_dump(bait: Bait) -> str:
    """A core of the guest is written by the kernel, outside every rule of the sandbox."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    child = os.fork()
    if child == 0:
        os.chdir(bait.text("tmp"))
        os.kill(os.getpid(), signal.SIGQUIT)
        os._exit(0)
    dumped = os.WCOREDUMP(os.waitpid(child, 0)[1])
    return taken(dumped, "dumped", "no core")


def bait(place: Place) -> Values:
    return {
        "host": os.uname().nodename,
        "own": OWN,
        "marker": place.arena.base.name,
        "token": MARKER,
        "account": place.arena.account if place.mode == "user" else "daemon",
        "base": str(place.arena.base),
        "scope": place.scope,
        "granted": place.scope if place.profile else "nothing",
        "folder": place.folder,
        "tmp": place.tmp,
        "folder_outside": str(place.plot.folder),
        "inside": int(place.profile is not None),
        "up": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
    }


BATCH = Batch.of(globals(), helpers=(mentions,), bait=bait)


def test_the_guest_learns_nothing_of_the_host(case: Case, arena: Arena) -> None:
    assert_held(arena, case)
