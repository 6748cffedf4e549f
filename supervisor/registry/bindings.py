"""Which files of this host an approval of a command binds, and in words what it runs that no approval can bind.

Runs in the planner. Words are paths of the sandbox: they are looked for where its mounts have them from, relative
ones in its working folder. Programs that start another one (env, timeout) are looked through.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader

from supervisor.errors import ConfigError
from supervisor.model import SandboxSpec
from supervisor.profile.entry import ServerEntry
from supervisor.profile.granted import below
from supervisor.profile.program import NESTING, SHEBANG

UNBOUND = "run what no approval binds"
_PROGRAM, _PACKAGE = 256 << 20, 1 << 20
# what runs a folder by what lies in it, and what runs a script that a command names
_FOLDERS = re.compile(r"(python|pypy|node|nodejs|bun)[\d.]*")
_INTERPRETER = re.compile(
    _FOLDERS.pattern + r"|(deno|tsx|ts-node|ruby|perl|php|java|lua|tclsh|expect|awk|gawk|mawk|(ba|da|z|k)?sh)[\d.]*"
)
# says what is run in the words of the command, or by a name that is looked up, with or without a blank behind it
_INLINE = re.compile(r"-[A-HJ-Za-z0-9]*[ceEmMr].*|--(eval|print)(=.*)?", re.DOTALL)
_OWN_INLINE = (
    (re.compile(r"(python|pypy)[\d.]*"), re.compile(r"-[bBdEhiIOPqRsSuvVx?]*[cm].*", re.DOTALL)),
    (re.compile(r".*sh"), re.compile(r"-[A-Za-z]*c")),
    (re.compile(r"java"), re.compile(r"-c")),
)
_LOADS = re.compile(r"--(?:require|import|loader|experimental-loader)=(.*)", re.DOTALL)
# starts what it is told to; of the first kind it is known which words are its own
_ENV = "env"
_OTHERS = re.compile(
    r"nice|nohup|timeout|setsid|stdbuf|ionice|chrt|taskset|time|sudo|doas|su|xargs|find|flock|script|watch|busybox"
    r"|unshare|nsenter|chroot|setpriv|prlimit|runuser|parallel|npx|uvx|uv|pipx|poetry|pnpm|yarn|npm"
    r"|ld-linux[\w.-]*|ld\.so[.\d]*|make"
)
# of env(1), in a first line: -S and what it takes from there
_OPTION = re.compile(r"-S|-vS|--split-string=?")
_ASSIGNED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)


class Unreadable(ConfigError):
    """A file that a command names cannot be digested now; its server is held."""


class Binding:
    """What a command is bound to. `spec` is the sandbox that it is going to run in."""

    def __init__(self, entry: ServerEntry, spec: SandboxSpec) -> None:
        self._spec, self._image = spec, bool(entry.image)
        self._argv = tuple(spec.argv)
        self._tops = [each.strip("/") for each in spec.links]
        self._inner = self._through(self._argv)
        self._written = tuple(entry.command)

    def names(self) -> list[str]:
        """Where programs, scripts and what starts a folder are, or would be if somebody put them there."""
        if self._image:
            return []
        words = (*self._argv, *self._written)
        found = {self._host(path) for path in map(_path, words)} | {self._host(each) for each in self._relative()}
        for command in {self._argv, self._inner, self._written}:
            found |= set(self._in_folder(command))
        named = {each for each in found if each and _is_text(each)}
        return sorted(named.union(*map(self._interpreters, named)) - {""})

    def _interpreters(self, path: str) -> set[str]:
        """What the first lines of a script and of its interpreter name, as far as the kernel follows them."""
        found: set[str] = set()
        for _ in range(NESTING):
            words = _shebang(path)
            if not words:
                break
            inner = self._through((words[0], *(word for word in words[1:] if not _OPTION.fullmatch(word))))
            programs = [self._program(each[0]) for each in (words, inner) if each]
            found |= set(programs)
            path = programs[0]
        return found

    def files(self, names: Iterable[str] | None = None) -> list[str]:
        """The files that the command names."""
        there = (each for each in (self.names() if names is None else names) if os.path.isfile(each))
        real = sorted({os.path.realpath(each) for each in there})
        for each in real:
            if not _is_text(each):
                raise Unreadable(f"{each!a}: its name is not UTF-8, and cannot be approved")
        return real

    def unbound(self) -> Iterator[str]:
        """In a sentence, what the command runs that is none of these files, if so."""
        argv = self._inner
        if self._image or not self._argv:
            return
        shown = " ".join(self._argv)[:200]
        if not argv or _OTHERS.fullmatch(os.path.basename(argv[0])):
            yield f"{UNBOUND}: {shown} starts another program, whose code is not bound"
        elif not self._program(argv[0]):
            yield f"{UNBOUND}: the code of {argv[0][:200]} is not bound"
        elif _INTERPRETER.fullmatch(os.path.basename(argv[0])) and not self._script(argv):
            yield f"{UNBOUND}: {shown} names no file of its script"

    def _through(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """The command that env(1) is told to start, as far as it is plain which that is."""
        while argv and os.path.basename(argv[0]) == _ENV:
            rest = list(argv[1:])
            while rest and (
                rest[0] in ("-", "-i", "-0", "--ignore-environment", "--") or _ASSIGNED.fullmatch(rest[0])
            ):
                rest.pop(0)
            argv = tuple(rest) if rest and not rest[0].startswith("-") else ()
        return argv

    def _program(self, word: str) -> str:
        """The file of this host that a program's name leads to, "" for none."""
        if "/" in word:
            return self._file(os.path.join(self._spec.cwd, word))
        places = self._spec.env.get("PATH", "").split(":")
        return next((found for each in places if each and (found := self._file(os.path.join(each, word)))), "")

    def _relative(self) -> Iterator[str]:
        """Words without a whole path that are files in the working folder, and programs that are looked up."""
        for word in (*self._argv, *self._inner):
            value = word.partition("=")[2] if word.startswith("-") else word
            if value and not value.startswith(("-", "/")) and "\0" not in value:
                yield os.path.normpath(os.path.join(self._spec.cwd, value))
        for each in (self._argv, self._inner):
            if each and not each[0].startswith("/") and (found := self._program(each[0])):
                yield found

    def _script(self, argv: tuple[str, ...]) -> bool:
        """Whether the script that an interpreter is given is one of the files."""
        name = os.path.basename(argv[0])
        inline = next((own for names, own in _OWN_INLINE if names.fullmatch(name)), _INLINE)
        for first in argv[1:]:
            if inline.fullmatch(first) or ((loads := _LOADS.fullmatch(first)) and not self._is_file(loads[1])):
                return False
            if not first.startswith("-"):
                break
        else:
            return False
        return self._is_file(first) or any(os.path.isfile(each) for each in self._in_folder(argv))

    def _is_file(self, word: str) -> bool:
        return bool(self._file(os.path.normpath(os.path.join(self._spec.cwd, word))))

    def _file(self, path: str) -> str:
        found = self._host(path)
        return found if found and os.path.isfile(found) else ""

    def _host(self, path: str) -> str:
        """Where a path of the sandbox is on this host; "" for what is only inside, and where a link leads away."""
        if not path.startswith("/") or "\0" in path:
            return ""
        path = os.path.normpath(path)
        around = [each for each in self._spec.mounts if below(path, each.target)]
        if not around:
            return path if path.split("/")[1] in ("usr", *self._tops) else ""
        mount = max(around, key=lambda each: len(each.target))
        found = mount.source + path.removeprefix(mount.target.rstrip("/")) if path != mount.target else mount.source
        real = os.path.realpath(found)
        # inside, a link that leads out of the mount means something else, unless all is where it is outside
        return found if below(real, mount.source) or mount.source == mount.target else ""

    def _in_folder(self, command: Sequence[str]) -> Iterator[str]:
        """What an interpreter runs when it is given a folder: the first word that is one."""
        if not command or not _FOLDERS.fullmatch(os.path.basename(command[0])):
            return
        words = [word for word in command[1:] if not word.startswith("-")]
        places = (self._host(os.path.join(self._spec.cwd, word)) for word in words[:1] or [])
        folder = next((each for each in places if each and os.path.isdir(each)), "")
        absolute = next((each for word in words if word.startswith("/") and (each := self._host(word))), "")
        for each in dict.fromkeys((folder, absolute if os.path.isdir(absolute) else "")):
            if each:
                names = ("__main__.py", "package.json", "index.js", "index.json", "index.node", *_main(each))
                yield from (os.path.join(each, name) for name in names)


