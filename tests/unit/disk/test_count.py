"""What counts as added: new inodes whole, changed ones as far as a session could have added to them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from supervisor.disk.count import Count, Enough

BLOCK = 4096


def count(
    folder: Path, since: int, *, file_size: int = 1 << 30, bounds: tuple[int, int] = (1 << 40, 1 << 20)
) -> Count:
    counted = Count(since, file_size, list(bounds))
    place = os.open(folder, os.O_PATH)
    try:
        counted.place(place)
    finally:
        os.close(place)
    return counted


def now() -> int:
    """A time that everything made before is older than: time stamps are those of the last tick."""
    time.sleep(0.02)
    return time.time_ns() - 10_000_000


def fill(path: Path, blocks: int) -> None:
    with path.open("ab") as file:
        file.write(b"x" * BLOCK * blocks)


def test_what_was_there_and_has_not_changed_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    fill(tmp_path / "folder" / "old", 10)
    counted = count(tmp_path, now())
    assert (counted.bytes, counted.files) == (0, 0)


def test_a_new_file_counts_whole_and_its_folder_too(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    since = now()
    fill(tmp_path / "folder" / "new", 10)
    counted = count(tmp_path, since, file_size=1)
    room = (tmp_path / "folder").stat().st_blocks * 512
    assert (counted.bytes, counted.files) == (10 * BLOCK + room, 1)


def test_a_file_that_was_there_counts_as_far_as_it_can_have_grown(tmp_path: Path) -> None:
    fill(tmp_path / "old", 10)
    since = now()
    fill(tmp_path / "old", 1)
    assert count(tmp_path, since).bytes == 11 * BLOCK
    assert count(tmp_path, since, file_size=2 * BLOCK).bytes == 2 * BLOCK
    assert count(tmp_path, since).files == 0


def test_a_time_stamp_that_was_set_hides_nothing(tmp_path: Path) -> None:
    since = now()
    fill(tmp_path / "new", 10)
    os.utime(tmp_path / "new", (0, 0))
    assert count(tmp_path, since).files == 1


def test_a_file_of_many_names_counts_once(tmp_path: Path) -> None:
    since = now()
    fill(tmp_path / "new", 10)
    for number in range(5):
        os.link(tmp_path / "new", tmp_path / f"name-{number}")
    assert count(tmp_path, since).files == 1


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    since = now()
    (tmp_path / "link").symlink_to("/usr")
    assert count(tmp_path, since).files == 1


def test_a_place_may_be_a_file(tmp_path: Path) -> None:
    since = now()
    fill(tmp_path / "new", 3)
    counted = count(tmp_path / "new", since)
    assert (counted.bytes, counted.files) == (3 * BLOCK, 1)


@pytest.mark.parametrize("bounds", [(3 * BLOCK, 100), (1 << 40, 2)])
def test_counting_stops_when_a_bound_is_passed(tmp_path: Path, bounds: tuple[int, int]) -> None:
    since = now()
    for number in range(50):
        fill(tmp_path / f"new-{number}", 1)
    with pytest.raises(Enough):
        count(tmp_path, since, bounds=bounds)
