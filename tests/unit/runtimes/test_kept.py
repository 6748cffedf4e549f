"""A container's gate is found when it waits, and not while it still applies what is read back then."""

from __future__ import annotations

import os
import struct

from supervisor.runtimes import kept
from supervisor.sandbox import rights

# one instruction: allow
ALLOW = struct.pack("HBBI", 6, 0, 0, 0x7FFF0000)


def test_a_process_has_a_filter_of_its_own_when_it_has_loaded_one() -> None:
    asked, said = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(asked[0], 1)
            os.close(said[0])
            rights.load_seccomp(ALLOW)
            os.write(said[1], b".")
            os.read(asked[0], 1)
        finally:
            os._exit(0)
    os.close(said[1])
    assert not kept.has_filter(pid)
    os.write(asked[1], b".")
    assert os.read(said[0], 1) == b"."
    assert kept.has_filter(pid)
    os.write(asked[1], b".")
    os.waitpid(pid, 0)
    for fd in (*asked, said[0]):
        os.close(fd)
