"""Where secrets come from: each wrong thing is named with its place and the next step, and never with a value."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.secrets import reader
from supervisor.secrets.source import LIMIT, Source

CANARY = "canary-1234567890"
OWNERS = (0, os.geteuid())


def source(to: str = "env", **wanted: object) -> Source:
    return Source({"name": "T", "to": to, "origin": "servers.toml:7", **wanted}, {"VARIABLE": CANARY}, OWNERS)


def written(path: Path, data: bytes, mode: int = 0o600) -> str:
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def problem(made: Source) -> str:
    with pytest.raises(ConfigError) as caught:
        made.value()
    said = str(caught.value)
    assert said.startswith('servers.toml:7: secret "T": ')
    assert CANARY not in said
    return said


def test_each_source_gives_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "t", CANARY.encode() + b"\r\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    printing = ["/bin/sh", "-c", f"echo {CANARY}; echo noise >&2"]
    for made in (source(file=path), source(env="VARIABLE"), source(credential="t"), source(command=printing)):
        assert made.value() == CANARY
    assert source("file", file=path).value() == CANARY + "\r\n", "a file is given as it is"


def test_bytes_that_are_no_text_come_out_as_they_went_in(tmp_path: Path) -> None:
    path = written(tmp_path / "t", bytes(range(256)))
    assert source("file", file=path).value().encode("utf-8", "surrogateescape") == bytes(range(256))


def test_files_that_cannot_be_secrets_are_refused(tmp_path: Path) -> None:
    assert "no such file or directory: make it" in problem(source(file=str(tmp_path / "gone")))
    assert "is not a regular file" in problem(source(file=str(tmp_path)))
    assert "(mode 640): chmod 600" in problem(source(file=written(tmp_path / "t", CANARY.encode(), 0o640)))
    assert "(mode 604): chmod 600" in problem(source(file=written(tmp_path / "t", CANARY.encode(), 0o604)))
    assert "is empty" in problem(source(file=written(tmp_path / "t", b"\n")))
    assert "longer than 64 KiB" in problem(source(file=written(tmp_path / "t", CANARY.encode() * (LIMIT // 8))))
    (tmp_path / "link").symlink_to(written(tmp_path / "t", CANARY.encode()))
    assert f"leads through a symbolic link: write {tmp_path}/t" in problem(source(file=str(tmp_path / "link")))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert "is not a regular file" in problem(source(file=str(fifo)))
    wanted = {"name": "T", "to": "env", "origin": "servers.toml:7", "file": written(tmp_path / "theirs", b"x")}
    stranger = Source(wanted, {}, (4711,))
    assert f"belongs to uid {os.geteuid()}: chown it" in problem(stranger)


def test_a_command_that_fails_is_told_by_its_status_alone() -> None:
    failing = source(command=["/bin/sh", "-c", f"echo {CANARY}; echo {CANARY} >&2; exit 3"])
    assert "the command failed (exit status 3); run it yourself to see why: /bin/sh" in problem(failing)
    assert "/no/such: no such file" in problem(source(command=["/no/such", CANARY]))
    assert "longer than 64 KiB" in problem(source(command=["/usr/bin/yes", CANARY]))
    assert "what the command printed is empty" in problem(source(command=["/usr/bin/true"]))


def test_a_command_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.secrets.source._SECONDS", 0.2)
    assert "signal 9" in problem(source(command=["/bin/sh", "-c", "sleep 60 & wait"]))


def test_what_is_not_there_is_named_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "variable GONE was not set when the supervisor was started" in problem(source(env="GONE"))
    assert "LoadCredential=t:PATH" in problem(source(credential="t"))


def test_a_value_that_its_target_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t", b"one\ntwo")
    assert "visible ASCII characters on one line" in problem(source("header", file=path))
    assert 'take to = "file"' in problem(source(file=written(tmp_path / "t", b"a\0b")))


def test_a_keyring_is_asked_for_its_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    assert "the keyring, asked for service/user, failed (exit status 3)" in problem(source(keyring="service/user"))
    monkeypatch.setattr(sys, "executable", written(tmp_path / "python", b"#!/bin/sh\nexit 1\n", 0o700))
    assert "pip install 'mcp-sandbox-supervisor[keyring]'" in problem(source(keyring="service/user"))


def test_a_bundle_cannot_be_changed_any_more() -> None:
    fd = reader.sealed({"a": CANARY})
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 1)
    assert json.loads(os.read(fd, 4096)) == {"a": CANARY}
    os.close(fd)
