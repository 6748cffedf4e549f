"""Which host paths may be granted, and where they may appear inside."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.model import Mount
from supervisor.profile import granted, sources


def source(written: str | Path, folder: Path, *, relative: bool = True, home: str = "/nonexistent") -> str:
    return sources.source(str(written), "--ro", cwd=str(folder), home=home, relative=relative)[0]


def test_a_folder_and_a_file_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = {"cwd": "/", "home": "/nonexistent", "relative": False}
    assert sources.source(str(tmp_path), "x", **options) == (str(tmp_path), False)  # type: ignore[arg-type]
    assert sources.source(f"{tmp_path}/file", "x", **options) == (f"{tmp_path}/file", True)  # type: ignore[arg-type]


def test_a_relative_path_is_meant_from_the_working_directory_in_personal_mode_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert source("a", tmp_path) == str(tmp_path / "a")
    assert source(".", tmp_path) == str(tmp_path)
    with pytest.raises(ConfigError, match="is relative"):
        source("a", tmp_path, relative=False)


def test_a_link_anywhere_on_the_way_is_refused_and_its_target_named(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    for written in ("link", "link/sub"):
        with pytest.raises(Refused, match=f'"{tmp_path}/real'):
            source(written, tmp_path)


def test_what_does_not_exist_or_is_no_folder_or_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        source("missing", tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        for name in ("pipe", "sock"):
            with pytest.raises(ConfigError, match="neither a folder nor a regular file"):
                source(name, tmp_path)


@pytest.mark.parametrize("path", ["/", "/proc", "/proc/self", "/sys", "/sys/fs", "/dev", "/dev/null", "/root"])
def test_the_host_as_a_whole_its_kernel_and_whole_homes_are_never_granted(path: str, tmp_path: Path) -> None:
    with pytest.raises((Refused, ConfigError)):
        source(path, tmp_path)


def test_the_caller_s_home_and_what_contains_it_are_refused_but_not_a_folder_in_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "notes").mkdir(parents=True)
    for path in (home, tmp_path):
        with pytest.raises(Refused, match="whole home"):
            source(path, tmp_path, home=str(home))
    assert source(home / "notes", tmp_path, home=str(home)) == str(home / "notes")


@pytest.mark.parametrize("path", ["/", "/usr", "/usr/x", "/bin", "/proc", "/dev/x", "/etc", "/tmp", "/etc/passwd"])
def test_a_target_that_is_the_sandbox_s_own_is_refused(path: str) -> None:
    with pytest.raises(Refused, match="SRC:DST"):
        sources.target(path, "--ro")


@pytest.mark.parametrize("path", ["data", "", "/a/../b", "/a/./b", "/a\0b"])
def test_a_target_is_an_absolute_normal_path(path: str) -> None:
    with pytest.raises(ConfigError):
        sources.target(path, "--ro")


@pytest.mark.parametrize("path", ["/data", "/tmp/x", "/home/u/notes", "/etc/alternatives"])
def test_other_targets_are_free(path: str) -> None:
    assert sources.target(path, "--ro") == path


def test_the_same_folder_twice_keeps_the_wider_grant() -> None:
    narrow = Mount(source="/a", target="/b", mode="ro", noexec=True)
    wide = Mount(source="/a", target="/b", mode="rw", noexec=False)
    for pair in ((narrow, wide), (wide, narrow)):
        mounts = sources.merge(sources.merge([], pair[0], "x"), pair[1], "x")
        assert [(each.mode, each.noexec) for each in mounts] == [("rw", False)]


def test_two_folders_at_one_place_are_an_error() -> None:
    first = sources.merge([], Mount(source="/a", target="/b"), "x")
    with pytest.raises(ConfigError, match="SRC:DST"):
        sources.merge(first, Mount(source="/c", target="/b"), "x")


@pytest.mark.parametrize(
    ("path", "folder", "inside"),
    [("/a", "/a", True), ("/a/b", "/a", True), ("/ab", "/a", False), ("/a", "/", True), ("/", "/a", False)],
)
def test_below_goes_by_whole_names(path: str, folder: str, *, inside: bool) -> None:
    assert granted.below(path, folder) is inside
