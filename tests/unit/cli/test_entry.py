"""Whose servers a command means: the daemon's, or those of a registry file."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from supervisor.cli import entry
from supervisor.errors import ConfigError


def test_a_daemon_is_asked_where_one_is_named_or_is_there_and_no_registry_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "runtime_folder", lambda options: options.runtime_dir or str(tmp_path))

    def asked(runtime_dir: str | None = None, config: str | None = None, *, personal: bool = False) -> str | None:
        return entry.daemon(Namespace(runtime_dir=runtime_dir, config=config, personal=personal))

    assert asked() is None
    assert asked("/other") == "/other"
    (tmp_path / "proxy.sock").touch()
    assert asked() == str(tmp_path)
    assert asked(config="servers.toml") is None
    assert asked(personal=True) is None
    with pytest.raises(ConfigError, match="do not go together"):
        asked("/other", personal=True)
