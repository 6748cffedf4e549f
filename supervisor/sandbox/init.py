"""The sandbox's pid 1: takes the steps, waits to be let go, starts the payload, reaps, and ends with it.

Runs in the sandbox, under the limits, Landlock rules and system call filter of the payload, which cannot see it.
Standard library only.
"""

from __future__ import annotations

import os
import signal

from supervisor.sandbox import enter, inside
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
    # where a program of an image is, its own PATH says
    os.putenv("PATH", plan.env.get("PATH", ""))
    try:
        os.chdir(plan.cwd)
        env = plan.env | ctx.env
        pid = os.posix_spawnp(plan.argv[0], plan.argv, env, setsigmask=[], setsigdef=plan.signals)
    except OSError as error:
        _fail(ctx.status, error, f"execute {plan.argv[0]} in {plan.cwd}")
    os.write(ctx.status, b"R")
    sc.close_range(0, ctx.status - 1, 0)
    sc.close_range(ctx.status + 1, 0x7FFFFFFF, 0)
    inside.reap(ctx.status, pid, plan.signals)


def _fail(status: int, error: OSError, what: str) -> None:
    os.write(status, f"E{error.errno or 0} {what[:3000]}: {error.strerror}".encode())
    os._exit(1)
