"""The images of this host: blobs by their digest, one record for each image, a lock, garbage collection.

Runs as whoever owns the store (root or the user), and parses nothing but its own records. Every file is whole
before it has its name: written beside, synced, renamed, the folder synced. What a crash leaves is collected
later, never used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from supervisor.errors import ConfigError, Refused, SupervisorError
from supervisor.oci.reference import is_digest
from supervisor.profile.written import Written

_PART = 1 << 20
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Digests = Annotated[tuple[Digest, ...], Field(strict=False)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]


class Layer(Written):
    """A layer as it was verified."""

    digest: Digest
    size: int
    compression: str
    diff_id: Digest


class Run(Written):
    """What the image says about how it is started; a profile may take it up, and need not."""

    entrypoint: Texts
    command: Texts
    env: Texts
    folder: str


class Candidate(Written):
    """Where a signature was found."""

    target: Digest
    manifest: Digest
    referrer: int


class Contents(Written):
    """What unpacking gave, and what it left out."""

    files: int
    folders: int
    links: int
    bytes: int
    dropped: dict[str, int]
    case_variants: int


class Record(Written):
    """One image: everything that is needed to run it, and to verify it again without a registry.

    `basis` is what the verdict stands on, in the file `policy`: see supervisor.oci.rules.
    """

    name: str
    digest: Digest
    tag: str
    media_type: str
    platform: str
    manifest: Digest
    config: Digest
    layers: Annotated[tuple[Layer, ...], Field(strict=False)]
    documents: Digests
    candidates: Annotated[tuple[Candidate, ...], Field(strict=False)]
    signers: Texts
    predicates: Texts
    rule: str
    policy: str = ""
    basis: str = ""
    run: Run
    sealed: Digest
    sealed_size: int
    contents: Contents
    added: int

    @property
    def reference(self) -> str:
        """The only name it goes by."""
        return f"{self.name}@{self.digest}"

    @property
    def blobs(self) -> set[str]:
        """Every blob that it needs."""
        return {self.manifest, self.config, self.sealed, *(each.digest for each in self.layers), *self.documents}


class Staging:
    """A folder of the store that nobody uses yet; gone at the end of its block."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def read(self, digest: str, limit: int) -> bytes:
        """A small file that somebody else wrote; its digest is checked where it is used."""
        fd = self.open(digest)
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Refused(f"{digest}: larger than {limit} bytes")
        return data

    def open(self, digest: str) -> int:
        """A file of the folder, which must be a plain one with one name."""
        if not is_digest(digest):
            raise Refused(f"{digest!r:.80} is no digest")
        try:
            fd = os.open(digest[7:], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            raise Refused(f"{digest}: was not brought ({error.strerror})") from None
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            os.close(fd)
            raise Refused(f"{digest}: what was brought is no plain file")
        return fd


class Store:
    """A folder of this shape: `blobs/sha256/<hex>`, `images/<hex of name@digest>.json`, `incoming/`, `lock`.

    With `owners` it is one of theirs, which is only looked at.
    """

    def __init__(self, path: Path, owners: frozenset[int] | None = None) -> None:
        self.path = path
        folders = (path, path / "blobs", path / "blobs/sha256", path / "images", path / "incoming")
        try:
            for each in folders if owners is None else ():
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = path.stat()
        except OSError as error:
            raise SupervisorError(
                f"{error.filename or path}: {error.strerror}; name another store with --store"
            ) from None
        if info.st_uid not in (owners or {os.geteuid()}) or info.st_mode & 0o022:
            raise Refused(f"{path}: must belong to the user who runs this, and be writable by nobody else")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the store; held only while names change."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Staging]:
        """A folder to bring things into, locked for as long as somebody does."""
        path = Path(tempfile.mkdtemp(dir=self.path / "incoming"))
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield Staging(path, fd)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SupervisorError(f"{self.path}: {error.strerror}; nothing was added") from None
            raise
        finally:
            os.close(fd)
            _remove(path)

    def has(self, digest: str) -> bool:
        """Whether a blob is there."""
        return self._blob(digest).exists()

    def open(self, digest: str) -> int:
        """A blob, for reading; its content is checked by whoever reads it."""
        try:
            return os.open(self._blob(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise SupervisorError(
                f"{self._blob(digest)}: {error.strerror}; a blob is lost: supervisor image rm, then add again"
            ) from None

    def commit(self, staging: Staging, record: Record) -> None:
        """Give the blobs and then the record their names; Refused when a blob is not what it is called."""
        with self.locked():
            for digest in sorted(record.blobs):
                if not self.has(digest):
                    self._adopt(staging, digest)
            _sync(self.path / "blobs/sha256")
            self._write(staging, record)

    def update(self, record: Record) -> None:
        """Put a record in place of the one of the same image; its blobs stay."""
        with self.staging() as staging, self.locked():
            self._write(staging, record)

    def _write(self, staging: Staging, record: Record) -> None:
        fd, name = tempfile.mkstemp(dir=staging.path)
        with os.fdopen(fd, "wb") as file:
            file.write(record.model_dump_json(indent=1).encode())
            file.flush()
            os.fsync(fd)
        os.rename(name, self._record(record.reference))
        _sync(self.path / "images")

    def _adopt(self, staging: Staging, digest: str) -> None:
        fd = staging.open(digest)
        try:
            # no longer the fetcher's, before it is hashed
            if os.geteuid() == 0:
                os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o400)
            if (found := digest_of_file(fd)) != digest:
                raise Refused(f"{digest}: what was brought has the digest {found}")
            os.fsync(fd)
            os.rename(digest[7:], self._blob(digest), src_dir_fd=staging.fd)
        finally:
            os.close(fd)

    def records(self) -> list[Record]:
        """Every image, by name; a damaged record is an error that names its file."""
        return sorted((_load(each) for each in (self.path / "images").glob("*.json")), key=lambda r: r.reference)

    def find(self, reference: str) -> Record:
        """The record of `name@digest`; ConfigError when it was not added."""
        path = self._record(reference)
        if not path.exists():
            raise ConfigError(f"{reference} is not in {self.path}: supervisor image add {reference}")
        return _load(path)

    def remove(self, reference: str) -> None:
        """Forget an image; its blobs go with the next collection."""
        record = self.find(reference)
        with self.locked():
            self._record(record.reference).unlink(missing_ok=True)
            _sync(self.path / "images")

    def collect(self) -> tuple[int, int]:
        """Remove what no record needs and nobody brings in: (files, bytes)."""
        count = size = 0
        with self.locked():
            needed = {digest for record in self.records() for digest in record.blobs}
            for path in (self.path / "blobs/sha256").iterdir():
                if f"sha256:{path.name}" not in needed:
                    size += path.stat().st_size
                    count += 1
                    path.unlink()
            for path in (self.path / "incoming").iterdir():
                found = _collect_staging(path)
                count, size = count + found[0], size + found[1]
        return count, size

    def _blob(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ValueError(digest)
        return self.path / "blobs/sha256" / digest[7:]

    def _record(self, reference: str) -> Path:
        return self.path / "images" / f"{hashlib.sha256(reference.encode()).hexdigest()}.json"


def _load(path: Path) -> Record:
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"damaged ({error.error_count()} faults)"
        raise SupervisorError(f"{path}: {reason}; remove the file and add the image again") from None


def _collect_staging(path: Path) -> tuple[int, int]:
    """Remove a staging folder whose owner is gone."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0, 0
    else:
        sizes = [each.stat(follow_symlinks=False).st_size for each in os.scandir(path)]
        _remove(path)
        return len(sizes), sum(sizes)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    """A staging folder; a worker can have made nothing but plain files in it."""
    for each in os.scandir(path):
        os.unlink(each.path)
    path.rmdir()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def digest_of_file(fd: int) -> str:
    """The digest of an open file's content, from its beginning."""
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
