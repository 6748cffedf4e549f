"""Byte code of a Python image, so that none of its modules is compiled at every start.

Runs as whoever builds. What compiles is the image's own Python with the image's C library, in a sandbox that shows
it the tree read-only and gives it no network and no folder to write: another host's Python may write other bytes.
The same tree gives the same: sorted names, one process, no random hashes, and no time in any file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from supervisor.errors import SupervisorError
from supervisor.oci import compiling

# (tree that is shown, command, standard input, file for standard output): raises when the command fails
Sandbox = Callable[[Path, list[str], bytes, Path], None]
_FLAGS = ("-P", "-s", "-S", "-W", "ignore")
_TAG = re.compile(rb"cpython-3\d{1,3}\n")


def add(root: Path, program: str, folders: list[str], answer: Path, sandbox: Sandbox) -> int:
    """Compile what can be imported from `folders` of the image in `root`; how many modules.

    `program` is the image's Python. SupervisorError names the module that cannot be compiled.
    """
    sources = [path.relative_to(root) for folder in folders for path in _importable(root / folder)]
    (loader,) = root.glob("usr/lib/*/ld-linux-*.so.*")
    argv = [str(loader), "--inhibit-cache", "--library-path", str(loader.parent), f"{root}{program}", *_FLAGS]
    argv += ["-c", Path(compiling.__file__).read_text("utf-8"), str(root)]
    sandbox(root, argv, "".join(f"{path}\n" for path in sources).encode(), answer)
    with answer.open("rb") as file:
        tag = file.readline(32)
        if not _TAG.fullmatch(tag):
            raise SupervisorError(f"{program} of the image says {tag!r}, which is no tag of a version")
        for path in sources:
            _write(root / path, tag.decode().strip(), _next(file, path))
        if file.read(1):
            raise SupervisorError(f"{program} of the image says more than was asked")
    answer.unlink()
    return len(sources)


def _importable(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.py")):
        # not only identifiers: sysconfig imports a module with a hyphen in its name
        names = path.relative_to(folder).with_suffix("").parts
        if path.is_file() and not path.is_symlink() and "." not in "".join(names):
            yield path


def _next(file: IO[bytes], path: Path) -> bytes:
    size = int.from_bytes(file.read(4), "big")
    made = file.read(size)
    if len(made) != size or made[4:8] != compiling.UNCHECKED:
        raise SupervisorError(f"{path}: what the image's Python made of it is no byte code")
    return made


def _write(source: Path, tag: str, made: bytes) -> None:
    folder = source.parent / "__pycache__"
    folder.mkdir(exist_ok=True)
    (folder / f"{source.stem}.{tag}.pyc").write_bytes(made)
