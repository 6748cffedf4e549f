"""What runsc is told, and what a plan for gVisor asks for: nothing that is a secret, nothing that leads out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.model import HostFacts, Mount, Plan, SandboxSpec
from supervisor.profile import load, plan
from supervisor.registry import engines
from supervisor.runtimes import bundle, gvisor, native
from supervisor.sandbox import enter
from tests.unit.profile.test_plan import entry

FACTS = HostFacts(root=True, landlock=7, cgroup="v1", controllers=("memory", "cpu", "pids"), missing={})


def planned() -> Plan:
    return engines.guest(plan.plan(load.load("none"), entry(Path("/usr/share"))))


def document(spec: SandboxSpec) -> dict[str, object]:
    return native.document(spec, FACTS)


def told(spec: SandboxSpec) -> dict[str, object]:
    found = document(spec)
    specs = enter.specs(found, "trees") + enter.specs(found, "mounts")
    made: dict[str, object] = json.loads(bundle.config(found, specs))
    return made


def test_the_environment_is_not_in_what_is_written_down() -> None:
    spec = planned().spec.model_copy(update={"env": {"TOKEN": "canary"}})
    assert "canary" not in json.dumps(told(spec))


def test_a_guest_has_no_capability_and_the_profile_s_own_limits() -> None:
    spec = planned().spec
    process = told(spec)["process"]
    assert isinstance(process, dict)
    assert process["noNewPrivileges"] is True
    assert [each for each in process["capabilities"].values() if each] == []
    assert len(process["capabilities"]) == 5
    assert {each["type"][7:]: each["hard"] for each in process["rlimits"]} == spec.rlimits
    assert process["args"][0] == "/.supervisor/gate"
    assert process["args"][1:] == list(spec.argv)


def test_what_lies_below_tmp_is_mounted_after_it() -> None:
    mounts = (Mount(source="/usr/share", target="/tmp/share"), Mount(source="/usr/share", target="/data"))
    found = told(planned().spec.model_copy(update={"mounts": mounts}))["mounts"]
    assert isinstance(found, list)
    places = [each["destination"] for each in found if each["type"] == "bind"]
    assert places == ["/data", "/tmp", "/tmp/share"]
    assert all({"nosuid", "nodev", "noexec"} <= set(each["options"]) for each in found if each["type"] == "bind")
    assert [each["destination"] for each in found if "rw" in each.get("options", ())] == ["/tmp"]


@pytest.mark.parametrize("chosen", ["ptrace", "systrap"])
def test_without_hosts_to_reach_the_guest_has_no_network_of_anybody_s(chosen: str) -> None:
    spec = planned().spec
    alone = bundle.argv(document(spec), chosen)
    assert "--network=none" in alone
    assert f"--platform={chosen}" in alone
    network = spec.network.model_copy(update={"addresses": ("198.18.0.1/15",)})
    reaches = bundle.argv(document(spec.model_copy(update={"network": network})), chosen)
    assert [each for each in reaches if each not in alone] == ["--network=host"]


def test_processes_are_counted_inside_and_what_they_cost_outside() -> None:
    before = plan.plan(load.load("none"), entry(Path("/usr/share"))).spec
    made = planned().spec
    assert made.rlimits["NPROC"] == before.limits.pids
    assert made.limits.pids > 4 * before.limits.pids
    assert made.digest != before.digest


def test_a_record_of_files_that_is_required_is_a_gap_that_can_be_accepted_by_name() -> None:
    made = plan.plan(load.load("none"), entry(Path("/usr/share")))
    audit = made.spec.audit.model_copy(update={"files": "required"})
    needed = engines.guest(made.model_copy(update={"spec": made.spec.model_copy(update={"audit": audit})}))
    assert list(needed.gaps) == ["file-audit"]
    spec = native.check(needed, FACTS, ("file-audit",))
    assert (spec.accepted, spec.audit.files) == (("file-audit",), "off")
    assert planned().gaps == {}


def test_a_kernel_without_landlock_is_enough_for_gvisor_alone() -> None:
    lacking = FACTS.model_copy(update={"landlock": 0, "missing": {"landlock": "none here"}})
    assert native.check(planned(), lacking, ()).runtime == "gvisor"


def test_a_writable_folder_is_a_gap() -> None:
    writable = Mount(source="/usr/share", target="/work", mode="rw")
    assert "mount /work" in gvisor.gaps(document(planned().spec.model_copy(update={"mounts": (writable,)})))


def test_without_runsc_or_without_root_the_runtime_itself_is_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = document(planned().spec)
    monkeypatch.setattr(bundle, "RUNSC", "/nonexistent/runsc")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "/nonexistent/runsc, which is not there: install runsc" in gvisor.gaps(asked)["runtime"]
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "root alone" in gvisor.gaps(asked)["runtime"]
