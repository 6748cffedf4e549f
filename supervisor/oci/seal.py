"""Memory files that nobody can change any more, not even root: what is mounted is what was verified.

Runs as whoever owns the store, and for the native runtime. The seals are the kernel's: no write, no change of
size, no removal of the seals, and none while somebody has the file mapped writable.
"""

from __future__ import annotations

import fcntl
import hashlib
import os

from supervisor.errors import Refused, SupervisorError
from supervisor.oci.store import Record, Store, digest_of_file

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_PART = 1 << 20


def memory_file(name: str) -> int:
    """An empty memory file that can be sealed, close-on-exec."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal(fd: int) -> str:
    """Seal a memory file and say its digest, in this order: what was hashed cannot change afterwards."""
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except OSError as error:
        raise SupervisorError(f"a memory file cannot be sealed: {error.strerror}") from None
    return digest_of_file(fd)


def open_sealed(store: Store, record: Record) -> int:
    """The image's file system as a sealed memory file; Refused when the store's copy has been changed."""
    source = store.open(record.sealed)
    fd = memory_file(record.digest[7:19])
    try:
        hasher = hashlib.sha256()
        while part := os.read(source, _PART):
            hasher.update(part)
            view = memoryview(part)
            while view:
                view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        if f"sha256:{hasher.hexdigest()}" != record.sealed:
            raise Refused(f"{record.reference}: its file system in {store.path} has been changed; add it again")
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.close(source)
    return fd
