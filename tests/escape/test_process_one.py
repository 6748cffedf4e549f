"""Process 1 of a sandbox: ours, and as far away from the guest as any process of the host.

The control runs in a pid namespace of its own whose process 1 is an ordinary shell of the same user.
"""

from __future__ import annotations

import contextlib
import os
import resource

from tests.escape.arena import Arena
from tests.escape.batch import Batch, Case, assert_held
from tests.escape.hostile import Bait, Held, descriptor_of, hostile, peek, slurp, syscall

NAMESPACE = (
    "/usr/bin/unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "/bin/sh",
    "-c",
    '"$@"; exit $?',
    "sh",
)


@hostile(control="root")
def read_the_environment_of_process_1(bait: Bait) -> str:
    content = slurp("/proc/1/environ")
    return f"{content[:80]!r}"


@hostile(control="root")
def read_the_memory_of_process_1(bait: Bait) -> str:
    return peek(1)


@hostile(control="root")
def trace_process_1(bait: Bait) -> str:
    syscall(101, 0x4206, 1, 0, 0)
    return "seized"


@hostile(control="root")
def take_a_descriptor_of_process_1(bait: Bait) -> str:
    for number in range(64):
        with contextlib.suppress(OSError):
            return f"{number} as {descriptor_of(1, number)}"
    raise Held("none of 64")


@hostile(control="root")
def read_the_limits_of_process_1(bait: Bait) -> str:
    return str(resource.prlimit(1, resource.RLIMIT_CPU))


@hostile(control="root")
def pin_process_1_to_a_cpu(bait: Bait) -> str:
    os.sched_setaffinity(1, os.sched_getaffinity(1))
    return "pinned"


@hostile(control="root")
def slow_process_1_down(bait: Bait) -> str:
    """To the value it has, so that the control changes nothing."""
    os.setpriority(os.PRIO_PROCESS, 1, os.getpriority(os.PRIO_PROCESS, 1))
    return "priority set"


@hostile(control="root")
def list_process_1(bait: Bait) -> str:
    return str(os.listdir("/proc/1"))


@hostile(control="root")
def read_the_memory_map_of_process_1(bait: Bait) -> str:
    return f"{slurp('/proc/1/maps')[:80]!r}"


@hostile(control="root")
def read_the_status_of_process_1(bait: Bait) -> str:
    return f"{slurp('/proc/1/stat')[:80]!r}"


@hostile(control="root")
def list_the_descriptors_of_process_1(bait: Bait) -> str:
    return str([os.readlink(f"/proc/1/fd/{name}") for name in os.listdir("/proc/1/fd")])


@hostile(control="root")
def enter_through_the_root_of_process_1(bait: Bait) -> str:
    return str(os.listdir("/proc/1/root/"))


@hostile(control="root")
def borrow_a_namespace_of_process_1(bait: Bait) -> str:
    return str(os.open("/proc/1/ns/mnt", os.O_RDONLY))


BATCH = Batch.of(globals(), outside=NAMESPACE)


def test_process_1_is_out_of_reach(case: Case, arena: Arena) -> None:
    assert_held(arena, case)
