"""A host in a temporary folder, with the layouts that people have, to resolve commands on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from supervisor.profile.program import Program, resolve

CACHE = "/etc/ld.so.cache"  # shown with every program that the system did not bring


class Host:
    """A host in a temporary folder: `usr` plays the system that is in view."""

    def __init__(self, top: Path) -> None:
        self.top, self.home, self.usr = top, top / "home/u", top / "usr"
        self.cwd = self.home / "proj"
        self.search_path = str(self.usr / "bin")
        self.cwd.mkdir(parents=True)
        for name in ("python3.11", "node", "bash"):
            self.binary(self.usr / "bin" / name)
        self.link(self.usr / "bin/python3", "python3.11")
        self.write(self.usr / "lib/python3.11/os.py")

    def write(self, path: Path, text: str | bytes = "", mode: int = 0o644) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    def binary(self, path: Path) -> Path:
        return self.write(path, b"\x7fELF\0", 0o755)

    def script(self, path: Path, interpreter: str) -> Path:
        return self.write(path, f"#!{interpreter}\n", 0o755)

    def link(self, path: Path, target: str | Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
        return path

    def python(self, prefix: Path, version: str = "3.11") -> Path:
        """An interpreter with a prefix of its own; the name that people use for it."""
        self.binary(prefix / f"bin/python{version}")
        self.write(prefix / f"lib/python{version}/os.py")
        self.link(prefix / "bin/python", f"python{version}")
        return self.link(prefix / "bin/python3", f"python{version}")

    def venv(self, root: Path, python: Path, *, site: str = "false") -> Path:
        self.link(root / "bin/python", python)
        self.write(
            root / "pyvenv.cfg", f"home = {python.parent}\ninclude-system-site-packages = {site}\nversion = 3.11\n"
        )
        (root / "lib/python3.11/site-packages").mkdir(parents=True)
        return root / "bin/python"

    def package(self, folder: Path, name: str, **more: object) -> Path:
        self.write(folder / "package.json", json.dumps({"name": name, **more}))
        return folder

    def resolve(self, *argv: str | Path, **more: str) -> Program:
        program = resolve(
            [str(word) for word in argv],
            cwd=more.get("cwd", str(self.cwd)),
            search_path=more.get("search_path", self.search_path),
            home=more.get("home", str(self.home)),
            visible=(str(self.usr), "/usr"),
            pyenv_version=more.get("pyenv_version", ""),
        )
        assert self.suffices(program, (str(self.usr), "/usr"))
        return program

    def trees(self, *argv: str | Path, **more: str) -> list[str]:
        """The trees below the temporary folder, relative to it."""
        found = self.resolve(*argv, **more).trees
        return [os.path.relpath(tree.path, self.top) for tree in found if tree.path != CACHE]

    def local(self, folder: Path) -> Path:
        """An npm install of a server in `folder`; its command."""
        self.script(folder / "node_modules/@m/srv/dist/index.js", "/usr/bin/env node")
        self.package(folder / "node_modules/@m/srv", "@m/srv", bin={"mcp-srv": "dist/index.js"})
        return self.link(folder / "node_modules/.bin/mcp-srv", "../@m/srv/dist/index.js")

    @staticmethod
    def suffices(program: Program, visible: tuple[str, ...]) -> bool:
        """argv[0] is in view with every link on the way, and no tree lies in another."""
        roots = [*visible, *(tree.path for tree in program.trees)]
        path = program.argv[0]
        for _ in range(40):
            if not any(path == root or path.startswith(root + "/") for root in roots):
                return False
            if not os.path.islink(path):
                break
            path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
        return not any(a.path.startswith(b.path + "/") for a in program.trees for b in program.trees)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path.resolve())
