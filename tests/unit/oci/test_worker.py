"""One-shot processes: their answers are strangers' words, and their filters leave them next to nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.errors import SupervisorError
from supervisor.oci import add, seal, worker
from supervisor.oci.document import Reader, Table
from supervisor.oci.reference import digest_of
from supervisor.profile import seccomp
from tests.unit.oci import making

GROUPS = Path(__file__).parents[3] / "profiles" / "syscalls"
NEVER = {
    "bind",
    "clone",
    "clone3",
    "execve",
    "execveat",
    "fork",
    "listen",
    "memfd_create",
    "mount",
    "open_by_handle_at",
}
NEVER |= {"pidfd_getfd", "ptrace", "process_vm_readv", "sendmsg", "setuid", "setresuid", "unshare", "vfork", "kill"}


def quiet(_text: str) -> None:
    pass


def test_a_worker_starts_nothing_becomes_nobody_and_signals_nobody() -> None:
    alone = set(seccomp.reachable(seccomp.load_groups(GROUPS, ("image-worker",))))
    network = set(seccomp.reachable(seccomp.load_groups(GROUPS, ("image-worker", "image-network"))))
    assert not NEVER & network
    assert not {"socket", "connect", "sendto"} & alone
    assert len(alone) < 50


def unpack(layer: bytes, limits: dict[str, int]) -> tuple[Reader, bytes]:
    """The unpacker's answer, and the beginning of what it made."""
    source, memory = os.memfd_create("layer"), seal.memory_file("image")
    os.write(source, layer)
    digest = digest_of(layer)
    entry: Table = {"fd": source, "digest": digest, "size": len(layer), "compression": "", "diff_id": digest}
    question: Table = {"layers": [entry], "output": memory, "limits": {**limits}}
    try:
        found = worker.ask("unpacker", question, add.worker_filter(), fds=[source, memory], progress=quiet)
        return found, os.pread(memory, 4, 0)
    finally:
        os.close(source)
        os.close(memory)


def test_the_unpacker_fills_the_file_that_it_was_given() -> None:
    found, start = unpack(making.files({"a": b"a"}), {})
    assert found.number("files") == 1
    assert start == b"hsqs"


def test_a_worker_s_refusal_comes_with_its_status() -> None:
    with pytest.raises(worker.Failed, match="more than 1 entries") as caught:
        unpack(making.files({"a": b"a", "b": b"b"}), {"entries": 1})
    assert caught.value.exit_status == 3


def test_a_worker_that_breaks_its_filter_is_told_and_nothing_is_taken_from_it() -> None:
    # exit_group alone: it cannot even say why
    program = seccomp.compile_filter(
        [seccomp.Group(group="x", summary="x", allow={"exit_group": "x"})], write_execute=False
    )
    question: Table = {"layers": [], "output": 1, "limits": {}}
    with pytest.raises(SupervisorError, match=r"without an answer|Operation not permitted"):
        worker.ask("unpacker", question, program, progress=quiet)


def test_only_workers_of_ours_are_started() -> None:
    with pytest.raises(ValueError, match="os"):
        worker.main("os")
