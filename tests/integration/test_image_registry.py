"""A real registry with TLS and a password, and one that lies: what is added is what was signed, or nothing."""

from __future__ import annotations

import os
import select
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.oci.layout import Folder, Layout
from supervisor.oci.source import fallback_tag
from supervisor.oci.store import Record
from tests.integration import image_registry
from tests.integration.caller import Caller
from tests.integration.imaging import Bench, bench
from tests.integration.remains import descendants, nothing_left, unknown
from tests.unit.oci import lying_registry, making
from tests.unit.oci.lying_registry import Reply

KEY = making.key()
MADE = making.image([making.files({"hello": b"hello\n" * 1000})])
OTHER = making.image([making.files({"other": b"other\n"})])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[image_registry.Registry]:
    # not below pytest's folder, which is closed to the ordinary user
    with (
        tempfile.TemporaryDirectory(prefix="svtest-", dir="/var/tmp") as folder,
        image_registry.running(Path(folder)) as running,
    ):
        name = f"{running.host}/team/server"
        layout = making.layout(tmp_path_factory.mktemp("image") / "layout", MADE)
        making.signed(layout, MADE, KEY, name)
        making.attested(layout, MADE, KEY)
        making.layout(layout, OTHER, "unsigned")
        for tag in ("1.0", "unsigned", fallback_tag(MADE.digest, ".sig")):
            running.push(layout, tag)
        referrers = Layout(Folder(str(layout))).tagged(fallback_tag(MADE.digest))
        assert referrers is not None
        running.put(layout, referrers.digest, fallback_tag(MADE.digest))
        yield running


@pytest.fixture
def place(caller: Caller, registry: image_registry.Registry) -> Bench:
    made = bench(caller, "images")
    made.write("trust.toml", making.trust(KEY, pattern=f"{registry.host}/team/server"))
    made.write("auth.json", registry.authfile)
    made.write("registries.toml", registry.registries)
    return made


OPTIONS = ("--authfile", "auth.json", "--registries", "registries.toml")
as_root = pytest.mark.parametrize("caller", ["root"], indirect=True)


def test_an_image_is_added_from_a_registry_by_tag_and_again_from_the_lock(
    place: Bench, registry: image_registry.Registry
) -> None:
    name = f"{registry.host}/team/server"
    with nothing_left(place.caller, writes=place.folder):
        found = place.json("add", f"{name}:1.0", *OPTIONS, "--lock", "images.lock")
    record = Record.model_validate(found, strict=False)
    assert record.reference == f"{name}@{MADE.digest}"
    assert record.signers == ("release",)
    place.json("rm", record.reference)
    place.json("gc")
    again = Record.model_validate(place.json("add", "--locked", *OPTIONS), strict=False)
    for field, value in record:
        assert field == "added" or getattr(again, field) == value, field


@as_root
def test_a_bundle_is_found_through_the_fallback_tag_of_a_registry_without_referrers(
    place: Bench, registry: image_registry.Registry
) -> None:
    name = f"{registry.host}/team/server"
    place.write("trust.toml", making.trust(KEY, pattern=name, bound=name))
    record = Record.model_validate(place.json("add", f"{name}:1.0", *OPTIONS), strict=False)
    assert {each.referrer for each in record.candidates} == {0, 1}


@as_root
def test_what_a_registry_refuses_or_cannot_prove_is_told(place: Bench, registry: image_registry.Registry) -> None:
    name = f"{registry.host}/team/server"
    place.refused("it has none", 3, "add", f"{name}:unsigned", *OPTIONS)
    place.refused(f"{name}:missing is not there", 1, "add", f"{name}:missing", *OPTIONS)
    place.refused("give --authfile", 1, "add", f"{name}:1.0", *OPTIONS[2:])
    place.write("auth.json", registry.authfile.replace(registry.host, "other.example"))
    place.refused("give --authfile", 1, "add", f"{name}:1.0", *OPTIONS)
    place.refused("registries.toml can name a ca", 1, "add", f"{name}:1.0", "--registries", "none.toml")


