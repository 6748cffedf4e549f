"""From the command that a person wrote to what has to be seen of the host for it to run.

Runs in the planner, which can only read. Follows links, shebangs, virtual environments and node packages
by reading; never executes anything, never asks an interpreter, and believes no file: every read is bounded, and
what a file names is shown only if it looks like what it claims to be. Never shows a home, nor a parent of one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from glob import escape, iglob
from itertools import islice, takewhile
from os.path import basename, dirname, isdir, isfile, islink, join, normpath, realpath
from typing import NamedTuple

from msgspec import Struct

from supervisor.errors import ConfigError, Refused
from supervisor.profile import downloads
from supervisor.profile.links import absolute, ancestors, hops, read

SHEBANG = 256  # BINPRM_BUF_SIZE: the kernel reads no more of a script
NESTING = 4  # shebangs in a row before fs/exec.c gives up
ENTRIES, TREES = 10_000, 128
MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
SHARED = ("/etc", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var")
PERSONAL = ("", ".cache", ".config", ".local", ".local/bin", ".local/share", ".ssh", "bin")
INTERPRETER = re.compile(
    r"(python|pypy|node|nodejs|bun|deno|tsx|ts-node|java|ruby|perl|php|mcp|fastmcp|(ba|da|z|k)?sh)[\d.]*"
)
VALUED = ("-W", "-X", "-r", "--require", "--import", "--loader", "--transport")


class Tree(NamedTuple):
    """A folder or file of the host, shown read-only at the same path inside, and why."""

    path: str
    is_file: bool
    why: str

    @property
    def source(self) -> str:
        """What to mount at `path`: not the same where a link leads to it, since mounts follow none."""
        return realpath(self.path)


class Program(NamedTuple):
    """How to start the program inside: `path` goes in front of PATH, `env` says where its modules are."""

    argv: tuple[str, ...]
    trees: tuple[Tree, ...]
    path: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()


def resolve(
    argv: Sequence[str],
    *,
    cwd: str,
    search_path: str,
    home: str,
    visible: Sequence[str] = ("/usr",),
    pyenv_version: str = "",
) -> Program:
    """Find the command as the caller's shell would, and the least that has to be shown for it to run.

    ConfigError: nothing to execute, or something on the way to it is missing. Refused: it would download
    at start-up, or it cannot run without a folder that is never shown.
    """
    if not argv or not argv[0] or "\0" in "".join((*argv, cwd, search_path)):
        raise ConfigError("no command was given, or one with a NUL in it: write it after `--`")
    downloads.refuse(argv, cwd)
    search = _Search(basename(argv[0]), cwd, search_path, (normpath(home), realpath(home)), pyenv_version)
    search.roots += visible
    search.roots += [link for link in MERGED if islink(link) and search.covers(realpath(link))]
    found = search.find(argv[0], "command")
    words, rest = search.command(found), list(argv[1:])
    if INTERPRETER.fullmatch(basename(found)):
        rest = search.arguments(rest, shell=found.endswith("sh"))
    search.user_site(search.flags if read(found, 2) == "#!" else rest)
    return Program((*words, *rest), search.minimal(), tuple(search.front), tuple(search.env.items()))


class _Search(Struct):
    """What has been found so far to be needed for one command. `roots`: folders that are in view."""

    name: str
    cwd: str
    search_path: str
    homes: tuple[str, str]
    pyenv_version: str
    roots: list[str] = []
    trees: dict[str, Tree] = {}
    seen: set[str] = set()
    front: list[str] = []
    env: dict[str, str] = {}
    flags: list[str] = []
    binary: str = ""
    project: str = ""
    isolated: bool = False

    def covers(self, path: str) -> bool:
        """Whether `path` is in view."""
        return any(path == root or path.startswith(root + "/") for root in self.roots)

    def wide(self, path: str) -> bool:
        """Whether the folder holds more than one program's files: it is never shown."""
        personal = [normpath(join(home, part)) for home in self.homes for part in PERSONAL]
        above = any(f"{home}/".startswith(path.rstrip("/") + "/") for home in self.homes)
        return above or path in SHARED or path in personal or dirname(path) == "/home"

    def add(self, path: str, why: str, *, is_file: bool = False) -> None:
        """Show `path`; a folder under every name that links give it, because links name each other."""
        for name in hops(path)[-1:] if is_file else hops(path):
            if self.covers(name):
                continue
            never = name.startswith(("/proc/", "/sys/", "/dev/")) or (not is_file and self.wide(name))
            if never or len(self.trees) >= TREES or re.search("[\ud800-\udfff]", name):
                raise Refused(
                    f"{self.name}: the {why} is {name!r}, which cannot be shown to a sandbox (a folder of "
                    f"many things, over {TREES} trees, or not UTF-8): install it in a plain folder of its own"
                )
            self.trees[name] = Tree(name, is_file, f"{why} of {self.name}")
            self.roots += [] if is_file else [name]

    def place(self, path: str) -> str:
        """The name that the file at `path` has inside; it alone is shown if nothing that holds it is.

        Not a name through a linked folder: relative links below it would lead elsewhere. But a link at
        the end of the path is kept, since Python finds pyvenv.cfg by it, and node its package.
        """
        names = hops(path)
        for index, name in enumerate(names):
            direct = dirname(name) in (realpath(dirname(name)), *MERGED)
            if direct and all(map(self.covers, names[index:])):
                return name
        self.add(names[-1], "file", is_file=True)
        return names[-1]

    def minimal(self) -> tuple[Tree, ...]:
        """The trees, without those that lie in another."""
        folders = tuple(tree.path + "/" for tree in self.trees.values() if not tree.is_file)
        return tuple(self.trees[path] for path in sorted(self.trees) if not path.startswith(folders))

    def find(self, name: str, role: str) -> str:
        """The absolute path of the executable `name`; ConfigError if there is none."""
        problem = ""
        for folder in [""] if "/" in name else self.search_path.split(":"):
            path = join(self.cwd, folder, name)
            try:
                mode = os.stat(path).st_mode
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                problem = problem or f" ({path}: {error.strerror})"
                continue
            if stat.S_ISREG(mode) and mode & 0o111:
                return self.unshim(absolute(path))
            problem = problem or f" ({path} is not an executable file: chmod +x it, or name its interpreter)"
        where = f"at {join(self.cwd, name)!r}" if "/" in name else f"in PATH ({self.search_path})"
        raise ConfigError(f"{role} {name!r} was not found {where}{problem}: install it, or correct its path")

    def unshim(self, path: str) -> str:
        """What a version manager's stand-in would start; ConfigError where only the manager can tell."""
        folder, name = os.path.split(path)
        manager = basename(realpath(path)).removesuffix("-shim")
        if basename(folder) == "shims" and "pyenv" in read(path, 1024):
            manager = "pyenv"
        if manager not in ("mise", "pyenv", "volta") or name == manager:
            return path
        for version in self._pyenv_versions(dirname(folder)) if manager == "pyenv" else ():
            if version == "system":
                self.search_path = ":".join(x for x in self.search_path.split(":") if normpath(x) != folder)
                return self.find(name, "command")
            real = join(dirname(folder), "versions", version, "bin", name)
            if isfile(real):
                return real
        raise ConfigError(f"{path} is a shim: name the real program, which `{manager} which {name}` prints")

    def _pyenv_versions(self, root: str) -> Iterator[str]:
        """The versions in force, as pyenv itself picks them: variable, nearest file, global file."""
        files = [join(up, ".python-version") for up in ancestors(self.cwd)] + [join(root, "version")]
        texts = (self.pyenv_version, *(read(name, SHEBANG) for name in files), "system")
        versions = join(root, "versions")
        installed = sorted(os.listdir(versions) if isdir(versions) else [])
        installed.sort(key=lambda each: [int(digits) for digits in re.findall(r"\d{1,9}", each)], reverse=True)
        for wanted in next(filter(None, (re.split(r"[\s:]+", text.strip()) for text in texts if text.strip()))):
            yield from [wanted] if wanted == "system" else []
            yield from (each for each in installed if f"{each}.".startswith(f"{wanted}."))

    def command(self, path: str, depth: int = 0) -> list[str]:
        """The words to execute: `path` alone, if each look-up of the kernel and of env ends inside the view.

        Otherwise its interpreter is named in front of it, by the path that it has inside.
        """
        head = read(path, SHEBANG)
        if not head.startswith("#!"):
            return [self._binary(path)]
        line, newline, _ = head[2:].partition("\n")
        written, *args = re.split(r"[ \t]+", line.strip(" \t"), maxsplit=1)
        if depth > NESTING or not written or not (newline or args or len(head) < SHEBANG):
            raise ConfigError(f"{path}: its first line leads to no interpreter that the kernel would start")
        wanted = written
        if by_env := basename(written) == "env" and bool(args):
            wanted, *args = _env(args[0], path)
        self.flags = args
        inner = self.command(self.find(wanted, f"{path}: the interpreter"), depth + 1)
        self.script(path)
        place = self.place(path)
        by_name = by_env and self.covers(written) and [basename(word) for word in inner] == [wanted]
        return [place] if by_name or inner == [written] else [*inner, *args, place]

    def _binary(self, path: str) -> str:
        self.hold(path)
        self.binary = place = self.place(path)
        if dirname(place) not in ("/usr/bin", "/bin", *self.front):
            self.front.append(dirname(place))
        system = realpath(path).startswith(("/usr/bin/", "/usr/sbin/", "/usr/lib"))
        if not system and isfile("/etc/ld.so.cache"):
            self.add("/etc/ld.so.cache", "index that may lead to the libraries", is_file=True)
        return place

    def hold(self, path: str) -> None:
        """Show the environment, node tree or prefix that the file belongs to, at each link on the way."""
        for hop in hops(path):
            prefix = dirname(dirname(hop))
            node = basename(hop) == "node" and isdir(join(prefix, "lib/node_modules"))
            if isfile(join(prefix, "pyvenv.cfg")):
                self._environment(prefix)
            elif "/node_modules/" in hop:
                self._node(hop)
            elif not self.covers(hop) and (_is_python(prefix) or (node and not self.wide(prefix))):
                self.add(prefix, "interpreter")

    def _environment(self, root: str) -> None:
        if root in self.seen:
            return
        self.seen.add(root)
        self.add(root, "virtual environment")
        lines = (line.partition("=") for line in read(join(root, "pyvenv.cfg")).splitlines())
        values = {key.strip().lower(): value.strip() for key, _, value in lines}
        base = dirname(values.get("home", "").rstrip("/"))
        if not base.startswith("/") or not _is_python(base):
            raise ConfigError(f"{root}/pyvenv.cfg: home names no Python installation: make it again")
        self.add(absolute(base), "base interpreter")
        self.isolated = values.get("include-system-site-packages", "").lower() != "true"
        self.hold(join(root, "bin/python"))
        for site in iglob(escape(root) + "/lib/*/site-packages"):
            self._editable(site)

    def _editable(self, site: str) -> None:
        """Show the projects installed by reference: plain paths in .pth files, setuptools' maps.

        A package may name any folder of the user's here; only part of a Python project is believed.
        """
        paths: list[str] = []
        for name in islice(iglob(escape(site) + "/*.pth"), ENTRIES):
            paths += [line.strip() for line in read(name).splitlines() if line.startswith("/")]
        for name in islice(iglob(escape(site) + "/__editable__*finder.py"), ENTRIES):
            mapping = re.search(r"(?m)^MAPPING\b[^=\n]*=(.*)$", read(name))
            paths += re.findall(r"'(/[^']+)'", mapping[1]) if mapping else []
        for path in filter(isdir, map(absolute, paths)):
            near = takewhile(lambda up: not self.wide(up), islice(ancestors(realpath(path)), 3))
            if any(isfile(join(up, mark)) for up in near for mark in ("pyproject.toml", "setup.py")):
                self.add(path, "source folder of an editable install")

    def _node(self, path: str) -> None:
        """Show the node_modules that the file lies in or may import from, else the package it is part of."""
        outer, inside, _ = path.partition("/node_modules/")
        if not inside and (package := self._package(path)):
            self.add(package, "package")
        folders = [up for up in ancestors(dirname(path)) if not self.wide(up)]
        for folder in [outer, *folders] if inside else folders:
            self._node_modules(join(folder, "node_modules"))

    def _node_modules(self, root: str) -> None:
        """Show one node_modules, and what its links lead to: stores, packages of the same project (workspaces).

        Nothing of global ones; and no other project, to which a link leads that came with a stranger's.
        """
        if root in self.seen or not isdir(root):
            return
        self.seen.add(root)
        self.add(root, "node_modules")
        self.project = self.project or self._project(dirname(root))
        for pattern in ("/*", "/@*/*") if basename(dirname(root)) != "lib" else ():
            for link in filter(islink, islice(iglob(escape(root) + pattern), ENTRIES)):
                entry = join(realpath(link), "package.json")
                own = entry.startswith(self.project + "/") and self._package(entry) == dirname(entry)
                package = own or "/node_modules/" in entry
                if package and not self.covers(entry):
                    self._node(entry)

    def _project(self, folder: str) -> str:
        """The outermost folder around this one that is a package, else this one."""
        own = realpath(folder)
        around = takewhile(lambda up: not self.wide(up), ancestors(own))
        return ([own] + [up for up in around if isfile(join(up, "package.json"))])[-1]

    def _package(self, path: str) -> str:
        """The folder of the nearest package.json that describes a package, or ""."""
        for up in takewhile(lambda up: not self.wide(up), ancestors(dirname(path))):
            if re.search('"(name|dependencies|scripts)"', read(join(up, "package.json"))):
                return up
        return ""

    def script(self, path: str) -> None:
        """Show what a script is part of: environment, node tree, package, or the folder it imports from."""
        self.hold(path)
        real = hops(path)[-1]
        if "/node_modules/" in real and self.binary.endswith("sh"):
            # package managers write shell scripts that look node up themselves
            with contextlib.suppress(ConfigError):
                self.command(self.find("node", "interpreter"))
        if re.match(r"node|bun|deno", basename(self.binary)) and not self.covers(real):
            self._node(real)
        imports = re.search(r"\.(py|[cm]?[jt]s)$", real)
        if imports and not self.covers(real) and not self.wide(dirname(real)):
            self.add(dirname(real), "folder of the script")

    def arguments(self, words: list[str], *, shell: bool) -> list[str]:
        """The interpreter's arguments with its script made absolute, and that script shown."""
        position = 0
        while position < len(words):
            word = words[position]
            if re.fullmatch(r"-|-\w*c|--eval|--print|-p", word) or (word == "-e" and not shell):
                return words
            if re.fullmatch(r"-\w*m", word) and "py" in basename(self.binary):
                self._module(words[position + 1 :], words[: position + 1])
                return words
            if not word.startswith("-") and word != "run":
                return [*words[:position], self._argument(word), *words[position + 1 :]]
            position += 2 if word in VALUED else 1
        return words

    def _argument(self, word: str) -> str:
        path = absolute(join(self.cwd, word))
        for entry in (path, join(path, "__main__.py"), join(path, "package.json")):
            if isfile(entry):
                self.script(entry)
                return self.place(entry) if entry == path else dirname(self.place(entry))
        return word

    def _module(self, names: list[str], flags: list[str]) -> None:
        """Show the module of `python -m` if it lies in the caller's folder, which comes first for Python."""
        path = join(realpath(self.cwd), names[0].partition(".")[0] if names else "")
        package = any(isfile(join(path, name)) for name in ("__init__.py", "__main__.py"))
        ignored = any(re.fullmatch(r"-\w*[IP]\w*", flag) for flag in flags)
        if basename(path).isidentifier() and not ignored and (package or isfile(path + ".py")):
            self.add(path if package else path + ".py", "module", is_file=not package)
            self.env["PYTHONPATH"] = dirname(path)

    def user_site(self, words: list[str]) -> None:
        """Show the user's own packages to a Python that would look at them."""
        version = re.fullmatch(r"python(\d+\.\d+)", basename(realpath(self.binary)))
        options = takewhile(lambda word: word.startswith("-"), words)
        if not version or self.isolated or any(re.fullmatch(r"-\w*[sI]\w*", word) for word in options):
            return
        base = join(self.homes[0], ".local")
        site = join(base, f"lib/python{version[1]}/site-packages")
        if isdir(site):
            self.add(site, "user's own packages, imported by the Python")
            self.env["PYTHONUSERBASE"] = base
            self._editable(site)


def _env(text: str, path: str) -> list[str]:
    """The command and arguments that env gets from a shebang: one word, unless -S splits it."""
    split = re.match(r"(-\w*S|--split-string=?)\s*", text)
    try:
        words = shlex.split(text[split.end() :]) if split else [text]
    except ValueError as error:
        raise ConfigError(f"{path}: its first line cannot be split: {error}") from None
    while words and (words[0].startswith("-") or "=" in words[0]):
        words.pop(0)
    if not words:
        raise ConfigError(f"{path}: its first line names no interpreter after env")
    return words


def _is_python(prefix: str) -> bool:
    """Whether `prefix` has a standard library: what a pyvenv.cfg claims is checked by it."""
    return any(iglob(escape(prefix) + "/lib*/py*/os.py"))
