"""Building our reference images: Debian packages, Python and npm packages, our own files, one layer, no registry.

Runs as whoever builds, and nothing that it packs but the image's Python, in a sandbox. The same lock gives the same
digest: the layer is an uncompressed tar of sorted names, because compressors differ from one version to the next.
An image with a shell or a package manager in it is not made.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import SupervisorError
from supervisor.oci import bytecode, manifest, packages, sbom
from supervisor.oci.document import Table
from supervisor.oci.layout import Writer, canonical
from supervisor.oci.recipe import Deb, Recipe
from supervisor.oci.reference import digest_of
from supervisor.oci.sign import attach, described
from supervisor.oci.worker import Progress

DIST_PACKAGES = "usr/lib/python3/dist-packages"
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_NAMES = (
    "sh bash dash ash zsh ksh busybox apt apt-get dpkg dpkg-deb rpm apk pip pip3 npm npx yarn corepack perl awk"
)
TOOLS = frozenset([*_NAMES.split(), "sed", "tar", "curl", "wget", "nc", "python3-config"])


@dataclass(frozen=True)
class Built:
    """What was made: sizes in bytes; `compiled` modules have their byte code beside them."""

    name: str
    digest: str
    files: int
    size: int
    debian: int
    python: int
    npm: int
    compiled: int


def build(
    recipe: Recipe, output: Path, progress: Progress, sandbox: bytecode.Sandbox, *, update: bool = False
) -> Built:
    """Make the image and write it, with its list of contents, into the OCI layout `output`."""
    if (output / "index.json").exists():
        raise SupervisorError(f"{output}: is a layout already; name a new folder")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".build-") as name:
        work = Path(name)
        for each in ("debs", "root", "npm"):
            (work / each).mkdir()
        if update:
            _lock(recipe, work, progress)
        progress(f"{len(recipe.debian)} Debian packages")
        debs = packages.debian(recipe, work / "debs", update=update)
        if update:
            recipe.write_lock([deb for deb, _ in debs])
        root = work / "root"
        for _, path in debs:
            _extract(path, root)
        python, npm = _install(recipe, root, work, progress)
        _shape(recipe, root)
        compiled = _compile(recipe, root, work, progress, sandbox)
        progress("writing the layer")
        layer = work / "layer.tar"
        files, size = _pack(root, layer)
        digest = _write(recipe, output, layer, _Contents([deb for deb, _ in debs], python, npm))
    return Built(recipe.name, digest, files, size, len(debs), len(python), len(npm), compiled)


@dataclass(frozen=True)
class _Contents:
    debian: list[Deb]
    python: list[tuple[str, str]]
    npm: list[tuple[str, str]]


def _lock(recipe: Recipe, work: Path, progress: Progress) -> None:
    progress("looking versions up")
    if recipe.text.python:
        packages.lock_python(recipe, work)
    if recipe.text.npm:
        packages.lock_npm(recipe)


def _install(
    recipe: Recipe, root: Path, work: Path, progress: Progress
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    python: list[tuple[str, str]] = []
    npm: list[tuple[str, str]] = []
    folder = root / recipe.text.folder.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.text.python:
        progress("Python packages")
        python = packages.python(recipe, root / DIST_PACKAGES)
        # scripts name the interpreter of whoever built them, and so does the record of what was installed
        shutil.rmtree(root / DIST_PACKAGES / "bin", ignore_errors=True)
        for record in (root / DIST_PACKAGES).glob("*.dist-info/RECORD"):
            record.unlink()
    if recipe.text.npm:
        progress("npm packages")
        npm = packages.npm(recipe, folder / "node_modules", work / "npm")
    for pattern in recipe.text.sources:
        found = sorted(recipe.path.glob(pattern))
        if not found:
            raise SupervisorError(f"{recipe.path / 'image.toml'}: nothing beside it is named {pattern}")
        for path in found:
            shutil.copyfile(path, folder / path.name)
    return python, npm


def _extract(deb: Path, root: Path) -> None:
    """A package's files; what lies in /lib and so on is in /usr/lib, as on every Debian of today."""
    argv = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            name = member.name.removeprefix("./")
            first, slash, rest = name.partition("/")
            member.name = f"usr/{first}{slash}{rest}" if first in _MERGED else name
            if member.islnk():
                member.linkname = member.linkname.removeprefix("./")
            member.mode = 0o755 if member.isdir() or member.mode & 0o111 else 0o644
            if member.name not in (".", "") and not (member.isdir() and (root / member.name).is_dir()):
                archive.extract(member, root, filter="tar")
    if process.returncode:
        raise SupervisorError(f"{deb.name}: dpkg-deb ended with {process.returncode}")


