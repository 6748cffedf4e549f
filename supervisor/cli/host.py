"""`daemon`, `admin`: the host's daemon, and what one asks of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor import wire
from supervisor.cli import entry, keeper, log, vault
from supervisor.errors import ConfigError, SupervisorError
from supervisor.proxy.link import denied

if TYPE_CHECKING:
    from supervisor.model import Planned


def daemon(options: argparse.Namespace) -> int:
    """Become the monitor of this host."""
    vault.hide(vault.variables(os.path.abspath(options.config)))
    from supervisor.monitor import main as monitor

    folder = options.runtime_dir
    if folder is None:
        base = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR")
        if base is None:
            raise ConfigError("XDG_RUNTIME_DIR is not set: name a folder with --runtime-dir")
        folder = f"{base}/supervisor"
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
    except OSError as error:
        raise SupervisorError(f"{folder}: {error.strerror}") from None
    folder = os.path.abspath(folder)
    with (
        contextlib.closing(vault.start()) as reader,
        log.records(options.log),
        _listening(f"{folder}/proxy.sock", 0o666) as everybody,
        _listening(f"{folder}/admin.sock", 0o600) as owner,
        _listening(f"{folder}/audit.sock", 0o666) as audited,
        keeper.host(audited) as kept,
    ):
        return monitor.daemon(options.config, everybody, owner, reader.socket.fileno(), kept)


@contextlib.contextmanager
def _listening(path: str, mode: int) -> Iterator[socket.socket]:
    """A socket that is there as long as this lasts; whoever connects to it waits until it is served."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        _remove_stale(path)
        before = os.umask(0o777 & ~mode)
        try:
            sock.bind(path)
        except OSError as error:
            raise SupervisorError(f"{path}: {error.strerror or error}") from None
        finally:
            os.umask(before)
        sock.listen(64)
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on; ConfigError when somebody does."""
    if not os.path.lexists(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise SupervisorError(f"{path}: {error.strerror}") from None
    raise ConfigError(f"{path}: another supervisor daemon is listening there")


def admin(options: argparse.Namespace) -> int:
    """One request on admin.sock, its answer printed."""
    if (options.request == "kill") != (options.session is not None):
        raise ConfigError("admin kill takes the number of a session (supervisor admin inspect shows them)")
    message: wire.Message = {"req": options.request}
    if options.session is not None:
        message["session"] = options.session
    answer = request(options, message)
    if options.json or options.request == "inspect":
        print(json.dumps(answer, indent=2))
    return 0


def planned(question: dict[str, object]) -> Planned:
    """What a planner says, for somebody who starts nothing: its images are let go of."""
    from supervisor.monitor import planning

    found, sealed = planning.ask(question)
    for fd in sealed.values():
        os.close(fd)
    return found


def request(options: argparse.Namespace, message: wire.Message) -> object:
    """One request of the operator's, and its answer."""
    with _connected(options) as sock:
        _ask(sock, {"id": 1, "req": "hello", "version": 1})
        return _ask(sock, {"id": 2} | message)


def inspect(options: argparse.Namespace) -> tuple[int, wire.Message]:
    """The daemon's pid, and what runs in it."""
    with _connected(options) as sock:
        hello, found = _ask(sock, {"id": 1, "req": "hello", "version": 1}), _ask(sock, {"id": 2, "req": "inspect"})
    pid = hello.get("pid") if isinstance(hello, dict) else 0
    return int(str(pid)), found if isinstance(found, dict) else {}


def sessions(options: argparse.Namespace, server: str) -> list[int]:
    """The sessions of one server."""
    listed = inspect(options)[1].get("sessions")
    found = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [int(str(each["session"])) for each in found if each["server"] == server]


@contextlib.contextmanager
def _connected(options: argparse.Namespace) -> Iterator[socket.socket]:
    path = f"{entry.runtime_folder(options)}/admin.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(path)
        except OSError as error:
            reason = error.strerror or error
            raise SupervisorError(f"{path}: {reason}; no daemon that you administer answers there") from None
        yield sock


def _ask(sock: socket.socket, request: wire.Message) -> object:
    try:
        wire.send(sock, request)
        received = wire.receive(sock)
    except ConnectionError:
        received = None
    if received is None:
        raise SupervisorError("the daemon closed the connection; its own standard error says why")
    error = received[0].get("error")
    if isinstance(error, dict):
        raise denied(str(error["message"]), int(str(error["status"])))
    return received[0].get("ok")
