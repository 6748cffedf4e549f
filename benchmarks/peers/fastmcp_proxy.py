"""A peer: fastmcp's proxy. Runs in an environment of its own, since it has other dependencies than we."""

from __future__ import annotations

import sys

from fastmcp import Client  # type: ignore[import-not-found, unused-ignore]
from fastmcp.client.transports import StdioTransport  # type: ignore[import-not-found, unused-ignore]
from fastmcp.server import create_proxy  # type: ignore[import-not-found, unused-ignore]

create_proxy(Client(StdioTransport(command=sys.argv[1], args=[]))).run(show_banner=False)
