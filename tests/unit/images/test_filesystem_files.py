"""The filesystem server's answers about one file: text in parts, media whole."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from images.filesystem import answer, files, protocol
    from tests.unit.images.conftest import Served
else:
    answer, files, protocol = (
        importlib.import_module(f"filesystem_server.{name}") for name in ("answer", "files", "protocol")
    )

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def test_offset_and_limit_count_lines_and_say_how_to_go_on(server: Served, data: Path) -> None:
    (data / "a.txt").write_text("".join(f"line {n}\n" for n in range(10)))
    part = server.run("read_text_file", path="a.txt", offset=3, limit=2)
    assert part.text == "line 3\nline 4\n"
    assert part.data["next_offset"] == 5
    assert "Continue with offset=5" in part.notes[0]
    last = server.run("read_text_file", path="a.txt", offset=8)
    assert (last.text, last.notes, "next_offset" in last.data) == ("line 8\nline 9\n", [], False)
    assert "10 lines" in server.run("read_text_file", path="a.txt", offset=99).notes[0]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_following_the_notes_gives_the_whole_text(
    server: Served, data: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(files, "BLOCK", block)
    monkeypatch.setattr(files, "TEXT_LIMIT", 10)
    text = "åäö\n\nshort\r\n" + "a very long line that does not fit 🙂 at all\n" + "x" * 10 + "\nend"
    (data / "a.txt").write_text(text, newline="")
    whole, place = "", {"offset": 0, "column": 0}
    for _ in range(30):
        part = server.run("read_text_file", path="a.txt", limit=3, **place)
        assert len(part.text) <= 10
        whole += part.text
        if "next_offset" not in part.data:
            break
        offset, column = part.data["next_offset"], part.data.get("next_column", 0)
        assert isinstance(offset, int)
        assert isinstance(column, int)
        place = {"offset": offset, "column": column}
    assert whole == text


def test_a_huge_file_is_never_held_in_memory(server: Served, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (data / "huge.txt").open("wb") as file:
        file.write(b"first\nsecond\n" + b" " * files.SNIFFED)
        file.truncate(1 << 40)
    read: list[int] = []
    real = os.read

    def counting(fd: int, size: int) -> bytes:
        read.append(size)
        return real(fd, size)

    monkeypatch.setattr(os, "read", counting)
    assert server.run("read_text_file", path="huge.txt", limit=1).text == "first\n"
    assert sum(read) <= 2 * files.BLOCK
    assert "at most" in server.refused("read_media_file", path="huge.txt")


def test_a_line_too_far_to_reach_in_time_is_an_error(server: Served, data: Path) -> None:
    (data / "a.txt").write_text("a\n")
    with pytest.raises(answer.ToolError, match="too far to reach"):
        files.read_text_file(server.roots, answer.Budget.of(-1), "a.txt", offset=5)


def test_an_empty_file_says_so(server: Served, data: Path) -> None:
    (data / "a.txt").touch()
    empty = server.run("read_text_file", path="a.txt")
    assert (empty.text, empty.notes) == ("", ["The file is empty."])
    media = server.run("read_media_file", path="a.txt").media
    assert media is not None
    assert (media.kind, media.data) == ("resource", b"")


@pytest.mark.parametrize("before", [0, 5, 8191, 300_000])
def test_a_byte_that_is_not_text_is_named_by_its_offset(server: Served, data: Path, before: int) -> None:
    (data / "a.txt").write_bytes(b"x" * before + b"\xe9t\xe9")
    message = server.refused("read_text_file", path="a.txt", limit=10**9, column=before)
    assert f"byte at offset {before} cannot" in message
    assert 'encoding="cp1252"' in message
    part = server.run("read_text_file", path="a.txt", encoding="latin-1", column=before)
    assert part.text == "été"


def test_binary_and_utf16_files_are_told_apart(server: Served, data: Path) -> None:
    (data / "a.png").write_bytes(PNG)
    (data / "b.txt").write_bytes("hé\n".encode("utf-16"))
    assert "is a binary file (image/png)" in server.refused("read_text_file", path="a.png")
    assert "read_media_file" in server.refused("read_text_file", path="a.png")
    assert 'encoding="utf-16"' in server.refused("read_text_file", path="b.txt")
    assert server.run("read_text_file", path="b.txt", encoding="utf-16").text == "hé\n"


@pytest.mark.parametrize(
    "encoding", ["nonsense", "hex", "rot13", "idna", "unicode_escape", "undefined", "a\0b", ""]
)
def test_an_encoding_that_is_not_for_files_is_refused(server: Served, data: Path, encoding: str) -> None:
    (data / "a.txt").write_text("a")
    assert "Try utf-8" in server.refused("read_text_file", path="a.txt", encoding=encoding)


# Media


@pytest.mark.parametrize(
    ("name", "kind", "mime_type"),
    [
        ("a.PNG", "image", "image/png"),
        ("a.wav", "audio", "audio/wav"),
        ("a.svg", "resource", "image/svg+xml"),
        ("a", "resource", "application/octet-stream"),
    ],
)
def test_media_is_given_by_its_type(server: Served, data: Path, name: str, kind: str, mime_type: str) -> None:
    (data / name).write_bytes(PNG)
    given = server.run("read_media_file", path=name)
    assert given.data == {"path": name, "size": len(PNG), "mime_type": mime_type, "kind": kind}
    assert given.media == answer.Media(PNG, mime_type, kind, f"file://{data}/{name}")
    block = protocol._result(given).content[-1]
    assert block.type == kind


def test_media_over_the_limit_is_refused(server: Served, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MEDIA_LIMIT", 10)
    (data / "a.png").write_bytes(b"x" * 10)
    (data / "b.png").write_bytes(b"x" * 11)
    assert server.run("read_media_file", path="a.png").data["size"] == 10
    assert "has 11 bytes; read_media_file gives at most 10" in server.refused("read_media_file", path="b.png")
