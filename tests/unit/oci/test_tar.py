"""The tar reader: agrees with the standard library on honest archives, and refuses what readers disagree about."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import Refused
from supervisor.oci import tar
from tests.unit.oci import making

names = st.from_regex(r"[a-z]{1,8}(?:/[a-zA-Z0-9äöü _.-]{1,90}){0,3}", fullmatch=True)
members = st.dictionaries(names, st.binary(max_size=1500), max_size=6)


def read(data: bytes) -> list[tuple[tar.Entry, bytes]]:
    reader = tar.Reader(io.BytesIO(data), "archive")
    return [(entry, b"".join(reader.data())) for entry in reader]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(contents=members)
def test_honest_archives_are_read_as_the_standard_library_does(form: int, contents: dict[str, bytes]) -> None:
    with contextlib.suppress(ValueError):  # a name that this format cannot hold
        data = making.tar(*((making.info(name), part) for name, part in contents.items()), form=form)
        found = read(data)
        assert [(entry.name.decode(), part) for entry, part in found] == list(contents.items())
        for entry, part in found:
            assert data[entry.offset : entry.offset + entry.size] == part


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_links_are_read_in_both_ways(form: int) -> None:
    name, target = "a/" * 60 + "file", "b/" * 120 + "target"
    data = making.tar((making.info(name, tarfile.SYMTYPE, linkname=target), b""), form=form)
    ((entry, _),) = read(data)
    assert (entry.name.decode(), entry.link.decode(), entry.kind) == (name, target, tar.SYMBOLIC_LINK)


def test_times_are_whole_seconds_from_1970_to_2106() -> None:
    for written, expected in ((1.75, 1), (-5, 0), (1 << 33, 0xFFFFFFFF)):
        ((entry, _),) = read(making.tar((making.info("f", mtime=written), b"")))
        assert entry.mtime == expected


def test_extended_attributes_are_named_and_not_read() -> None:
    member = making.info("f", pax_headers={"SCHILY.xattr.security.capability": "x", "LIBARCHIVE.xattr.a": "y"})
    ((entry, _),) = read(making.tar((member, b"")))
    assert entry.xattrs == (b"security.capability",)


@given(st.binary(max_size=3000))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    with contextlib.suppress(Refused):
        read(data)


@given(contents=members, place=st.integers(0, 4000), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(contents: dict[str, bytes], place: int, value: int) -> None:
    data = bytearray(making.tar(*((making.info(name), part) for name, part in contents.items())))
    data[place % len(data)] = value
    with contextlib.suppress(Refused):
        for entry, part in read(bytes(data)):
            assert len(part) == entry.size


@given(contents=members, cut=st.integers(1, 3000))
def test_an_archive_that_is_cut_off_is_refused(contents: dict[str, bytes], cut: int) -> None:
    data = making.tar(*((making.info(name), part) for name, part in contents.items()))
    whole = data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512)
    with pytest.raises(Refused):
        read(whole[: -min(cut, len(whole))] if whole else b"")


def test_more_entries_than_allowed_are_refused() -> None:
    reader = tar.Reader(io.BytesIO(making.files({str(n): b"" for n in range(5)})), "archive", most_entries=4)
    with pytest.raises(Refused, match="more than 4 entries"):
        list(reader)
