"""A sealed memory file cannot be changed by anybody, and a changed store is noticed before it is one."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

import pytest

from supervisor.errors import Refused, SupervisorError
from supervisor.oci import seal
from supervisor.oci.reference import digest_of
from supervisor.oci.store import Store
from tests.unit.oci.storing import put, record


def test_a_sealed_file_can_neither_be_written_nor_resized_nor_unsealed_even_by_root() -> None:
    fd = seal.memory_file("image")
    os.write(fd, b"content")
    assert seal.seal(fd) == digest_of(b"content")
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    for each in (fd, again):
        for change in (
            lambda each=each: os.pwrite(each, b"x", 0),
            lambda each=each: os.ftruncate(each, 0),
            lambda each=each: os.ftruncate(each, 100),
            lambda each=each: fcntl.fcntl(each, fcntl.F_ADD_SEALS, 0),
            lambda each=each: mmap.mmap(each, 7),
        ):
            with pytest.raises(PermissionError):
                change()
    assert os.pread(fd, 10, 0) == b"content"
    os.close(fd)
    os.close(again)


def test_a_file_that_somebody_can_still_write_is_not_sealed() -> None:
    fd = seal.memory_file("image")
    os.write(fd, b"content")
    with mmap.mmap(fd, 7), pytest.raises(SupervisorError, match="cannot be sealed"):
        seal.seal(fd)
    os.close(fd)


def test_the_store_s_copy_becomes_a_sealed_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = put(store, record(), sealed=b"file system")
    fd = seal.open_sealed(store, made)
    assert os.pread(fd, 100, 0) == b"file system"
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)


def test_a_changed_copy_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = put(store, record(), sealed=b"file system")
    path = store.path / "blobs/sha256" / made.sealed[7:]
    path.chmod(0o600)
    path.write_bytes(b"file system!")
    with pytest.raises(Refused, match="has been changed"):
        seal.open_sealed(store, made)
