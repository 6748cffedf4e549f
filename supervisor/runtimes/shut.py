"""Folders that nobody but their owner may search, while an engine lets everybody: shut again as soon as can be.

Runs in the keeper of a user's own podman, and in its guard. For a container of subordinate users podman lets
everybody search each folder above its storage, the user's home among them, and leaves it so. What was shut stays
known here; a lock keeps two keepers of a user from taking what the other has open for how it was. Standard library
only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator

_SEARCH = 0o111


class Shut:
    """Path -> permissions, of folders of this user that not everybody may search."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    @contextlib.contextmanager
    def open(self, lock: str, below: list[str]) -> Iterator[None]:
        """Take down what is shut at and above `lock`, a folder, and these; afterwards it is as it was."""
        if not below:
            yield
            return
        with _locked(lock):
            for each in (lock, *below):
                self._look(os.path.realpath(each))
            try:
                yield
            finally:
                self._shut()

    def _look(self, path: str) -> None:
        while path != "/":
            with contextlib.suppress(OSError):
                at = os.stat(path)
                mode = stat.S_IMODE(at.st_mode)
                if at.st_uid == os.geteuid() and mode & _SEARCH != _SEARCH:
                    self.found[path] = mode
            path = os.path.dirname(path)

    def again(self, lock: str) -> None:
        """Shut what is open, when nobody needs it: a container of another keeper may be just about to start."""
        if self.found:
            with contextlib.suppress(OSError), _locked(lock):
                self._shut()

    def _shut(self) -> None:
        for path, mode in self.found.items():
            with contextlib.suppress(OSError):
                if stat.S_IMODE(os.stat(path).st_mode) == mode | _SEARCH:
                    os.chmod(path, mode)


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
