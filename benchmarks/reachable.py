"""How many system calls a program can reach: in each profile, in containers, with no sandbox at all; in one run.

Run from a checkout, `python benchmarks/reachable.py [--json FILE]`. The same program counts everywhere; it is the
one that the selftest uses. With root and Debian's `podman` and `runc` two containers are counted beside the
profiles: one as podman makes them, one hardened by hand. Everything of theirs lies in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SUPERVISOR = str(Path(sys.executable).parent / "supervisor")
PROFILES = ("none", "fs-readonly", "fs-scoped", "net-allowlist", "ci-runner")
COUNT = (
    (REPOSITORY / "supervisor/cli/probes.py").read_text(encoding="utf-8").partition('if __name__ == "__main__"')[0]
)
PROGRAM = ("/usr/bin/python3", "-I", "-S", "-c", f"{COUNT}\nprint(json.dumps(answered()))")
# what guides to hardening ask for: no capability, no way to one, no network, nothing writable, limits
HARDENED = (
    "--cap-drop=all", "--security-opt=no-new-privileges", "--user=65534:65534", "--network=none", "--read-only",
    "--pids-limit=64", "--memory=512m", "--cpus=1", "--ipc=private",
)  # fmt: skip
SETTINGS = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = "{folder}/tmp"
"""


def counted(argv: Sequence[str], *, env: dict[str, str] | None = None) -> list[int]:
    """The numbers that the program reached; what it said otherwise ends the benchmark."""
    done = subprocess.run([*argv, *PROGRAM], check=False, capture_output=True, text=True, env=env, timeout=300)
    try:
        found: list[int] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise SystemExit(f"{argv}: exit {done.returncode}: {done.stderr[-2000:]}") from None
    return found


def sandboxed(folder: Path) -> dict[str, list[int]]:
    """In each profile."""
    found = {}
    for profile in PROFILES:
        params = [] if profile in ("none", "net-allowlist") else ["--param", f"root={folder}"]
        params += ["--param", f"scope={folder}"] if profile in ("fs-scoped", "ci-runner") else []
        start = [SUPERVISOR, "exec", "-q", "--profile", profile, *params]
        refused = subprocess.run([*start, "--", "/bin/true"], check=False, capture_output=True, text=True)
        if refused.returncode == 4:
            start += ["--accept-missing", "limits.memory,limits.cpus"]
        found[f"supervisor, {profile}"] = counted([*start, "--"])
    return found


def contained(folder: Path) -> dict[str, list[int]]:
    """In two containers of podman over the host's own /usr; nothing where it is not installed, or without root."""
    if os.geteuid() != 0 or not shutil.which("podman") or not shutil.which("runc"):
        return {}
    root = folder / "root"
    for name in ("usr", "etc", "proc", "sys", "dev", "tmp", "run"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (folder / "containers.conf").write_text(SETTINGS.format(folder=folder))
    environment = {"PATH": os.environ["PATH"], "CONTAINERS_CONF": str(folder / "containers.conf")}
    podman = ["podman", "--root", f"{folder}/storage", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
    group = f"reachable-{os.getpid()}"
    run = [*podman, "run", "--rm", "--log-driver=none", "--volume=/usr:/usr:ro", f"--cgroup-parent=/{group}"]
    runc = Path("/run/runc")
    was_there = runc.exists()
    try:
        return {
            "podman, as it comes": counted([*run, "--network=none", "--rootfs", str(root)], env=environment),
            "podman, hardened": counted([*run, *HARDENED, "--rootfs", str(root)], env=environment),
        }
    finally:
        subprocess.run([*podman, "rm", "--all", "--force"], check=False, env=environment, capture_output=True)
        remove_groups(group)
        if not was_there:
            runc.rmdir()


def remove_groups(name: str) -> None:
    """podman leaves the parents of its containers' control groups."""
    for folder in Path("/sys/fs/cgroup").glob(f"*/{name}"):
        for path, _, _ in sorted(os.walk(folder), reverse=True):
            os.rmdir(path)


def bare() -> dict[str, list[int]]:
    """As an ordinary user, with no sandbox."""
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"] if os.geteuid() == 0 else []
    return {"an ordinary user, no sandbox": counted(become)}


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description="How many system calls a program can reach.")
    parser.add_argument("--json", metavar="FILE", help="write every number")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reachable-", dir="/var/tmp") as name:
        folder = Path(name)
        granted = folder / "granted"
        granted.mkdir()
        found = sandboxed(granted) | contained(folder) | bare()
    for where, numbers in found.items():
        print(f"{where:32} {len(numbers):4}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
