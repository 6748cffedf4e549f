"""`supervisor image` over layouts and archives, as root and as an ordinary user: the whole way and its refusals."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from pathlib import Path

import pytest

from supervisor.oci import keyfile, manifest, seal, sign, statement
from supervisor.oci.keyfile import Private
from supervisor.oci.store import Record, Store
from tests.integration.caller import Caller
from tests.integration.imaging import Bench, bench, signed_layout
from tests.integration.remains import nothing_left
from tests.unit.oci import making
from tests.unit.oci.hostile_archives import HOSTILE
from tests.unit.oci.making import NAME
from tests.unit.oci.own_sigstore import Sigstore

KEY = making.key()
MADE = making.image(run={"Entrypoint": ["/hello"], "Env": ["A=b"], "WorkingDir": "/srv"})


# what does not depend on who asks is asked by one of them
as_root = pytest.mark.parametrize("caller", ["root"], indirect=True)


@pytest.fixture
def place(caller: Caller, request: pytest.FixtureRequest) -> Bench:
    return bench(caller, "images")


def add(place: Bench, *more: str | Path) -> Record:
    found = place.json("add", f"oci:{place.folder}/layout:1.0", "--as", NAME, *more)
    return Record.model_validate(found, strict=False)


def test_an_image_is_added_listed_shown_verified_removed_and_collected(place: Bench) -> None:
    signed_layout(place, MADE, KEY)
    with nothing_left(place.caller, writes=place.folder):
        record = add(place, "--lock", "images.lock")
    assert record.reference == f"{NAME}@{MADE.digest}"
    assert record.signers == ("release",)
    assert (record.run.entrypoint, record.run.env, record.run.folder) == (("/hello",), ("A=b",), "/srv")
    assert (place.folder / "images.lock").read_text().endswith(f'tag = "1.0"\ndigest = "{MADE.digest}"\n')
    assert [row["reference"] for row in listed(place)] == [record.reference]
    shown = place.image("show", NAME)
    assert f"image     {record.reference}" in shown.stdout
    assert place.json("verify") == [{"reference": record.reference, "signers": ["release"]}]
    assert place.json("rm", NAME) == {"removed": record.reference}
    found = place.json("gc")
    assert isinstance(found, dict)
    assert found["files"] == len(record.blobs)
    assert place.contents() == set()


def listed(place: Bench) -> list[dict[str, object]]:
    found = place.json("list")
    assert isinstance(found, list)
    return found


@as_root
def test_the_store_is_the_caller_s_alone_and_its_file_system_seals(place: Bench) -> None:
    signed_layout(place, MADE, KEY)
    record = add(place)
    for path in (place.store, *place.store.rglob("*")):
        info = path.stat()
        assert info.st_uid == place.caller.plot.uid
        assert not info.st_mode & 0o077, path
    if place.caller.mode == "root":
        fd = seal.open_sealed(Store(place.store), record)
        assert stat.S_ISREG(os.fstat(fd).st_mode)
        assert os.pread(fd, 4, 0) == b"hsqs"
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        os.close(fd)


@as_root
def test_an_archive_is_added_with_signatures_of_its_own_or_beside_it(place: Bench) -> None:
    path = signed_layout(place, MADE, KEY)
    with tarfile.open(place.folder / "image.tar", "w") as archive:
        archive.add(path, ".")
    place.own(place.folder)
    found = place.json("add", f"oci-archive:{place.folder}/image.tar:1.0", "--as", NAME)
    assert isinstance(found, dict)
    assert found["digest"] == MADE.digest


@as_root
def test_a_docker_archive_is_signed_into_a_layout_and_added_with_it(place: Bench) -> None:
    layer = making.files({"hello": b"hello\n"})
    config = making.image([layer])
    name = next(d for d, data in config.documents.items() if b"diff_ids" in data)
    entry = json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": ["l.tar"]}]).encode()
    data = making.files({"c.json": config.documents[name], "l.tar": layer, "manifest.json": entry})
    (place.folder / "docker.tar").write_bytes(data)
    place.write("k.key", keyfile.write(KEY, b"x"))
    place.write("trust.toml", making.trust(KEY))
    source = f"docker-archive:{place.folder}/docker.tar"
    place.refused("it has none", 3, "add", source, "--as", NAME)
    argv = place.caller.command("image", "sign", source, "--as", NAME, "--key", "k.key", "--output", "signatures")
    signing = place.caller.process(argv, cwd=place.folder, env={"COSIGN_PASSWORD": "x"})
    assert place.caller.arena.finish(signing).returncode == 0
    found = place.json("add", source, "--as", NAME, "--signatures", "signatures")
    assert isinstance(found, dict)
    assert found["signers"] == ["release"]


@as_root
def test_a_signature_by_the_command_line_counts_in_both_forms(place: Bench) -> None:
    path = place.own(making.layout(place.folder / "layout", MADE))
    argv = place.caller.command("image", "sign", "--generate-key", "k")
    keys = place.caller.process(argv, cwd=place.folder, env={"COSIGN_PASSWORD": "secret"})
    assert place.caller.arena.finish(keys).returncode == 0
    assert (place.folder / "k.key").stat().st_mode & 0o777 == 0o600
    public = (place.folder / "k.pub").read_text()
    rule = f'[[repository]]\npattern = "{NAME}"\nkeys = ["k"]\n'
    place.write("trust.toml", f'trust = 1\n[keys.k]\npublic = """{public}"""\nrepository = "{NAME}"\n{rule}')
    for more in ((), ("--bundle",)):
        argv = place.caller.command("image", "sign", f"oci:{path}", "--as", NAME, "--key", "k.key", *more)
        done = place.caller.arena.finish(
            place.caller.process(argv, cwd=place.folder, env={"COSIGN_PASSWORD": "secret"})
        )
        assert done.returncode == 0, done.stderr
        assert add(place).signers == ("k",)
        if not more:
            (path / "index.json").unlink()
            place.own(making.layout(path, MADE))


@pytest.mark.parametrize("caller", ["user"], indirect=True)
def test_a_certificate_counts_for_a_confined_verifier_too(place: Bench) -> None:
    own = Sigstore()
    path = making.layout(place.folder / "layout", MADE)
    subject, issuer = "https://ci.example/release", "https://issuer.example"
    bundle = own.bundle(sign.attest(MADE.digest, statement.SIGN, {}), subject, issuer)
    sign.write_bundle(path, bundle, sign.described(MADE.data, manifest.OCI_MANIFEST), statement.SIGN)
    place.own(path)
    who = f'[identities.ci]\nsubject = "{subject}"\nissuer = "{issuer}"\nrepository = "{NAME}"\n'
    rule = f'[[repository]]\npattern = "{NAME}"\nidentities = ["ci"]\n'
    place.write("trust.toml", f"trust = 1\n{who}{rule}")
    place.refused("certificate chain", 3, "add", f"oci:{path}:1.0", "--as", NAME)
    place.write("trusted_root.json", own.trusted_root())
    assert add(place).signers == ("ci",)


@pytest.mark.parametrize("name", ["through a symbolic link"])
def test_a_hostile_image_is_refused_though_it_is_signed_and_leaves_nothing(place: Bench, name: str) -> None:
    layers, said = HOSTILE[name]
    signed_layout(place, making.image(layers), KEY)
    with nothing_left(place.caller, writes=place.folder):
        place.refused(said, 3, "add", f"oci:{place.folder}/layout:1.0", "--as", NAME)
    assert place.contents() == set()


@as_root
def test_an_unsigned_image_is_refused_and_no_layer_of_it_is_read(place: Bench) -> None:
    path = place.own(making.layout(place.folder / "layout", MADE))
    place.write("trust.toml", making.trust(KEY))
    layer = next(each for each in (path / "blobs/sha256").iterdir() if each.read_bytes() in MADE.layers)
    layer.unlink()
    place.refused("it has none", 3, "add", f"oci:{path}:1.0", "--as", NAME)


def changed_trust(place: Bench, key: Private) -> None:
    place.write("trust.toml", making.trust(key))


@as_root
def test_a_verdict_of_yesterday_does_not_hold_under_another_policy(place: Bench) -> None:
    signed_layout(place, MADE, KEY)
    add(place)
    changed_trust(place, making.key())
    place.refused("not made by a key that counts here", 3, "verify", NAME)
    place.write("trust.toml", "trust = 1\n")
    place.refused("no pattern in", 3, "verify", NAME)


@as_root
def test_a_store_that_somebody_changed_is_noticed(place: Bench) -> None:
    signed_layout(place, MADE, KEY)
    record = add(place)
    for digest, said in ((record.sealed, "is sha256:"), (record.manifest, "has been changed")):
        path = place.store / "blobs/sha256" / digest[7:]
        before = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        place.refused(said, 3, "verify", NAME)
        path.write_bytes(before)
    assert place.image("verify", NAME).returncode == 0


@as_root
def test_what_is_typed_wrong_is_told_with_what_to_write(place: Bench) -> None:
    signed_layout(place, MADE, KEY)
    source = f"oci:{place.folder}/layout"
    place.refused("say which repository it stands for", 2, "add", source)
    place.refused("write the registry too", 2, "add", "server:1.0")
    place.refused("name a SOURCE, or give --locked", 2, "add")
    place.refused("supervisor image add", 2, "rm", f"{NAME}@{MADE.digest}")
    place.refused(f"{NAME}:2.0 is not there", 1, "add", f"{source}:2.0", "--as", NAME)
    elsewhere = ("--as", NAME, "--platform", "linux/s390x")
    place.refused("configuration is for linux/amd64", 3, "add", f"{source}:1.0", *elsewhere)
    (place.folder / "trust.toml").chmod(0o666)
    place.refused("others can write it", 3, "add", f"{source}:1.0", "--as", NAME)
    (place.folder / "trust.toml").unlink()
    place.refused("trust.toml: missing", 2, "add", f"{source}:1.0", "--as", NAME)


@as_root
def test_a_locked_tag_that_moved_is_refused_until_it_is_taken(place: Bench) -> None:
    path = signed_layout(place, MADE, KEY)
    add(place, "--lock", "images.lock")
    other = making.image([making.files({"other": b"x"})])
    making.layout(path, other)
    making.signed(path, other, KEY)
    place.own(path)
    place.refused("is locked to", 3, "add", f"oci:{path}:1.0", "--as", NAME, "--lock", "images.lock")
    assert add(place, "--lock", "images.lock", "--update").digest == other.digest
    assert other.digest in (place.folder / "images.lock").read_text()
