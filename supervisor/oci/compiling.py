"""What the Python of an image runs in the sandbox: sources by name on standard input, byte code on standard output.

Runs inside only, as the session's uid, by whatever version the image has; it sees the image's tree read-only. The
answer is a line with the tag of that version, then for each source the length of its .pyc and the .pyc. Nothing of
where the tree lies is in it: code is said to be from where its source is in the image.
"""

from __future__ import annotations

import marshal
import sys
from importlib.util import MAGIC_NUMBER, source_hash

# PEP 552: by the hash of its source, which nobody compares at start, because an image cannot change
UNCHECKED = b"\1\0\0\0"


def main() -> None:
    """Compile what is named, one after the other; the first that cannot be is named on standard error."""
    root, out = sys.argv[1], sys.stdout.buffer
    out.write(f"{sys.implementation.cache_tag}\n".encode())
    for name in sys.stdin.read().splitlines():
        with open(f"{root}/{name}", "rb") as file:
            source = file.read()
        try:
            code = compile(source, f"/{name}", "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError) as error:
            sys.exit(f"{name}: {error}")
        made = MAGIC_NUMBER + UNCHECKED + source_hash(source) + marshal.dumps(code)
        out.write(len(made).to_bytes(4, "big") + made)


if __name__ == "__main__":
    main()
