"""Where a bound on what is added to a folder can be had, and where it is refused by name."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from supervisor.model import Mount
from supervisor.profile import writable
from tests.escape.arena import PYTHON, Arena
from tests.integration.adversary import BINARY, write_profile

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")

APART = ("/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec")
FILL = "import os, time\nfor n in range(200): open(f'fill-{n}', 'wb').write(b'x' * (1 << 20)), time.sleep(0.02)"
LIMITS = '[limits]\ndisk = "8M"\n'


def on(mount: str, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """A command in `folder`, over which that shell command has mounted something for nobody else."""
    script = f"{mount}; cd {folder}; exec " + '"$@"'
    return subprocess.run([*APART, script, "sh", *argv], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        ("mount -t ramfs none .", "is on ramfs, which does not tell"),
        ("mount -t tmpfs -o nr_inodes=0 none .", "is on tmpfs, which"),
        ("mkdir in; mount -t ramfs none in", "/in"),
    ],
)
def test_a_disk_that_cannot_bound_is_refused_by_the_name_of_the_limit(mount: str, why: str, tmp_path: Path) -> None:
    command = (BINARY, "exec", "-q", "--profile", "fs-scoped", "--", "/usr/bin/true")
    done = on(f"cd {tmp_path}; {mount}", tmp_path, *command)
    assert done.returncode == 4, done.stderr
    assert why in done.stderr
    assert "--accept-missing limits.disk,limits.disk_files" in done.stderr


def test_a_gap_that_was_accepted_is_printed(tmp_path: Path) -> None:
    accept = ("--accept-missing", "limits.disk,limits.disk_files")
    command = (BINARY, "exec", "-q", "--profile", "fs-scoped", *accept, "--", "/usr/bin/true")
    done = on(f"mount -t tmpfs -o nr_inodes=0 none {tmp_path}", tmp_path, *command)
    assert (done.returncode, "WITHOUT limits.disk, limits.disk_files" in done.stderr) == (0, True), done.stderr


def test_a_read_only_folder_needs_no_bound(tmp_path: Path) -> None:
    mount = Mount(source=str(tmp_path), target="/data")
    assert writable.gaps([mount]) == {}
    assert writable.gaps([mount.model_copy(update={"source": "/proc", "mode": "rw"})]).keys() == {
        "limits.disk",
        "limits.disk_files",
    }


@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_the_bound_holds_on_other_file_systems(
    kind: str, arena: Arena, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An ordinary user's, because the owner of an overlay cannot be mapped. As in a container."""
    plot = arena.plots["user"]
    profile = arena.base / "bounded.toml"
    write_profile(arena.base, "bounded", LIMITS, extends="fs-scoped").chmod(0o644)
    layers = arena.base / "layers"
    overlay = f"mkdir -p {layers}/low {layers}/up {layers}/work; mount -t overlay -o " + ",".join(
        f"{name}dir={layers}/{part}" for name, part in (("lower", "low"), ("upper", "up"), ("work", "work"))
    )
    mount = f"{overlay if kind == 'overlay' else 'mount -t tmpfs'} none {plot.scope}; chown {plot.uid} {plot.scope}"
    become = ("setpriv", f"--reuid={plot.uid}", f"--regid={plot.gid}", "--clear-groups", "--")
    argv = arena.command(str(profile), "user", [*PYTHON, "-c", FILL], options=["--param", f"scope={plot.scope}"])
    done = on(mount, plot.scope, *become, "env", f"HOME={plot.home}", *argv)
    assert (done.returncode, "(limits.disk)" in done.stderr) == (137, True), done.stderr
