"""Other processes: see them, signal them, read them, trace them, take their descriptors, starve them.

The process of the host that the programs are after runs as the caller. Process 1 of a sandbox is ours: it
must be as far away as the host's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import struct

from tests.escape.arena import MARKER, PYTHON, Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import PROFILES, Bait, Held, descriptor_of, hostile, others, peek, slurp, syscall, taken

WAITING = "import os,sys; os.dup2(os.open(sys.argv[1], 0), 77); print(flush=True); sys.stdin.read()"


@hostile()
def see_a_process_by_its_arguments(bait: Bait) -> str:
    for pid in others():
        with contextlib.suppress(OSError):
            if bait.text("argument").encode() in slurp(f"/proc/{pid}/cmdline"):
                return str(pid)
    raise Held("not listed")


@hostile()
def see_any_process_but_its_own(bait: Bait) -> str:
    listed = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    more = listed - {os.getpid(), os.getppid()}
    return taken(more, str(sorted(more)[:20]), "only its own")


@hostile()
def look_at_a_process_by_number(bait: Bait) -> str:
    pids = (1, bait.number("pid"))
    return str([os.stat(f"/proc/{pid}").st_uid for pid in pids])


@hostile()
def signal_a_process(bait: Bait) -> str:
    os.kill(bait.number("pid"), 0)
    return "reached by kill"


@hostile()
def signal_a_process_group(bait: Bait) -> str:
    os.killpg(bait.number("pid"), 0)
    return "reached by killpg"


@hostile()
def signal_a_thread(bait: Bait) -> str:
    syscall(234, bait.number("pid"), bait.number("pid"), 0)
    return "reached by tgkill"


@hostile()
def signal_by_descriptor(bait: Bait) -> str:
    signal.pidfd_send_signal(os.pidfd_open(bait.number("pid")), 0)
    return "reached by pidfd"


@hostile()
def be_told_of_input_in_its_name(bait: Bait) -> str:
    """F_SETOWN makes the kernel send SIGIO to somebody."""
    fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, bait.number("pid"))
    return "owner set"


@hostile()
def read_the_environment_of_a_process(bait: Bait) -> str:
    for pid in others():
        with contextlib.suppress(OSError):
            content = slurp(f"/proc/{pid}/environ")
            if bait.text("token").encode() in content:
                return f"{pid}: {content[:80]!r}"
    raise Held("no environment but its own")


@hostile()
def read_the_arguments_of_our_processes(bait: Bait) -> str:
    """The monitor, the spawner, the init and the proxy of a sandbox; outside, whoever started this."""
    found = []
    for pid in others():
        with contextlib.suppress(OSError):
            found.append((pid, slurp(f"/proc/{pid}/cmdline")))
    return taken(found, str(found)[:300], "none")


@hostile()
def open_the_memory_of_a_process(bait: Bait) -> str:
    for pid in (bait.number("pid"), *others()):
        with contextlib.suppress(OSError):
            return f"{pid}: {os.open(f'/proc/{pid}/mem', os.O_RDWR)}"
    raise Held("none can be opened")


@hostile()
def read_the_memory_of_a_process(bait: Bait) -> str:
    return peek(bait.number("pid"))


@hostile()
def trace_a_process(bait: Bait) -> str:
    syscall(101, 0x4206, bait.number("pid"), 0, 0)
    return "seized"


@hostile()
def take_a_descriptor_of_a_process(bait: Bait) -> str:
    return descriptor_of(bait.number("pid"), 77)


@hostile()
def compare_with_a_process(bait: Bait) -> str:
    """kcmp(2) tells which kernel objects two processes share."""
    return str(syscall(312, os.getpid(), bait.number("pid"), 0, 0, 77))


@hostile()
def limit_a_process(bait: Bait) -> str:
    return str(resource.prlimit(bait.number("pid"), resource.RLIMIT_NOFILE, (512, 512)))


@hostile()
def pin_a_process_to_a_cpu(bait: Bait) -> str:
    os.sched_setaffinity(bait.number("pid"), os.sched_getaffinity(0))
    return "pinned"


@hostile(control="user")
def slow_its_user_down(bait: Bait) -> str:
    """setpriority(2) for a user id: inside, that must not reach the user's processes outside."""
    before = os.getpriority(os.PRIO_PROCESS, 0)  # as that of the process outside; only root may go below it
    os.setpriority(os.PRIO_USER, 0, before + 1)
    value = os.getpriority(os.PRIO_PROCESS, bait.number("pid"))
    return taken(value > before, f"reniced to {value}", "the process outside kept its priority")


