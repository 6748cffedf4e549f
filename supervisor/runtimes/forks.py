"""What a process that must stay as it is has a fork of it do: enter a namespace, read a secret.

Runs in an engine's keeper and in gVisor's spawner, with their identity. Standard library only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable


def forked(what: Callable[[], None]) -> None:
    """Do it in a fork, and wait for that; OSError with what the kernel said there."""
    pid = os.fork()
    if pid == 0:
        status = errno.EPROTO
        try:
            what()
            status = 0
        except OSError as error:
            status = error.errno or status
        finally:
            os._exit(status)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OSError(abs(code), os.strerror(abs(code)))
