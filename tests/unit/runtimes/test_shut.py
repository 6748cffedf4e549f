"""What an engine lets everybody search is its owner's alone again, whoever ends meanwhile."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from supervisor.runtimes.shut import Shut


def modes(*folders: Path) -> list[int]:
    return [stat.S_IMODE(each.stat().st_mode) for each in folders]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a storage in it, and beside it what everybody may search."""
    made = tmp_path / "home"
    (made / "storage").mkdir(parents=True)
    (made / "public").mkdir()
    for path, mode in ((made, 0o700), (made / "storage", 0o750), (made / "public", 0o755)):
        path.chmod(mode)
    return made


def opened(*folders: Path) -> None:
    """As podman does it."""
    for each in folders:
        each.chmod(stat.S_IMODE(each.stat().st_mode) | 0o111)


def test_what_was_opened_is_shut_again_and_what_was_open_stays(home: Path) -> None:
    all_of_it, shut = (home, home / "storage", home / "public"), Shut()
    with shut.open(str(home / "public"), [str(home / "storage")]):
        opened(*all_of_it)
        assert modes(*all_of_it) == [0o711, 0o751, 0o755]
    assert modes(*all_of_it) == [0o700, 0o750, 0o755]


def test_another_process_that_had_looked_before_can_do_it_too(home: Path) -> None:
    shut = Shut()
    with shut.open(str(home), [str(home / "storage")]):
        pass
    pid = os.fork()
    if pid == 0:
        opened(home)
        os._exit(0)
    # and not for whatever another test has left to this process
    os.waitpid(pid, 0)
    assert modes(home) == [0o711]
    shut.again(str(home))
    assert modes(home) == [0o700]


def test_what_its_owner_has_changed_meanwhile_is_left_alone(home: Path) -> None:
    with Shut().open(str(home), [str(home / "storage")]):
        home.chmod(0o755)
    assert modes(home) == [0o755]


def test_an_engine_of_root_s_changes_nothing(home: Path) -> None:
    with Shut().open(str(home), []):
        opened(home)
    assert modes(home) == [0o711]
