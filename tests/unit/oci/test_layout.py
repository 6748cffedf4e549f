"""Layouts and archives as sources: what is there is what its digest says, and no name leads out of them."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from supervisor.errors import Refused, SupervisorError
from supervisor.oci import manifest, sign, statement
from supervisor.oci.archive import DockerArchive, open_archive
from supervisor.oci.layout import REF_NAME, Folder, Layout, Writer, canonical
from supervisor.oci.reference import digest_of
from supervisor.oci.source import Source, fallback_tag
from tests.unit.oci import making

KEY = making.key()


def opened(path: Path) -> Layout:
    return Layout(Folder(str(path)))


def blob(source: Source, digest: str, size: int) -> bytes:
    fd = os.memfd_create("blob")
    try:
        source.blob(digest, size, fd)
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def test_an_image_is_found_by_name_by_digest_and_alone(tmp_path: Path) -> None:
    made = making.image()
    found = opened(making.layout(tmp_path / "layout", made))
    tagged = found.tagged("1.0")
    assert tagged is not None
    assert tagged.digest == found.only().digest == made.digest
    assert found.tagged("2.0") is None
    by_digest = found.manifest(made.digest)
    assert by_digest is not None
    assert by_digest.media_type == manifest.OCI_MANIFEST
    assert blob(found, digest_of(made.layers[0]), len(made.layers[0])) == made.layers[0]


def test_signatures_are_no_images_of_the_layout(tmp_path: Path) -> None:
    made = making.image()
    path = making.layout(tmp_path / "layout", made)
    making.signed(path, made, KEY)
    making.attested(path, made, KEY)
    found = opened(path)
    assert found.only().digest == made.digest
    assert found.tagged(fallback_tag(made.digest, ".sig")) is not None
    assert [each.artifact_type for each in found.referrers(made.digest)] == [statement.BUNDLE]
    assert found.referrers("sha256:" + "0" * 64) == ()


def test_a_referrer_that_only_the_index_lists_is_found(tmp_path: Path) -> None:
    made = making.image()
    path = making.layout(tmp_path / "layout", made)
    writer = Writer(path)
    holder = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "artifactType": statement.BUNDLE,
        "config": writer.blob(b"{}", manifest.EMPTY),
        "layers": [],
        "subject": sign.described(made.data, manifest.OCI_MANIFEST),
    }
    entry = writer.blob(canonical(holder), manifest.OCI_MANIFEST)
    writer.list({**entry, "artifactType": statement.BUNDLE}, "attestation")
    assert [each.digest for each in opened(path).referrers(made.digest)] == [entry["digest"]]


def test_two_images_or_one_name_for_two_are_refused(tmp_path: Path) -> None:
    one, two = making.image(), making.image([making.files({"b": b""})])
    path = making.layout(tmp_path / "layout", one, "1")
    making.layout(path, two, "2")
    with pytest.raises(Refused, match=r"name one of its images.*: 1, 2"):
        opened(path).only()
    index = json.loads((path / "index.json").read_bytes())
    for each in index["manifests"]:
        each["annotations"] = {REF_NAME: "1"}
    (path / "index.json").write_bytes(canonical(index))
    with pytest.raises(Refused, match='2 manifests named "1"'):
        opened(path).tagged("1")


def test_a_changed_blob_is_refused(tmp_path: Path) -> None:
    made = making.image()
    path = making.layout(tmp_path / "layout", made)
    layer = digest_of(made.layers[0])
    file = path / "blobs/sha256" / layer[7:]
    for data, said in (
        (b"x" * len(made.layers[0]), "has the digest"),
        (b"x", "1 bytes, not"),
        (bytes(9999), "more than"),
    ):
        file.write_bytes(data)
        with pytest.raises(Refused, match=said):
            blob(opened(path), layer, len(made.layers[0]))
    (path / "blobs/sha256" / made.digest[7:]).write_bytes(b"{}")
    with pytest.raises(Refused, match="asked for"):
        opened(path).manifest(made.digest)


def test_no_link_in_a_layout_is_followed(tmp_path: Path) -> None:
    made = making.image()
    path = making.layout(tmp_path / "layout", made)
    layer = digest_of(made.layers[0])
    file = path / "blobs/sha256" / layer[7:]
    (tmp_path / "outside").write_bytes(made.layers[0])
    file.unlink()
    file.symlink_to(tmp_path / "outside")
    with pytest.raises(SupervisorError, match="symbolic link"):
        blob(opened(path), layer, len(made.layers[0]))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(Refused, match="not a regular file"):
        blob(opened(path), layer, len(made.layers[0]))
    (path / "blobs").rename(tmp_path / "blobs")
    (path / "blobs").symlink_to(tmp_path / "blobs")
    with pytest.raises(SupervisorError, match="layout/blobs"):
        opened(path).manifest(made.digest)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("oci-layout", None, "no OCI layout"),
        ("oci-layout", '{"imageLayoutVersion":"2.0.0"}', "only 1.0.0 is read"),
        ("oci-layout", "x", "not JSON"),
        ("index.json", None, "not JSON"),
        ("index.json", '{"schemaVersion":2,"config":{},"layers":[]}', "is missing|is no index"),
        ("index.json", '{"schemaVersion":2,"manifests":[{"digest":"x"}]}', "index.json"),
    ],
)
def test_what_is_no_layout_is_refused(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = making.layout(tmp_path / "layout", making.image())
    (path / name).unlink()
    if text is not None:
        (path / name).write_text(text)
    with pytest.raises(Refused, match=said):
        opened(path)


def archived(path: Path, out: Path) -> Path:
    with tarfile.open(out, "w") as archive:
        archive.add(path, ".")
    return out


def test_an_oci_archive_is_a_layout_in_a_tar(tmp_path: Path) -> None:
    made = making.image()
    path = making.layout(tmp_path / "layout", made)
    making.signed(path, made, KEY)
    found = open_archive(str(archived(path, tmp_path / "image.tar")))
    assert isinstance(found, Layout)
    assert found.only().digest == made.digest
    assert found.tagged(fallback_tag(made.digest, ".sig")) is not None
    assert blob(found, digest_of(made.layers[0]), len(made.layers[0])) == made.layers[0]


def docker(out: Path, *, layers: list[bytes], names: list[str], images: int = 1, link: bool = False) -> Path:
    config = canonical(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(each) for each in layers]},
        }
    )
    entry = {"Config": "config.json", "RepoTags": ["x:1"], "Layers": names}
    with tarfile.open(out, "w") as archive:
        files = {"config.json": config, "manifest.json": canonical([entry] * images)}
        for name, data in [*files.items(), *zip(names, layers, strict=False)]:
            member = making.info(name, size=len(data))
            if link and name == names[-1]:
                member = making.info(name, tarfile.SYMTYPE, linkname=f"../{names[0]}")
            archive.addfile(member, io.BytesIO(data))
    return out


def test_a_docker_archive_gets_a_manifest_that_is_always_the_same(tmp_path: Path) -> None:
    layers = [making.files({"a": b"a"}), making.files({"b": b"b"})]
    found = open_archive(str(docker(tmp_path / "one.tar", layers=layers, names=["l1.tar", "d/l2.tar"])))
    other = open_archive(str(docker(tmp_path / "two.tar", layers=layers, names=["x/layer.tar", "y/layer.tar"])))
    assert isinstance(found, DockerArchive)
    assert found.only() == other.only()
    read = manifest.image(found.only().data, "it")
    assert [each.digest for each in read.layers] == [digest_of(each) for each in layers]
    assert blob(found, digest_of(layers[1]), len(layers[1])) == layers[1]
    assert manifest.config(blob(found, read.config.digest, read.config.size), "it").platform == "linux/amd64"


def test_a_layer_that_docker_wrote_once_and_linked_to_is_found(tmp_path: Path) -> None:
    layer = making.files({"a": b"a"})
    path = docker(tmp_path / "a.tar", layers=[layer, layer], names=["l1.tar", "d/layer.tar"], link=True)
    found = open_archive(str(path))
    assert len(manifest.image(found.only().data, "it").layers) == 2


def test_archives_that_are_none_or_ambiguous_are_refused(tmp_path: Path) -> None:
    layer = making.files({"a": b"a"})
    path = docker(tmp_path / "two.tar", layers=[layer], names=["l.tar"], images=2)
    with pytest.raises(Refused, match="2 images; save one alone"):
        open_archive(str(path))
    (tmp_path / "plain.tar").write_bytes(layer)
    with pytest.raises(Refused, match="neither an OCI archive"):
        open_archive(str(tmp_path / "plain.tar"))
    (tmp_path / "packed.tar.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(Refused, match="compressed with gzip"):
        open_archive(str(tmp_path / "packed.tar.gz"))
    (tmp_path / "twice.tar").write_bytes(making.tar(*[(making.info("manifest.json"), b"[]")] * 2))
    with pytest.raises(Refused, match="is there twice"):
        open_archive(str(tmp_path / "twice.tar"))
    wrong = docker(tmp_path / "wrong.tar", layers=[layer, b""], names=["l.tar"])
    with pytest.raises(Refused, match="not those that its configuration names"):
        open_archive(str(wrong))
