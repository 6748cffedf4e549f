"""Getting packages: apt-get, pip and npm with their own locks, run as whoever builds, never a script of a package.

Each is the ordinary client with the ordinary settings of this host; nothing here knows where packages come from.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from supervisor.errors import Refused, SupervisorError
from supervisor.oci.document import Reader, Table
from supervisor.oci.recipe import Deb, Recipe

_PLATFORMS = ("manylinux_2_36", "manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
_SECONDS = 900


def run(argv: list[str], folder: Path) -> str:
    """A program's output; SupervisorError with its last words."""
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SupervisorError(f"{argv[0]}: {error}") from None
    if done.returncode:
        raise SupervisorError(f"{' '.join(argv[:4])}: status {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def debian(recipe: Recipe, folder: Path, *, update: bool) -> list[tuple[Deb, Path]]:
    """Every package as a file in `folder`, of the locked version and digest, or of the newest with `update`."""
    locked = {} if update else {each.name: each for each in recipe.locked()}
    versions = _newest(recipe, folder) if update else {name: each.version for name, each in locked.items()}
    wanted = [f"{name}={versions[name]}" for name in recipe.debian]
    # apt's own user cannot write here, which it says and gets over
    run(["apt-get", "download", "-o", "APT::Sandbox::User=root", *wanted], folder)
    found = []
    for path in sorted(folder.glob("*.deb")):
        name, version = run(["dpkg-deb", "-W", "--showformat=${Package} ${Version}", str(path)], folder).split()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if name in locked and digest != locked[name].sha256:
            raise Refused(f"{path.name}: its digest is {digest}, not that in {recipe.path / 'image.lock'}")
        found.append((Deb(name=name, version=version, sha256=digest), path))
    if sorted(deb.name for deb, _ in found) != recipe.debian:
        raise SupervisorError(f"apt-get download brought {len(found)} packages, not {len(recipe.debian)}")
    return found


def _newest(recipe: Recipe, folder: Path) -> dict[str, str]:
    """The newest version of each package that can be downloaded, which may be older than an installed one."""
    found: dict[str, str] = {}
    for line in run(["apt-cache", "madison", *recipe.debian], folder).splitlines():
        name, version, _ = (part.strip() for part in line.split("|", 2))
        found.setdefault(name, version)
    if missing := sorted(set(recipe.debian) - set(found)):
        raise SupervisorError(f"apt-cache knows no {', '.join(missing)}: apt-get update")
    return found


def _pip(*arguments: str) -> list[str]:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--only-binary", ":all:"]
    argv += ["--implementation", "cp", "--python-version", "3.11"]
    for each in ("cp311", "abi3", "none"):
        argv += ["--abi", each]
    for each in (*_PLATFORMS, "any"):
        argv += ["--platform", each if each == "any" else f"{each}_{os.uname().machine}"]
    return argv


def lock_python(recipe: Recipe, folder: Path) -> None:
    """Write requirements.txt: what pip would install now, each file by its hash."""
    asked = _pip("install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", "--target", "x")
    report = Reader(json.loads(run([*asked, *recipe.text.python], folder)), "pip's report")
    lines = []
    for each in report.each("install", most=1000):
        metadata = each.one("metadata")
        digest = each.one("download_info").one("archive_info").one("hashes").text("sha256")
        lines.append(f"{metadata.text('name').lower()}=={metadata.text('version')} --hash=sha256:{digest}")
    recipe.requirements.write_text("\n".join(sorted(lines)) + "\n", "utf-8")


def python(recipe: Recipe, target: Path) -> list[tuple[str, str]]:
    """Install requirements.txt into `target`; names and versions."""
    argv = _pip("install", "--quiet", "--no-deps", "--no-compile", "--require-hashes", "--target", str(target))
    run([*argv, "-r", str(recipe.requirements.absolute())], recipe.path)
    rows = [line.split()[0].partition("==") for line in recipe.requirements.read_text("utf-8").splitlines()]
    return [(name, version) for name, _, version in rows]


def lock_npm(recipe: Recipe) -> None:
    """Write package.json and package-lock.json, without the addresses that packages came from."""
    manifest = {"name": recipe.path.name, "private": True, "dependencies": recipe.text.npm}
    (recipe.path / "package.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    (recipe.path / "package-lock.json").unlink(missing_ok=True)
    run(["npm", "install", "--package-lock-only", *_quiet(), "--omit-lockfile-registry-resolved"], recipe.path)


def _quiet() -> list[str]:
    return ["--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev"]


def npm(recipe: Recipe, target: Path, folder: Path) -> list[tuple[str, str]]:
    """Install package-lock.json into `target`; names and versions."""
    for name in ("package.json", "package-lock.json"):
        (folder / name).write_bytes((recipe.path / name).read_bytes())
    run(["npm", "ci", *_quiet()], folder)
    # npm's own record names where each package came from
    (folder / "node_modules" / ".package-lock.json").unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / "node_modules").rename(target)
    lock: Table = json.loads((recipe.path / "package-lock.json").read_text("utf-8"))
    listed = Reader(lock, "package-lock.json").one("packages").table
    rows = []
    for path, entry in listed.items():
        if path and isinstance(entry, dict):
            rows.append((path.rpartition("node_modules/")[2], str(entry.get("version", ""))))
    return sorted(set(rows))
