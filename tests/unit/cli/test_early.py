"""The planner of an `exec` that is started before its options are read: which, when not, and that nothing stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.cli import personal

SUPERVISOR = str(Path(sys.executable).parent / "supervisor")


@pytest.mark.parametrize(
    ("arguments", "program"),
    [(["exec", "--profile", "none"], "planner"), (["exec", "--image", "a@sha256:0"], "imaged")],
)
def test_it_is_the_one_that_the_options_will_ask_for(arguments: list[str], program: str) -> None:
    made = personal.early(arguments)
    assert made is not None
    made.drop()
    assert made.program == program
    with pytest.raises(ProcessLookupError):
        os.kill(made.pid, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made.question)


@pytest.mark.parametrize("flag", ["--secret", "--secret=A=env:B", "--sec"])
def test_nothing_is_started_while_a_secret_is_in_the_environment(flag: str) -> None:
    assert personal.early(["exec", flag, "A=env:B"]) is None


@pytest.mark.parametrize("arguments", [["--nonsense", "--", "true"], ["--profile", "none"], ["--", "true"], ["-h"]])
def test_what_cannot_be_run_leaves_no_process(arguments: list[str]) -> None:
    read, write = os.pipe()
    code = 0 if arguments == ["-h"] else 2
    done = subprocess.run([SUPERVISOR, "exec", *arguments], pass_fds=[write], capture_output=True, text=True)
    os.close(write)
    assert done.returncode == code
    # whoever still ran would hold the caller's descriptor open, and this would not end
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b""
