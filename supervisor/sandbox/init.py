"""The sandbox's pid 1: takes the steps, waits to be let go, starts the payload, reaps, and ends with it.

Runs in the sandbox, under the limits, Landlock rules and system call filter of the payload, which cannot see it.
Standard library only.
"""

from __future__ import annotations

import os
import signal

from supervisor.sandbox import enter, inside
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
    try:
        pid = inside.start(plan, ctx.env)
    except OSError as error:
        _fail(ctx.status, error, f"execute {plan.argv[0]} in {plan.cwd}")
    inside.reap(ctx.status, pid, plan)


def _fail(status: int, error: OSError, what: str) -> None:
    os.write(status, f"E{error.errno or 0} {what[:3000]}: {error.strerror}".encode())
    os._exit(1)
