"""A container engine as the keeper uses it: what docker and podman have in common.

Runs in the keeper and in its guard. An engine is given ids and never a name, so that it fetches nothing; what it
has made is read back from the kernel, by the monitor. Everything that is made in an engine has a name and a label
with the keeper's pid and start time. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisor.runtimes import document as described
from supervisor.runtimes import gate
from supervisor.runtimes.api import Api, ApiError, Table, entries, table
from supervisor.sandbox import cgroup, enter

LABEL = "io.supervisor.keeper"
_PART = 1 << 20
# a folder that an engine can show from
_RUN = "/run"
# how often and how long a busy engine is asked again to remove something
_TRIES, _PAUSE = 40, 0.05


class Gaps(OSError):
    """Fields that an engine cannot hold: name -> reason and remedy."""

    def __init__(self, found: dict[str, str]) -> None:
        super().__init__(1, "; ".join(f"{name}: {reason}" for name, reason in sorted(found.items())))
        self.found = found


class Image:
    """What an image consists of: its configuration and its layers, as blobs of the verified store."""

    def __init__(self, document: enter.Document) -> None:
        found = described.image(document)
        self.store = str(found["store"])
        self.config = str(found["config"])
        self.layers = [(str(digest), str(diff)) for digest, diff in map(_pair, enter.items(found, "layers"))]

    def archive(self) -> Iterator[bytes]:
        """A docker archive without a name in it; OSError when a blob is not what its digest says."""
        names = []
        for number, digest in enumerate((self.config, *(digest for digest, _ in self.layers))):
            name = f"{digest[7:]}.json" if number == 0 else f"{number}/layer.tar"
            names.append(name)
            yield from _member(name, self._blob(digest), digest)
        listed = json.dumps([{"Config": names[0], "RepoTags": None, "Layers": names[1:]}]).encode()
        yield from (_head("manifest.json", len(listed)), listed, _padding(len(listed)), bytes(1024))

    def _blob(self, digest: str) -> Path:
        return Path(self.store) / "blobs/sha256" / digest[7:]


def _pair(value: object) -> tuple[object, object]:
    if not isinstance(value, list) or len(value) != 2:
        raise OSError(22, "a layer is a digest and what it has unpacked")
    return value[0], value[1]


def _head(name: str, size: int) -> bytes:
    made = tarfile.TarInfo(name)
    made.size = size
    return made.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % 512)


def _member(name: str, path: Path, digest: str) -> Iterator[bytes]:
    found = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        yield _head(name, size)
        while part := file.read(_PART):
            found.update(part)
            yield part
    yield _padding(size)
    if f"sha256:{found.hexdigest()}" != digest:
        raise OSError(74, f"{path}: its content has the digest sha256:{found.hexdigest()}")


class Engine:
    """One engine behind its socket. Whatever it refuses is an ApiError with its words."""

    name = ""
    prefix = ""
    images = "/images"

    def __init__(self, path: str, keeper: str) -> None:
        self.api = Api(path, self.prefix)
        self.keeper = keeper
        self.known: Table = {}
        # of a user: what lies beside the socket is that user's
        self.run = _RUN if os.geteuid() == 0 else os.path.dirname(path)
        self.folder = f"{self.run}/{keeper}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"

    # what differs

    def unmount(self, gone: Callable[[str], bool]) -> None:
        """Unmount those volumes of sessions that the engine has removed and left mounted."""

    def facts(self) -> Table:
        """What it is and what it can: `version`, and what `check` needs."""
        raise NotImplementedError

    def gaps(self, document: enter.Document, facts: Table) -> dict[str, str]:
        """What it cannot hold of a document."""
        raise NotImplementedError

    def described(self, name: str, document: enter.Document) -> Table:
        """The document of a new container; makes the volumes that belong to it."""
        raise NotImplementedError

    def create(self, name: str, document: enter.Document) -> None:
        """Make a container of this name, which does not run."""
        raise NotImplementedError

    def volumes(self) -> list[Table]:
        """Every volume of keepers."""
        raise NotImplementedError

    # what does not

    def check(self, document: enter.Document) -> None:
        """Gaps, with every field that it cannot hold and that was not accepted by name."""
        accepted = enter.items(document, "accepted")
        try:
            self.known = self.facts()
        except ApiError as error:
            raise Gaps(
                {"runtime": f"{self.name} cannot be asked: {error.strerror}; start it, or --engine"}
            ) from None
        found = self.gaps(document, self.known)
        if not gate.here():
            found["runtime"] = gate.MISSING
        if refused := {name: reason for name, reason in found.items() if name not in accepted}:
            raise Gaps(refused)

    def prepare(self) -> None:
        """Make the folder of what is shown in containers: what `place` writes."""
        os.makedirs(self.folder, 0o755)

    def place(self, name: str, data: bytes, mode: int = 0o444) -> str:
        """A file of ours for containers; its path."""
        path = f"{self.folder}/{name}"
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            os.rename(f"{path}.new", path)
        return path

    @contextlib.contextmanager
    def making(self) -> Iterator[None]:
        """While a container is made and started."""
        yield

    def empty(self) -> str:
        """An empty folder of ours for containers; its path."""
        path = f"{self.folder}/empty"
        os.makedirs(path, 0o755, exist_ok=True)
        return path

    def tidy(self) -> None:
        """Remove that folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def bring(self, image: Image) -> None:
        """Load an image that is not there, and read back that it is the one that was verified."""
        if self._holds(image) is None:
            self.api.request("POST", f"{self.images}/load", {}, image.archive(), "application/x-tar")
        said = self._holds(image)
        if said is None:
            raise ApiError(0, f"the image {image.config} was loaded and is not there")
        if said != [diff for _, diff in image.layers]:
            raise ApiError(0, f"the image {image.config} has other layers in {self.name}: {said}")

    def _holds(self, image: Image) -> list[object] | None:
        try:
            found = table(self.api.get(f"{self.images}/{image.config}/json"))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        if str(found.get("Id")).removeprefix("sha256:") != image.config[7:]:
            raise ApiError(0, f"{image.config} is the image {found.get('Id')} there")
        if table(found.get("Config")).get("Volumes"):
            raise Gaps({"image": f"it declares volumes, which {self.name} would make writable: build it without"})
        return entries(table(found.get("RootFS")).get("Layers"))

    def attach(self, name: str) -> socket.socket:
        """The stream of a container that has not been started."""
        return self.api.upgrade(
            f"/containers/{name}/attach", stdin=True, stdout=True, stderr=True, stream=True, logs=False
        )

    def start(self, name: str) -> None:
        """Start its gate."""
        self.api.post(f"/containers/{name}/start")

    def state(self, name: str) -> Table:
        """`Pid`, `Running`, `ExitCode`."""
        return table(table(self.api.get(f"/containers/{name}/json")).get("State"))

    def volume(self, name: str, options: dict[str, str]) -> str:
        """A volume that is mounted with exactly these options; it goes with its session."""
        body = {"Name": name, "Driver": "local", "Labels": {LABEL: self.keeper}}
        body |= {"DriverOpts": options, "Options": options}
        self.api.post("/volumes/create", body)
        return name

    def remove(self, name: str) -> bool:
        """Remove a session's container and volumes; False when the engine cannot now."""
        try:
            self._gone(f"/containers/{name}", force=True, v=True)
            for each in self.volumes():
                if str(each.get("Name")).startswith(f"{name}."):
                    self._gone(f"/volumes/{each.get('Name')}")
            self.unmount(lambda volume: volume.startswith(f"{name}."))
        except OSError:
            return False
        return True

    def _gone(self, path: str, **query: object) -> None:
        for _ in range(_TRIES):
            try:
                self.api.delete(path, **query)
            except ApiError as error:
                if error.status == 404:
                    return
                if error.status not in (409, 500):
                    raise
                # mounts of a container that has just ended, a container that is being removed
                time.sleep(_PAUSE)
            else:
                return
        raise ApiError(500, f"{path} could not be removed")

    def containers(self) -> list[Table]:
        """Every container of keepers."""
        found = self.api.get("/containers/json", all=True, filters={"label": [LABEL]})
        return [table(each) for each in entries(found)]

    def sweep(self, keeper: str) -> int:
        """Remove what this keeper has made, or with "" whatever belongs to none that lives; how much that was."""
        count = 0
        with contextlib.suppress(OSError):
            for each in self.containers():
                if _goes(_owner(each), keeper):
                    count += 1
                    self._gone(f"/containers/{each.get('Id')}", force=True, v=True)
            for each in self.volumes():
                if _goes(_owner(each), keeper):
                    count += 1
                    self._gone(f"/volumes/{each.get('Name')}")
            self.unmount(lambda volume: _goes(_maker(volume), keeper))
        for name in os.listdir(self.run) if not keeper else []:
            if _goes(_maker(name), ""):
                shutil.rmtree(f"{self.run}/{name}", ignore_errors=True)
        return count


Kind = type[Engine]


def _goes(owner: str, keeper: str) -> bool:
    """Whether what a keeper has made is swept: by that keeper, or with "" when it does not live any more."""
    return owner == keeper if keeper else owner != "" and not _lives(owner)


def _owner(made: Table) -> str:
    return str(table(made.get("Labels")).get(LABEL))


def _maker(name: str) -> str:
    """The keeper that has made what has this name, or ""."""
    parts = name.split("-")
    return "-".join(parts[:3]) if name.startswith(cgroup.PREFIX) and len(parts) == 4 else ""


def _lives(keeper: str) -> bool:
    parts = keeper.split("-")
    return len(parts) == 3 and parts[1].isdigit() and cgroup.start_time(int(parts[1])) == parts[2]
