"""The engines of the runtimes' tests: each started by the tests, with a socket and storage of its own, and stopped.

Runs as root. docker's daemon maps its containers' users.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from supervisor.runtimes.api import Api, entries, table
from supervisor.runtimes.engine import Engine
from tests.escape.arena import Arena
from tests.integration.engine_image import image
from tests.unit.oci import making

# root has no CAP_SYS_RESOURCE everywhere, and a hybrid hierarchy is nothing for crun
CONTAINERS = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
SUBORDINATE = 3_000_000
SECONDS = 30


@dataclass(frozen=True)
class Started:
    """A running engine: which runtime it is, where it listens."""

    runtime: str
    socket: str
    kind: type[Engine]

    def left(self) -> list[str]:
        """What keepers have in it, and in the folder that it shows from."""
        found = self.kind(self.socket, "supervisor-0-0")
        names = [str(each.get("Names")) for each in found.containers()]
        files = [each for each in os.listdir("/run") if each.startswith("supervisor-") and each.count("-") == 3]
        return names + [str(each.get("Name")) for each in found.volumes()] + files

    def images(self) -> list[str]:
        """The ids of the images that it holds."""
        found = self.kind(self.socket, "")
        return [str(table(each).get("Id")) for each in entries(found.api.get(f"{found.images}/json"))]


def _process(
    argv: list[str], folder: Path, env: dict[str, str], user: int | None = None
) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env | {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            cwd=folder,
            start_new_session=True,
        )


@contextmanager
def _listening(process: subprocess.Popen[bytes], socket: Path) -> Iterator[None]:
    deadline = time.monotonic() + SECONDS
    try:
        while True:
            with contextlib.suppress(OSError):
                Api(str(socket)).get("/version" if "docker" in socket.name else "/v4.0.0/libpod/version")
                break
            said = (socket.parent / "log").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


@contextmanager
def docker(arena: Arena, kind: type[Engine]) -> Iterator[Started]:
    """dockerd, whose root is nobody's outside."""
    base = arena.base / "docker"
    base.mkdir()
    with _subordinate(arena):
        argv = ["dockerd", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        argv += ["--bridge=none", "--storage-driver", "overlay2", "--default-ulimit", "nofile=1024:1024"]
        argv += ["-H", f"unix://{base}/docker.sock", "--data-root", f"{base}/data", "--exec-root", f"{base}/exec"]
        argv += ["--pidfile", f"{base}/pid", "--userns-remap", arena.account]
        process = _process(argv, base, {})
        with _listening(process, base / "docker.sock"):
            yield Started("docker", f"{base}/docker.sock", kind)


@contextmanager
def podman(arena: Arena, kind: type[Engine]) -> Iterator[Started]:
    """podman's service, as root."""
    base = arena.base / "podman"
    base.mkdir()
    config = base / "containers.conf"
    config.write_text(CONTAINERS)
    argv = ["podman", "--root", f"{base}/root", "--runroot", f"{base}/run", "--storage-driver", "overlay"]
    argv += ["system", "service", "-t", "0", f"unix://{base}/podman.sock"]
    env = {"CONTAINERS_CONF": str(config), "HOME": str(base), "XDG_RUNTIME_DIR": str(base), "TMPDIR": str(base)}
    process = _process(argv, base, env)
    try:
        with _listening(process, base / "podman.sock"):
            yield Started("podman", f"{base}/podman.sock", kind)
    finally:
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
