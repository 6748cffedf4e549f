"""`serve`, `pin`, and `run` of a registered server: a gateway over the host's daemon or over a tree of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.cli import entry, personal, vault
from supervisor.errors import ConfigError, SupervisorError
from supervisor.proxy.link import Link, Opened, connect

if TYPE_CHECKING:
    from supervisor.cli.endpoint import Endpoint
    from supervisor.cli.keeper import Kept
    from supervisor.cli.traces import Exporter
    from supervisor.proxy.gate import Audited
    from supervisor.proxy.gateway import Gateway


class Reached:
    """A connection to a monitor, and the tree of processes that must be taken down after it, if it is ours.

    `source`: whose servers these are, in words.
    """

    def __init__(self, sock: socket.socket, tree: personal.Tree | None, source: str) -> None:
        self.socket = sock
        self.source = source
        self.monitor = 0
        self.kept: Kept | None = None
        self._tree = tree

    def close(self) -> None:
        """Hang up; wait until everything of ours is gone."""
        if self._tree:
            self._tree.close()
        else:
            self.socket.close()
        if self.kept:
            self.kept.close()

    def audited(self, options: argparse.Namespace) -> None:
        """Start whatever keeps the audit log; while we may."""
        from supervisor.cli import keeper

        host = None if self._tree else f"{entry.runtime_folder(options)}/audit.sock"
        self.kept = keeper.start(host)


def reach(options: argparse.Namespace) -> Reached:
    """The daemon whose servers are meant (see entry.daemon), or a tree of our own over a registry."""
    if (folder := entry.daemon(options)) is not None:
        return Reached(connect(f"{folder}/proxy.sock").socket, None, f"the daemon in {folder}")
    path = entry.catalog(options)
    # a server is started to be reviewed before anybody can approve of it
    review = {"review": options.name} if options.command == "pin" else {}
    tree = personal.start({"catalog": path, **review})
    return Reached(tree.monitor, tree, path)


def _hide(options: argparse.Namespace) -> None:
    """Before there is anything that a second execution of this process would lose."""
    if entry.daemon(options) is None:
        vault.hide(vault.variables(entry.catalog(options)))


@contextlib.contextmanager
def _dropped(options: argparse.Namespace, *, audited: bool = True) -> Iterator[Reached]:
    """Reached, greeted, and without privileges: everything has been imported and opened before."""
    from supervisor.proxy import identity

    reached = reach(options)
    try:
        if audited:
            reached.audited(options)
        identity.drop()
        greeting = Link(reached.socket).hello()
        reached.monitor = greeting.pid
        if reached.kept:
            reached.kept.begin(greeting.ledger)
        identity.confine(greeting.filter)
        yield reached
    finally:
        reached.close()


class _Self:
    """Who typed this, the socket on which this process tells that person of itself, the exporter of its traces.

    Made while we may.
    """

    def __init__(self, *, traces: bool = False) -> None:
        from supervisor.cli import keeper
        from supervisor.proxy import control

        self.uid = os.getuid()
        self.groups = keeper.groups()
        self.socket = control.bind()
        self.exporter = _exporter() if traces else None

    def close(self) -> None:
        """Let the exporter send what it has."""
        if self.exporter:
            self.exporter.close()

    async def tell(self, gateway: Gateway, monitor: int) -> None:
        """Answer on it, until cancelled."""
        from supervisor.proxy.control import Control

        await Control(gateway, owner=self.uid, monitor=monitor).serve(self.socket)


def _exporter() -> Exporter:
    from supervisor.cli.traces import Exporter

    return Exporter()


def serve(options: argparse.Namespace) -> int:
    """One endpoint for all servers: on this process's standard streams, or over HTTP."""
    from supervisor.cli import log

    _hide(options)
    if options.auth and not options.http:
        raise ConfigError("--auth goes with --http: on standard input there is one client, whoever started this")
    with log.records(options.log):
        me = _Self(traces=options.traces)
        try:
            return _serve_there(options, me) if options.http else _serve_here(options, me)
        finally:
            me.close()


