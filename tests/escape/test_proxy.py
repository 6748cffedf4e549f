"""A taken-over proxy: what the process that carries strangers' bytes can still do once it has given up its power.

The program is the proxy itself up to its first byte, and then hostile. As control it does the same without
`identity.drop`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.sandbox import syscalls
from tests.escape.arena import CHECKOUT, Arena

PROGRAM = """
import json, os, signal, socket, sys
sys.path.insert(0, sys.argv[1])
from supervisor.proxy import identity
key, drop = sys.argv[2], sys.argv[3] == "drop"
# another program of the same user
reader, writer = os.pipe()  # it ends with us, at the end of its input
other = os.posix_spawn("/usr/bin/cat", ["cat"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)])
if drop:
    identity.drop()
def tries(action):
    try:
        action()
    except OSError as error:
        return error.strerror
    return "CROSSED"
def status(name):
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(name))
print(json.dumps({
    "read a key": tries(lambda: open(key).close()),
    "read a public file": tries(lambda: open("/etc/hostname").close()),
    "list a folder": tries(lambda: os.listdir("/")),
    "write a file": tries(lambda: open("/tmp/svtest-proxy", "w").close()),
    "run a program": tries(lambda: os.execv("/bin/true", ["true"]) if drop else None),
    "read the environment of another program": tries(lambda: open(f"/proc/{other}/environ").close()),
    "signal another program": tries(lambda: os.kill(other, 0)),
}))
"""


@pytest.mark.parametrize("mode", ["root", "user"])
def test_a_proxy_that_was_taken_over_opens_no_file_and_starts_no_program(arena: Arena, mode: str) -> None:
    plot = arena.plots[mode]

    def said(drop: str) -> dict[str, str]:
        # modules are found by path: the interpreter of the tests may lie where this user cannot read
        python = "/usr/bin/python3"
        argv = [python, "-I", "-c", PROGRAM, str(CHECKOUT), str(plot.key), drop]
        done = arena.outside(argv, mode)
        assert done.stdout, done.stderr
        answer: dict[str, str] = json.loads(done.stdout)
        return answer

    try:
        assert set(said("keep").values()) == {"CROSSED"}
    finally:
        Path("/tmp/svtest-proxy").unlink(missing_ok=True)
    held = said("drop")
    if syscalls.landlock_abi() < 6:  # older kernels scope no signals
        del held["signal another program"]
    assert "CROSSED" not in held.values()
