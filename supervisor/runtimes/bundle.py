"""What gVisor's runsc is told: the OCI bundle of one document, and how it is called.

Runs in the gvisor runtime's spawner. The guest's root is a folder of the sandbox that runsc itself runs in; what
cannot be executed there is mounted over it once more, so that the sentry, too, knows that. Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess

from supervisor.runtimes import gate
from supervisor.sandbox import enter
from supervisor.sandbox.mounts import MountSpec

RUNSC = "/usr/bin/runsc"
# in the sandbox that runsc runs in: the guest's root, the bundle, the state of runsc, runsc itself
ROOT, BUNDLE, STATE, PROGRAM = "/guest", "/bundle", "/state", "/runsc"
# in the guest: the folder of the gate
GATE = gate.PLACE
_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_SHARED_MEMORY = 1 << 16


def platform() -> str:
    """The best that this runsc has and that needs no device; OSError when there is no runsc.

    kvm is never taken: it wants /dev/kvm in the sandbox, and gives whoever breaks out of the sentry that as well.
    """
    return "systrap" if "systrap" in _said("flags") else "ptrace"


def version() -> str:
    """As it says itself; OSError when there is no runsc."""
    return _said("--version").split("\n", 1)[0].rpartition(" ")[2]


def _said(word: str) -> str:
    try:
        done = subprocess.run([RUNSC, word], capture_output=True, text=True, check=False, env={}, timeout=20)
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"{RUNSC} {word} does not end") from None
    return done.stdout + done.stderr


def argv(document: enter.Document, chosen: str) -> list[str]:
    """runsc's own command line; the sandbox's network namespace is all that "host" can mean there."""
    network = "host" if enter.items(document, "addresses") else "none"
    flags = [f"--root={STATE}", "--ignore-cgroups", f"--platform={chosen}", f"--network={network}"]
    # nobody changes its root; granted folders are looked at again, and others may write there
    flags += ["--file-access=exclusive", "--file-access-mounts=shared", "--overlay2=none", "--net-raw=false"]
    return [PROGRAM, *flags, "run", f"--bundle={BUNDLE}", "guest"]


def mounted(specs: list[MountSpec], tmp: dict[str, int]) -> list[dict[str, object]]:
    """What the guest has over its root, in which every tree is already: the sentry is told what differs from it."""
    found: list[dict[str, object]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    shared = ["nosuid", "nodev", "noexec", f"size={_SHARED_MEMORY}", "mode=1777"]
    found.append({"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": shared})
    trees = [(each.target, each.mode, each.noexec) for each in specs if each.noexec or each.mode == "rw"]
    for target, mode, noexec in sorted([*trees, ("/tmp", "rw", bool(tmp["noexec"]))]):
        options = ["rbind", mode, "nosuid", "nodev", *(["noexec"] if noexec else [])]
        found.append({"destination": target, "type": "bind", "source": f"{ROOT}{target}", "options": options})
    return found


def config(document: enter.Document, specs: list[MountSpec]) -> str:
    """config.json. The environment is not in it: the gate gets that when it is let go."""
    uid = int(str(document["uid"]))
    limits = [
        {"type": f"RLIMIT_{name}", "soft": value, "hard": value}
        for name, value in enter.numbers(document, "rlimits").items()
    ]
    process = {
        "terminal": False,
        "user": {"uid": uid, "gid": uid},
        "args": [f"{GATE}/gate", *(str(each) for each in enter.items(document, "argv"))],
        # without one, runsc would look for it in the guest's files
        "env": ["HOME=/"],
        "cwd": str(document["cwd"]),
        "noNewPrivileges": True,
        "capabilities": {name: [] for name in _SETS},
        "rlimits": limits,
    }
    made = {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": ROOT, "readonly": True},
        "hostname": str(document["hostname"]),
        "mounts": mounted(specs, enter.numbers(document, "tmp")),
        "linux": {},
    }
    return json.dumps(made)


def there() -> bool:
    """Whether runsc is where Debian's package puts it."""
    return os.access(RUNSC, os.X_OK)
