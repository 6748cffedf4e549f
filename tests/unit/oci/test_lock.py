"""images.lock: what a tag was is written down once, read back, and not changed without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.oci import lock

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def test_entries_are_written_sorted_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "images.lock"
    assert lock.read(path) == []
    lock.write(path, "b.example/b", "2", TWO)
    lock.write(path, "a.example/a", "", ONE)
    lock.write(path, "b.example/b", "1", ONE)
    assert [(each.name, each.tag, each.digest) for each in lock.read(path)] == [
        ("a.example/a", "", ONE),
        ("b.example/b", "1", ONE),
        ("b.example/b", "2", TWO),
    ]
    before = path.read_bytes()
    lock.write(path, "b.example/b", "2", TWO)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_tag_that_moved_is_refused_until_somebody_says_so(tmp_path: Path) -> None:
    path = tmp_path / "images.lock"
    lock.write(path, "a.example/a", "1", ONE)
    lock.check(path, "a.example/a", "1", ONE)
    lock.check(path, "a.example/a", "2", TWO)
    with pytest.raises(Refused, match=r"is locked to sha256:1111.*--update"):
        lock.check(path, "a.example/a", "1", TWO)
    lock.write(path, "a.example/a", "1", TWO)
    lock.check(path, "a.example/a", "1", TWO)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lock = 2\n", "images.lock:1"),
        ('lock = 1\n[[image]]\nname = "a.example/a"\ndigest = "x"\n', "no sha256 digest"),
        (f'lock = 1\n[[image]]\nname = "a"\ndigest = "{ONE}"\n', "write the registry too"),
        (
            f'lock = 1\n[[image]]\nname = "a.example/a"\ndigest = "{ONE}"\nother = 1\n',
            'unknown key "image.0.other"',
        ),
    ],
)
def test_a_file_that_is_no_lock_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "images.lock"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        lock.read(path)
