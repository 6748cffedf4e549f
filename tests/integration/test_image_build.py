"""Our own images: the same lock gives the same bytes, without a shell; their servers answer from the seal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from supervisor.oci import build, keyfile, sbom
from supervisor.oci.layout import Folder, Layout
from supervisor.oci.manifest import image
from supervisor.oci.recipe import Recipe
from supervisor.oci.store import Record
from tests.unit.oci import making

ROOT = Path(__file__).parents[2]
RECIPES = ("everything", "fetch", "filesystem", "git", "time")
COMMAND = str(Path(sys.executable).parent / "supervisor")


def supervisor(*arguments: str | Path) -> str:
    done = subprocess.run([COMMAND, "image", *arguments], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The filesystem server's image, made from its lock."""
    path = tmp_path_factory.mktemp("built") / "layout"
    supervisor("build", ROOT / "images" / "filesystem", "--output", path)
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_the_same_lock_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    supervisor("build", ROOT / "images" / "filesystem", "--output", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(built)


def names(path: Path) -> set[str]:
    source = Layout(Folder(str(path)))
    (layer,) = image(source.only().data, "it").layers
    with tarfile.open(path / "blobs/sha256" / layer.digest[7:]) as archive:
        return set(archive.getnames())


def test_there_is_no_shell_and_no_package_manager_in_it(built: Path) -> None:
    found = names(built)
    programs = {each for each in found if each.startswith(("usr/bin/", "usr/sbin/", "usr/local/bin/"))}
    assert programs == {"usr/bin/python3", "usr/bin/python3.11"}
    assert not build.TOOLS & {each.rpartition("/")[2] for each in programs}
    assert "usr/share/doc/libc6/copyright" in found


def test_its_contents_are_listed_beside_it(built: Path) -> None:
    source = Layout(Folder(str(built)))
    found = source.only()
    (listed,) = source.referrers(found.digest)
    assert listed.artifact_type == sbom.MEDIA_TYPE
    holder = source.manifest(listed.digest)
    assert holder is not None
    layer = json.loads(holder.data)["layers"][0]["digest"]
    document = json.loads((built / "blobs/sha256" / layer[7:]).read_bytes())
    assert document["bomFormat"] == "CycloneDX"
    urls = {each["purl"] for each in document["components"]}
    assert {"pkg:pypi/mcp@2.3.0"} < urls
    assert any(each.startswith("pkg:deb/debian/libc6@") for each in urls)
    recipe = Recipe(ROOT / "images" / "filesystem")
    assert len(urls) == len(recipe.debian) + len(recipe.requirements.read_text().splitlines())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_its_server_runs_from_the_sealed_file_system(built: Path, tmp_path: Path) -> None:
    key = making.key()
    name = "localhost/supervisor/filesystem"
    (tmp_path / "trust.toml").write_text(making.trust(key, pattern=name))
    (tmp_path / "key").write_text(keyfile.write(key, b""))
    environment = {**os.environ, "COSIGN_PASSWORD": ""}
    argv = [COMMAND, "image", "sign", f"oci:{built}", "--as", name, "--key", str(tmp_path / "key")]
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    where = ("--store", tmp_path / "store", "--json")
    added = supervisor("add", f"oci:{built}", "--as", name, "--trust", tmp_path / "trust.toml", *where)
    record = Record.model_validate_json(added)
    assert record.contents.dropped == {}
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "a file").touch()
    image = ("--image", record.reference, "--store", str(tmp_path / "store"))
    options = ("-q", "--profile", "fs-readonly", "--param", f"root={shown}", *image)
    done = subprocess.run(
        [COMMAND, "call", *options, "list_directory", "path=/data"], capture_output=True, text=True, timeout=60
    )
    assert "a file" in done.stdout, done.stderr


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_lock_that_fits_it_and_says_nothing_of_where_packages_come_from(name: str) -> None:
    recipe = Recipe(ROOT / "images" / name)
    assert len(recipe.locked()) == len(recipe.debian)
    assert recipe.name == f"localhost/supervisor/{name}"
    if recipe.text.python:
        lines = recipe.requirements.read_text().splitlines()
        assert all(" --hash=sha256:" in line for line in lines)
        assert set(recipe.text.python) <= {line.split()[0] for line in lines}
    if recipe.text.npm:
        lock = json.loads((recipe.path / "package-lock.json").read_text())
        assert lock["packages"][""]["dependencies"] == recipe.text.npm
        entries = [each for path, each in lock["packages"].items() if path]
        assert all("integrity" in each and "resolved" not in each for each in entries)
    assert (recipe.path / "Containerfile").exists()
