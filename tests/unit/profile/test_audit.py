"""The ledger's system call filter: it works on what is there, and starts, connects and listens to nothing."""

from __future__ import annotations

from base64 import b64decode

from supervisor.profile import audit, load, seccomp


def test_the_ledger_s_filter_is_compiled_from_its_group() -> None:
    program = b64decode(audit.ledger_filter(), validate=True)
    assert 0 < len(program) <= seccomp.MAX_INSTRUCTIONS * 8
    assert len(program) % 8 == 0


def test_the_ledger_starts_nothing_and_reaches_nobody() -> None:
    groups = seccomp.load_groups(load.share_folder("profiles") / "syscalls", (audit.GROUP,))
    reachable = set(seccomp.reachable(groups))
    assert {"write", "fdatasync", "recvmsg"} <= reachable
    beyond = {
        "execve",
        "execveat",
        "fork",
        "vfork",
        "clone",
        "clone3",
        "socket",
        "connect",
        "bind",
        "listen",
        "accept4",
    }
    assert not reachable & (
        beyond | {"ptrace", "mount", "setns", "unshare", "kill", "io_uring_setup", "chmod", "chown"}
    )
