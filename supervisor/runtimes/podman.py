"""podman: what its own API (libpod) is told so that a container is what the spec says.

Runs in the keeper. Each container has a range of host ids of its own, above those of the other runtimes. /tmp is a
volume, because podman's tmpfs mounts cannot bound the number of files. Standard library only.
"""

from __future__ import annotations

import os

from supervisor.runtimes import gate, held, keeper
from supervisor.runtimes.api import Table, entries, table
from supervisor.runtimes.document import image
from supervisor.runtimes.engine import LABEL, Engine
from supervisor.sandbox import enter
from supervisor.sandbox import syscalls as sc

# host ids of a container: inside, an image's files may belong to anybody
_IDS = 1 << 16
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRIVATE = {"nsmode": "private"}


class Podman(Engine):
    """podman 4.0 and later."""

    name = "podman"
    prefix = "/v4.0.0/libpod"

    def facts(self) -> Table:
        """Version, by what it starts containers, whose it is, what it says it can limit."""
        said = table(self.api.get("/info"))
        host = table(said.get("host"))
        names = {"memory": "memory", "cpus": "cpu", "pids": "pids"}
        controllers = entries(host.get("cgroupControllers"))
        rootless = table(host.get("security")).get("rootless") is True
        return {
            "version": table(said.get("version")).get("Version"),
            "starts": table(host.get("ociRuntime")).get("name"),
            "rootless": rootless,
            "cgroup": host.get("cgroupVersion"),
            "limits": [each for each, name in names.items() if name in controllers],
        }

    def gaps(self, document: enter.Document, facts: Table) -> dict[str, str]:
        """See supervisor.runtimes.held."""
        found = held.gaps(document, self.name, facts)
        if facts["rootless"]:
            found["runtime"] = "a user's own podman cannot be used yet: name root's with --engine"
        return found

    def volumes(self) -> list[Table]:
        """Every volume of keepers."""
        return [table(each) for each in entries(self.api.get("/volumes/json", filters={"label": [LABEL]}))]

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
        """Who it is on the host: ids that no other session has."""
        first = sc.FIRST_UID + (1 << 24) + int(name.rpartition("-")[2]) % (1 << 13) * _IDS
        ids = [{"container_id": 0, "host_id": first, "size": _IDS}]
        mapped = {"HostUIDMapping": False, "HostGIDMapping": False, "UIDMap": ids, "GIDMap": ids}
        return {"userns": _PRIVATE, "idmappings": mapped}

    def _limits(self, document: enter.Document) -> Table:
        limits = enter.numbers(document, "cgroup")
        memory = {"limit": limits["memory"], "swap": limits["memory"]}
        if self.known["cgroup"] == "v1":
            memory["swappiness"] = 0  # where swap is not counted, this is what keeps it out
        return {
            "resource_limits": {
                "memory": memory,
                "cpu": {"period": held.PERIOD, "quota": limits["cpu"] * held.PERIOD // 1000},
                "pids": {"limit": limits["pids"]},
            }
        }


def _mount(shown: held.Shown) -> Table:
    return {
        "type": "bind",
        "source": shown.source,
        "destination": shown.target,
        "options": ["bind", "rprivate", *shown.flags],
    }


def main(fd: int) -> None:
    """Keep its sessions, for the monitor on descriptor `fd`."""
    keeper.main(fd, Podman)