@pytest.fixture
def liar(caller: Caller) -> Iterator[tuple[lying_registry.Registry, Bench]]:
    """A registry in this process, plain on loopback, and a bench that names it."""
    with lying_registry.serve(MADE) as served:
        made = bench(caller, "images")
        signature = making.layout(made.folder / "signatures", MADE)
        making.signed(signature, MADE, KEY, served.name)
        made.own(signature)
        made.write("trust.toml", making.trust(KEY, pattern=served.name))
        made.write("registries.toml", f'[registry."{served.host}"]\nplain_http = true\n')
        yield served, made


def asked(served: lying_registry.Registry) -> tuple[str, ...]:
    return (f"{served.name}:1.0", "--registries", "registries.toml", "--signatures", "signatures")


@as_root
def test_a_tag_that_moves_while_it_is_added_is_refused(liar: tuple[lying_registry.Registry, Bench]) -> None:
    served, place = liar

    def moved(_request: object, before: int) -> Reply:
        return Reply(body=OTHER.data if before else MADE.data)

    served.lies["manifests/1.0"] = moved
    place.refused(f"was {MADE.digest} at first and is {OTHER.digest} now", 3, "add", *asked(served))


@as_root
def test_a_registry_that_serves_another_image_under_a_digest_is_refused(
    liar: tuple[lying_registry.Registry, Bench],
) -> None:
    served, place = liar
    served.lies[f"manifests/{MADE.digest}"] = lambda _request, _before: Reply(body=OTHER.data)
    place.refused("or somebody lies", 3, "add", *asked(served))
    del served.lies[f"manifests/{MADE.digest}"]
    assert place.image("add", *asked(served)).returncode == 0


def status(pid: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_the_process_that_reads_a_stranger_s_bytes_has_no_power(
    liar: tuple[lying_registry.Registry, Bench],
) -> None:
    served, place = liar
    waiting, go_on = threading.Event(), threading.Event()

    def slow(_request: object, _before: int) -> Reply:
        waiting.set()
        go_on.wait(20)
        return Reply(404)

    served.lies["manifests/1.0"] = slow
    before = descendants()
    options: tuple[str | Path, ...] = (*asked(served)[:3], "--store", place.store, "--trust", "trust.toml")
    process = place.caller.process(place.caller.command("image", "add", *options), cwd=place.folder)
    try:
        assert waiting.wait(20)
        (fetcher,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        found = status(fetcher)
        assert found["NoNewPrivs"] == "1"
        assert found["Seccomp"] == "2"
        assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == int(found["CapInh"], 16) == 0
        assert found["Uid"].split()[0] != "0"
        if place.caller.mode == "root":
            assert int(found["Uid"].split()[0]) >= 0x70000000
            assert int(found["CapBnd"], 16) == 0
            assert found["Groups"] == ""
    finally:
        go_on.set()
        place.caller.arena.finish(process)
    assert not unknown(descendants(), before)


@as_root
def test_nothing_is_left_of_an_add_that_is_killed(liar: tuple[lying_registry.Registry, Bench]) -> None:
    served, place = liar
    waiting, go_on = threading.Event(), threading.Event()

    def slow(_request: object, _before: int) -> Reply:
        waiting.set()
        go_on.wait(20)
        return Reply(404)

    served.lies["manifests/1.0"] = slow
    argv = place.caller.command("image", "add", *asked(served), "--store", place.store, "--trust", "trust.toml")
    process = place.caller.process(argv, cwd=place.folder)
    try:
        assert waiting.wait(20)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ends = [os.pidfd_open(int(child)) for child in children]
        process.kill()
        process.communicate()
        for end in ends:
            assert select.select([end], [], [], 10)[0]
            os.close(end)
    finally:
        go_on.set()
    del served.lies["manifests/1.0"]
    assert place.image("add", *asked(served)).returncode == 0
    place.json("gc")
    assert not list((place.store / "incoming").iterdir())
