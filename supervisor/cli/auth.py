"""`serve --auth FILE` starts the authenticator; `token` makes a token for its file.

Runs as whoever typed it, before any privilege is given up; the file is not parsed here.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import secrets
import sys
from typing import TYPE_CHECKING

from supervisor.cli import child
from supervisor.errors import ConfigError, SupervisorError

if TYPE_CHECKING:
    from supervisor.auth.process import Issuer

_CODE = """import sys; sys.path.insert(0, sys.argv[1])
from supervisor.cli.auth import authenticator; authenticator(sys.argv[2], sys.argv[1])"""


def start(path: str) -> child.Child:
    """Start the authenticator, and wait until it has read the file; what is wrong with that as the error it is."""
    return child.start("the authenticator", _CODE, os.path.abspath(path))


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

    from supervisor.profile.written import explain

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
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise ConfigError(f"{path}: there is no such folder")
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
