"""A registry on loopback that serves an image, and lies where a test tells it to."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from supervisor.oci import manifest
from supervisor.oci.client import Client
from supervisor.oci.reference import digest_of
from tests.unit.oci import making


@dataclass
class Reply:
    """What goes back; `cut` bytes of the body are promised and not sent."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0


Answer = Callable[[http.server.BaseHTTPRequestHandler, int], Reply]


@dataclass
class Registry:
    """`lies` maps a path to what is answered there, given the request and how often it was asked before."""

    made: making.Image
    lies: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0
    clients: list[Client] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        return f"{self.host}/team/server"

    def reply(self, request: http.server.BaseHTTPRequestHandler) -> Reply:
        path = request.path.partition("?")[0].removeprefix("/v2/team/server/")
        before = sum(1 for each, _ in self.asked if each == path)
        self.asked.append((path, {key.lower(): value for key, value in request.headers.items()}))
        if path in self.lies:
            return self.lies[path](request, before)
        return self.honest(path)

    def honest(self, path: str) -> Reply:
        kind, _, name = path.partition("/")
        blobs = {digest_of(each): each for each in (*self.made.layers, *self.made.documents.values())}
        if kind == "manifests" and name in ("1.0", self.made.digest):
            return Reply(body=self.made.data, headers={"Content-Type": manifest.OCI_MANIFEST})
        if kind == "blobs" and name in blobs:
            return Reply(body=blobs[name])
        return Reply(404, b'{"errors":[]}')


@contextmanager
def serve(made: making.Image, lies: dict[str, Answer] | None = None) -> Iterator[Registry]:
    """The registry, until the end of the block."""
    registry = Registry(made, lies or {})

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = registry.reply(self)
            self.send_response(reply.status)
            if "Transfer-Encoding" not in reply.headers:
                self.send_header("Content-Length", str(len(reply.body) + reply.cut))
            for key, value in reply.headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(reply.body)
            self.close_connection = self.close_connection or bool(reply.cut)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that was killed; whoever killed it knows."""

    with Server(("127.0.0.1", 0), Handler) as server:
        registry.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield registry
        finally:
            for client in registry.clients:
                client.close()
            server.shutdown()
            thread.join()
