"""Where a secret comes from: a file, a variable, a credential of systemd's, a keyring, what a command prints.

Runs in a one-shot process of the reader's. What is wrong is said with the place where the secret is written and
the next step; never with a byte of the value, nor with what a command said.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from supervisor.errors import ConfigError
from supervisor.sandbox import syscalls as sc

LIMIT = 64 << 10
_SECONDS = 20.0
_KEYRING = """import sys
import keyring
value = keyring.get_password(sys.argv[1], sys.argv[2])
sys.exit(3) if value is None else sys.stdout.write(value)"""
Wanted = Mapping[str, object]


class Source:
    """One secret: `wanted` is what the planner wrote of it. `owners` may own its file."""

    def __init__(self, wanted: Wanted, variables: Mapping[str, str], owners: Sequence[int]) -> None:
        self._wanted, self._variables, self._owners = wanted, variables, owners
        self.name, self.to = str(wanted["name"]), str(wanted["to"])

    def error(self, problem: str) -> ConfigError:
        """With the place where it is written."""
        return ConfigError(f'{self._wanted["origin"]}: secret "{self.name}": {problem}')

    def value(self) -> str:
        """The value as text, whatever its bytes are (see os.fsdecode); ConfigError says what is wrong."""
        raw = self._read()
        if len(raw) > LIMIT:
            raise self.error(f"it is longer than {LIMIT >> 10} KiB; a secret is a token, a password, a key")
        if self.to != "file":
            # an editor's last line end is no part of a token
            raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        if not raw:
            raise self.error(f"{self._where()} is empty: put the value there")
        if self.to == "env" and b"\0" in raw:
            raise self.error('there is a NUL in it, which no variable can hold: take to = "file"')
        if self.to == "header" and not re.fullmatch(rb"[\x20-\x7e]{1,4096}", raw):
            raise self.error("a header's value is at most 4096 visible ASCII characters on one line")
        return raw.decode("utf-8", "surrogateescape")

    def _text(self, key: str) -> str:
        return str(self._wanted.get(key) or "")

    def _where(self) -> str:
        if self._wanted.get("command"):
            return "what the command printed"
        kinds = {"file": "", "env": "variable ", "credential": "credential ", "keyring": "keyring entry "}
        return next(f"{said}{self._text(kind)}" for kind, said in kinds.items() if self._text(kind))

    def _read(self) -> bytes:
        command = self._wanted.get("command")
        if isinstance(command, list) and command:
            return self._printed([str(word) for word in command], "the command")
        if self._text("file"):
            return self._file(self._text("file"), 0o077)
        if self._text("credential"):
            return self._credential(self._text("credential"))
        if self._text("keyring"):
            return self._keyring(self._text("keyring"))
        name = self._text("env")
        if name not in self._variables:
            raise self.error(
                f"variable {name} was not set when the supervisor was started, or not named here yet: set it, "
                "and start it again"
            )
        return self._variables[name].encode("utf-8", "surrogateescape")

    def _file(self, path: str, forbidden: int) -> bytes:
        try:
            # whoever may write in a folder on the way could lead us to any file that we may read
            fd = sc.openat2(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self.error(f"{path} leads through a symbolic link: write {os.path.realpath(path)}") from None
            reason = os.strerror(error.errno or 0).lower()
            raise self.error(f"{path}: {reason}: make it, readable by its owner alone") from None
        with _closed(fd):
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise self.error(
                    f"{path} is not a regular file; for what is made on demand there is command = [...]"
                )
            if info.st_uid not in self._owners:
                raise self.error(f"{path} belongs to uid {info.st_uid}: chown it to whoever runs the supervisor")
            if info.st_mode & forbidden:
                raise self.error(
                    f"others can read or write {path} (mode {info.st_mode & 0o777:03o}): chmod 600 {path}, and "
                    "take the value for known"
                )
            data = b""
            while len(data) <= LIMIT and (more := os.read(fd, LIMIT + 1)):
                data += more
            return data

    def _credential(self, name: str) -> bytes:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise self.error(
                f"there are no credentials of systemd's here (CREDENTIALS_DIRECTORY): LoadCredential={name}:PATH "
                "in the unit"
            )
        # the bits of the group are those of systemd's access control list
        return self._file(f"{folder}/{name}", 0o027)

    def _keyring(self, entry: str) -> bytes:
        service, _, user = entry.rpartition("/")
        argv = [sys.executable, "-I", "-c", "import keyring"]
        if subprocess.run(argv, capture_output=True, timeout=_SECONDS, check=False).returncode:
            raise self.error("there is no keyring here: pip install 'mcp-sandbox-supervisor[keyring]'")
        return self._printed([*argv[:3], _KEYRING, service, user], f"the keyring, asked for {entry},")

    def _printed(self, argv: list[str], what: str) -> bytes:
        """What a command prints; its standard error goes nowhere, because it may say the value."""
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
                preexec_fn=_bound, start_new_session=True,  # noqa: PLW1509 - there is one thread
            )  # fmt: skip
        except OSError as error:
            raise self.error(f"{argv[0]}: {(error.strerror or '').lower()}: name a program by its path") from None
        with process:
            raw, status = _output(process)
        if status:
            ended = f"exit status {status}" if status > 0 else f"signal {-status}, perhaps after {_SECONDS:g} s"
            raise self.error(f"{what} failed ({ended}); run it yourself to see why: {argv[0]}")
        return raw


@contextlib.contextmanager
def _closed(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


def _output(process: subprocess.Popen[bytes]) -> tuple[bytes, int]:
    """What it prints, and its exit status; it is killed when it prints too much, or takes too long."""

    def late(*_: object) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        raise TimeoutError

    raw = b""
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    with contextlib.suppress(TimeoutError):
        raw = process.stdout.read(LIMIT + 1) if process.stdout else b""
        if len(raw) > LIMIT:
            os.killpg(process.pid, signal.SIGKILL)
            return raw, 0
        process.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    return raw, process.wait()


def _bound() -> None:
    """Of a command before its execve: it ends with us."""
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
