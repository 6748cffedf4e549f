"""Names of images: registry, repository, and either a digest or, as input of `image add` alone, a tag.

Pure; runs in the command line, the fetcher and the verifier. Only full names are read: a short name would mean
whatever this host's settings make of it, and a signature is made for one name.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from supervisor.errors import ConfigError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
# distribution/reference: components of lower-case words joined by one separator
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_MAX_NAME = 255


def is_digest(text: str) -> bool:
    """Whether this is `sha256:` and 64 lower-case hexadecimal digits, the only algorithm in use here."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(data: bytes) -> str:
    """The digest of some bytes, as references write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Repository:
    """`registry.example.org:5000` and `team/server`; no default for either."""

    registry: str
    path: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.path}"


@dataclass(frozen=True)
class Reference:
    """A repository with a digest, a tag, or (only as input) both."""

    repository: Repository
    digest: str = ""
    tag: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def repository(text: str) -> Repository:
    """A full repository name, without tag and digest; ConfigError says what to write instead."""
    host, slash, path = text.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        raise ConfigError(
            f'image name "{text}": write the registry too, as in registry.example.org/{text}; '
            "short names mean different images on different hosts"
        )
    if len(text) > _MAX_NAME:
        raise ConfigError(f'image name "{text[:40]}...": longer than {_MAX_NAME} characters')
    if _HOST.fullmatch(host) is None or int(host.rpartition("]")[2].partition(":")[2] or 1) not in range(1, 65536):
        raise ConfigError(f'image name "{text}": "{host}" is no registry; write a lower-case host name or address')
    if _PATH.fullmatch(path) is None:
        raise ConfigError(
            f'image name "{text}": "{path}" is no repository; components are lower-case letters and digits, '
            "joined by . _ - or __"
        )
    return Repository(host, path)


def pinned(text: str) -> Reference:
    """`registry/name@sha256:...`, the only form that a profile, a spec or a store knows."""
    name, at, digest = text.partition("@")
    if not at:
        raise ConfigError(
            f'image "{text}": name it by digest, as in {text.partition(":")[0]}@sha256:...; '
            "supervisor image add NAME:TAG looks a tag's digest up and writes it down"
        )
    if not is_digest(digest):
        raise ConfigError(f'image "{text}": "{digest}" is no sha256 digest: sha256: and 64 digits of 0-9a-f')
    if ":" in name.rpartition("/")[2]:
        raise ConfigError(f'image "{text}": leave the tag out; the digest says which image it is')
    return Reference(repository(name), digest)


def requested(text: str) -> Reference:
    """What `image add` takes: `registry/name:tag`, `registry/name@digest`, or both. No tag means an error."""
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise ConfigError(f'image "{text}": "{digest}" is no sha256 digest: sha256: and 64 digits of 0-9a-f')
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    if not slash:
        return Reference(repository(name))  # raises: a short name
    if colon and _TAG.fullmatch(tag) is None:
        raise ConfigError(f'image "{text}": "{tag}" is no tag')
    if not colon and not at:
        raise ConfigError(f'image "{text}": write a tag or a digest; no tag is taken for granted')
    return Reference(repository(f"{head}/{last}"), digest, tag)