def _shape(recipe: Recipe, root: Path) -> None:
    """Remove what the recipe does not want, add the links of a merged /usr, and look for tools."""
    _prune(recipe, root)
    for each in _MERGED:
        if (root / "usr" / each).is_dir() or each in ("bin", "sbin", "lib"):
            (root / "usr" / each).mkdir(parents=True, exist_ok=True)
            (root / each).symlink_to(f"usr/{each}")
    for name, target in recipe.links.items():
        (root / name).unlink(missing_ok=True)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    # the working folder too, which has nothing in it where the server is a package
    for each in ("dev", "proc", "tmp", "etc", recipe.text.folder.lstrip("/")):
        (root / each).mkdir(parents=True, exist_ok=True)
    for folder in ("usr/bin", "usr/sbin", "usr/local/bin"):
        if tools := sorted(TOOLS & {path.name for path in (root / folder).glob("*")}):
            raise SupervisorError(f"{recipe.path}: the image would have {', '.join(tools)} in /{folder}")


def _compile(recipe: Recipe, root: Path, work: Path, progress: Progress, sandbox: bytecode.Sandbox) -> int:
    if recipe.text.base != "python":
        return 0
    progress("byte code")
    program = recipe.text.entrypoint[0]
    folders = [f"usr/lib/{Path(program).name}", DIST_PACKAGES, recipe.text.folder.lstrip("/")]
    return bytecode.add(root, program, folders, work / "bytecode", sandbox)


def _prune(recipe: Recipe, root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        name = str(path.relative_to(root))
        unwanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in recipe.remove)
        kept = any(fnmatch.fnmatchcase(name, pattern) for pattern in recipe.keep)
        if unwanted and not kept and (path.is_symlink() or not path.is_dir()):
            path.unlink()
    for path in sorted(root.rglob("*"), reverse=True):
        lost = path.is_symlink() and not path.exists() and not os.readlink(path).startswith("/")
        if lost:  # it led to something that was removed
            path.unlink()
        elif path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


def _pack(root: Path, out: Path) -> tuple[int, int]:
    """(files, bytes) of the one layer: sorted, owned by root, of no time."""
    files = size = 0
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(root.rglob("*"), key=lambda each: each.relative_to(root).parts):
            info = archive.gettarinfo(path, str(path.relative_to(root)))
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            info.mode = 0o755 if info.isdir() or info.mode & 0o111 else 0o644
            if info.islnk():  # a second name of a file is written as a file of its own
                info.type, info.linkname, info.size = tarfile.REGTYPE, "", path.stat().st_size
            if info.isreg():
                files, size = files + 1, size + info.size
                with path.open("rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)
    return files, size


def _write(recipe: Recipe, output: Path, layer: Path, contents: _Contents) -> str:
    writer = Writer(output)
    text = recipe.text
    described_layer = writer.adopt(layer, manifest.OCI_LAYER)
    env = {"PATH": "/usr/bin", **text.env}
    config: Table = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": list(text.entrypoint),
            "Env": [f"{key}={value}" for key, value in sorted(env.items())],
            "WorkingDir": text.folder,
            "User": "65534:65534",
            "Labels": {"org.opencontainers.image.title": recipe.path.name},
        },
        "rootfs": {"type": "layers", "diff_ids": [described_layer["digest"]]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "supervisor image build"}],
    }
    document: Table = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "config": writer.blob(canonical(config), manifest.OCI_CONFIG),
        "layers": [described_layer],
        "annotations": {"org.opencontainers.image.description": text.summary},
    }
    data = canonical(document)
    writer.list(writer.blob(data, manifest.OCI_MANIFEST), "latest")
    listed = sbom.cyclonedx(recipe.name, digest_of(data), contents.debian, contents.python, contents.npm)
    attach(
        output, writer.blob(listed, sbom.MEDIA_TYPE), described(data, manifest.OCI_MANIFEST), sbom.MEDIA_TYPE, {}
    )
    return digest_of(data)
