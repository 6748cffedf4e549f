"""The list of steps: complete, in its order, each with its name and its account."""

from __future__ import annotations

from supervisor.model import HostFacts
from supervisor.profile import explain, load, plan
from supervisor.runtimes import native
from supervisor.sandbox import enter, rights
from tests.unit.profile.test_plan import entry

FACTS = HostFacts(root=True, landlock=7, cgroup="v1", controllers=("cpu", "memory", "pids"), missing={})


def document() -> enter.Document:
    written = entry(load.share_folder("profiles"), profile="fs-readonly")
    ready = plan.plan(load.load(written.profile), written)
    return native.document(ready.spec, FACTS)


def test_the_steps_are_in_the_order_that_the_kernel_needs() -> None:
    names = [step.name for step in enter.plan(document(), [])]
    assert names == [
        "cgroup",
        "descriptors",
        "identity",
        "loopback",
        "egress",
        "root",
        "proc",
        "tmp",
        "mounts",
        "pivot_root",
        "rlimits",
        "capabilities",
        "no_new_privs",
        "landlock",
        "seccomp",
        "proof",
    ]


def test_every_step_is_named_for_errors_and_told_by_explain_on_one_line() -> None:
    taken = enter.plan(document(), [])
    told = explain.steps(document())
    assert len(taken) == len(told)
    for text in (*told, *(step.what for step in taken)):
        assert text
        assert "\n" not in text


def test_landlock_lets_nothing_be_executed_where_nothing_may_be() -> None:
    assert rights.rule_rights(7, ("/x", "ro", False, False)) & rights.FS_EXECUTE
    assert not rights.rule_rights(7, ("/x", "ro", True, False)) & rights.FS_EXECUTE
    assert not rights.rule_rights(7, ("/x", "rw", True, False)) & rights.FS_EXECUTE


def test_landlock_never_lets_a_device_be_made_or_a_read_only_tree_be_written() -> None:
    devices = rights.FS_MAKE_CHAR | rights.FS_MAKE_BLOCK
    assert not rights.rule_rights(7, ("/x", "rw", False, False)) & devices
    assert not rights.rule_rights(7, ("/x", "ro", False, False)) & (rights.FS_WRITE_FILE | rights.FS_TRUNCATE)


def test_landlock_asks_an_old_kernel_only_for_what_it_knows() -> None:
    for abi, bits in ((1, 13), (2, 14), (3, 15), (4, 15), (5, 16), (7, 16)):
        found = rights.rule_rights(abi, ("/x", "rw", False, False))
        assert found < 1 << bits


def test_a_file_s_rule_has_no_right_of_a_folder() -> None:
    found = rights.rule_rights(7, ("/x", "ro", False, True))
    assert found == rights.FS_READ_FILE | rights.FS_EXECUTE
