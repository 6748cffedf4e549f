"""Files that somebody names: read whole, or refused by name without waiting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor import given
from supervisor.errors import ConfigError, SupervisorError


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(1 << 20))
    assert len(given.read(str(path), 1 << 20)) == 1 << 20
    path.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(SupervisorError, match="larger than 1 MiB"):
        given.read(str(path), 1 << 20)


@pytest.mark.parametrize("path", ["/proc/kmsg", "/proc/self/status", "/dev/zero", "/dev", "/no/such/file", "a\0b"])
@pytest.mark.parametrize("pipes", [False, True])
def test_what_is_no_file_that_somebody_wrote_is_refused_by_its_name(path: str, pipes: bool) -> None:
    with pytest.raises(ConfigError) as caught:
        given.read(path, 100, pipes=pipes)
    assert path in str(caught.value) or repr(path) in str(caught.value)


@pytest.mark.parametrize("pipes", [False, True])
def test_a_fifo_is_refused_without_waiting_for_who_writes_to_it(tmp_path: Path, pipes: bool) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(ConfigError, match="not a regular file"):
        given.read(str(tmp_path / "a"), 100, pipes=pipes)


def test_a_pipe_without_a_name_is_read_where_its_reader_takes_one() -> None:
    read, write = os.pipe()
    os.write(write, b"x")
    os.close(write)
    path = f"/proc/self/fd/{read}"
    with pytest.raises(ConfigError, match="not a regular file"):
        given.read(path, 100)
    assert given.read(path, 100, pipes=True) == b"x"
    os.close(read)