def _shebang(path: str) -> list[str]:
    """The words of a script's first line; none of what is no script, or cannot be read."""
    with contextlib.suppress(Unreadable, OSError, UnicodeDecodeError), opened(path) as file:
        line = file.readline(SHEBANG)
        return line[2:].decode().replace("\0", " ").split() if line.startswith(b"#!") else []
    return []


def _is_text(path: str) -> bool:
    """Whether it can be written down: only UTF-8 can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _path(word: str) -> str:
    """The path that a word is, or an option holds: `--require=/srv/x.js`, `-I/srv`; "" for none."""
    if word.startswith("-") and "/" in word:
        return word[max(word.find("/"), 0) :]
    return word if word.startswith("/") else ""


def _main(folder: str) -> Iterator[str]:
    """What package.json says is run; node looks for it in this order."""
    with contextlib.suppress(Unreadable, OSError, ValueError, AttributeError, RecursionError):
        with opened(os.path.join(folder, "package.json")) as file:
            main = json.loads(file.read(_PACKAGE)).get("main")
        if isinstance(main, str) and "\0" not in main:
            yield from (main, f"{main}.js", f"{main}.json", f"{main}.node", f"{main}/index.js")


def opened(path: str) -> BufferedReader:
    """A regular file, without waiting for whoever holds a lease on it. Unreadable says why it is not."""
    try:
        file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb")  # noqa: SIM115
    except BlockingIOError:
        raise Unreadable(f"{path}: somebody holds a lease on it") from None
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None
    at = os.fstat(file.fileno())
    if stat.S_ISREG(at.st_mode) and at.st_size <= _PROGRAM:
        return file
    file.close()
    raise Unreadable(f"{path}: not a file of at most {_PROGRAM >> 20} MiB, and cannot be approved")


def digest(path: str) -> str:
    """The SHA-256 of a file; Unreadable says why there is none."""
    with opened(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Unreadable(f"{path}: {error.strerror}") from None
