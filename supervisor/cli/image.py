"""`supervisor image`: add, list, show, verify, sign, build, rm, gc. Images by digest, each verified before it is
used.

Runs as whoever owns the store. What is a stranger's is parsed by one-shot workers without power; see
supervisor.oci.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from supervisor.cli.options import read
from supervisor.errors import ConfigError

_EPILOG = """SOURCE is registry.example.org/name:tag, or with --as registry.example.org/name one of
  oci:FOLDER[:NAME]   oci-archive:FILE[:NAME]   docker-archive:FILE
IMAGE is registry.example.org/name@sha256:..., or the name alone where the store has one of it

exit status: 0 ok   1 failed   2 usage   3 refused by policy   4 this host cannot enforce it"""


class Progress:
    """What is being done, on standard error, once it takes longer than a second."""

    def __init__(self, command: str, *, quiet: bool) -> None:
        self._prefix = f"supervisor image {command}"
        self._quiet = quiet
        self._from = time.monotonic() + 1.0

    def __call__(self, text: str) -> None:
        if not self._quiet and time.monotonic() > self._from:
            print(f"{self._prefix}: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="supervisor image",
        description="Images of servers: verified, unpacked, sealed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = commands.add_parser("add", help="resolve, verify, fetch and seal an image")
    add.add_argument("source", nargs="?", metavar="SOURCE")
    add.add_argument("--locked", action="store_true", help="add everything in the lock file")
    add.add_argument("--lock", metavar="FILE", help="write the digest down in FILE, or refuse if FILE has another")
    add.add_argument("--update", action="store_true", help="put a new digest into the lock file")
    add.add_argument("--signatures", metavar="FOLDER", help="an OCI layout that has the signatures")
    add.add_argument("--platform", metavar="OS/ARCH", help="instead of this host's")
    add.add_argument("--registries", metavar="FILE", help="registries.toml")
    add.add_argument("--authfile", metavar="FILE", help="docker's config.json with passwords")
    listing = commands.add_parser("list", help="the images in the store")
    show = commands.add_parser("show", help="all that is known of one")
    verify = commands.add_parser("verify", help="judge again, by the trust.toml of now; without IMAGE, all")
    remove = commands.add_parser("rm", help="forget an image")
    collect = commands.add_parser("gc", help="remove blobs that no image needs")
    sign = commands.add_parser("sign", help="sign an image in an OCI layout, as cosign does")
    sign.add_argument("source", nargs="?", metavar="SOURCE")
    sign.add_argument("--key", metavar="FILE", help="cosign's key file; its password: $COSIGN_PASSWORD")
    sign.add_argument("--generate-key", metavar="NAME", help="make NAME.key and NAME.pub, and sign nothing")
    sign.add_argument("--bundle", action="store_true", help="a sigstore bundle, instead of a simple signature")
    sign.add_argument("--output", metavar="FOLDER", help="the OCI layout to write to, instead of the image's own")
    build = commands.add_parser("build", help="make one of our reference images, without a registry")
    build.add_argument("recipe", metavar="FOLDER", help="such as images/filesystem")
    build.add_argument("--output", metavar="FOLDER", required=True, help="the OCI layout to write")
    build.add_argument("--update-lock", action="store_true", help="take the newest packages, write the lock file")
    build.add_argument(
        "--accept-missing",
        metavar="NAME",
        action="append",
        default=[],
        help="compile in a sandbox without the named layer, as supervisor exec does",
    )
    for each in (add, sign):
        each.add_argument("--as", dest="name", metavar="NAME", help="the repository that it stands for")
    for each in (show, remove):
        each.add_argument("image", metavar="IMAGE")
    verify.add_argument("image", metavar="IMAGE", nargs="?")
    for each in (add, verify):
        each.add_argument("--trust", metavar="FILE", help="trust.toml (and trusted_root.json beside it)")
    for each in (add, listing, show, verify, remove, collect):
        each.add_argument("--store", metavar="FOLDER", help="instead of this user's store")
    for each in (add, listing, show, verify, remove, collect, sign, build):
        each.add_argument("--json", action="store_true", help="print JSON")
        each.add_argument("-q", "--quiet", action="store_true", help="no progress on standard error")
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run one action."""
    options = read(_parser(), arguments)
    if options.action in ("sign", "build"):
        from supervisor.cli import image_make

        return image_make.run(options, Progress(options.action, quiet=options.quiet))
    from supervisor.cli import image_store

    return image_store.run(options, Progress(options.action, quiet=options.quiet))


def source(text: str, name: str | None) -> tuple[str, str, str]:
    """(kind, path, reference as text) of a SOURCE and its --as."""
    kind, colon, rest = text.partition(":")
    kinds = {"oci": "oci", "oci-archive": "archive", "docker-archive": "archive"}
    if not colon or kind not in kinds:
        if name:
            raise ConfigError(f"--as {name}: an image from a registry has a name of its own")
        return "registry", "", text
    if not name:
        raise ConfigError(f"{text}: say which repository it stands for, as in --as registry.example.org/name")
    path, _, inside = (rest, "", "") if os.path.exists(rest) else rest.rpartition(":")
    return kinds[kind], os.path.abspath(path or rest), f"{name}{_suffix(inside)}"


def _suffix(inside: str) -> str:
    if not inside:
        return ""
    return f"@{inside}" if inside.startswith("sha256:") else f":{inside}"


def folder(kind: str, root: str, variable: str, home: str) -> Path:
    """Root's folder, or the user's by the XDG rules."""
    if os.geteuid() == 0:
        return Path(root)
    base = os.environ.get(variable) or os.path.expanduser(f"~/{home}")
    if not base.startswith("/"):
        raise ConfigError(f"{variable} is not set, and there is no home: name the {kind} with an option")
    return Path(base) / "supervisor"
