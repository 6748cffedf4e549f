"""`serve --http`: what has to be opened and started before privileges are given up, and the serving itself.

Runs first as whoever typed it, then as the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
from typing import TYPE_CHECKING

from supervisor.errors import ConfigError

if TYPE_CHECKING:
    from supervisor.cli.child import Child
    from supervisor.proxy.authority import Authority
    from supervisor.proxy.gateway import Gateway
    from supervisor.proxy.http import Anybody


class Endpoint:
    """Sockets that listen, and the authenticator if there is a file for it. ConfigError for what must not be."""

    def __init__(self, options: argparse.Namespace) -> None:
        # what is imported now need not be opened later
        from supervisor.proxy import authority, http, http_server, status  # noqa: F401
        from supervisor.telemetry import metrics  # noqa: F401

        self._options = options
        # a thousand connections, and three streams for each process of a server
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        sockets = [http_server.bind(each) for each in options.http]
        self._open = [
            address for address, sock in zip(options.http, sockets, strict=True) if not http_server.is_local(sock)
        ]
        if self._open and not options.auth:
            raise ConfigError(
                f"--http {self._open[0]}: others than this machine would reach it, without authentication; "
                "say who may with --auth FILE, or listen on 127.0.0.1 or on unix:PATH"
            )
        self._authenticator = self._start() if options.auth else None
        self._server = http_server.Prepared(sockets)

    def _start(self) -> Child:
        from supervisor.cli import auth

        return auth.start(self._options.auth)

    def close(self) -> None:
        """Take the authenticator down."""
        if self._authenticator:
            self._authenticator.close()

    async def serve(self, gateway: Gateway) -> int:
        """Until a signal, or the end of somebody that we cannot be without; the exit status."""
        from supervisor.proxy import pump, status
        from supervisor.proxy.http import Front
        from supervisor.proxy.http_headers import Visitors
        from supervisor.telemetry.metrics import CONTENT_TYPE, Metrics

        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        metrics = Metrics(lambda: status.looks(gateway), lambda: len(gateway.conversations))
        gateway.meter = metrics
        authority = self._authority(ended)
        visitors = Visitors(self._hosts(), tuple(self._options.allow_origin))
        front = Front(gateway, authority, visitors, {"/metrics": (CONTENT_TYPE, metrics.page)})
        gateway.spawn(front.watch())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, ended.set)
        gateway.channel.gone = ended.set
        serving = asyncio.create_task(self._server.serve(front))
        if not self._options.quiet:
            pump.note("listening on " + ", ".join(self._options.http))
        for address in self._open:
            pump.note(f"{address} is not encrypted: put a proxy that speaks TLS before it, or tokens can be read")
        await asyncio.wait({serving, asyncio.create_task(ended.wait())}, return_when=asyncio.FIRST_COMPLETED)
        front.close()
        await gateway.close()
        self._server.stop()
        await serving
        return 1 if gateway.channel.broken or authority.ended else 0

    def _authority(self, ended: asyncio.Event) -> Authority | Anybody:
        from supervisor.proxy.authority import Authority
        from supervisor.proxy.http import Anybody

        if self._authenticator is None:
            return Anybody()
        made = Authority(self._authenticator.socket, self._authenticator.ready)
        made.gone = ended.set
        made.start()
        return made

    def _hosts(self) -> tuple[str, ...]:
        """The names that a request may ask for: those given, and the one in the resource's URL."""
        resource = self._authenticator.ready["resource"] if self._authenticator else None
        own = (str(resource).partition("://")[2].partition("/")[0].partition(":")[0],) if resource else ()
        return (*self._options.allow_host, *own)
