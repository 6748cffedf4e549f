"""Manifests, indexes and configurations: what is ambiguous, unknown or incomplete is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import Refused
from supervisor.oci import manifest
from supervisor.oci.document import Table
from supervisor.oci.layout import canonical
from tests.unit.oci import making

DIGEST = "sha256:" + "a" * 64


def described(media_type: str = f"{manifest.OCI_LAYER}+gzip", **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 3, **more}


def document(**changes: object) -> bytes:
    plain: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "config": described(manifest.OCI_CONFIG),
        "layers": [described()],
    }
    plain |= changes
    return canonical({key: value for key, value in plain.items() if value is not None})


def test_an_image_is_read_with_its_layers() -> None:
    made = making.image()
    found = manifest.image(made.data, "image")
    assert found.media_type == manifest.OCI_MANIFEST
    assert len(found.layers) == 1


def test_a_manifest_without_a_media_type_is_read_as_podman_writes_it() -> None:
    assert manifest.image(document(mediaType=None), "image").media_type == manifest.OCI_MANIFEST


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schemaVersion": 1}, "only 2 is read"),
        ({"manifests": []}, "both an image and an index"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+json"}, "no kind of manifest"),
        ({"config": None}, '"config" is missing'),
        ({"layers": []}, "without layers"),
        ({"layers": [described()] * 129}, "more than 128"),
        ({"layers": [described("application/x-other")]}, "cannot be unpacked"),
        ({"layers": [described("application/vnd.oci.image.layer.nondistributable.v1.tar")]}, "cannot be unpacked"),
        ({"layers": [described(urls=["https://elsewhere.example/"])]}, "fetched from elsewhere"),
        ({"layers": [described() | {"digest": "sha512:" + "a" * 128}]}, '"digest" must be sha256'),
        ({"layers": [described() | {"digest": "sha256:" + "A" * 64}]}, '"digest" must be sha256'),
        ({"layers": [described() | {"size": -1}]}, '"size" must be an integer'),
        ({"layers": [described() | {"size": True}]}, '"size" must be an integer'),
        ({"layers": [described() | {"size": 1 << 40}]}, "more than"),
        ({"config": described("application/vnd.example.config")}, "not an image but"),
        ({"artifactType": "application/vnd.example"}, "not an image but"),
        ({"subject": "x"}, '"subject" must be an object'),
    ],
)
def test_a_manifest_that_cannot_be_an_image_is_refused(changes: Table, said: str) -> None:
    with pytest.raises(Refused, match=said):
        manifest.image(document(**changes), "image")


def test_a_document_is_what_it_is_called() -> None:
    with pytest.raises(Refused, match=r"offered as .*, but calls itself"):
        manifest.read(document(), "image", manifest.DOCKER_MANIFEST)
    with pytest.raises(Refused, match="offered as"):
        manifest.read(document(), "image", manifest.OCI_INDEX)


def index(*platforms: str) -> manifest.Index:
    children = []
    for number, platform in enumerate(platforms):
        system, machine, *variant = platform.split("/")
        written: dict[str, object] = {"os": system, "architecture": machine}
        if variant:
            written["variant"] = variant[0]
        child = described(manifest.OCI_MANIFEST, platform=written) | {"digest": f"sha256:{number:064x}"}
        children.append(child)
    found = manifest.read(canonical({"schemaVersion": 2, "manifests": children}), "index")
    assert isinstance(found, manifest.Index)
    return found


def test_an_index_has_exactly_one_image_for_a_platform() -> None:
    found = index("linux/amd64", "linux/arm64/v8", "linux/arm/v7")
    assert manifest.choose(found, "linux/arm64", "index").digest.endswith("1")
    with pytest.raises(
        Refused, match="no image for linux/riscv64; there are: linux/amd64, linux/arm/v7, linux/arm64"
    ):
        manifest.choose(found, "linux/riscv64", "index")
    with pytest.raises(Refused, match="2 images for linux/amd64"):
        manifest.choose(index("linux/amd64", "linux/amd64"), "linux/amd64", "index")


def test_the_configuration_says_how_the_image_is_started() -> None:
    run: Table = {"Entrypoint": ["/server"], "Cmd": ["-v"], "Env": ["A=b"], "WorkingDir": "/srv", "User": "root"}
    made = making.image(run=run)
    described = manifest.image(made.data, "image").config
    found = manifest.config(made.documents[described.digest], "configuration")
    assert (found.entrypoint, found.command, found.env, found.folder) == (("/server",), ("-v",), ("A=b",), "/srv")
    assert found.platform == making.PLATFORM


@pytest.mark.parametrize(
    "rootfs",
    [{"type": "other", "diff_ids": []}, {"type": "layers", "diff_ids": ["x"]}, {"type": "layers", "diff_ids": 3}],
)
def test_a_configuration_names_layers_by_digest(rootfs: Table) -> None:
    with pytest.raises(Refused):
        manifest.config(canonical({"os": "linux", "architecture": "amd64", "rootfs": rootfs}), "configuration")


@given(
    st.binary(max_size=300)
    | st.from_regex(r'\{"[a-zA-Z]{1,12}":[\[\]{}0-9a-z",:]{0,60}\}', fullmatch=True).map(str.encode)
)
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    for read in (manifest.read, manifest.image, manifest.config):
        with pytest.raises(Refused):
            read(data, "a document")
