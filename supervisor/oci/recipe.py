"""Recipes of our own images: images/NAME/image.toml, the lists that several share, and image.lock.

Runs as whoever builds. A recipe says what goes in; the lock says exactly which: Debian packages by version and
digest. What pip and npm install is locked by their own files beside it (requirements.txt with hashes,
package-lock.json).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from supervisor.errors import ConfigError
from supervisor.oci.reference import repository
from supervisor.profile import toml
from supervisor.profile.written import AbsPath, Written, validate

_HEADER = "# Written by supervisor image build --update-lock: what this image is made of.\nlock = 1\n"
Package = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
Texts = Annotated[tuple[str, ...], Field(strict=False)]


class Base(Written):
    """images/python.toml, images/node.toml: `remove` and `keep` are patterns of paths, without the first slash."""

    debian: Annotated[tuple[Package, ...], Field(strict=False)]
    remove: Texts = ()
    keep: Texts = ()
    links: dict[str, str] = {}


class RecipeText(Written):
    """image.toml: `python` are requirements, `npm` packages with versions; `copy` files go to `folder`."""

    image: Literal[1]
    name: str
    summary: str
    base: Literal["python", "node"]
    debian: Annotated[tuple[Package, ...], Field(strict=False)] = ()
    remove: Texts = ()
    python: Texts = ()
    npm: dict[str, str] = {}
    sources: Annotated[Texts, Field(alias="copy")] = ()
    folder: AbsPath = "/srv"
    entrypoint: Annotated[Texts, Field(min_length=1)]
    env: dict[str, str] = {}


class Deb(Written):
    """One Debian package, exactly."""

    name: Package
    version: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LockText(Written):
    """image.lock."""

    lock: Literal[1]
    debian: Annotated[tuple[Deb, ...], Field(strict=False)] = ()


class Recipe:
    """A recipe with its base."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        source = toml.read(str(folder / "image.toml"))
        self.text = validate(source, RecipeText)
        try:
            self.name = str(repository(self.text.name))
        except ConfigError as error:
            raise source.error(str(error), "name") from None
        base = validate(toml.read(str(folder.parent / f"{self.text.base}.toml")), Base)
        self.debian = sorted({*base.debian, *self.text.debian})
        self.remove = (*base.remove, *self.text.remove)
        self.keep = base.keep
        self.links = base.links

    @property
    def requirements(self) -> Path:
        """pip's lock, with hashes."""
        return self.path / "requirements.txt"

    def locked(self) -> list[Deb]:
        """The Debian packages of image.lock; ConfigError when they are not those of the recipe."""
        path = self.path / "image.lock"
        if not path.exists():
            raise ConfigError(f"{path}: missing; supervisor image build {self.path} --update-lock writes it")
        found = list(validate(toml.read(str(path)), LockText).debian)
        if sorted(each.name for each in found) != self.debian:
            raise ConfigError(f"{path}: has other packages than image.toml; --update-lock writes it anew")
        return found

    def write_lock(self, packages: list[Deb]) -> None:
        """Write image.lock."""
        text = _HEADER
        for each in packages:
            text += f'\n[[debian]]\nname = "{each.name}"\nversion = "{each.version}"\nsha256 = "{each.sha256}"\n'
        (self.path / "image.lock").write_text(text, "utf-8")
