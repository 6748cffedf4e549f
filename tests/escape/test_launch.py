"""The moment of the start: what a hostile folder can do to whoever starts a sandbox on it.

A program that may write a folder can replace what lies in it by links while the next sandbox is being built on
it. What the caller did not name must not come into view, whatever the timing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.escape.arena import PYTHON, Arena
from tests.escape.hostile import syscall

LIST = [*PYTHON, "-c", "import os, sys; print(sorted(os.listdir(sys.argv[1])))"]


@contextmanager
def swapping(name: Path, other: Path) -> Iterator[None]:
    """Exchange two names as fast as possible, in a process of its own."""
    child = os.fork()
    while child == 0:
        try:
            syscall(316, -100, bytes(name), -100, bytes(other), 2)
        except OSError:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.fixture
def hostile_folder(arena: Arena, mode: str) -> Path:
    """A folder with `inner` (harmless) and `link` (to the caller's secrets), both of the caller."""
    plot = arena.plots[mode]
    plot.reset()
    folder = plot.scope / "hostile"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "harmless").write_text("harmless\n")
    (folder / "link").symlink_to(plot.outside)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, plot.uid, plot.gid, follow_symlinks=False)
    return folder


def start(arena: Arena, mode: str, options: list[str], argv: list[str]) -> subprocess.CompletedProcess[str]:
    head = [*arena.commands[mode], "exec", "--profile", "fs-scoped", *options, *arena.accept(mode)]
    return arena.finish(arena.start([*head, "--", *argv], mode))


def sees(arena: Arena, mode: str, argv: list[str], word: str) -> bool:
    """The control: run it in the race until it sees what the link leads to, within reason."""
    return any(word in arena.finish(arena.start(argv, mode)).stdout for _ in range(100))


@pytest.mark.parametrize("grant", ["root", "scope", "rw", "ancestor"])
def test_a_grant_that_is_being_swapped_shows_nothing_else(
    arena: Arena, mode: str, hostile_folder: Path, grant: str
) -> None:
    """The control lists the same name in the same race, and sees what the link leads to."""
    plot, swapped, link = arena.plots[mode], hostile_folder / "inner", hostile_folder / "link"
    inner = swapped
    if grant == "ancestor":
        inner = swapped / "deeper"
        for directory in (inner, plot.outside / "deeper"):
            directory.mkdir()
            os.chown(directory, plot.uid, plot.gid)
        (plot.outside / "deeper" / "secret.txt").symlink_to("../secret.txt")
    params = {"root": plot.folder, "scope": plot.scope / "hostile"} | (
        {"root": inner} if grant in {"root", "ancestor"} else {"scope": inner} if grant == "scope" else {}
    )
    options = [part for name, path in params.items() for part in ("--param", f"{name}={path}")]
    options += [f"--{grant}", str(inner)] if grant == "rw" else []
    seen = "/data" if grant in {"root", "ancestor"} else str(inner)
    with swapping(swapped, link):
        crossed = sees(arena, mode, [*LIST, str(inner)], "secret.txt")
        inside = [start(arena, mode, options, [*LIST, seen]) for _ in range(5)]
    assert crossed
    shown = [done.stdout for done in inside if "secret.txt" in done.stdout]
    assert not shown, f"{len(shown)} of {len(inside)} starts show the folder behind the link"


def test_a_file_that_is_being_swapped_shows_nothing_else(arena: Arena, mode: str, hostile_folder: Path) -> None:
    plot = arena.plots[mode]
    name, link = hostile_folder / "file", hostile_folder / "file-link"
    name.write_text("harmless\n")
    link.symlink_to(plot.key)
    os.chown(name, plot.uid, plot.gid)
    argv = [*PYTHON, "-c", "import sys; print(open(sys.argv[1]).read())", str(name)]
    options = ["--param", f"root={plot.folder}", "--param", f"scope={plot.folder}", "--ro", str(name)]
    with swapping(name, link):
        crossed = sees(arena, mode, argv, "BAIT")
        inside = [start(arena, mode, options, argv) for _ in range(5)]
    assert crossed
    assert not any("BAIT" in done.stdout for done in inside)


def test_a_program_of_the_folder_is_not_run_outside(arena: Arena, mode: str, hostile_folder: Path) -> None:
    """Names that a launcher could look up in the working directory: modules, libraries, configuration.

    The control imports one of them, from the same directory, and it leaves its mark.
    """
    plot = arena.plots[mode]
    mark = plot.outside / "was-run"
    code = f"open({str(mark)!r}, 'w').close()\n"
    for name in ("sitecustomize", "supervisor", "json", "usercustomize", "pydantic", "encodings"):
        (plot.folder / f"{name}.py").write_text(code)
    (plot.folder / "pyvenv.cfg").write_text(f"home = {plot.folder}\n")
    enter = ["/bin/sh", "-c", f'cd {plot.folder} && exec "$@"', "sh"]
    arena.finish(arena.start([*enter, PYTHON[0], "-c", "import json"], mode))
    assert mark.exists()
    mark.unlink()
    sandbox = arena.command("fs-readonly", mode, ["/usr/bin/true"])
    done = arena.finish(arena.start([*enter, *sandbox], mode))
    assert done.returncode == 0, done.stderr
    assert not mark.exists()


def test_a_file_that_is_granted_beside_the_program_is_mounted_over_itself(mode: str, arena: Arena) -> None:
    """In /tmp places for mounts are made, and this one is there already, in a mount that cannot be written."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "program.py").write_text(f"print(open({str(folder / 'file')!r}).read())")
        (folder / "file").write_text("granted")
        argv = [*PYTHON, str(folder / "program.py")]
        done = arena.inside("none", mode, argv, options=["--ro", str(folder / "file")])
    assert (done.returncode, done.stdout) == (0, "granted\n"), done.stderr
