"""Posture: what the kernel really applied to a session, read from outside and compared with its spec.

Runs as root, in the monitor, when every step of the sandbox has been taken and the payload has not been started:
not one instruction of the stranger's runs before this. A difference is named by its field and ends the session.
Reads /proc of the session's init, which is ours and cannot have been influenced. What /proc does not show
(Landlock, the host name) the init itself proves after its last step: see supervisor.sandbox.enter.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import socket
import struct
import sys
from collections.abc import Iterator

from supervisor.model import SandboxSpec
from supervisor.profile.granted import below
from supervisor.sandbox import cgroup
from supervisor.sandbox.mounts import DEVICES
from supervisor.sandbox.syscalls import FIRST_UID

_LOOP_GET_STATUS64 = 0x4C05
_BASE = {"nosuid", "nodev"}
Document = dict[str, object]


class Reader:
    """The files of one process in /proc, and what they should say.

    `kinds`: of namespaces that are its own; `capabilities`: sets that are empty; `filtered`: by a filter of ours.
    """

    kinds: tuple[str, ...] = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup", "time_for_children")
    capabilities: tuple[str, ...] = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    filtered = True

    def __init__(self, pid: int, spec: SandboxSpec, document: Document) -> None:
        self.pid, self.spec, self.document = pid, spec, document
        self.base = f"/proc/{pid}"
        self.root = os.geteuid() == 0
        own = FIRST_UID + pid
        self.uid, self.gid = (own, own) if self.root else (os.geteuid(), os.getegid())

    def text(self, name: str, base: str | None = None) -> str:
        """A whole file."""
        with open(f"{base or self.base}/{name}", "rb", buffering=0) as file:
            return file.read().decode(errors="surrogateescape")

    def fields(self, base: str | None = None) -> dict[str, str]:
        """/proc/PID/status."""
        return dict(line.partition(":\t")[::2] for line in self.text("status", base).splitlines())

    def identity(self) -> Iterator[str]:
        """Ids, and that they are mapped one to one, its place in the pid namespace, its session."""
        status = self.fields()
        for name, number in (("Uid", self.uid), ("Gid", self.gid)):
            own, table = self.users(number)
            if status[name].split() != [str(own)] * 4:
                yield f"{name} is {status[name]}, not {own}"
            if self.text(f"{name.lower()}_map").split() != [str(each) for each in table]:
                yield f"{name.lower()}_map is {self.text(f'{name.lower()}_map').split()}"
        if self.root and status["Groups"].strip():
            yield f"Groups are {status['Groups']}"
        if status["NSpid"].split()[-1] != "1":
            yield "it is not process 1 of its pid namespace"
        if self.text("stat").rsplit(") ", 1)[1].split()[3] != str(self.pid):
            yield "it is not the leader of a session of its own"

    def users(self, number: int) -> tuple[int, list[int]]:
        """Who it is outside, and the map of its users or groups, where `number` is the session's own."""
        return number, [self.spec.uid, number, 1]

    def privileges(self) -> Iterator[str]:
        """Capabilities, no_new_privs, filters (its starter may be filtered too, and the session inherits that)."""
        status, own = self.fields(), self.fields(self.starter())
        for name in self.capabilities:
            if int(status[name], 16):
                yield f"{name} is {status[name]}, not empty"
        if status["NoNewPrivs"] != "1":
            yield "NoNewPrivs is not set"
        filters = int(own.get("Seccomp_filters", "0")) + (self.filtered and "seccomp" not in self.spec.accepted)
        if int(status.get("Seccomp_filters", filters)) != filters or status["Seccomp"] != ("2" if filters else "0"):
            yield f"Seccomp is {status['Seccomp']} with {status.get('Seccomp_filters')} filters, not {filters}"

    def starter(self) -> str:
        """Where in /proc is what it has its filters from, but for its own."""
        return "/proc/self"

    def namespaces(self) -> Iterator[str]:
        """Every namespace is another than ours; only `lo`, and it is up."""
        for name in self.kinds:
            if os.readlink(f"{self.base}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}"):
                yield f"the {name} namespace is the host's"
        devices = [line.split(":")[0].strip() for line in self.text("net/dev").splitlines()[2:]]
        if devices != ["lo"]:
            yield f"network devices are {devices}, not lo alone"
        if "127.0.0.1" not in self.text("net/fib_trie"):
            yield "lo is not up"

    def mounts(self) -> Iterator[str]:
        """Every mount is one that was asked for, restricted as it was asked for, and none is missing."""
        wanted = dict(self._wanted())
        seen = set()
        for point, flags, kind, source in self.mounted(["/"]):
            under = max((each for each in wanted if below(point, each)), key=len)
            expected, kinds = wanted[under]
            if self.spec.image and kind == "squashfs" and _BASE | {"ro"} <= flags and self._sealed(source):
                continue
            if point not in wanted and under in ("/", "/proc", "/tmp"):
                yield f"mount {point} was not asked for"
            elif not expected <= flags:
                yield f"mount {point} lacks {','.join(sorted(expected - flags))}"
            elif kinds and point == under and kind not in kinds:
                yield f"mount {point} is {kind}, not {' or '.join(kinds)}"
            seen.add(point)
        for point in sorted(set(wanted) - seen):
            yield f"mount {point} is missing"

    def mounted(self, places: list[str]) -> Iterator[tuple[str, set[str], str, str]]:
        """Mount point, flags, file system and source of what is mounted at and below these places."""
        for line in self.text("mountinfo").splitlines():
            fields = line.split(" ")
            point, (kind, source) = _unescape(fields[4]), fields[fields.index("-") + 1 :][:2]
            if any(below(point, each) for each in places):
                yield point, set(fields[5].split(",")), kind, source

    def _sealed(self, device: str) -> bool:
        """Whether what is behind a loop device is the memory file that was handed over for the spec's image."""
        with open(device, "rb", buffering=0) as file:
            device_and_inode = struct.unpack_from("=QQ", fcntl.ioctl(file, _LOOP_GET_STATUS64, bytes(232)))
        return [list(device_and_inode)] == self.document["sealed"]

    def _wanted(self) -> Iterator[tuple[str, tuple[set[str], tuple[str, ...]]]]:
        yield "/", (_BASE | {"ro"}, ("tmpfs",))
        yield "/proc", (_BASE | {"noexec"}, ("proc",))
        yield "/tmp", (_BASE | ({"noexec"} if self.spec.tmp.noexec else set()), ("tmpfs",))
        for name in DEVICES:
            yield f"/dev/{name}", ({"nosuid", "noexec"}, ())
        for target, flags in self.asked():
            yield target, (flags, ())

    def asked(self) -> Iterator[tuple[str, set[str]]]:
        """Each mount of the document, and the flags that it has at least."""
        for key in ("trees", "mounts"):
            listed = self.document[key]
            for each in listed if isinstance(listed, list) else []:
                yield str(each["target"]), _BASE | {str(each["mode"])} | ({"noexec"} if each["noexec"] else set())

    def limits(self) -> Iterator[str]:
        """Resource limits at most as high as asked for."""
        for name, value in self.spec.rlimits.items():
            soft, hard = resource.prlimit(self.pid, getattr(resource, f"RLIMIT_{name}"))
            if not 0 <= soft <= hard <= value:
                yield f"rlimit {name} is {soft}/{hard}, not {value}"

    def groups(self, hierarchy: cgroup.Hierarchy, name: str) -> Iterator[str]:
        """It is in its own cgroup of every controller, with the limits asked for."""
        asked, joined = self.document["cgroup"], cgroup.joined(self.text("cgroup"))
        for controller, value in asked.items() if isinstance(asked, dict) else []:
            key = controller if hierarchy.version == "v1" else ""
            folder = self.group(key, joined.get(key, ""), f"{hierarchy.bases[controller]}/{name}")
            if not folder:
                yield f"it is not in its own {controller} cgroup"
                continue
            for file, said in cgroup.settings(hierarchy.version, controller, folder, value).items():
                if self.text(file, folder).strip() != said:
                    yield f"{file} is {self.text(file, folder).strip()}, not {said}"

    def group(self, _controller: str, joined: str, own: str) -> str:
        """The folder of the group that it has joined, or nothing when that is not its own."""
        return own if joined.endswith(f"/{os.path.basename(own)}") else ""

    def sockets(self) -> Iterator[str]:
        """In its network namespace are the sockets of the egress broker, and no other.

        The tables are read only where the kernel counts a socket: they are slow, being all namespaces' in one.
        """
        # without IPv6 there is no second file
        files = [name for name in ("sockstat", "sockstat6") if os.path.exists(f"{self.base}/net/{name}")]
        lines = [line.split() for name in files for line in self.text(f"net/{name}").splitlines()]
        counts = {words[0].rstrip(":").lower(): int(words[2]) for words in lines}
        network = self.spec.network
        for kind, asked in (("udp", network.udp), ("tcp", network.tcp)):
            tables = [name for name in (kind, f"{kind}6") if counts.get(name)]
            found = [line.split()[1] for name in tables for line in self.text(f"net/{name}").splitlines()[1:]]
            if sorted(map(_place, found)) != sorted(asked):
                yield f"{kind} sockets are {sorted(map(_place, found))}, not {sorted(asked)}"
        if any(counts.get(kind) for kind in ("raw", "raw6", "udplite", "udplite6")):
            yield "there are raw sockets"

    def descriptors(self) -> Iterator[str]:
        """Nothing is open but pipes and sockets of ours."""
        for number in os.listdir(f"{self.base}/fd"):
            opened = os.readlink(f"{self.base}/fd/{number}")
            if not opened.startswith(("pipe:", "socket:")):
                yield f"descriptor {number} is {opened}"


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)


def _place(field: str) -> tuple[str, int]:
    """Address and port of a line of /proc/net: the address is printed as 32-bit numbers of this machine."""
    address, port = field.split(":")
    words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
    raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return socket.inet_ntop(socket.AF_INET6 if len(words) > 1 else socket.AF_INET, raw), int(port, 16)


def differences(reader: Reader, hierarchy: cgroup.Hierarchy, name: str) -> list[str]:
    """Every way in which the session is not what was asked for; empty when it is."""
    try:
        own = (*reader.identity(), *reader.privileges(), *reader.namespaces(), *reader.mounts(), *reader.limits())
        return [*own, *reader.groups(hierarchy, name), *reader.sockets(), *reader.descriptors()]
    except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
        return [f"its state could not be read: {error!r}"]
