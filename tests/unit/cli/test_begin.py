"""Ctrl-C at any moment of a command's start: it ends quietly, whatever is being imported."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# the command as it is installed, and a Ctrl-C at the moment when it asks for the module {name}
PROGRAM = """
import importlib.metadata, os, signal, sys
signal.signal(signal.SIGINT, {before})
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}: os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
entry, = importlib.metadata.entry_points(group="console_scripts", name="supervisor")
entry.load()()
"""


def typed(name: str, before: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(name=name, before=before)
    argv = [sys.executable, "-c", program, "profile", "list"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("supervisor.cli.main", -signal.SIGINT),
        ("supervisor.errors", -signal.SIGINT),
        ("supervisor.cli.options", 130),
        ("supervisor.cli.inspect", 130),
    ],
)
def test_an_interrupt_while_modules_are_imported_ends_the_command_quietly(name: str, status: int) -> None:
    done = typed(name, "signal.default_int_handler")
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    done = typed("supervisor.cli.main", "signal.SIG_IGN")
    assert (done.returncode, done.stderr) == (0, "")
    assert "fs-readonly" in done.stdout
