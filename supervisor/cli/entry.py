"""From the options of a command line to a registry entry, as a plain table: the proxy needs no more of it."""

from __future__ import annotations

import argparse
import os
import pwd
import shlex

from supervisor import given
from supervisor.errors import ConfigError, SupervisorError

NAME = "personal"
# what is accepted by this name is no layer of a sandbox: that nobody writes down what is called
AUDIT = "audit"


def pairs(written: list[str], flag: str) -> dict[str, str]:
    """Options like name=value as a table."""
    found = {}
    for each in written:
        key, sign, value = each.partition("=")
        if not sign:
            raise ConfigError(f'{flag} "{each}": write {flag} name=value')
        found[key] = value
    return found


def _environment(written: list[str]) -> dict[str, str]:
    found = {}
    for each in written:
        key, sign, value = each.partition("=")
        if not sign and key not in os.environ:
            raise ConfigError(f"--env {key}: not set here; write --env {key}=VALUE")
        found[key] = value if sign else os.environ[key]
    return found


def _secrets(written: list[str], cwd: str) -> dict[str, object]:
    """`[file/]NAME[@HOST]=SOURCE:WHERE` as tables of a registry."""
    found: dict[str, object] = {}
    for each in written:
        goes, _, comes = each.partition("=")
        kind, colon, where = comes.partition(":")
        name, _, host = goes.removeprefix("file/").partition("@")
        if not colon or not where or not name or kind not in ("file", "env", "credential", "keyring", "command"):
            # not what was written: somebody may have put the value there
            raise ConfigError(
                f"--secret {goes}: write --secret NAME=file:PATH, or env:, credential:, keyring:, command: there; "
                "file/NAME for a file in /run/secrets, NAME@HOST for a header unseen by the server"
            )
        if name in found:
            raise ConfigError(f"--secret {name}: there are two of that name")
        table: dict[str, object] = {kind: _place(name, kind, where, cwd)}
        table["to"] = "header" if host else "file" if goes.startswith("file/") else "env"
        found[name] = table | ({"host": host} if host else {}) | {"origin": "command line"}
    return found


def _place(name: str, kind: str, where: str, cwd: str) -> object:
    if kind == "command":
        return shlex.split(where)
    if kind != "file":
        return where
    path = os.path.normpath(os.path.join(cwd, os.path.expanduser(where)))
    try:
        # who reads it looks again: here it is told before anything is started, as of every named file
        given.regular(path)
    except ConfigError as error:
        raise ConfigError(
            f"--secret {name}: {error}; name a file that its owner alone can read, or command:'PROGRAM WORD' for "
            "what is made on demand"
        ) from None
    return path


def home() -> str:
    """This user's home, by its real path."""
    found = os.environ.get("HOME", "")
    if not found.startswith("/"):
        try:
            found = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            found = "/nonexistent"
    return os.path.realpath(found)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_text(options: argparse.Namespace, command: list[str]) -> None:
    """Everything goes through JSON and into a digest: only UTF-8 can. A mount of the folder above helps."""
    written = [
        options.profile or "",
        options.image or "",
        options.store or "",
        options.engine or "",
        options.lock or "",
        *options.param,
        *options.ro,
        *options.rw,
        *options.env,
        *options.secret,
        *command,
    ]
    for each in [*written, *_environment(options.env).values()]:
        if not _is_utf8(each):
            raise ConfigError(f"{each!r} is not UTF-8, and cannot be passed on")


def accepted(options: argparse.Namespace) -> list[str]:
    """The gaps that were accepted by name."""
    return [name for each in options.accept_missing for name in each.split(",")]


def build(options: argparse.Namespace, command: list[str]) -> dict[str, object]:
    """The entry of personal mode: everything in it is the operator's own word."""
    _check_text(options, command)
    if options.profile is None:
        raise ConfigError("name a profile: --profile fs-readonly (supervisor profile list shows all)")
    try:
        cwd = os.getcwd()
    except OSError as error:
        raise ConfigError(f"the working directory is gone ({error.strerror}); cd to one that exists") from None
    if not _is_utf8(cwd):
        raise ConfigError(f"the working directory {cwd!r} has a name that is not UTF-8; start from another")
    profile = str(options.profile)
    if "/" in profile or profile.endswith(".toml"):
        profile = os.path.join(cwd, profile)
    return {
        "name": NAME,
        "profile": profile,
        "command": command,
        "params": pairs(options.param, "--param"),
        "ro": options.ro,
        "rw": options.rw,
        "env": _environment(options.env),
        "allow": options.allow,
        "image": options.image or "",
        "runtime": options.runtime or "auto",
        "engine": os.path.abspath(options.engine) if options.engine else "",
        "store": os.path.abspath(options.store) if options.store else store(),
        "lock": os.path.abspath(options.lock) if options.lock else "",
        "secrets": _secrets(options.secret, cwd),
        "cwd": cwd,
        "home": home(),
        "search_path": os.environ.get("PATH", os.defpath),
        "personal": True,
        "accept_missing": [name for name in accepted(options) if name != AUDIT],
        "origin": "command line",
    }


def store() -> str:
    """Where `supervisor image add` puts images for this user."""
    if os.geteuid() == 0:
        return "/var/lib/supervisor/images"
    own = os.environ.get("XDG_DATA_HOME") or os.path.join(home(), ".local/share")
    return f"{own}/supervisor/images"


def catalog(options: argparse.Namespace) -> str:
    """The registry file: the option, or the place of this user's own."""
    if options.config:
        return os.path.abspath(str(options.config))
    if os.geteuid() == 0:
        return "/etc/supervisor/servers.toml"
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home(), ".config")
    return f"{own}/supervisor/servers.toml"


def runtime_folder(options: argparse.Namespace) -> str:
    """Where the daemon's sockets are: the option, or the place of this user's kind of daemon."""
    if options.runtime_dir:
        return os.path.abspath(str(options.runtime_dir))
    own = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() != 0 and own and os.path.exists(f"{own}/supervisor/proxy.sock"):
        return f"{own}/supervisor"
    return "/run/supervisor"


def reachable(options: argparse.Namespace) -> None:
    """SupervisorError: there is no daemon whose server could be called."""
    path = f"{runtime_folder(options)}/proxy.sock"
    if not os.path.exists(path):
        own = f"of your own registry: supervisor run {options.server}, or supervisor serve"
        raise SupervisorError(f"{path}: no daemon is there, and call --server asks its servers alone; {own}")


def daemon(options: argparse.Namespace) -> str | None:
    """The folder of the daemon whose servers are meant; None when those of a registry file are.

    That of --runtime-dir, or the host's if there is one, unless --config or --personal names a registry.
    """
    if options.personal and options.runtime_dir:
        raise ConfigError("--personal and --runtime-dir do not go together: one registry, or the daemon's")
    folder = runtime_folder(options)
    if options.config is not None or options.personal:
        return None
    return folder if options.runtime_dir or os.path.exists(f"{folder}/proxy.sock") else None
