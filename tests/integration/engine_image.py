"""The image of the engines' tests: the host's own Python and shell, as an OCI image that nobody has to fetch.

Made from files of Debian's packages; small enough to be loaded into every engine in a second or two.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from functools import cache
from pathlib import Path

from tests.unit.oci import making

PYTHON = "/usr/bin/python3.11"
_PROGRAMS = (PYTHON, "/usr/bin/dash", "/usr/bin/cat", "/usr/bin/env", "/usr/bin/sleep", "/usr/bin/true")
_STDLIB = Path("/usr/lib/python3.11")
_LEFT_OUT = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "pydoc_data", "__pycache__"}


def _wanted() -> set[Path]:
    stdlib = [
        path
        for path in _STDLIB.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and not _LEFT_OUT & set(path.parts)
        and "config-" not in str(path)
    ]
    elf = [Path(each) for each in _PROGRAMS] + [path for path in stdlib if path.suffix == ".so"]
    said = subprocess.run(["ldd", *map(str, elf)], capture_output=True, text=True, check=False).stdout
    libraries = {Path(word) for word in said.split() if word.startswith("/") and not word.endswith(":")}
    return {*stdlib, *elf, *libraries}


def _name(path: Path) -> str:
    """Where a file lies in the image: /lib and its like are links into /usr, as on the host."""
    where = str(path)
    return (where if where.startswith("/usr") else f"/usr{where}").lstrip("/")


@cache
def image() -> making.Image:
    """One layer; the program of the config is the shell."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for folder in ("tmp", "proc", "dev", "sys", "etc", "run"):
            archive.addfile(making.info(folder, tarfile.DIRTYPE, mode=0o1777 if folder == "tmp" else 0o755))
        for name in ("bin", "lib", "lib64"):
            archive.addfile(making.info(name, tarfile.SYMTYPE, linkname=f"usr/{name}"))
        archive.addfile(making.info("usr/bin/sh", tarfile.SYMTYPE, linkname="dash"))
        archive.addfile(making.info("usr/bin/python3", tarfile.SYMTYPE, linkname="python3.11"))
        for path in sorted(_wanted()):
            member = making.info(_name(path), mode=0o755 if path.stat().st_mode & 0o100 else 0o644)
            data = path.read_bytes()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return making.image([out.getvalue()], run={"Entrypoint": ["/bin/sh"], "Env": ["FROM_IMAGE=1"]}, level=1)
