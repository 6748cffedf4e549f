"""docker: what its API is told so that a container is what the spec says.

Runs in the keeper. Its bind mounts have no flags, so that whatever the spec shows is a volume with a bind mount
behind it. One user namespace is for all its containers, if its daemon was started so. Standard library only.
"""

from __future__ import annotations

from supervisor.runtimes import gate, held, keeper
from supervisor.runtimes.api import Table, entries, table
from supervisor.runtimes.document import image
from supervisor.runtimes.engine import LABEL, Engine
from supervisor.sandbox import enter


class Docker(Engine):
    """dockerd 20.10 and later."""

    name = "docker"
    prefix = "/v1.41"

    def facts(self) -> Table:
        """Version, by what it starts containers, user namespaces, what it says it can limit."""
        said = table(self.api.get("/info"))
        options = [str(each) for each in entries(said.get("SecurityOptions"))]
        missing = {"memory": "MemoryLimit", "cpus": "CpuCfsQuota", "pids": "PidsLimit"}
        return {
            "version": said.get("ServerVersion"),
            "starts": said.get("DefaultRuntime"),
            "cgroup": str(said.get("CgroupVersion")),
            "userns": any("name=userns" in each or "name=rootless" in each for each in options),
            "limits": [name for name, key in missing.items() if said.get(key) is True],
        }

    def gaps(self, document: enter.Document, facts: Table) -> dict[str, str]:
        """See supervisor.runtimes.held."""
        found = held.gaps(document, self.name, facts)
        if not facts["userns"]:
            found["namespaces.user"] = (
                "this docker daemon gives containers no user namespace: start dockerd with --userns-remap=default"
            )
        return found

    def volumes(self) -> list[Table]:
        """Every volume of keepers."""
        found = table(self.api.get("/volumes", filters={"label": [LABEL]}))
        return [table(each) for each in entries(found.get("Volumes"))]

    def create(self, name: str, document: enter.Document) -> None:
        """A stopped container."""
        self.api.post("/containers/create", self.described(name, document), name=name)

    def described(self, name: str, document: enter.Document) -> Table:
        """The body of /containers/create."""
        uid = str(document["uid"])
        return {
            "Image": str(image(document)["config"]),
            "Entrypoint": [gate.PLACE],
            "Cmd": [str(each) for each in enter.items(document, "argv")],
            "Env": [],
            "User": f"{uid}:{uid}",
            "WorkingDir": str(document["cwd"]),
            "Hostname": str(document["hostname"]),
            "Labels": {LABEL: self.keeper},
            "OpenStdin": True,
            "StdinOnce": True,
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "NetworkDisabled": True,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": self._host(name, document),
        }

    def _limits(self, limits: dict[str, int]) -> Table:
        """Of the controllers that there are: one that is missing was accepted by name."""
        told: Table = {}
        if "pids" in limits:
            told["PidsLimit"] = limits["pids"]
        if "memory" in limits:
            told |= {"Memory": limits["memory"], "MemorySwap": limits["memory"]}
            # where swap is not counted, this is what keeps it out
            told |= {"MemorySwappiness": 0} if self.known["cgroup"] == "1" else {}
        if "cpu" in limits:
            told |= {"CpuPeriod": held.PERIOD, "CpuQuota": limits["cpu"] * held.PERIOD // 1000}
        return told

    def _host(self, name: str, document: enter.Document) -> Table:
        limits, tmp = enter.numbers(document, "cgroup"), enter.numbers(document, "tmp")
        exec_ = "noexec" if tmp["noexec"] else "exec"
        owner = f"uid={document['uid']},gid={document['uid']}"  # its mode becomes what the image has there
        private = f"rw,nosuid,nodev,{exec_},{owner},size={tmp['size']},nr_inodes={tmp['inodes']}"
        return {
            "NetworkMode": "none",
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "ReadonlyRootfs": True,
            "Privileged": False,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined"],
            "Tmpfs": {"/tmp": private},
            "Mounts": [
                self._mount(f"{name}.{number}", each) for number, each in enumerate(held.mounts(self, document))
            ],
            "ShmSize": held.SHARED_MEMORY,
            **self._limits(limits),
            "Ulimits": [
                {"Name": each.lower(), "Soft": value, "Hard": value}
                for each, value in held.rlimits(document).items()
            ],
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "Init": False,
        }

    def _mount(self, name: str, shown: held.Shown) -> Table:
        if shown.ours:
            bind = {"Propagation": "private", "NonRecursive": True}
            return {
                "Type": "bind",
                "Source": shown.source,
                "Target": shown.target,
                "ReadOnly": True,
                "BindOptions": bind,
            }
        flags = ",".join(["bind", *shown.flags])
        self.volume(name, {"type": "none", "device": shown.source, "o": flags})
        return {
            "Type": "volume",
            "Source": name,
            "Target": shown.target,
            # its own remount would take the other flags away; the volume is read-only itself
            "ReadOnly": False,
            "VolumeOptions": {"NoCopy": True},
        }


def main(fd: int) -> None:
    """Keep its sessions, for the monitor on descriptor `fd`."""
    keeper.main(fd, Docker)
