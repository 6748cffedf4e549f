"""Posture of a session that an engine has made: what the kernel shows of it, where engines build as we do not.

Runs as root, in the monitor, while the gate waits: not one instruction of the stranger's runs before this. What an
engine shows beyond what was asked for is read-only, or stands in a list here, or ends the session.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from supervisor.monitor.posture import Reader
from supervisor.profile.granted import below
from supervisor.runtimes import groups
from supervisor.sandbox import cgroup

_NAMESPACES = ("mnt", "pid", "ipc", "uts", "net", "cgroup")
# what an engine makes writable: nobody but the container's own root, which nobody is, can write to most of it
_WRITABLE = {
    *("/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/tmp", "/sys/fs/cgroup"),
    *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")),
}
# single files of ours and of the engine's are shown by docker without flags, and so is its root
_LIMITS = {
    "CORE": "Max core file size",
    "FSIZE": "Max file size",
    "NOFILE": "Max open files",
    "NPROC": "Max processes",
    "MEMLOCK": "Max locked memory",
    "MSGQUEUE": "Max msgqueue size",
    "RTPRIO": "Max realtime priority",
    "NICE": "Max nice priority",
}
_FLAGLESS = {"/", "/.supervisor", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}


class Contained(Reader):
    """The files of the gate in /proc, and what they should say."""

    def identity(self) -> Iterator[str]:
        """One user that is nobody's outside, its place in the pid namespace, its session."""
        status, own = self.fields(), str(self._outside("uid_map"))
        for name, number in (("Uid", own), ("Gid", str(self._outside("gid_map")))):
            if status[name].split() != [number] * 4:
                yield f"{name} is {status[name]}, not {number}"
        if set(status["Groups"].split()) - set(status["Gid"].split()):
            yield f"Groups are {status['Groups']}"
        if status["NSpid"].split()[-1] != "1":
            yield "it is not process 1 of its pid namespace"

    def _outside(self, name: str) -> int:
        for line in self.text(name).splitlines():
            inside, outside, count = map(int, line.split())
            if inside <= self.spec.uid < inside + count:
                return outside + self.spec.uid - inside
        return -1

    def namespaces(self) -> Iterator[str]:
        """Every namespace is another than ours; nobody of the host's is in its user namespace; only `lo`."""
        own = "namespaces.user" in self.spec.accepted
        for name in _NAMESPACES if own else (*_NAMESPACES, "user"):
            if os.readlink(f"{self.base}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}"):
                yield f"the {name} namespace is the host's"
        if not own and self.root and any(line.split()[1] == "0" for line in self.text("uid_map").splitlines()):
            yield "the host's root is in its user namespace"
        devices = [line.split(":")[0].strip() for line in self.text("net/dev").splitlines()[2:]]
        if devices != ["lo"]:
            yield f"network devices are {devices}, not lo alone"

    def mounts(self) -> Iterator[str]:
        """What was asked for is there, restricted so; of what an engine adds, nothing else is writable."""
        wanted = {each.target: {each.mode, "nosuid", "nodev"} for each in self.spec.mounts}
        wanted |= {each.target: wanted[each.target] | {"noexec"} for each in self.spec.mounts if each.noexec}
        wanted |= {path: {"ro"} for path in (*self.spec.files, *_FLAGLESS)}
        wanted["/tmp"] = {"nosuid", "nodev"} | ({"noexec"} if self.spec.tmp.noexec else set())
        seen = set()
        for point, flags, _, _ in self._mounted():
            under = max((each for each in wanted if below(point, each)), key=len)
            if under != "/" and not wanted[under] <= flags:
                yield f"mount {point} lacks {','.join(sorted(wanted[under] - flags))}"
            if "rw" in flags and point not in _WRITABLE and not self._harmless(point):
                yield f"mount {point} is writable"
            seen.add(point)
        there = os.stat(f"{self.base}/root/tmp")
        if there.st_mode & 0o1777 != 0o1777 and there.st_uid != self._outside("uid_map"):
            yield f"mount /tmp has the mode {there.st_mode & 0o7777:o} that the image's has: make that 1777"
        for point in sorted(set(wanted) - seen - {"/etc/hostname"}):
            yield f"mount {point} is missing"

    def _harmless(self, point: str) -> bool:
        """Whether a file of the kernel's is hidden by /dev/null, or a control group is the host's root's own."""
        there = os.stat(f"{self.base}/root{point}")
        hidden = below(point, "/proc") and there.st_rdev == os.stat("/dev/null").st_rdev
        return hidden or (below(point, "/sys/fs/cgroup") and there.st_uid == 0 and not there.st_mode & 0o022)

    def limits(self) -> Iterator[str]:
        """As told by /proc: prlimit(2) needs a capability over processes of the host's own user namespace."""
        told = {line[:26].strip(): line[26:].split()[:2] for line in self.text("limits").splitlines()[1:]}
        for name, value in self.spec.rlimits.items():
            for said in told[_LIMITS[name]]:
                if not said.isdigit() or int(said) > value:
                    yield f"rlimit {name} is {said}, not {value}"

    def groups(self, hierarchy: cgroup.Hierarchy, name: str) -> Iterator[str]:
        """Its groups, wherever the engine has made them, have the limits asked for."""
        asked, there = self.document["cgroup"], groups.folders(self.pid)
        for controller, value in asked.items() if isinstance(asked, dict) else []:
            if f"limits.{controller}".replace("cpu", "cpus") in self.spec.accepted:
                continue
            version = "v1" if controller in there else "v2"
            folder = there.get(controller) or there.get("", "")
            for file, said in cgroup.settings(version, controller, folder, value).items():
                if self.text(file, folder).strip() != said:
                    yield f"{file} is {self.text(file, folder).strip()}, not {said}"
