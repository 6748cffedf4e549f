"""The native runtime: what it cannot enforce is named, and only what may be given up can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Unenforceable
from supervisor.model import HostFacts, Plan, SandboxSpec
from supervisor.profile import load, plan
from supervisor.runtimes import native
from tests.unit.profile.test_plan import entry


def facts(**missing: str) -> HostFacts:
    return HostFacts(root=True, landlock=7, cgroup="v1", controllers=("memory",), missing=missing)


def planned() -> Plan:
    return plan.plan(load.load("none"), entry(Path("/usr/share")))


def spec() -> SandboxSpec:
    return planned().spec


def check(host: HostFacts, *accept: str, **gaps: str) -> SandboxSpec:
    return native.check(planned().model_copy(update={"gaps": gaps}), host, accept)


def test_a_host_that_has_everything_leaves_the_spec_as_it_is() -> None:
    assert check(facts()) == spec()


def test_a_missing_layer_is_named_with_its_remedy_and_the_flag() -> None:
    with pytest.raises(Unenforceable) as caught:
        check(facts(landlock="no Landlock here"))
    assert "landlock: no Landlock here" in str(caught.value)
    assert "--accept-missing landlock" in str(caught.value)
    assert caught.value.exit_status == 4


def test_a_gap_that_was_accepted_is_part_of_the_digest() -> None:
    accepted = check(facts(landlock="none"), "landlock")
    assert accepted.accepted == ("landlock",)
    assert accepted.digest != spec().digest


def test_accepting_what_is_not_missing_changes_nothing() -> None:
    assert check(facts(), "landlock") == spec()


def test_what_holds_the_rest_up_cannot_be_given_up() -> None:
    with pytest.raises(Unenforceable) as caught:
        check(facts(namespaces="none"))
    assert "--accept-missing" not in str(caught.value)
    with pytest.raises(ConfigError, match="no such layer"):
        check(facts(namespaces="none"), "namespaces")


def test_a_name_that_stands_for_nothing_is_an_error_that_lists_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"limits\.memory"):
        check(facts(), "everything")


def test_what_a_disk_cannot_hold_is_a_gap_like_any_other() -> None:
    gap = {"limits.disk_files": "no number of files"}
    with pytest.raises(Unenforceable, match=r"--accept-missing limits\.disk_files"):
        check(facts(), **gap)
    assert check(facts(), "limits.disk_files", **gap).accepted == ("limits.disk_files",)


def test_the_document_leaves_out_only_what_was_accepted() -> None:
    whole = native.document(check(facts()), facts())
    without = native.document(check(facts(landlock="x"), "landlock"), facts(landlock="x"))
    assert (whole["landlock"], without["landlock"]) == (7, 0)
    assert whole["cgroup"] == {"memory": spec().limits.memory}