def _serve_here(options: argparse.Namespace, me: _Self) -> int:
    import uvloop

    from supervisor.proxy import gateway, stdio  # noqa: F401 - what is imported now need not be opened later

    with _dropped(options) as reached:
        return uvloop.run(_serve(reached, options, me, None)) or 0


def _serve_there(options: argparse.Namespace, me: _Self) -> int:
    import uvloop

    from supervisor.proxy import gateway  # noqa: F401

    endpoint = _endpoint(options)
    try:
        with _dropped(options) as reached:
            return uvloop.run(_serve_http(reached, options, me, endpoint))
    finally:
        endpoint.close()


def _endpoint(options: argparse.Namespace) -> Endpoint:
    from supervisor.cli.endpoint import Endpoint

    return Endpoint(options)


async def _serve_http(reached: Reached, options: argparse.Namespace, me: _Self, endpoint: Endpoint) -> int:
    gateway = await _gateway(reached, options, me, None)
    _audit(gateway, reached, me, "http")
    gateway.start()
    gateway.spawn(me.tell(gateway, reached.monitor))
    return await endpoint.serve(gateway)


def run(options: argparse.Namespace) -> int:
    """One registered server on our standard streams, started by its first call if it is pinned."""
    _hide(options)
    import uvloop

    from supervisor.proxy import gateway, pump, relay, stdio  # noqa: F401

    me = _Self()
    with _dropped(options) as reached:
        status = uvloop.run(_serve(reached, options, me, options.server))
        if status is not None:
            return status
        me.socket.close()  # nobody would answer there: from here bytes are only passed on
        reached.socket.setblocking(True)
        link = Link(reached.socket)
        opened = link.open(options.server)
        return relay.run(link, opened, _gate(reached, me, options.server, opened))


async def _serve(reached: Reached, options: argparse.Namespace, me: _Self, only: str | None) -> int | None:
    from supervisor.proxy import lines, pump
    from supervisor.proxy.principal import Principal
    from supervisor.proxy.stdio import Stdio

    gateway = await _gateway(reached, options, me, only)
    if only and not gateway.servers:
        gateway.channel.release()
        return None
    _audit(gateway, reached, me, "stdio")
    if os.isatty(0) and not options.quiet:
        pump.note("waiting for an MCP client on standard input; Ctrl-C ends it")
    gateway.start()
    gateway.spawn(me.tell(gateway, reached.monitor))
    with lines.as_they_were(0, 1):
        front = Stdio(gateway, Principal(f"uid:{me.uid}", me.groups))
        gateway.channel.gone = lambda: front.stop(1)
        try:
            return await front.run()
        finally:
            await gateway.close()


def _audit(gateway: Gateway, reached: Reached, me: _Self, transport: str) -> None:
    """From now on calls are written down; there is no way to do without."""
    from supervisor.audit.record import Context
    from supervisor.proxy.auditing import Audit
    from supervisor.proxy.recording import Recording

    if reached.kept:
        recording = Recording(reached.kept.way, Context(f"uid:{me.uid}", str(reached.monitor), "", ""))
        recording.start()
        gateway.audit = Audit(recording, transport, reached.monitor)


def _gate(reached: Reached, me: _Self, server: str, opened: Opened) -> Audited | None:
    from supervisor.proxy.gate import Audited

    if reached.kept is None:
        return None
    return Audited(reached.kept.way, opened, f"uid:{me.uid}", me.groups, f"{reached.monitor}", server)


