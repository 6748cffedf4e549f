"""The actions that make something: sign and build."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import supervisor
from supervisor import given
from supervisor.cli import image
from supervisor.errors import ConfigError, SupervisorError, Unenforceable
from supervisor.oci import build, bytecode, keyfile, sbom, sign, statement
from supervisor.oci.archive import open_archive
from supervisor.oci.layout import Folder, Layout
from supervisor.oci.recipe import Recipe
from supervisor.oci.reference import Reference, repository, requested
from supervisor.oci.source import Found
from supervisor.oci.worker import Failed

_MAX_KEY = 1 << 16
_OURSELVES = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from supervisor.cli.main import main; main()",
    str(Path(supervisor.__file__).resolve().parent.parent),
)


def run(options: argparse.Namespace, progress: image.Progress) -> int:
    """One action; the exit status."""
    return {"sign": _sign, "build": _build}[options.action](options, progress)


def _password(*, twice: bool) -> bytes:
    if (known := os.environ.get("COSIGN_PASSWORD")) is not None:
        return known.encode()
    if not sys.stdin.isatty():
        raise ConfigError("the key's password: set COSIGN_PASSWORD, or start this on a terminal")
    first = getpass.getpass("Password of the key: ")
    if twice and getpass.getpass("Again: ") != first:
        raise ConfigError("the two passwords differ")
    return first.encode()


def _sign(options: argparse.Namespace, progress: image.Progress) -> int:
    if options.generate_key:
        return _generate(options)
    if not (options.source and options.key):
        raise ConfigError("image sign: name a SOURCE and a --key (or --generate-key NAME)")
    kind, path, text = image.source(options.source, options.name)
    if kind == "registry":
        raise ConfigError(f"{text}: only an image on disk is signed: oci:FOLDER --as {text.partition('@')[0]}")
    if kind == "archive" and not options.output:
        raise ConfigError(f"{path}: an archive is not written to; name a layout with --output")
    reference = Reference(repository(text)) if text == options.name else requested(text)
    found = _found(kind, path, reference)
    try:
        pem = given.read(options.key, _MAX_KEY, pipes=True).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{options.key}: {error}") from None
    progress("opening the key")
    key = keyfile.read(pem, _password(twice=False), options.key)
    target = Path(options.output or path)
    name = str(reference.repository)
    if options.bundle:
        made = sign.bundle(key, sign.attest(found.digest, statement.SIGN, {}))
        described = sign.described(found.data, found.media_type or "application/vnd.oci.image.manifest.v1+json")
        tag = sign.write_bundle(target, made, described, statement.SIGN)
    else:
        payload = sign.simple_text(name, found.digest)
        tag = sign.write_simple(target, payload, sign.signature(key, payload), found.digest)
    said = {"reference": f"{name}@{found.digest}", "layout": str(target), "tag": tag}
    print(json.dumps(said) if options.json else f"signed {said['reference']}: {said['layout']}, {tag}")
    return 0


def _found(kind: str, path: str, reference: Reference) -> Found:
    try:
        source = open_archive(path) if kind == "archive" else Layout(Folder(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if reference.digest:
        found = source.manifest(reference.digest)
    else:
        found = source.tagged(reference.tag) if reference.tag else source.only()
    if found is None:
        raise SupervisorError(f"{path}: {reference} is not there")
    return found


def _generate(options: argparse.Namespace) -> int:
    paths = [Path(f"{options.generate_key}.{end}") for end in ("key", "pub")]
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path}: is there already")
    key = keyfile.generate()
    texts = [keyfile.write(key, _password(twice=True)), keyfile.public(key)]
    for path, text, mode in zip(paths, texts, (0o600, 0o644), strict=True):
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
    said = {"key": str(paths[0]), "public": str(paths[1])}
    print(json.dumps(said) if options.json else f"{said['key']} and {said['public']}")
    return 0


def _sandbox(accepted: list[str]) -> bytecode.Sandbox:
    """A command of `supervisor exec`: profile `none`, and a tree to read."""

    def run(tree: Path, argv: list[str], question: bytes, answer: Path) -> None:
        options = ["-q", "--profile", "none", "--ro", str(tree), "--env", "PYTHONHASHSEED=0"]
        options += [word for each in accepted for word in ("--accept-missing", each)]
        with answer.open("wb") as out:
            done = subprocess.run(
                [sys.executable, "-I", "-c", *_OURSELVES, "exec", *options, "--", *argv],
                input=question,
                stdout=out,
                stderr=subprocess.PIPE,
                check=False,
            )
        said = done.stderr.decode(errors="backslashreplace")
        if done.returncode:
            status = done.returncode if 0 < done.returncode <= Unenforceable.exit_status else 1
            raise Failed(f"byte code: {said.strip() or f'status {done.returncode}'}", status)
        # what was accepted is always told
        print(said, end="", file=sys.stderr)

    return run


def _build(options: argparse.Namespace, progress: image.Progress) -> int:
    sbom.check()
    recipe = Recipe(Path(options.recipe).absolute())
    # without a link on the way, which a sandbox is not shown
    output = Path(options.output).resolve()
    if ":" in str(output):
        raise ConfigError(f"{output}: a sandbox is shown no path with a colon; name another folder")
    sandbox = _sandbox(options.accept_missing)
    made = build.build(recipe, output, progress, sandbox, update=options.update_lock)
    if options.json:
        print(json.dumps({**asdict(made), "layout": str(output)}))
        return 0
    print(f"{made.name}@{made.digest}")
    print(f"  {output}: {made.files} files, {made.size / 1e6:.1f} MB")
    print(f"  {made.debian} Debian packages, {made.python} Python packages, {made.npm} npm packages")
    print(f"  {made.compiled} modules with byte code")
    print(f"  next: supervisor image sign oci:{options.output} --as {made.name} --key FILE")
    return 0
