"""The watch for what sessions leave behind sees each kind of it; otherwise the tests that use it prove nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.caller import Caller
from tests.integration.remains import descendants, nothing_left


def test_an_orphan_in_a_session_of_its_own_is_seen(caller: Caller) -> None:
    script = "setsid sleep 300 >/dev/null 2>&1 & echo $!"
    with pytest.raises(AssertionError, match="still running"), nothing_left(caller, patience=0):
        started = subprocess.run(
            caller.become(["/bin/sh", "-c", script]), capture_output=True, check=True, text=True
        )
    orphan = int(started.stdout)
    os.kill(orphan, signal.SIGKILL)
    os.waitpid(orphan, 0)
    assert orphan not in {pid for pid, _ in descendants()}


@pytest.mark.parametrize("folder", ["home", "shared"])
def test_a_file_is_seen(folder: str, caller: Caller) -> None:
    place = caller.plot.home if folder == "home" else Path("/var/tmp")
    path = place / f"supervisor-left-{os.getpid()}"
    try:
        with pytest.raises(AssertionError, match="left behind"), nothing_left(caller, patience=0):
            path.write_text("left\n", encoding="utf-8")
    finally:
        path.unlink()


def test_a_control_group_whose_spawner_is_gone_is_seen(caller: Caller) -> None:
    bases = [base for base in Path("/sys/fs/cgroup").glob("*/") if (base / "cgroup.procs").exists()]
    base = next((base for base in bases if os.access(base, os.W_OK)), None)
    if base is None:
        pytest.skip("no control group can be made here")
    path = base / f"supervisor-{os.getpid()}-0-1"
    try:
        with pytest.raises(AssertionError, match="control group"), nothing_left(caller, patience=0):
            path.mkdir()
    finally:
        with suppress(FileNotFoundError):  # any start of the product sweeps it
            path.rmdir()
