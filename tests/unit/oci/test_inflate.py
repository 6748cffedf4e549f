"""Layers come out of their compression as they went in, in parts of any size."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from supervisor.oci.inflate import Budget, Layer
from supervisor.oci.limits import Limits
from supervisor.oci.reference import digest_of

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": zstd.compress,
    "members": lambda data: gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]),
    "frames": lambda data: zstd.compress(data[: len(data) // 2]) + zstd.compress(data[len(data) // 2 :]),
}
KIND = {"members": "gzip", "frames": "zstd"}


@pytest.mark.parametrize("pack", PACK)
@given(data=st.binary(max_size=4000), sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=5))
def test_reads_add_up_to_the_content(pack: str, data: bytes, sizes: list[int]) -> None:
    packed = PACK[pack](data)
    fd = os.memfd_create("layer")
    try:
        os.write(fd, packed)
        layer = Layer(fd, "layer", KIND.get(pack, pack), Budget(Limits()))
        found = b""
        while True:
            size = sizes[len(found) % len(sizes)]
            part = layer.read(size)
            found += part
            if len(part) < size:
                break
        assert found == data
        layer.finish(digest_of(packed), len(packed), digest_of(data))
    finally:
        os.close(fd)


@pytest.mark.parametrize("pack", ["gzip", "zstd"])
def test_content_larger_than_every_buffer_comes_out_whole(pack: str) -> None:
    data = os.urandom(1000) * 3000
    packed = PACK[pack](data)
    fd = os.memfd_create("layer")
    os.write(fd, packed)
    layer = Layer(fd, "layer", pack, Budget(Limits(ratio_from=1 << 30)))
    assert layer.read(len(data) + 1) == data
    layer.finish(digest_of(packed), len(packed), digest_of(data))
    os.close(fd)
