"""`daemon`, `list`, `admin`: the host's daemon, and what one asks of it."""

from __future__ import annotations

import argparse
import json
import os
import socket

from supervisor import wire
from supervisor.cli import entry
from supervisor.errors import ConfigError, SupervisorError
from supervisor.proxy.link import connect, denied


def daemon(options: argparse.Namespace) -> int:
    """Become the monitor of this host."""
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
    return monitor.daemon(options.config, os.path.abspath(folder))


def listing(options: argparse.Namespace) -> int:
    """The servers this user may run."""
    link = connect(f"{entry.runtime_folder(options)}/proxy.sock")
    link.hello()
    servers = link.servers()
    if options.json:
        print(json.dumps(servers, indent=2))
    for each in [] if options.json else servers:
        print(f"{each['name']!s:24} {each['profile']}")
    return 0


def admin(options: argparse.Namespace) -> int:
    """One request on admin.sock, its answer printed."""
    if (options.request == "kill") != (options.session is not None):
        raise ConfigError("admin kill takes the number of a session (supervisor admin inspect shows them)")
    path = f"{entry.runtime_folder(options)}/admin.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(path)
        except OSError as error:
            raise SupervisorError(f"{path}: {error.strerror or error}") from None
        _ask(sock, {"id": 1, "req": "hello", "version": 1})
        request: wire.Message = {"id": 2, "req": options.request}
        if options.session is not None:
            request["session"] = options.session
        answer = _ask(sock, request)
    if options.json or options.request == "inspect":
        print(json.dumps(answer, indent=2))
    return 0


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
