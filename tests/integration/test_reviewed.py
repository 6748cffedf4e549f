"""Approving in person: what an approval does not bind is said first, and what changes meanwhile is not approved."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.registry.approvals import NAME
from tests.integration.audited import SERVER
from tests.integration.caller import SECONDS, Caller
from tests.integration.gateway import Entry, Gateway, give


@pytest.fixture
def desk(caller: Caller) -> Iterator[Gateway]:
    """A registry where everything has to be approved, with a server that starts by a name that is looked up."""
    folder = caller.project / "reviewed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(SERVER, folder / "server.py")
    give(caller, folder)
    start = f"exec python3 -I -S {folder}/server.py"
    made = Gateway(caller, [Entry("it", ("/usr/bin/sh", "-c", start), ro=(str(folder),))], "reviewing")
    made.write()
    made.config.write_text("[approvals]\nrequired = true\n" + made.config.read_text())
    yield made
    shutil.rmtree(made.folder)


@pytest.mark.parametrize("caller", ["user"], indirect=True)
def test_what_no_approval_binds_is_said_before_the_question(desk: Gateway) -> None:
    done = desk.caller.finish(desk.caller.command("pin", "it", "--config", desk.config, "--yes", "-q"))
    assert done.returncode == 0, done.stderr
    assert "ATTENTION it would run what no approval binds: /usr/bin/sh -c exec python3" in done.stdout
    assert done.stdout.index("ATTENTION it would") < done.stdout.index("pinned in")
    assert "approved as " in done.stderr


@pytest.mark.parametrize("caller", ["user"], indirect=True)
def test_what_changes_while_it_is_reviewed_is_not_approved(desk: Gateway) -> None:
    ours, theirs = pty.openpty()
    argv = desk.caller.become(desk.caller.command("pin", "it", "--config", desk.config, "-q"))
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=desk.caller.environment
    )
    try:
        said = b""
        assert process.stdout
        while b"[y/N]" not in said:
            assert select.select([process.stdout], [], [], SECONDS)[0], said
            said += os.read(process.stdout.fileno(), 1 << 16)
        text = desk.config.read_text()
        desk.config.write_text(text.replace('profile = "none"', 'profile = "none"\nenv = { MORE = "1" }', 1))
        os.write(ours, b"y\n")
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (process.returncode, b"has changed while it was reviewed" in errors) == (1, True), errors
    decided = desk.folder / NAME
    assert not decided.exists() or "approve" not in [json.loads(each)["req"] for each in lines(decided)]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
