"""podman: what its own API (libpod) is told so that a container is what the spec says.

Runs in the keeper. Each container has a range of host ids of its own, above those of the other runtimes. /tmp is a
volume, because podman's tmpfs mounts cannot bound the number of files. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from supervisor.runtimes import gate, held, keeper
from supervisor.runtimes.api import Table, entries, table
from supervisor.runtimes.document import image
from supervisor.runtimes.engine import LABEL, Engine
from supervisor.runtimes.shut import Shut
from supervisor.sandbox import enter
from supervisor.sandbox import syscalls as sc

# host ids of a container: inside, an image's files may belong to anybody
_IDS = 1 << 16
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRIVATE = {"nsmode": "private"}
_TOO_FEW = (
    "this user has too few subordinate ids: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST, 65536 of "
    "each, and podman system migrate"
)


class Podman(Engine):
    """podman 4.0 and later."""

    name = "podman"
    prefix = "/v4.0.0/libpod"

    def __init__(self, path: str, keeper: str) -> None:
        super().__init__(path, keeper)
        self.shut = Shut()

    def facts(self) -> Table:
        """Version, by what it starts containers, whose it is, what it says it can limit."""
        said = table(self.api.get("/info"))
        host = table(said.get("host"))
        store, names = table(said.get("store")), {"memory": "memory", "cpus": "cpu", "pids": "pids"}
        controllers = entries(host.get("cgroupControllers"))
        rootless, maps = table(host.get("security")).get("rootless") is True, table(host.get("idMappings"))
        return {
            "version": table(said.get("version")).get("Version"),
            "starts": table(host.get("ociRuntime")).get("name"),
            "rootless": rootless,
            "folders": [str(store.get(each)) for each in ("graphRoot", "runRoot", "volumePath")],
            "UIDMap": subordinate(entries(maps.get("uidmap"))),
            "GIDMap": subordinate(entries(maps.get("gidmap"))),
            "cgroup": host.get("cgroupVersion"),
            "limits": [each for each, name in names.items() if name in controllers],
        }

    def gaps(self, document: enter.Document, facts: Table) -> dict[str, str]:
        """See supervisor.runtimes.held."""
        found = held.gaps(document, self.name, facts)
        if not facts["rootless"]:
            return found
        if os.geteuid() == 0:
            found["runtime"] = "a user's own podman is for that user: name root's with --engine"
        for name in ("UIDMap", "GIDMap"):
            if not any(_number(each, "size") > int(str(document["uid"])) for each in entries(facts[name])):
                found["namespaces.user"] = _TOO_FEW
        return found

    def prepare(self) -> None:
        """The guard, which is forked next, has to know too what is shut."""
        super().prepare()
        with self.making():
            return

    def tidy(self) -> None:
        """As it was."""
        super().tidy()
        self.shut.again(self.run)

    @contextlib.contextmanager
    def making(self) -> Iterator[None]:
        """A user's podman lets everybody search the folders above its own: see supervisor.runtimes.shut."""
        folders = [str(each) for each in entries(self.known["folders"])] if self.known["rootless"] else []
        with self.shut.open(self.run, folders):
            yield

    def volumes(self) -> list[Table]:
        """Every volume of keepers."""
        return [table(each) for each in entries(self.api.get("/volumes/json", filters={"label": [LABEL]}))]

    def unmount(self, gone: Callable[[str], bool]) -> None:
        """podman 4.3 does that seldom: a volume that was mounted when its keeper was killed.

        OSError: one cannot be unmounted.
        """
        if self.known.get("rootless", True):  # in a mount namespace of its own
            return
        volumes = str(entries(self.known["folders"])[2])
        with open("/proc/self/mountinfo", "rb") as file:
            places = [os.fsdecode(line.split()[4]) for line in file]
        for place in places:
            folder, last = os.path.split(place)
            parent, name = os.path.split(folder)
            if (parent, last) == (volumes, "_data") and gone(name):
                sc.umount2(os.fsencode(place), sc.MNT_DETACH)
                os.rmdir(place)
                os.rmdir(folder)

    def create(self, name: str, document: enter.Document) -> None:
        """A stopped container."""
        self.api.post("/containers/create", self.described(name, document))

    def described(self, name: str, document: enter.Document) -> Table:
        """The body of /containers/create: a SpecGenerator."""
        uid = str(document["uid"])
        config = str(image(document)["config"]).removeprefix("sha256:")
        return {
            "name": name,
            "image": config,
            "raw_image_name": config,
            "labels": {LABEL: self.keeper},
            "entrypoint": [gate.PLACE],
            "command": [str(each) for each in enter.items(document, "argv")],
            "env": {},
            "env_host": False,
            "httpproxy": False,
            "image_volume_mode": "ignore",
            "user": f"{uid}:{uid}",
            "work_dir": str(document["cwd"]),
            "hostname": str(document["hostname"]),
            "stdin": True,
            "terminal": False,
            "log_configuration": {"driver": "none"},
            "sdnotifyMode": "ignore",
            "systemd": "false",
            "restart_policy": "no",
            "netns": {"nsmode": "none"},
            **dict.fromkeys(("ipcns", "utsns", "pidns", "cgroupns"), _PRIVATE),
            "read_only_filesystem": True,
            "read_write_tmpfs": False,
            "privileged": False,
            "cap_drop": ["all"],
            "no_new_privileges": True,
            "seccomp_profile_path": "unconfined",
            "shm_size": held.SHARED_MEMORY,
            "mounts": [_mount(each) for each in held.mounts(self, document)],
            "volumes": [self._private_tmp(name, document)],
            "r_limits": [
                {"type": each.lower(), "soft": value, "hard": value}
                for each, value in held.rlimits(document).items()
            ],
            **self._identity(name),
            **self._limits(document),
        }

    def _private_tmp(self, name: str, document: enter.Document) -> Table:
        tmp = enter.numbers(document, "tmp")
        flags = ["nosuid", "nodev", "noexec" if tmp["noexec"] else "exec"]
        # by pages: it takes "size" for a quota of the disk
        bounds = [f"nr_blocks={max(1, tmp['size'] // _PAGE)}", f"nr_inodes={tmp['inodes']}", "mode=1777"]
        self.volume(f"{name}.tmp", {"type": "tmpfs", "device": "tmpfs", "o": ",".join([*bounds, *flags])})
        return {"Name": f"{name}.tmp", "Dest": "/tmp", "Options": [*flags, "nocopy"]}

    def _identity(self, name: str) -> Table:
        """Who it is on the host: ids that no other session has, or of a user's podman none but subordinate ones."""
        if self.known["rootless"]:
            own = {each: self.known[each] for each in ("UIDMap", "GIDMap")}
            return {"userns": _PRIVATE, "idmappings": {"HostUIDMapping": False, "HostGIDMapping": False, **own}}
        first = sc.FIRST_UID + (1 << 24) + int(name.rpartition("-")[2]) % (1 << 13) * _IDS
        ids = [{"container_id": 0, "host_id": first, "size": _IDS}]
        mapped = {"HostUIDMapping": False, "HostGIDMapping": False, "UIDMap": ids, "GIDMap": ids}
        return {"userns": _PRIVATE, "idmappings": mapped}

    def _limits(self, document: enter.Document) -> Table:
        limits = enter.numbers(document, "cgroup")
        if not limits:  # a user's, who has no control group of his own
            return {}
        memory, cpu, pids = (limits.get(name) for name in ("memory", "cpu", "pids"))
        told: Table = {}
        if memory is not None:
            # where swap is not counted, swappiness is what keeps it out
            still = {"swappiness": 0} if self.known["cgroup"] == "v1" else {}
            told["memory"] = {"limit": memory, "swap": memory, **still}
        if cpu is not None:
            told["cpu"] = {"period": held.PERIOD, "quota": cpu * held.PERIOD // 1000}
        if pids is not None:
            told["pids"] = {"limit": pids}
        return {"resource_limits": told}


def _mount(shown: held.Shown) -> Table:
    return {
        "type": "bind",
        "source": shown.source,
        "destination": shown.target,
        "options": ["bind", "rprivate", *shown.flags],
    }


def subordinate(extents: list[object]) -> list[Table]:
    """The widest range of ids that podman's own namespace has, without the user's own, which is its root."""
    wide = max(
        (each for each in map(table, extents) if _number(each, "container_id") > 0),
        key=lambda each: _number(each, "size"),
        default={},
    )
    size = min(_number(wide, "size"), _IDS)
    return [{"container_id": 0, "host_id": _number(wide, "container_id"), "size": size}]


def _number(value: object, key: str) -> int:
    found = table(value).get(key)
    return found if isinstance(found, int) else 0


def main(fd: int) -> None:
    """Keep its sessions, for the monitor on descriptor `fd`."""
    keeper.main(fd, Podman)
