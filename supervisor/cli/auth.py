"""`serve --auth FILE` starts the authenticator; `token` makes a token for its file.

Runs as whoever typed it, before any privilege is given up; the file is not parsed here.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import os
import secrets
import signal
import sys
from typing import TYPE_CHECKING

from supervisor import wire
from supervisor.errors import ConfigError, SupervisorError

if TYPE_CHECKING:
    import socket

    from supervisor.auth.process import Issuer

_CODE = """import sys; sys.path.insert(0, sys.argv[1])
from supervisor.cli.auth import authenticator; authenticator(sys.argv[2], sys.argv[1])"""
_PASSED = ("LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "NO_PROXY")
_SECONDS = 60.0


class Authenticator:
    """The started process, our end of its socket, and what it said first."""

    def __init__(self, sock: socket.socket, pid: int, ready: wire.Message) -> None:
        self.socket, self.pid, self.ready = sock, pid, ready

    def close(self) -> None:
        """Hang up, and wait for its end."""
        self.socket.close()
        os.waitpid(self.pid, 0)


def start(path: str) -> Authenticator:
    """Start it, and wait until it has read the file; what is wrong with that as the error it is."""
    import supervisor
    from supervisor.proxy.link import denied

    root = os.path.dirname(os.path.dirname(os.path.realpath(supervisor.__file__)))
    ours, theirs = wire.pair()
    os.set_inheritable(theirs.fileno(), True)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
    ]
    env = {name: os.environ[name] for name in _PASSED if name in os.environ} | {"PYDANTIC_DISABLE_PLUGINS": "1"}
    argv = [sys.executable, "-I", "-c", _CODE, root, os.path.abspath(path)]
    pid = os.posix_spawn(sys.executable, argv, env, file_actions=actions, setsid=True)
    theirs.close()
    ours.settimeout(_SECONDS)
    try:
        received = wire.receive(ours)
    except OSError:
        received = None
    if received is None or received[0].get("event") != "ready":
        ours.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if received is None:
            raise SupervisorError("the authenticator ended unexpectedly; its own standard error says why")
        raise denied(str(received[0]["message"]), int(str(received[0]["status"])))
    return Authenticator(ours, pid, received[0])


def authenticator(path: str, root: str) -> None:
    """The process itself, its socket as descriptor 3; the SDK is imported only where a file names an issuer."""
    from supervisor.auth import process

    def issuer() -> Issuer:
        from supervisor.auth import oidc

        return oidc

    process.main(3, path, root, issuer)


def token(options: argparse.Namespace) -> int:
    """Make a token: its text to standard output, once; what the file of --auth holds of it to that file."""
    text = "sup_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    table = _table(options, text)
    if options.file:
        _append(options.file, table)
    else:
        print(f"# for the file of serve --auth:\n{table}", file=sys.stderr)
    print(text)
    return 0


def _table(options: argparse.Namespace, text: str) -> str:
    import datetime
    import json

    from supervisor.auth.file import Token

    digest = hashlib.sha256(text.encode()).hexdigest()
    lines = ["[[token]]", f"subject = {json.dumps(options.subject)}", f'sha256 = "{digest}"']
    if options.group:
        lines.append(f"groups = {json.dumps(options.group)}")
    if not 0 <= options.days <= 36500:
        raise ConfigError(f"--days {options.days}: from 0 to 36500")
    if options.days:
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=options.days)
        lines.append(f"expires = {end:%Y-%m-%dT%H:%M:%SZ}")
    from pydantic import ValidationError

    from supervisor.profile.toml import explain

    try:
        Token(subject=options.subject, sha256=digest, groups=tuple(options.group))
    except ValidationError as error:
        raise ConfigError(explain(error)[0]) from None
    return "\n".join(lines) + "\n"


def _append(path: str, table: str) -> None:
    """Add a table at the end; the whole file is checked as it will be read, or nothing is written."""
    from supervisor.auth import file
    from supervisor.profile import toml

    existing = toml.read(path).text.rstrip("\n") + "\n\n" if os.path.exists(path) else ""
    new = f"{path}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "w", encoding="utf-8") as made:
            made.write(existing + table)
            made.flush()
            os.fsync(made.fileno())
        file.load(new)
        os.replace(new, path)
    except (OSError, SupervisorError):
        os.unlink(new)
        raise
