"""cgroup v1 and v2 behind one interface, on folders that stand for the kernel's, and on this host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.sandbox import cgroup

LIMITS = {"memory": 1 << 20, "cpu": 500, "pids": 7}


def test_a_v2_group_has_its_limits_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "supervisor-1-2-3").mkdir()
    hierarchy = cgroup.Hierarchy("v2", dict.fromkeys(cgroup.CONTROLLERS, str(tmp_path)))
    with pytest.raises(FileExistsError):
        cgroup.Group(hierarchy, "supervisor-1-2-3", LIMITS)
    assert not (tmp_path / "supervisor-1-2-3").exists(), "what was begun is taken back"


def test_delegation_is_the_nearest_ancestor_that_gives_all_controllers(tmp_path: Path) -> None:
    inner = tmp_path / "user" / "scope"
    inner.mkdir(parents=True)
    for folder, has, gives in ((inner, "", ""), (tmp_path / "user", "cpu memory pids", "cpu memory pids")):
        (folder / "cgroup.controllers").write_text(has)
        (folder / "cgroup.subtree_control").write_text(gives)
    assert cgroup._unified_base(str(tmp_path), "/", "/user/scope") == str(tmp_path / "user")


def test_no_delegation_is_no_base(tmp_path: Path) -> None:
    for name in ("cgroup.controllers", "cgroup.subtree_control"):
        (tmp_path / name).write_text("hugetlb")
    assert cgroup._unified_base(str(tmp_path), "/", "/") == ""


def test_a_namespaced_mount_is_joined_below_its_own_root() -> None:
    assert cgroup.join("/sys/fs/cgroup", "/docker/abc", "/docker/abc/x") == "/sys/fs/cgroup/x"
    assert cgroup.join("/sys/fs/cgroup", "/", "/x") == "/sys/fs/cgroup/x"
    assert cgroup.join("/sys/fs/cgroup", "/", "/") == "/sys/fs/cgroup"


def test_the_sweep_removes_groups_of_the_dead_and_nothing_else(tmp_path: Path) -> None:
    alive = f"supervisor-{os.getpid()}-{cgroup.start_time(os.getpid())}-1"
    reused = f"supervisor-{os.getpid()}-1-1"
    for name in (alive, reused, "supervisor-4194304-5-1", "supervisor-odd", "other"):
        (tmp_path / name).mkdir()
    cgroup.Hierarchy("v1", {"memory": str(tmp_path)}).sweep()
    assert sorted(os.listdir(tmp_path)) == sorted([alive, "supervisor-odd", "other"])


def test_a_process_that_is_not_there_has_no_start_time() -> None:
    assert cgroup.start_time(os.getpid()).isdigit()
    assert cgroup.start_time(2**22 + 1) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="making cgroups needs root, or a delegation")
def test_a_group_on_this_host_takes_its_limits_and_goes_away() -> None:
    hierarchy = cgroup.probe()
    assert hierarchy.version in ("v1", "v2")
    group = cgroup.Group(hierarchy, "supervisor-4194304-5-9", LIMITS)
    try:
        folder = group.folders["pids"]
        assert Path(folder, "pids.max").read_text().strip() == "7"
        assert group.limits_hit() == []
    finally:
        group.remove()
    assert not any(os.path.exists(each) for each in group.folders.values())


INTO = """
import os, sys
sys.path.insert(0, sys.argv[1])
from supervisor.sandbox import cgroup, syscalls
folder = cgroup.mount_points()[""][0] + f"/supervisor-4194304-5-{os.getpid()}"
os.mkdir(folder)
try:
    group = cgroup.Group(cgroup.Hierarchy("v2", {"memory": os.path.dirname(folder)}), os.path.basename(folder), {})
    group.folders = {"memory": folder}
    pid, pidfd = syscalls.clone3(0, cgroup=group.clone_fd())
    if pid == 0:
        os._exit(0 if cgroup.joined(open("/proc/self/cgroup").read())[""].endswith(os.path.basename(folder)) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), group.limits_hit())
finally:
    os.rmdir(folder)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="making cgroups needs root, or a delegation")
def test_a_child_is_born_into_its_v2_group() -> None:
    """On the real unified hierarchy, which has no memory controller beside v1: joining, not limits."""
    root = str(Path(cgroup.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", INTO, root], capture_output=True, text=True, timeout=20
    )
    assert (done.stdout, done.stderr) == ("0 []\n", "")
