"""Starts the awkward server by path, wherever its folder lies: a sandbox shows this folder alone."""

import sys
from pathlib import Path


def main() -> None:
    """Hand over to the server."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.awkward import server

    server.main(sys.argv[1:])


if __name__ == "__main__":
    main()
