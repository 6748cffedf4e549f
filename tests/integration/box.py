"""A small image of programs of this host, signed and added to a store: something that can be run."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

from supervisor.oci.document import Table
from supervisor.oci.keyfile import Private
from supervisor.oci.store import Record
from tests.integration.imaging import Bench, signed_layout
from tests.unit.oci import making

TOOLS = ("cat", "env", "id", "ls", "readlink", "sh", "sleep", "stat", "tail", "touch", "uname")
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
KEY = making.key()
RUN: Table = {
    "Entrypoint": ["sh", "-c"],
    "Cmd": ["echo started; cat"],
    "Env": ["PATH=/usr/bin", "PYTHONSAID=yes", "LD_PRELOAD=/evil.so"],
    "WorkingDir": "/srv/work",
    "User": "root",
}


def programs() -> dict[str, bytes]:
    """Path in the image -> content: the tools, and the libraries that they are linked with."""
    found: dict[str, bytes] = {}
    for name in TOOLS:
        real = Path(f"/usr/bin/{name}").resolve()
        found[f"usr/bin/{name}"] = real.read_bytes()
        said = subprocess.run(["ldd", real], capture_output=True, text=True, check=True).stdout
        for word in said.split():
            if word.startswith("/"):
                found[f"usr/{word.removeprefix('/usr').lstrip('/')}"] = Path(word).read_bytes()
    return found


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return making.info(name, tarfile.DIRTYPE, mode=0o755), b""


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return making.info(name, tarfile.SYMTYPE, linkname=target), b""


def file(name: str, data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    return making.info(name, mode=0o755), data


def layer(*more: tuple[tarfile.TarInfo, bytes], without: Iterable[str] = ()) -> bytes:
    """The whole tree; `more` members, and none of those `without`."""
    plain = [folder("home"), folder("srv/work"), file("etc/said", b"by the image\n"), file("etc/passwd", b"own\n")]
    plain += [link("etc/mtab", "/proc/self/mounts"), link("etc/hosts", "/srv/work/../../hosts")]
    members = [*plain, *(link(*pair) for pair in LINKS.items()), *map(file, *zip(*programs().items(), strict=True))]
    gone = {*without, *(member.name for member, _ in more)}
    return making.tar(*(each for each in members if each[0].name not in gone), *more)


def made(*more: tuple[tarfile.TarInfo, bytes], without: Iterable[str] = ()) -> making.Image:
    """An image of that tree."""
    return making.image([layer(*more, without=without)], run=RUN)


def added(place: Bench, image: making.Image, key: Private = KEY) -> Record:
    """Sign it and add it to the caller's store."""
    signed_layout(place, image, key)
    answer = place.json("add", f"oci:{place.folder}/layout:1.0", "--as", making.NAME)
    return Record.model_validate(answer, strict=False)
