"""Before anything is registered, every command about a registered server says so, and what makes a registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ASKED = {
    "list": ["list"],
    "show": ["show", "files"],
    "pin": ["pin", "files"],
    "approve": ["approve", "files"],
    "revoke": ["revoke", "files", "--reason", "x"],
    "remove": ["remove", "files"],
    "secrets": ["secrets", "list"],
    "run": ["run", "files"],
}


@pytest.mark.parametrize("command", ASKED)
def test_without_a_registry_a_command_says_so_and_what_makes_one(command: str, tmp_path: Path) -> None:
    missing = tmp_path / "servers.toml"
    argv = [str(Path(sys.executable).parent / "supervisor"), *ASKED[command], "--config", str(missing)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr == f"supervisor: {missing}: there is no registry yet; supervisor add makes one\n"
    assert list(tmp_path.iterdir()) == []