@hostile()
def slow_a_process_down(bait: Bait) -> str:
    os.setpriority(os.PRIO_PROCESS, bait.number("pid"), 19)
    return "reniced"


@hostile()
def change_its_io_priority(bait: Bait) -> str:
    syscall(251, 1, bait.number("pid"), (3 << 13) | 7)
    return "idle class"


@hostile(control="root")
def raise_its_own_priority(bait: Bait) -> str:
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    return str(os.getpriority(os.PRIO_PROCESS, 0))


@hostile(control="root")
def become_a_real_time_process(bait: Bait) -> str:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    return "first in, first out"


@hostile(control="root")
def take_the_real_time_io_class(bait: Bait) -> str:
    syscall(251, 1, 0, (1 << 13) | 0)
    return "real-time class"


@hostile()
def list_the_robust_futexes_of_a_process(bait: Bait) -> str:
    import ctypes

    head, size = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    syscall(274, bait.number("pid"), ctypes.addressof(head), ctypes.addressof(size))
    return head.raw.hex()


@hostile(control="root")
def advise_the_memory_of_a_process(bait: Bait) -> str:
    where = int(slurp(f"/proc/{bait.number('pid')}/maps", limit=64).split(b"-")[0], 16)
    vector = struct.pack("QQ", where, 4096)
    return str(syscall(440, syscall(434, bait.number("pid"), 0), vector, 1, 20, 0))


@hostile()
def move_the_pages_of_a_process(bait: Bait) -> str:
    return str(syscall(256, bait.number("pid"), 64, struct.pack("Q", 1), struct.pack("Q", 1)))


def bait(place: Place) -> Values:
    argument = f"{MARKER}-process-{place.mode}"
    argv = [*PYTHON, "-c", WAITING, str(place.plot.key), argument]
    companion = place.arena.companion("process", argv, place.mode)
    return {"pid": companion.pid, "argument": argument, "token": MARKER}


BATCH = Batch.of(globals(), bait=bait)


def test_no_other_process_is_seen_or_reached(case: Case, arena: Arena) -> None:
    assert_held(arena, case)


def test_a_signal_to_its_process_group_ends_at_the_sandbox(arena: Arena, profile: str, mode: str) -> None:
    """kill(0) reaches every member of the group, those outside the pid namespace too."""
    program = [*PYTHON, "-c", "import os,signal; signal.signal(10, signal.SIG_IGN); os.kill(0, 10)"]
    if profile == PROFILES[0]:
        assert end_of_the_witness(arena, mode, program) == -signal.SIGUSR1
    sandbox = arena.command(profile, mode, program)
    assert end_of_the_witness(arena, mode, sandbox) == -signal.SIGTERM


def end_of_the_witness(arena: Arena, mode: str, argv: list[str]) -> int:
    """Run `argv` in one process group with a witness that SIGTERM ends afterwards; what ended it.

    Of two signals that wait, the kernel delivers the one with the lower number first.
    """
    script = (
        "import subprocess,sys,signal; signal.signal(10, signal.SIG_IGN)\n"
        "w = subprocess.Popen(['/bin/sleep', '60'], stdout=2,\n"
        "    preexec_fn=lambda: signal.signal(10, signal.SIG_DFL))\n"
        "done = subprocess.run(sys.argv[1:], stdin=0, stdout=2)\n"
        "w.terminate()\n"
        "print(done.returncode, w.wait())\n"
    )
    done = arena.finish(arena.start([*PYTHON, "-c", script, *argv], mode))
    status, ended = done.stdout.split()
    assert status == "0", done.stderr
    return int(ended)
