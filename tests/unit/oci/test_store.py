"""The store: whole or not at all, by digest, collected when nobody needs it, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused, SupervisorError
from supervisor.oci.reference import digest_of
from supervisor.oci.store import Store
from tests.unit.oci.storing import CONFIG, LAYER, MANIFEST, put, record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def blobs(store: Store) -> set[str]:
    return {f"sha256:{path.name}" for path in (store.path / "blobs/sha256").iterdir()}


def test_a_committed_image_is_found_by_its_reference_and_its_blobs_are_read_only(store: Store) -> None:
    made = put(store, record())
    assert store.find(made.reference) == made
    assert store.records() == [made]
    assert blobs(store) == made.blobs
    for path in (store.path / "blobs/sha256").iterdir():
        assert path.stat().st_mode & 0o777 == 0o400
    assert not list((store.path / "incoming").iterdir())
    with pytest.raises(ConfigError, match="supervisor image add"):
        store.find("registry.example.org/b@" + made.digest)


def test_a_blob_that_is_not_what_it_is_called_is_refused_and_no_record_is_left(store: Store) -> None:
    made = record()
    with store.staging() as staging:
        for data in (CONFIG, MANIFEST + LAYER, b"sealed"):
            (staging.path / digest_of(data)[7:]).write_bytes(data)
        (staging.path / digest_of(LAYER)[7:]).write_bytes(b"other")
        with pytest.raises(Refused, match="what was brought has the digest"):
            store.commit(staging, made)
    assert store.records() == []


def test_what_was_brought_must_be_plain_files(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(LAYER)
    name = digest_of(LAYER)
    with store.staging() as staging:
        path = staging.path / name[7:]
        with pytest.raises(Refused, match="was not brought"):
            staging.open(name)
        path.symlink_to(tmp_path / "outside")
        with pytest.raises(Refused, match="was not brought"):
            staging.open(name)
        path.unlink()
        os.link(tmp_path / "outside", path)
        with pytest.raises(Refused, match="no plain file"):
            staging.open(name)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(Refused, match="no plain file"):
            staging.open(name)
        with pytest.raises(Refused, match="no digest"):
            staging.open("sha256:../../lock")


def test_collection_removes_what_no_record_needs_and_nothing_else(store: Store) -> None:
    one, two = put(store, record()), put(store, record("registry.example.org/b", b"other"), b"other")
    assert store.collect() == (0, 0)
    store.remove(two.reference)
    files, size = store.collect()
    assert files == 2
    assert size == len(b"other") + len(MANIFEST + b"other")
    assert blobs(store) == one.blobs
    assert store.records() == [one]


def test_collection_leaves_alone_what_somebody_brings_in_now_and_takes_what_a_crash_left(store: Store) -> None:
    left = store.path / "incoming" / "left"
    left.mkdir()
    (left / "part").write_bytes(b"12345")
    with store.staging() as staging:
        (staging.path / "part").write_bytes(b"1")
        assert store.collect() == (1, 5)
        assert (staging.path / "part").exists()
    assert not left.exists()


def die_after(count: int, path: Path) -> int:
    """Put an image into a store in a process that dies at its `count`th change of a name or sync; its status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = iter(range(count))
    for name in ("rename", "fsync", "fchmod"):
        real = getattr(os, name)

        def dying(*args: object, real: Callable[..., object] = real, **more: object) -> object:
            if next(left, None) is None:
                os._exit(9)
            return real(*args, **more)

        setattr(os, name, dying)
    put(Store(path), record())
    os._exit(0)


def test_a_crash_at_any_step_leaves_a_store_that_works(tmp_path: Path) -> None:
    for count in range(100):
        path = tmp_path / str(count)
        status = die_after(count, path)
        store = Store(path)
        store.collect()
        assert blobs(store) == {digest for each in store.records() for digest in each.blobs}
        made = put(store, record())
        assert store.find(made.reference) == made
        if status == 0:
            assert count > 10
            return
    raise AssertionError("it never got to its end")


def test_a_damaged_record_is_named_and_nothing_is_collected(store: Store) -> None:
    made = put(store, record())
    path = next((store.path / "images").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    for read in (store.records, store.collect, lambda: store.find(made.reference)):
        with pytest.raises(SupervisorError, match=path.name):
            read()
    assert blobs(store) == made.blobs


def test_a_lost_blob_is_named_with_what_to_do(store: Store) -> None:
    made = put(store, record())
    (store.path / "blobs/sha256" / made.config[7:]).unlink()
    with pytest.raises(SupervisorError, match="supervisor image rm"):
        store.open(made.config)


def test_a_store_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("store").mkdir(mode=0o777)
    tmp_path.joinpath("store").chmod(0o777)
    with pytest.raises(Refused, match="writable by nobody else"):
        Store(tmp_path / "store")


def test_two_commits_at_once_both_arrive(store: Store) -> None:
    images = [record(f"registry.example.org/{name}", name.encode()) for name in "abcdef"]
    threads = [threading.Thread(target=put, args=(store, made, made.name[-1].encode())) for made in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.name for each in store.records()] == [each.name for each in images]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", place], check=True)
    try:
        store = Store(place / "store")
        with pytest.raises(SupervisorError, match="No space left on device; nothing was added"):
            put(store, record(sealed=b"x"), sealed=b"x" * 200_000)
        assert store.records() == []
        assert not list((store.path / "incoming").iterdir())
        assert put(store, record()) == store.records()[0]
    finally:
        subprocess.run(["umount", place], check=True)
