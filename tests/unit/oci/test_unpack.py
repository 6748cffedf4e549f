"""The tree becomes a file system: what is in it is what the layers say, read-only, the same every time."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from supervisor.errors import Refused, SupervisorError
from supervisor.oci import tar, unpack
from supervisor.oci.limits import Limits
from supervisor.oci.reference import digest_of
from tests.unit.oci import making

LAYERS = [
    making.tar(
        (making.info("bin/run", mode=0o4700, uid=1000, mtime=7), b"#!/bin/true\n"),
        (making.info("bin/again", tarfile.LNKTYPE, linkname="bin/run"), b""),
        (making.info("etc", tarfile.DIRTYPE, mode=0o777, mtime=9), b""),
        (making.info("etc/secret", mode=0o600, mtime=8), b"secret"),
        (making.info("dev/null", tarfile.CHRTYPE), b""),
        (making.info("link", tarfile.SYMTYPE, linkname="/etc/secret"), b""),
        (making.info("gone"), b"gone"),
    ),
    making.tar((making.info(".wh.gone"), b""), (making.info("etc/new ä\\x", mtime=5), b"")),
]


def blobs(layers: list[bytes]) -> list[unpack.Blob]:
    made = []
    for data in layers:
        fd = os.memfd_create("layer")
        os.write(fd, data)
        made.append(unpack.Blob(fd, digest_of(data), len(data), "", digest_of(data)))
    return made


def quiet(_text: str) -> None:
    pass


def sealed(layers: list[bytes], path: Path) -> unpack.Result:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    opened = blobs(layers)
    try:
        return unpack.fill(unpack.start(fd), opened, Limits(), quiet)
    finally:
        for each in (fd, *(blob.fd for blob in opened)):
            os.close(each)


def test_the_tar_that_is_packed_has_one_owner_and_no_way_to_write() -> None:
    opened = blobs(LAYERS)
    out = io.BytesIO()
    made = unpack.pack(unpack.read_tree(opened, Limits(), quiet), opened, Limits(), out, quiet)
    assert out.getvalue().startswith(b"9\n")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(out.getvalue()[2:])) as archive:
        for member in archive:
            assert (member.uid, member.gid) == (0, 0)
            found[member.name] = (member.type, member.mode, member.linkname, member.mtime)
    assert found == {
        "bin": (b"5", 0o555, "", 0),
        "bin/again": (b"0", 0o555, "", 7),
        "bin/run": (b"1", 0o555, "bin/again", 7),
        "dev": (b"5", 0o555, "", 0),
        "etc": (b"5", 0o555, "", 9),
        "etc/new ä\\x": (b"0", 0o444, "", 5),
        "etc/secret": (b"0", 0o444, "", 8),
        "link": (b"2", 0o777, "/etc/secret", 0),
    }
    assert (made.files, made.folders, made.links, made.bytes) == (4, 3, 1, 18)
    assert made.dropped == {"devices": 1, "set-id bits": 1}
    for each in opened:
        os.close(each.fd)


def test_the_file_system_is_the_same_every_time_and_holds_the_tree(tmp_path: Path) -> None:
    sealed(LAYERS, tmp_path / "one")
    sealed(LAYERS, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    subprocess.run(["unsquashfs", "-q", "-n", "-d", tmp_path / "out", tmp_path / "one"], check=True)
    out = tmp_path / "out"
    assert (out / "bin/run").read_bytes() == (out / "bin/again").read_bytes() == b"#!/bin/true\n"
    assert os.readlink(out / "link") == "/etc/secret"
    assert (out / "bin/run").stat().st_nlink == 2
    assert (out / "etc/secret").read_bytes() == b"secret"
    assert sorted(os.listdir(out / "dev")) == []
    assert not (out / "gone").exists()
    assert out.stat().st_mode & 0o777 == 0o555
    for path in out.rglob("*"):
        assert path.is_symlink() or not path.stat().st_mode & 0o7222


def test_a_layer_that_changes_between_the_passes_is_refused(tmp_path: Path) -> None:
    opened = blobs(LAYERS)
    tree = unpack.read_tree(opened, Limits(), quiet)
    os.pwrite(opened[0].fd, b"#!/bin/evil\n", LAYERS[0].index(b"#!/bin/true\n"))
    with pytest.raises(Refused, match="its digest is"):
        unpack.pack(tree, opened, Limits(), io.BytesIO(), quiet)
    for each in opened:
        os.close(each.fd)


def test_names_that_only_a_long_header_holds_survive(tmp_path: Path) -> None:
    name = "/".join(["ä" * 60] * 10)
    target = "../" * 9 + "x" * 200
    layer = making.tar(
        (making.info(name), b"1"), (making.info("l/" * 9 + "l", tarfile.SYMTYPE, linkname=target), b"")
    )
    sealed([layer], tmp_path / "one")
    subprocess.run(["unsquashfs", "-q", "-n", "-d", tmp_path / "out", tmp_path / "one"], check=True)
    assert (tmp_path / "out" / name).read_bytes() == b"1"
    assert os.readlink(tmp_path / "out" / ("l/" * 9 + "l")) == target


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "PROGRAM", "/nonexistent/mksquashfs")
    with pytest.raises(SupervisorError, match="apt-get install squashfs-tools"):
        unpack.start(1)


def test_a_program_that_fails_is_quoted() -> None:
    opened = blobs(LAYERS)
    with open("/dev/full", "wb") as full, pytest.raises(SupervisorError, match="mksquashfs: "):
        unpack.fill(unpack.start(full.fileno()), opened, Limits(), quiet)
    for each in opened:
        os.close(each.fd)


def test_the_header_of_an_entry_is_read_back_by_the_strict_reader() -> None:
    opened = blobs(LAYERS)
    out = io.BytesIO()
    unpack.pack(unpack.read_tree(opened, Limits(), quiet), opened, Limits(), out, quiet)
    out.seek(2)
    assert len(list(tar.Reader(out, "packed"))) == 8
    for each in opened:
        os.close(each.fd)
