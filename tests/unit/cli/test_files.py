"""Files that commands rewrite: whole or not at all, one command at a time, with the mode that they had."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from supervisor.cli import files
from supervisor.errors import SupervisorError


def test_a_new_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.replace(str(path), b"x", before=None)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"x", 0o600)
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_keeps_its_mode_and_gets_a_time_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    path.chmod(0o644)
    os.utime(path, (0, 0))
    files.replace(str(path), b"y", before=b"x")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"y", 0o644)
    assert path.stat().st_mtime > 1e9


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    os.chown(path, 12345, 54321)
    path.chmod(0o4750)
    files.replace(str(path), b"y", before=b"x")
    info = path.stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (12345, 54321, 0o4750)


@pytest.mark.parametrize(("before", "there"), [(None, b"x"), (b"x", b"y"), (b"x", None)])
def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(
    before: bytes | None, there: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    if there is not None:
        path.write_bytes(there)
    with pytest.raises((SupervisorError, FileNotFoundError)):
        files.replace(str(path), b"z", before=before)
    assert (path.read_bytes() if there is not None else None) == there
    assert os.listdir(tmp_path) == (["a"] if there is not None else [])


def test_what_a_command_left_that_was_killed_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a"
    (tmp_path / f"a{files.NEW}").symlink_to(tmp_path / "elsewhere")
    files.replace(str(path), b"x", before=None)
    assert os.listdir(tmp_path) == ["a"]


def test_two_commands_take_turns(tmp_path: Path) -> None:
    entered, order = threading.Event(), []

    def second() -> None:
        entered.set()
        with files.locked(str(tmp_path)):
            order.append("second")

    thread = threading.Thread(target=second)
    with files.locked(str(tmp_path)):
        thread.start()
        assert entered.wait(10)
        thread.join(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_folder_that_nothing_came_into_is_gone_again(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with files.locked(str(folder)):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    with files.locked(str(folder)):
        (folder / "a").write_text("x")
    assert folder.exists()
