"""Posture of a session that an engine has made, or runsc's: what the kernel shows of it where it is not as ours.

Runs as root, in the monitor, while the gate waits: not one instruction of the stranger's runs before this. What an
engine shows beyond what was asked for is read-only, or stands in a list here, or ends the session.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from supervisor.monitor.posture import Reader
from supervisor.profile.granted import below
from supervisor.sandbox import cgroup
from supervisor.sandbox.syscalls import APART

# what an engine makes writable: most of it by the container's own root, which nobody is
_WRITABLE = {"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/dev/tty", "/tmp", "/sys/fs/cgroup"}
_WRITABLE |= {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}


class Contained(Reader):
    """The files of the gate in /proc, and what they should say."""

    # every one that engines make
    kinds = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup")

    def identity(self) -> Iterator[str]:
        """One user, who is the spec's inside and nobody's outside; its place in the pid namespace."""
        status = self.fields()
        for name, table, mine in (("Uid", "uid_map", os.geteuid()), ("Gid", "gid_map", os.getegid())):
            maps = [[int(word) for word in line.split()] for line in self.text(table).splitlines()]
            own = [str(self.spec.uid - low + at) for low, at, n in maps if low <= self.spec.uid < low + n]
            # neither root nor who has started it: where ids of the host's own are mapped, those are too
            known = any(first <= each < first + n for _, first, n in maps for each in (0, mine))
            if status[name].split() != own * 4 or known:
                yield f"{name} is {status[name]}, by the map {maps}"
        if not set(status["Groups"].split()) <= set(status["Gid"].split()):
            yield f"Groups are {status['Groups']}"
        if status["NSpid"].split()[-1] != "1":
            yield "it is not process 1 of its pid namespace"

    def starter(self) -> str:
        """A process of the engine's."""
        return f"/proc/{self.fields()['PPid']}"

    def mounts(self) -> Iterator[str]:
        """What was asked for is there, restricted so; of what an engine adds, nothing else is writable."""
        wanted = {path: {"ro"} for path in ("/", "/.supervisor", *self.spec.files)} | dict(self.asked())
        wanted["/tmp"] = {"nosuid", "nodev"} | ({"noexec"} if self.spec.tmp.noexec else set())
        seen = {point: flags for point, flags, _, _ in self.mounted(["/"])}
        for point, flags in wanted.items():
            if lacking := flags - seen.get(point, set()):
                yield f"mount {point} lacks {','.join(sorted(lacking))}"
        for point, flags in seen.items():
            if "rw" in flags - wanted.get(point, set()) and point not in _WRITABLE and not self._harmless(point):
                yield f"mount {point} is writable"

    def _harmless(self, point: str) -> bool:
        """Whether a file of the kernel's is hidden by /dev/null, or a control group is the host's root's own."""
        there = os.stat(f"{self.base}/root{point}")
        hidden = below(point, "/proc") and there.st_rdev == os.stat("/dev/null").st_rdev
        return hidden or (below(point, "/sys/fs/cgroup") and there.st_uid == 0 and not there.st_mode & 0o022)

    def descriptors(self) -> Iterator[str]:
        """Nothing is open but pipes, by the kernel's one mount of them: a user may not read another's links."""
        numbers, own = os.listdir(f"{self.base}/fdinfo"), os.pipe()
        mounts = [self.text(f"fdinfo/{each}", "/proc/self").split()[5] for each in own]
        for each in own:
            os.close(each)
        yield from (
            f"descriptor {n} is no pipe" for n in numbers if self.text(f"fdinfo/{n}").split()[5] not in mounts
        )

    def group(self, controller: str, joined: str, _own: str) -> str:
        """Wherever the engine has made it."""
        return cgroup.join(*cgroup.mount_points()[controller], joined)


class Guest(Reader):
    """gVisor's: runsc runs in a sandbox like the native one, with the guest's root as a folder of it.

    Filters and capabilities are those of the sentry and the gofer: see supervisor.runtimes.sentry.
    """

    capabilities = ("CapInh", "CapAmb")
    filtered = False

    def users(self, number: int) -> tuple[int, list[int]]:
        """Its root is runsc, another one of them the sentry; outside all are nobody."""
        runsc, sentry = number + APART, number + 2 * APART
        return runsc, [self.spec.uid, number, 1, 0, runsc, 1, 65534, sentry, 1]

    def mounted(self, places: list[str]) -> Iterator[tuple[str, set[str], str, str]]:
        """The guest's."""
        for point, flags, kind, source in super().mounted([f"/guest{each}".rstrip("/") for each in places]):
            yield point[6:] or "/", flags, kind, source

    def _wanted(self) -> Iterator[tuple[str, tuple[set[str], tuple[str, ...]]]]:
        """Its /proc is the sentry's."""
        yield from (each for each in super()._wanted() if each[0] != "/proc")
        yield "/.supervisor", ({"nosuid", "nodev", "ro"}, ("tmpfs",))

    def limits(self) -> Iterator[str]:
        """The sentry's are what runsc has been told."""
        told = json.loads(self.text("root/bundle/config.json"))["process"]["rlimits"]
        if (found := {each["type"][7:]: each["hard"] for each in told}) != self.spec.rlimits:
            yield f"rlimits are {found}"


READERS = {"native": Reader, "podman": Contained, "docker": Contained, "gvisor": Guest}
