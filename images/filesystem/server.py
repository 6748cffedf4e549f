"""Reference MCP server over stdio: reads the folders named on its command line, and nothing else.

Runs as the session's unprivileged uid inside the sandbox, as `python -I server.py FOLDER...`.
It must never write, start a program, open a socket, or follow a path out of its folders; the
sandbox is the boundary that holds if it tries.

This file only arranges imports, because start-up time is what the first caller waits for.
"""

import gc
import importlib
import sys
from importlib.machinery import PathFinder
from os.path import abspath, dirname
from types import ModuleType

PACKAGE = "filesystem_server"
HERE = dirname(abspath(__file__))


def load(name: str) -> ModuleType:
    """Import a module that lies beside this file.

    `python -I` leaves this folder out of `sys.path`. Putting it back would let a file dropped here
    replace a module of the standard library, so the folder becomes a package of its own instead.
    """
    if PACKAGE not in sys.modules:
        _shell(PACKAGE, [HERE])
    return importlib.import_module(f"{PACKAGE}.{name}")


def skip_sdk_front() -> None:
    """Import submodules of `mcp` without running its two `__init__` files.

    Those re-export the whole SDK (client, OAuth, httpx2, the decorator framework), none of which a
    stdio server uses: a fifth of the start-up time and 12 MB.
    """
    path = None
    for name in ("mcp", "mcp.server"):
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError(
                f"the filesystem server needs the package {name!r}: pip install 'mcp>=2.3,<3'"
            )
        path = list(spec.submodule_search_locations)
        _shell(name, path)


def _shell(name: str, path: list[str]) -> None:
    package = ModuleType(name)
    package.__path__ = path
    sys.modules[name] = package


def main() -> int:
    """Serve until stdin ends; 0 then, 2 for a wrong command line."""
    gc.disable()  # thousands of classes are about to be made and none dropped: a tenth of the time
    skip_sdk_front()
    protocol = load("protocol")
    gc.freeze()
    gc.enable()
    return int(protocol.main(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
