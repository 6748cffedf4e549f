"""The filesystem server's paths: what is inside, what is refused, and how."""

from __future__ import annotations

import errno
import importlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from images.filesystem import answer, folders
    from tests.unit.images.conftest import Served
else:
    answer, folders = (importlib.import_module(f"filesystem_server.{name}") for name in ("answer", "folders"))


@pytest.mark.parametrize("path", ["..", "../secret", "a/../../secret", "/etc/passwd", "/", "../data-2/x"])
def test_a_path_outside_the_roots_is_refused_and_the_roots_are_named(server: Served, data: Path, path: str) -> None:
    (data.parent / "data-2").mkdir()
    (data.parent / "data-2" / "x").write_text("x")
    for tool in ("read_text_file", "read_media_file", "get_file_info", "list_directory", "directory_tree"):
        assert f"path is outside the allowed folders: {data}." in server.refused(tool, path=path)
    assert "outside the allowed" in server.refused("search_files", path=path, glob="*")


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "../missing"])
def test_a_link_that_leads_outside_is_refused(server: Served, data: Path, target: str) -> None:
    (data.parent / "secret").write_text("secret")
    (data / "link").symlink_to(target)
    assert "outside the allowed folders" in server.refused("read_text_file", path="link")


def test_a_link_that_stays_inside_is_followed(server: Served, data: Path) -> None:
    (data / "deep").mkdir()
    (data / "deep" / "a.txt").write_text("inside")
    (data / "relative").symlink_to("deep/a.txt")
    (data / "absolute").symlink_to(data / "deep")
    assert server.run("read_text_file", path="relative").text == "inside"
    assert server.run("read_text_file", path="absolute/a.txt").data["path"] == "deep/a.txt"
    assert server.run("read_text_file", path=str(data / "deep" / "a.txt")).text == "inside"


def test_a_component_swapped_for_a_link_after_the_check_is_not_followed(server: Served, data: Path) -> None:
    (data.parent / "outside").mkdir()
    (data.parent / "outside" / "a.txt").write_text("secret")
    (data / "folder").mkdir()
    (data / "folder" / "a.txt").write_text("fine")
    place = server.roots.find("folder/a.txt")
    (data / "folder").rename(data / "old")
    (data / "folder").symlink_to(data.parent / "outside")
    with pytest.raises(answer.ToolError, match="is not a directory"):
        server.roots.open_file(place)


def test_a_link_loop_is_an_error_and_not_a_hang(server: Served, data: Path) -> None:
    (data / "a").symlink_to("b")
    (data / "b").symlink_to("a")
    (data / "self").symlink_to(".")
    assert "leads back to itself" in server.refused("read_text_file", path="a")
    assert "is not a directory" in server.refused("list_directory", path="a/x")
    assert len(folders.directory_tree(server.roots, answer.Budget.of(), ".", 20).text.splitlines()) == 3


def test_a_second_root_is_reached_by_absolute_paths(server: Served, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.txt").write_text("b")
    both = type(server)([str(data), str(other)])
    found = both.run("search_files", path=str(other), glob="*.txt")
    assert found.text == str(other / "b.txt")
    assert both.run("read_text_file", path=found.text).text == "b"
    both.roots.close()


def test_a_missing_name_is_answered_with_the_names_like_it(server: Served, data: Path) -> None:
    (data / "docs").mkdir()
    (data / "docs" / "readme.md").touch()
    assert '"docs/reedme.md" does not exist. "docs" has: "readme.md".' in server.refused(
        "read_text_file", path="docs/reedme.md"
    )
    assert '"." has: "docs"' in server.refused("list_directory", path="doc/x")
    assert 'list_directory("docs")' in server.refused("get_file_info", path="docs/zzz")


@pytest.mark.parametrize("tool", ["read_text_file", "read_media_file"])
def test_reading_a_directory_names_the_tool_that_lists_it(server: Served, data: Path, tool: str) -> None:
    (data / "folder").mkdir()
    assert "is a directory" in server.refused(tool, path="folder")
    assert "list_directory" in server.refused(tool, path=".")


def test_listing_a_file_says_it_is_not_a_directory(server: Served, data: Path) -> None:
    (data / "a.txt").touch()
    assert '"a.txt" is not a directory' in server.refused("list_directory", path="a.txt")
    assert '"a.txt" is not a directory' in server.refused("read_text_file", path="a.txt/b")


def test_permission_denied_is_said_as_such(server: Served, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "secret").touch()
    (data / "locked").mkdir()
    (data / "locked" / "a.py").touch()
    real = os.open

    def denying(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path in ("secret", "locked"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", denying)
    assert '"secret": permission denied' in server.refused("read_text_file", path="secret")
    assert '"locked": permission denied' in server.refused("list_directory", path="locked")
    assert "1 files or directories" in server.run("search_files", glob="*.py").notes[0]


def test_a_pipe_socket_or_device_is_refused_without_waiting_for_it(server: Served, data: Path) -> None:
    os.mkfifo(data / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(data)  # a socket's path has 108 bytes at most
        try:
            listener.bind("sock")
        finally:
            os.chdir(here)
    for name, kind in (("pipe", "named pipe"), ("sock", "socket")):
        assert f"is a {kind}; only regular files" in server.refused("read_text_file", path=name)
        assert f"is a {kind}" in server.refused("read_media_file", path=name)
        assert server.run("get_file_info", path=name).data["type"] == kind
    assert server.run("search_files", content="x").data["matches"] == []


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "\ud800"])
def test_a_path_that_no_file_can_have_is_refused(server: Served, path: str) -> None:
    assert "not a file name" in server.refused("read_text_file", path=path)


def test_a_name_that_is_not_utf8_is_shown_and_can_be_given_back(server: Served, data: Path) -> None:
    Path(os.fsdecode(os.fsencode(data) + b"/caf\xe9\n.txt")).write_text("odd")
    shown = "caf\\xe9\\x0a.txt"
    assert server.run("list_directory").data["entries"] == [{"name": shown, "type": "file", "size": 3}]
    assert server.run("directory_tree").text == shown
    assert server.run("search_files", glob="*.txt").text == shown
    assert server.run("read_text_file", path=shown).text == "odd"
    assert server.run("get_file_info", path=shown).data["path"] == shown
    media = server.run("read_media_file", path=shown).media
    assert media is not None
    assert media.uri.endswith("/caf%E9%0A.txt")
    assert "caf\\xe9" in server.refused("read_text_file", path="caf.txt")
