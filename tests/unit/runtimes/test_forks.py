"""What a fork does for its process: its errors are told, and one that never ends is ended."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from supervisor.runtimes import forks


def test_what_the_kernel_said_in_a_fork_is_told() -> None:
    def fail() -> None:
        raise PermissionError(errno.EPERM, "no")

    forks.forked(lambda: None)
    with pytest.raises(PermissionError):
        forks.forked(fail)


def test_a_fork_that_waits_for_a_stranger_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, made = os.fork, list[int]()

    def forking() -> int:
        made.append(fork())
        return made[-1]

    monkeypatch.setattr(os, "fork", forking)
    monkeypatch.setattr(forks, "_PATIENCE", 0.05)
    with pytest.raises(TimeoutError):
        forks.forked(signal.pause)
    with pytest.raises(ChildProcessError):
        os.waitpid(made[0], os.WNOHANG)