async def _gateway(reached: Reached, options: argparse.Namespace, me: _Self, only: str | None) -> Gateway:
    """A gateway with its servers loaded; what cannot be offered is told."""
    from supervisor.proxy import pump
    from supervisor.proxy.channel import Channel
    from supervisor.proxy.gateway import Gateway
    from supervisor.proxy.journal import Journal
    from supervisor.proxy.tracing import Tracing

    channel = Channel(reached.socket)
    channel.start()
    gateway = Gateway(channel, _Uncounted(), Journal(quiet=options.quiet), only)
    if me.exporter:
        gateway.tracing = Tracing(me.exporter.tracer)
    problems = await gateway.load()
    # what else is wrong with it, opening it tells
    live = only is not None and any("is not pinned" in each for each in problems)
    if live and not options.quiet:
        pump.note(f'"{only}" is not pinned: its lists come live, reviewed by nobody; supervisor pin {only}')
    if only and (live or gateway.servers) and not options.quiet:
        pump.note(f'"{only}" is a server of {reached.source}')
    for each in problems if only is None else []:
        pump.note(each)
    if only is None and not gateway.servers:
        raise ConfigError("there is no server to offer; supervisor add registers one, supervisor pin reviews it")
    if only is None and not options.quiet:
        count, names = len(gateway.servers), ", ".join(gateway.servers)
        said = f"serving {count} server{'s' * (count > 1)} of {reached.source}, each started by its first call"
        pump.note(f"{said}: {names}")
    return gateway


class _Uncounted:
    """Nobody counts."""

    def called(self, server: str, tool: str, seconds: float, *, outcome: str) -> None:
        """Not counted."""

    def refused(self, rule: str) -> None:
        """Not counted."""

    def started(self, server: str, seconds: float) -> None:
        """Not counted."""


def pin(options: argparse.Namespace) -> int:
    """Review what a server lists, and write it down.

    Two processes: a child without privileges talks to the server and makes the account; we, who may write the
    file, take its bytes as they are and never look into them.
    """
    _hide(options)
    path = os.path.join(os.path.dirname(catalog := _registry(options)), "pins", f"{options.name}.json")
    old = _existing(path)
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(read)
        os._exit(_child(options, old, write))
    os.close(write)
    with open(read, "rb") as pipe:
        made = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        return status if status > 0 else 1
    from supervisor.cli import approvals

    reviewed = approvals.review_own(catalog, options.name)
    if not options.yes and not _confirmed(path):
        raise SupervisorError("nothing was written")
    _write(path, made)
    if not options.json:
        print(f"pinned in {path}")
    if reviewed:
        # with the review, whoever owns the registry approves of the server, where approvals count
        print(f"approved as {approvals.approve_own(catalog, reviewed)}", file=sys.stderr)
    return 0


def _registry(options: argparse.Namespace) -> str:
    """The registry that the server to be pinned stands in: where the daemon reads, if it is the daemon's."""
    from supervisor.cli import host

    if entry.daemon(options) is None:
        return entry.catalog(options)
    try:
        config = host.inspect(options)[1].get("config")
    except SupervisorError as error:
        said = f"{error}; of the daemon's servers its operator pins, of your own anybody: supervisor pin --personal"
        raise SupervisorError(f"{said} {options.name}") from None
    if not isinstance(config, str):
        raise SupervisorError("the daemon does not say where its registry is; restart it with this version")
    return config


def _existing(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _confirmed(path: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("review what is listed above, and run this again with --yes to pin it")
    return input(f"write this to {path}? [y/N] ").strip().lower() in ("y", "yes")


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError:
        os.unlink(new)
        raise


def _child(options: argparse.Namespace, old: bytes, write: int) -> int:
    """Without privileges: start the server, ask it, print the account, hand the manifest over."""
    import uvloop

    from supervisor.proxy import pinning, pump  # noqa: F401

    try:
        with _dropped(options, audited=False) as reached, open(write, "wb") as pipe:
            pipe.write(uvloop.run(_pin(reached, options, old)))
        sys.stdout.flush()
    except SupervisorError as error:
        pump.note(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


async def _pin(reached: Reached, options: argparse.Namespace, old: bytes) -> bytes:
    from supervisor.proxy import manifests, pinning
    from supervisor.proxy.channel import Channel
    from supervisor.proxy.journal import Journal

    channel = Channel(reached.socket)
    channel.start()
    try:
        made = await pinning.Pinning(channel, options.name, Journal(quiet=options.quiet)).run()
    finally:
        channel.close()
    before = manifests.decode(old, "the manifest that is there") if old else None
    if options.json:
        document = {"server": made.server, "digests": made.digests, "attention": list(pinning.flagged(made))}
        print(json.dumps(document, indent=2))
    else:
        print("\n".join(pinning.review(made, before)))
    return manifests.encode(made)
