"""One session as the spawner holds it."""

from __future__ import annotations

import fcntl
import os
import resource
from typing import cast

import pytest

from supervisor import wire
from supervisor.sandbox import session
from supervisor.sandbox.cgroup import Group
from supervisor.sandbox.session import Child, Loaded, StepError

HIGH = 1500


def test_the_report_of_the_thousandth_session_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """select(2) takes no descriptor above 1023: that was the end of everybody's sessions."""
    monkeypatch.setattr(session, "_PATIENCE", 0.01)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HIGH + 10), hard))
    read, write = os.pipe()
    high = fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, HIGH)
    ours, theirs = wire.pair()
    try:
        plan, group = cast("Loaded", None), cast("Group", None)
        child = Child(plan, 0, -1, status=high, group=group, go=ours, pipes=[])
        with pytest.raises(StepError, match="nothing heard of it"):
            child.report(1)
        os.write(write, b"ok")
        assert child.report(2) == b"ok"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in (read, write, high):
            os.close(fd)
        ours.close()
        theirs.close()
