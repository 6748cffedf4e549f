"""The engines of the runtimes' tests: each started by the tests, with a socket and storage of its own, and stopped.

Runs as root. docker's daemon maps its containers' users.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisor.runtimes import api
from supervisor.runtimes.api import Api, ApiError, entries, table
from supervisor.runtimes.engine import Engine
from tests.escape.arena import Arena
from tests.integration.engine_image import image
from tests.integration.remains import used
from tests.unit.oci import making

# root has no CAP_SYS_RESOURCE everywhere, and a hybrid hierarchy is nothing for crun
CONTAINERS = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "{oci}"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{base}/tmp"
"""
SUBORDINATE = 3_000_000
SECONDS = 30
# what engines make outside of the folders that they are given, and never remove: parents of their control groups...
_PARENTS = ("libpod_parent", "docker")
# ... and places of their own
_PLACES = ("/run/runc", "/run/docker", "/run/containerd", "/var/lib/containers", "/etc/docker/key.json")


@dataclass
class Started:
    """A running engine: which runtime it is, where it listens, and its process, which can be started again."""

    runtime: str
    socket: str
    kind: type[Engine]
    argv: list[str]
    env: dict[str, str]
    # whose it is: (uid, gid)
    owner: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.folder = Path(self.socket).parent
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        # docker's own containerd goes with a docker that is killed, and is a zombie where nobody reaps it
        (self.folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        ids = ("--reuid", str(self.owner[0]), "--regid", str(self.owner[1]), "--clear-groups")
        become = ("setpriv", *ids, "--") if os.geteuid() != self.owner[0] else ()
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*become, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env | {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(OSError):
                Api(self.socket).get("/version" if self.runtime == "docker" else "/v4.0.0/libpod/version")
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    self.kill()
                pytest.fail((self.folder / "log").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """Without warning, and in one go: a user's is two processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(SECONDS)

    def stop(self) -> None:
        """In order."""
        self.process.terminate()
        self.process.wait(SECONDS)

    def left(self) -> list[str]:
        """What keepers have in it, and those that are gone in the folder that it shows from."""
        found = self.kind(self.socket, "supervisor-0-0")
        try:
            names = [str(each.get("Names")) for each in found.containers()]
            names += [str(each.get("Name")) for each in found.volumes()]
        except ApiError as error:
            # podman's list of volumes fails when one of them is just being removed
            return [str(error)]
        place = "/run" if self.owner == (0, 0) else self.folder
        files = [each for each in os.listdir(place) if each.startswith("supervisor-") and not used(each)]
        return names + files

    def swept(self) -> list[str]:
        """What is left when whoever cleans up has had the time: of other tests of this host, too."""
        deadline = time.monotonic() + SECONDS
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def images(self) -> list[str]:
        """The ids of the images that it holds."""
        found = self.kind(self.socket, "")
        return [str(table(each).get("Id")) for each in entries(found.api.get(f"{found.images}/json"))]


def _traces() -> set[Path]:
    """What there is of all that, below before above."""
    groups = [Path(base) for base, _, _ in os.walk("/sys/fs/cgroup", topdown=False)]
    found = {each for each in groups if set(_PARENTS) & set(each.parts)}
    for place in map(Path, _PLACES):
        found |= {place, *place.rglob("*")} if place.exists() else set()
    return found


@contextmanager
def _traceless() -> Iterator[None]:
    """What an engine has left beside its own folders is removed, if it is empty or a file of its own.

    Empty control groups whoever made them: two engines that run at the same time share their parents.
    """
    before = _traces()
    try:
        yield
    finally:
        before = {each for each in before if "cgroup" not in each.parts}
        for each in sorted(_traces() - before, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):
                each.rmdir() if each.is_dir() else each.unlink()


@contextmanager
def docker(arena: Arena, kind: type[Engine], oci: str = "runc") -> Iterator[Started]:
    """dockerd, whose root is nobody's outside; `oci` is what it starts containers with."""
    base = arena.base / "docker"
    base.mkdir(exist_ok=True)
    with _traceless(), _subordinate(arena):
        argv = ["dockerd", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        argv += ["--bridge=none", "--storage-driver", "overlay2", "--default-ulimit", "nofile=1024:1024"]
        argv += ["-H", f"unix://{base}/docker.sock", "--data-root", f"{base}/data", "--exec-root", f"{base}/exec"]
        argv += ["--pidfile", f"{base}/pid", "--userns-remap", arena.account]
        if oci != "runc":
            argv += ["--add-runtime", f"{oci}=/usr/bin/{oci}", "--default-runtime", oci]
        made = Started("docker", f"{base}/docker.sock", kind, argv, {})
        try:
            yield made
        finally:
            made.stop()
            _unmounted(base)


@contextmanager
def podman(arena: Arena, kind: type[Engine], oci: str = "runc") -> Iterator[Started]:
    """podman's service, as root; `oci` is what it starts containers with."""
    base = arena.base / "podman"
    base.mkdir(exist_ok=True)
    config = base / "containers.conf"
    config.write_text(CONTAINERS.format(base=base, oci=oci))
    argv = ["podman", "--root", f"{base}/root", "--runroot", f"{base}/run", "--storage-driver", "overlay"]
    argv += ["system", "service", "-t", "0", f"unix://{base}/podman.sock"]
    env = {"CONTAINERS_CONF": str(config), "HOME": str(base), "XDG_RUNTIME_DIR": str(base), "TMPDIR": str(base)}
    with _traceless():
        made = Started("podman", f"{base}/podman.sock", kind, argv, env)
        try:
            yield made
        finally:
            made.stop()
            _unmounted(base)


@contextmanager
def own(arena: Arena, kind: type[Engine]) -> Iterator[Started]:
    """podman's service of the ordinary user: nobody is root in it, nor has it a control group."""
    base, plot = arena.base / "own", arena.plots["user"]
    folder = base / "run/podman"
    for each in (base, base / "run", folder, base / "tmp"):
        each.mkdir(exist_ok=True, mode=0o700)
        os.chown(each, plot.uid, plot.gid)
    (folder / "log").touch()
    os.chown(folder / "log", plot.uid, plot.gid)
    config = base / "containers.conf"
    config.write_text(CONTAINERS.format(base=base, oci="runc"))
    argv = ["podman", "--root", f"{base}/root", "--runroot", f"{base}/run/containers"]
    argv += ["--storage-driver", "overlay", "system", "service", "-t", "0", f"unix://{folder}/podman.sock"]
    env = {"CONTAINERS_CONF": str(config), "HOME": str(base), "XDG_RUNTIME_DIR": f"{base}/run"}
    with _traceless(), pytest.MonkeyPatch.context() as patch:
        # this process is root's, whom no user's engine may be asked by
        patch.setattr(api, "wire", SimpleNamespace(peer=lambda _: (0, 0, 0)))
        made = Started("podman", f"{folder}/podman.sock", kind, argv, env, (plot.uid, plot.gid))
        try:
            yield made
        finally:
            made.stop()
            # the service itself may outlive the process that was started, which is there to wait for it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(made.process.pid, signal.SIGKILL)
            # what holds the namespaces of all of the user's podmans, until he is gone
            os.kill(int((base / "tmp/pause.pid").read_text()), signal.SIGKILL)


def _unmounted(base: Path) -> None:
    """What an engine that was killed has mounted below its folder."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines()[::-1]:
        if (where := line.split()[4]).startswith(f"{base}/"):
            subprocess.run(["umount", "-l", where], check=True)


@contextmanager
def _subordinate(arena: Arena) -> Iterator[None]:
    """Ids that the ordinary user may hand out."""
    line = f"{arena.account}:{SUBORDINATE}:65536\n"
    for path in map(Path, ("/etc/subuid", "/etc/subgid")):
        path.write_text((path.read_text() if path.exists() else "").replace(line, "") + line)
    try:
        yield
    finally:
        for path in map(Path, ("/etc/subuid", "/etc/subgid")):
            path.write_text(path.read_text().replace(line, ""))


def store(folder: Path, made: making.Image | None = None) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """The blobs of an image as a store has them: (folder, config, layers)."""
    made = made or image()
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    manifest = json.loads(made.data)
    config = manifest["config"]["digest"]
    (blobs / config[7:]).write_bytes(made.documents[config])
    layers = [each["digest"] for each in manifest["layers"]]
    for digest, data in zip(layers, made.layers, strict=True):
        (blobs / digest[7:]).write_bytes(data)
    diffs = json.loads(made.documents[config])["rootfs"]["diff_ids"]
    return str(folder), config, tuple(zip(layers, diffs, strict=True))
