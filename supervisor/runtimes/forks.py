"""What a process that must stay as it is has a fork of it do: enter a namespace, read a secret.

Runs in an engine's keeper and in gVisor's spawner, with their identity. Standard library only.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable

# seconds: a stranger's payload, or its engine, may not read what it is told
_PATIENCE = 20.0


def forked(what: Callable[[], None]) -> None:
    """Do it in a fork, and wait for that, within a bound; OSError with what the kernel said there."""
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
    pidfd = os.pidfd_open(pid)
    poll = select.poll()  # select(2) takes no descriptor above 1023
    poll.register(pidfd, select.POLLIN)
    if late := not poll.poll(_PATIENCE * 1000):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code := errno.ETIMEDOUT if late else abs(status):
        raise OSError(code, os.strerror(code))
