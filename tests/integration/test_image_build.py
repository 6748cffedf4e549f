"""Our own images: the same lock gives the same bytes, without a shell; their servers answer from the seal.

Their modules are compiled already, by the image's own Python.
"""

from __future__ import annotations

import json
import marshal
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path

import pytest

from supervisor.cli import selftest
from supervisor.errors import ConfigError
from supervisor.model import ImageRoot
from supervisor.oci import build, keyfile, sbom
from supervisor.oci.layout import Folder, Layout
from supervisor.oci.manifest import image
from supervisor.oci.recipe import Recipe
from supervisor.oci.store import Record
from supervisor.profile.image import Image
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


def layer(path: Path) -> tarfile.TarFile:
    (only,) = image(Layout(Folder(str(path))).only().data, "it").layers
    return tarfile.open(path / "blobs/sha256" / only.digest[7:])


def names(path: Path) -> set[str]:
    with layer(path) as archive:
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


def test_every_module_that_can_be_imported_has_byte_code_that_nobody_compares_with_a_time(built: Path) -> None:
    with layer(built) as archive:
        found = {each.name for each in archive if each.isfile()}
    sources = {each for each in found if each.endswith(".py") and "dist-info" not in each}
    made = {each for each in found if each.endswith(".pyc")}
    beside = {f"{os.path.dirname(each)}/__pycache__/{Path(each).stem}.cpython-311.pyc" for each in sources}
    assert made <= beside
    assert beside - made == set()
    with layer(built) as archive:
        for name in ("usr/lib/python3.11/__pycache__/os", "srv/filesystem/__pycache__/tools"):
            file = archive.extractfile(f"{name}.cpython-311.pyc")
            assert file
            head, code = file.read(16), marshal.loads(file.read())
            source = archive.extractfile(name.replace("__pycache__/", "") + ".py")
            assert source
            assert head == MAGIC_NUMBER + b"\1\0\0\0" + source_hash(source.read())
            assert code.co_filename == "/" + name.replace("__pycache__/", "") + ".py"


@pytest.fixture(scope="module")
def record(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    """The image, signed and added to a store."""
    place = tmp_path_factory.mktemp("added")
    key = making.key()
    name = "localhost/supervisor/filesystem"
    (place / "trust.toml").write_text(making.trust(key, pattern=name))
    (place / "key").write_text(keyfile.write(key, b""))
    environment = {**os.environ, "COSIGN_PASSWORD": ""}
    argv = [COMMAND, "image", "sign", f"oci:{built}", "--as", name, "--key", str(place / "key")]
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    where = ("--store", place / "store", "--json")
    added = supervisor("add", f"oci:{built}", "--as", name, "--trust", place / "trust.toml", *where)
    return Record.model_validate_json(added), place / "store"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_its_server_runs_from_the_sealed_file_system(record: tuple[Record, Path], tmp_path: Path) -> None:
    image, store = record
    assert image.contents.dropped == {}
    (tmp_path / "a file").touch()
    what = ("--image", image.reference, "--store", str(store))
    options = ("-q", "--profile", "fs-readonly", "--param", f"root={tmp_path}", *what)
    done = subprocess.run(
        [COMMAND, "call", *options, "list_directory", "path=/data"], capture_output=True, text=True, timeout=60
    )
    assert "a file" in done.stdout, done.stderr


def test_no_module_is_compiled_when_its_server_starts(built: Path, tmp_path: Path) -> None:
    with layer(built) as archive:
        archive.extractall(tmp_path, filter="tar")
    # it leads to the image's /etc, in which there is nothing; here it would be this host's
    (tmp_path / "usr/lib/python3.11/sitecustomize.py").unlink()
    (loader,) = tmp_path.glob("usr/lib/*/ld-linux-*.so.*")
    program = (loader, "--library-path", loader.parent, tmp_path / "usr/bin/python3.11")
    # the image's own entry point, and -v: say of each module where its code is from
    argv = (*program, "-v", "-I", tmp_path / "srv/filesystem/server.py", tmp_path)
    done = subprocess.run(argv, input="", capture_output=True, text=True, timeout=60, env={})
    read = set(re.findall(r"# code object from '?([^'\n]+)", done.stderr))
    packages = tmp_path / "usr/lib/python3/dist-packages"
    assert str(packages / "pydantic/__pycache__/main.cpython-311.pyc") in read, done.stderr[-2000:]
    assert {each for each in read if not each.endswith(".pyc")} == set()


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


@pytest.mark.parametrize("name", RECIPES)
def test_the_folder_that_a_server_starts_in_is_there_with_nothing_in_it_too(name: str, tmp_path: Path) -> None:
    recipe = Recipe(ROOT / "images" / name)
    (tmp_path / "usr/bin").mkdir(parents=True)
    build._shape(recipe, tmp_path)
    assert tmp_path.joinpath(recipe.text.folder.lstrip("/")).is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("profile", ["none", "fs-readonly"])
def test_its_sandbox_holds_at_every_boundary_as_its_own_python_says(
    record: tuple[Record, Path], tmp_path: Path, profile: str
) -> None:
    image, store = record
    what = ("--image", image.reference, "--store", store, "--profile", profile, "--json")
    param = ("--param", f"root={tmp_path}") if profile == "fs-readonly" else ()
    argv = [COMMAND, "selftest", *what, *param]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110)
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout)
    assert [row for row in answer["probes"] if not row["held"]] == []
    assert len(answer["probes"]) > 60
    assert done.returncode == 0


HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tester", "version": "7"}}
ASKED: list[dict[str, object]] = [
    {"method": "initialize", "id": 1, "params": HELLO},
    {"method": "notifications/initialized"},
    {
        "method": "tools/call",
        "id": 2,
        "params": {"name": "read_text_file", "arguments": {"path": "/data/in/a file"}},
    },
]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("strace"), reason="mounts; apt-get install strace")
def test_what_is_learned_of_its_server_suffices_in_the_image_and_grants_no_more(
    record: tuple[Record, Path], tmp_path: Path
) -> None:
    image, store = record
    data, other, learned = tmp_path / "data", tmp_path / "other", tmp_path / "learned.toml"
    for folder in (data, other):
        (folder / "in").mkdir(parents=True)
        (folder / "in/a file").write_text("seen")
    what = ("--image", image.reference, "--store", str(store))
    bound = ("--bound", "fs-readonly", "--param", f"root={data}", "--rw", f"{other}", "--output", str(learned))
    said = "".join(json.dumps({"jsonrpc": "2.0"} | each) + "\n" for each in ASKED)
    argv = [COMMAND, "profile", "learn", *bound, *what]
    with subprocess.Popen(argv, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(said)
        process.stdin.flush()
        answers = [process.stdout.readline() for _ in (1, 2)]
        process.stdin.close()
        assert process.wait(60) == 0
    assert "seen" in answers[1], answers
    text = learned.read_text()
    assert f"# It ran from the image {image.reference}" in text
    # it opens its folder itself; of the other, which was granted as well, it wanted nothing
    mounts = tomllib.loads(text)["mount"]
    assert [(each["source"], each["target"], each["mode"]) for each in mounts] == [(f"{data}", "/data", "ro")]
    assert "server" not in tomllib.loads(text)
    call = [COMMAND, "call", "-q", "--profile", str(learned), *what, "read_text_file", "path=/data/in/a file"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "seen" in done.stdout) == (0, True), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_an_image_without_python_is_refused_by_name(record: tuple[Record, Path]) -> None:
    image, _ = record
    root = ImageRoot(name=image.reference, digest=image.manifest, config=image.config)
    found = Image(root, ("/usr/bin/node",), (), {}, "", "", "")
    with pytest.raises(ConfigError, match='is "/usr/bin/node": try the profile in an image with a Python'):
        selftest._interpreter(found)
