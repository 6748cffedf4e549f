"""What strangers wrote, on a terminal: no command of ours lets it do anything there but be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPERVISOR = Path(sys.executable).with_name("supervisor")
EVIL = "\x1b[2J\x1b]0;approved\x07\x9b\u202e\u2028"
SERVER = {"mcpServers": {"evil": {"command": "/usr/bin/cat", "args": ["${" + EVIL + "}"]}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = json.dumps(EVIL)
    (tmp_path / "servers.toml").write_text(
        f'[approvals]\nrequired = true\n[server.a]\nprofile = "none"\nsummary = {text}\n'
        f'command = ["/usr/bin/sh", "-c", {text}]\n'
    )
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched" / "mcp.json").write_text(json.dumps(SERVER))
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "list",
        "pending",
        "show a",
        "discover --source {folder}/watched",
        "discover --source {folder}/watched --request evil",
    ],
)
def test_a_terminal_gets_nothing_to_obey(folder: Path, words: str) -> None:
    command = [str(SUPERVISOR), *words.format(folder=folder).split(), "--config", f"{folder}/servers.toml"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"XDG_STATE_HOME": str(folder)}
    )
    said = done.stdout + done.stderr
    assert "\\x1b[2J\\x1b]0;approved\\x07" in said
    assert [each for each in said if not each.isprintable() and each != "\n"] == []
