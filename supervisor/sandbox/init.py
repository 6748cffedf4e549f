"""The sandbox's pid 1: takes the steps, waits to be let go, starts the payload, reaps, and ends with it.

Runs in the sandbox, under the limits, Landlock rules and system call filter of the payload, which cannot see it.
Standard library only.
"""

from __future__ import annotations

import os
import signal

from supervisor.sandbox import enter
from supervisor.sandbox import syscalls as sc
from supervisor.sandbox.session import Loaded


def child(plan: Loaded, ctx: enter.Context) -> None:
    """The whole life of a sandbox's pid 1. Whatever happens, it never returns to the spawner's code."""
    try:
        _run(plan, ctx)
    finally:
        os._exit(1)


def _run(plan: Loaded, ctx: enter.Context) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, plan.signals)
    for step in plan.steps:
        try:
            step.execute(ctx)
        except OSError as error:
            _fail(ctx.status, error, step.what)
    os.write(ctx.status, b"P")
    # parked until what the kernel applied has been read back; end of file: it was not what was asked for
    if os.read(ctx.go.fileno(), 2) != b"go":
        return
    # not earlier: a monitor without root could not have read it; from now on nobody inside can
    sc.prctl(sc.PR_SET_DUMPABLE, 0, 0, 0, 0)
    program = plan.argv[0]
    if "/" not in program:  # of an image: its own PATH says where
        found = (f"{folder}/{program}" for folder in plan.env["PATH"].split(":"))
        program = next((each for each in found if os.access(each, os.X_OK)), program)
    try:
        os.chdir(plan.cwd)
        pid = os.posix_spawn(program, plan.argv, plan.env, setsigmask=[], setsigdef=plan.signals)
    except OSError as error:
        _fail(ctx.status, error, f"execute {program} in {plan.cwd}")
    os.write(ctx.status, b"R")
    sc.close_range(0, ctx.status - 1, 0)
    sc.close_range(ctx.status + 1, 0x7FFFFFFF, 0)
    _init(ctx.status, pid, plan.signals)


def _fail(status: int, error: OSError, what: str) -> None:
    os.write(status, f"E{error.errno or 0} {what[:3000]}: {error.strerror}".encode())
    os._exit(1)


def _init(status: int, payload: int, signals: set[signal.Signals]) -> None:
    """Reap, pass signals on, and end with the payload: the kernel kills whatever is left."""
    while True:
        number = signal.sigwait(signals)
        if number != signal.SIGCHLD:
            try:
                os.kill(payload, number)
            except ProcessLookupError:
                continue
            continue
        while True:
            pid, code = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == payload:
                os.write(status, b"X%d" % os.waitstatus_to_exitcode(code))
                os._exit(0)
