"""Starts the conformance server by path, wherever its folder lies: in the checkout, in a copy, in a sandbox.

A sandbox shows this folder alone; the folders above it are then empty but for it, and that is enough to import it
under its full name.
"""

import sys
from pathlib import Path


def main() -> None:
    """Hand over to the server, which imports the SDK."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.conformance import server

    server.main(sys.argv[1:])


if __name__ == "__main__":
    main()
