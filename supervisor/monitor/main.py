"""The monitor's process: its signals, its beginning and its end; what it does is in `requests`.

Runs as root (in personal mode without root, as the user). It never sees an MCP byte and is never on the data path.
Its input is what the planner made of the owner's files, and small requests of a closed schema.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time

from supervisor.errors import SupervisorError
from supervisor.monitor import planning
from supervisor.monitor.children import Spawner
from supervisor.monitor.loop import Loop
from supervisor.monitor.record import Record
from supervisor.monitor.requests import Monitor
from supervisor.sandbox import cgroup


def _serve(monitor: Monitor, loop: Loop) -> int:
    """Run until told to stop; then nothing of ours is left. 0, or 1 when the spawner was lost."""
    lost = []

    def gone() -> None:
        # the kernel has killed every sandbox with it, or a guard does; only the empty groups are left
        lost.append(True)
        print("supervisor: the spawner ended unexpectedly; its sessions were killed with it", file=sys.stderr)
        loop.stop()

    monitor.gone = gone
    for each in monitor.spawners.values() if not monitor.failed else []:
        # of one that failed, its spawner has told, or is about to, why it will not be needed
        each.serve(loop, monitor.sessions.exited, gone)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.on_signal(number, loop.stop)
    loop.on_signal(signal.SIGHUP, monitor.reload_or_say if monitor.config else loop.stop)
    if monitor.config:
        monitor.watch()
    loop.run()
    _end(monitor, sweep=bool(lost or monitor.failed))
    return 1 if lost else 0


def _end(monitor: Monitor, *, sweep: bool) -> None:
    """Leave nothing; `sweep`: also of a spawner that may have been killed."""
    for each in monitor.spawners.values():
        each.close()
    monitor.sessions.egress.close()
    monitor.sessions.watchers.close()
    for peer in monitor.peers:
        # who waits for the end of this process may wait for theirs
        peer.socket.close()
    hierarchy, deadline = cgroup.probe(), time.monotonic() + 1
    while sweep and hierarchy.sweep() and time.monotonic() < deadline:
        # the kernel is still ending what is in the groups of a spawner that was killed
        time.sleep(0.01)


def personal(spawner: Spawner, proxy: int, config: int, secrets: int) -> int:
    """The monitor of one typed command: its one peer is on `proxy`, the planner's answer on `config`.

    On `secrets` answers whoever reads them.
    """
    loop = Loop()
    monitor = Monitor(loop, spawner, None, secrets)
    try:
        planned, sealed = planning.read(socket.socket(fileno=config))
        spawner.greet()
        # of a registry, its file comes first
        monitor.config = next(iter(dict(planned.watched)), None)
        monitor.adopt(planned, sealed)
    except SupervisorError as error:
        monitor.failed = error
    monitor.accept(socket.socket(fileno=proxy), admin=False)
    return _serve(monitor, loop)


def daemon(
    config: str, everybody: socket.socket, owner: socket.socket, secrets: int, keeper: socket.socket | None
) -> int:
    """The monitor of a host. `everybody` whom the registry names connects to one, its `owner` to the other.

    Whoever starts it has bound them, and listens; on `secrets` answers who reads those, and `keeper` keeps the log.
    """
    # a connection costs us a descriptor, and a session costs the spawner two
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop, spawner = Loop(), Spawner()
    monitor = Monitor(loop, spawner, os.path.abspath(config), secrets, Record(loop, keeper))
    try:
        spawner.greet()
        monitor.adopt(*planning.ask({"catalog": monitor.config}))
    except SupervisorError:
        _end(monitor, sweep=True)
        raise
    _accept(monitor, everybody, admin=False)
    _accept(monitor, owner, admin=True)
    said = f"supervisor: {len(monitor.servers)} servers, listening in {os.path.dirname(owner.getsockname())}"
    # from the loop: whoever hears it may send a signal at once
    loop.later(0, lambda: print(said, file=sys.stderr, flush=True))
    return _serve(monitor, loop)


def _accept(monitor: Monitor, sock: socket.socket, *, admin: bool) -> None:
    sock.setblocking(False)

    def ready() -> None:
        try:
            connection, _ = sock.accept()
        except OSError:
            return  # it is gone again, or we are out of descriptors until somebody else is
        monitor.accept(connection, admin=admin)

    monitor.loop.watch(sock.fileno(), ready)
