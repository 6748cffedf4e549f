"""Every hostile archive is refused for its own reason, and nothing of it comes out."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from supervisor.errors import Refused
from supervisor.oci import unpack
from supervisor.oci.limits import Limits
from supervisor.oci.reference import digest_of
from tests.unit.oci.hostile_archives import COMPRESSED, HOSTILE, PLAIN, squeezed

LIMITS = Limits(bytes=2 << 20, ratio_from=1 << 16)


@pytest.fixture
def opened() -> Iterator[list[int]]:
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def blob(opened: list[int], data: bytes, compression: str, diff_id: str) -> unpack.Blob:
    fd = os.memfd_create("layer")
    opened.append(fd)
    os.write(fd, data)
    return unpack.Blob(fd, digest_of(data), len(data), compression, diff_id)


def quiet(_text: str) -> None:
    pass


def test_there_are_at_least_forty() -> None:
    assert len(HOSTILE) + len(COMPRESSED) >= 70


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(name: str, opened: list[int]) -> None:
    layers, said = HOSTILE[name]
    blobs = [blob(opened, data, "", digest_of(data)) for data in layers]
    with pytest.raises(Refused, match=said):
        unpack.read_tree(blobs, LIMITS, quiet)


@pytest.mark.parametrize("name", COMPRESSED)
def test_hostile_compression_is_refused(name: str, opened: list[int]) -> None:
    data, compression, said = COMPRESSED[name]
    with pytest.raises(Refused, match=said):
        unpack.read_tree([blob(opened, data, compression, digest_of(PLAIN))], LIMITS, quiet)


def test_a_layer_that_is_not_the_promised_one_is_refused(opened: list[int]) -> None:
    data = squeezed(PLAIN)
    good = blob(opened, data, "gzip", digest_of(PLAIN))
    unpack.read_tree([good], LIMITS, quiet)
    for changes, said in (
        ({"digest": digest_of(b"")}, "its digest is"),
        ({"size": len(data) + 1}, "bytes, not the"),
        ({"diff_id": digest_of(b"")}, "not what the image's configuration names"),
    ):
        with pytest.raises(Refused, match=said):
            unpack.read_tree([unpack.Blob(**{**vars(good), **changes})], LIMITS, quiet)


def test_unpacking_may_not_take_for_ever(opened: list[int]) -> None:
    good = blob(opened, PLAIN, "", digest_of(PLAIN))
    with pytest.raises(Refused, match="took more than 0 s"):
        unpack.read_tree([good], Limits(seconds=0), quiet)
