"""The filesystem server's answers about many files: lists, trees and searches."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from images.filesystem import answer, folders, search
    from tests.unit.images.conftest import Served
else:
    answer, folders, search = (
        importlib.import_module(f"filesystem_server.{name}") for name in ("answer", "folders", "search")
    )


def test_a_long_directory_is_given_in_pages(server: Served, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "ENTRY_LIMIT", 4)
    for number in range(10):
        (data / f"{number}.txt").touch()
    first = server.run("list_directory")
    assert (first.data["next_offset"], first.data["total"]) == (4, 10)
    assert "Continue with offset=4" in first.notes[0]
    last = server.run("list_directory", offset=8)
    assert last.text == "[file] 8.txt (0 bytes)\n[file] 9.txt (0 bytes)"
    assert last.notes == []
    assert "only 10 entries" in server.run("list_directory", offset=99).notes[0]


def test_an_endless_directory_is_read_up_to_a_limit(
    server: Served, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "SCAN_LIMIT", 5)
    for number in range(10):
        (data / f"{number}.txt").touch()
    assert "more than 5 entries" in server.run("list_directory").notes[0]
    assert server.run("directory_tree").data["truncated"] is True
    assert server.run("search_files", glob="*").data["truncated"] is True


def test_a_listing_says_what_each_entry_is(server: Served, data: Path) -> None:
    (data / "folder").mkdir()
    (data / "link").symlink_to("/etc/passwd")
    os.mkfifo(data / "pipe")
    assert server.run("list_directory").text == "[directory] folder\n[symlink] link\n[named pipe] pipe"
    assert "empty" in server.run("list_directory", path="folder").notes[0]


def test_a_tree_keeps_to_its_depth_and_its_limits(
    server: Served, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "a" / "b" / "c").mkdir(parents=True)
    (data / "a" / "x").touch()
    assert server.run("directory_tree", depth=2).text == "a/\n  b/\n  x"
    assert server.run("directory_tree", path="a").text == "b/\n  c/\nx"
    monkeypatch.setattr(folders, "TREE_FOLDER_LIMIT", 1)
    cut = server.run("directory_tree")
    assert cut.data["truncated"] is True
    assert '"a": 1 of 2 entries left out. list_directory("a")' in cut.notes[0]
    monkeypatch.setattr(folders, "TREE_LIMIT", 2)
    assert "Only the first 2 entries" in server.run("directory_tree").notes[-1]


def test_a_tree_deeper_than_the_limit_does_not_use_up_the_stack(server: Served, data: Path) -> None:
    here = os.open(data, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    found = server.run("search_files", glob="d", max_results=1000)
    assert len(found.text.splitlines()) == folders.DEPTH_LIMIT
    assert "lie too deep" in found.notes[0]


# Search


@pytest.mark.parametrize(
    ("glob", "paths"),
    [
        ("*.py", ["a.py", "src/b.py", "src/deep/c.py"]),
        ("src/*.py", ["src/b.py"]),
        ("src/**/*.py", ["src/b.py", "src/deep/c.py"]),
        ("**/c.*", ["src/deep/c.py", "src/deep/c.txt"]),
        ("src/**", ["src", "src/b.py", "src/deep", "src/deep/c.py", "src/deep/c.txt"]),
        ("./*.py", ["a.py"]),
        ("?.{py,txt}", ["a.py", "src/b.py", "src/deep/c.py", "src/deep/c.txt"]),
        ("[!ab].*", ["src/deep/c.py", "src/deep/c.txt"]),
        ("deep", ["src/deep"]),
        ("src/", ["src"]),
        ("nothing", []),
    ],
)
def test_a_glob_finds_names(server: Served, data: Path, glob: str, paths: list[str]) -> None:
    (data / "src" / "deep").mkdir(parents=True)
    for name in ("a.py", "src/b.py", "src/deep/c.py", "src/deep/c.txt"):
        (data / name).touch()
    matches = server.run("search_files", glob=glob).data["matches"]
    assert isinstance(matches, list)
    assert [match["path"] for match in matches] == paths


def test_content_is_answered_with_file_line_and_text(server: Served, data: Path) -> None:
    (data / "a.txt").write_text("one\n\ttwo needle needle\r\nthree\nneedle")
    (data / "b.md").write_text("needle\n")
    (data / "c.bin").write_bytes(b"\0needle\n")
    (data / "link").symlink_to("a.txt")
    found = server.run("search_files", content="needle")
    assert found.text == "a.txt:2:\ttwo needle needle\na.txt:4:needle\nb.md:1:needle"
    assert found.notes == ["1 binary files were not searched."]
    assert server.run("search_files", content="needle", glob="*.md").text == "b.md:1:needle"
    assert server.run("search_files", content="needle", path="b.md").text == "b.md:1:needle"
    assert server.run("search_files", content="Needle").notes[-1] == 'Nothing found below ".".'


@pytest.mark.parametrize(("block", "line"), [(1, 1), (3, 2), (8, 5), (64, 64)])
def test_content_is_found_across_the_blocks_a_file_is_read_in(
    server: Served, data: Path, monkeypatch: pytest.MonkeyPatch, block: int, line: int
) -> None:
    monkeypatch.setattr(search, "BLOCK", block)
    monkeypatch.setattr(search, "LINE_LIMIT", line)
    (data / "a.txt").write_text("x\n" * 7 + "y" * 50 + "needle" + "y" * 50 + " needle\n\nneedle\n" + "z" * 20)
    matches = server.run("search_files", content="needle").data["matches"]
    assert isinstance(matches, list)
    assert [match["line"] for match in matches] == [8, 10]


def test_a_very_long_line_is_cut_around_the_match(server: Served, data: Path) -> None:
    (data / "a.min.js").write_text("x" * 3_000_000 + "needle" + "y" * 3_000_000)
    found = server.run("search_files", content="needle").text
    assert found.startswith("a.min.js:1:…xx")
    assert "needle" in found
    assert len(found) < 300


def test_results_stop_at_max_results_only_when_there_are_more(server: Served, data: Path) -> None:
    (data / "a.txt").write_text("needle\n" * 5)
    assert server.run("search_files", content="needle", max_results=5).data["truncated"] is False
    cut = server.run("search_files", content="needle", max_results=4)
    assert cut.data["truncated"] is True
    assert "Stopped at 4 results" in cut.notes[0]


def test_a_search_that_runs_out_of_time_says_so(server: Served, data: Path) -> None:
    (data / "a.txt").touch()
    found = search.search_files(server.roots, answer.Budget.of(-1), glob="*")
    assert found.data["truncated"] is True
    assert "lack of time" in found.notes[0]


def test_a_hostile_pattern_takes_no_longer_than_another(server: Served, data: Path) -> None:
    (data / ("a" * 250)).touch()
    assert server.run("search_files", glob="*a" * 100 + "b").data["matches"] == []
    assert server.run("search_files", glob="**/" * 500 + "b").data["matches"] == []
    assert "more than 64 patterns" in server.refused("search_files", glob="{a,b}" * 30)


def test_a_search_for_nothing_is_refused(server: Served) -> None:
    assert "give glob" in server.refused("search_files")
    assert "is absolute" in server.refused("search_files", glob="/data/*")
    assert "line break" in server.refused("search_files", content="a\nb")
