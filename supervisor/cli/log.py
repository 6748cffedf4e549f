"""`--log json`: standard error goes through a process that makes records of it.

Runs as whoever typed it, before anything else is started: everything that is started later writes there as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

from supervisor.errors import SupervisorError


@contextlib.contextmanager
def records(form: str) -> Iterator[None]:
    """While this lasts, standard error is records in that form; "text" leaves it alone."""
    if form == "text":
        yield
        return
    before, pid = os.dup(2), _start()
    try:
        yield
    except SupervisorError as error:
        from supervisor.proxy import pump

        pump.note(str(error))
        raise SystemExit(error.exit_status) from None
    finally:
        os.dup2(before, 2)
        os.close(before)
        # whoever we started has ended by now: there is no other writer
        os.waitpid(pid, 0)


def _start() -> int:
    from supervisor.proxy import identity
    from supervisor.telemetry import log

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for each in (0, 1):
            os.dup2(null, each)
        os.close(write)
        status = 1
        with contextlib.suppress(SupervisorError, OSError):
            identity.drop()
            log.run(read, 2, time.time)
            status = 0
        os._exit(status)
    os.close(read)
    os.dup2(write, 2)
    os.close(write)
    return pid
