"""Fixtures of the integration tests: the callers, the real servers, and a page of the host's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.escape.arena import MODES, Arena, make_arena
from tests.integration.caller import Caller
from tests.integration.install_servers import default_folder, install


@pytest.fixture(scope="session")
def arena() -> Iterator[Arena]:
    """An ordinary user beside root; only root can make one."""
    if os.geteuid() != 0:
        pytest.skip("these tests make a user: run them as root")
    with ExitStack() as stack:
        yield make_arena(stack)


@pytest.fixture(params=MODES)
def caller(request: pytest.FixtureRequest, arena: Arena) -> Caller:
    """Root and the ordinary user, each with its folders as at the beginning."""
    made = Caller(arena, request.param)
    made.reset()
    return made


@pytest.fixture(scope="module")
def root(arena: Arena) -> Caller:
    """Root, with its folders as at the beginning of a file of tests."""
    made = Caller(arena, "root")
    made.reset()
    return made


@pytest.fixture(scope="session")
def servers() -> Path:
    """The folder with the real servers: `node_modules/`, and a virtual environment in `python/`."""
    return install(default_folder())


class Page(BaseHTTPRequestHandler):
    """A page that only the host's own programs can read."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a page of the host\n")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing on standard error."""


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """A listener on the host's loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listener.server_port}/"
        listener.shutdown()
        thread.join()
