"""Which limit a server's own words may be about: of these the kernel tells the server, and nobody else.

Runs unprivileged. Looks at standard error only, and only says "may be": a program can write what it likes.
"""

from __future__ import annotations

# what C libraries, Python, Node and shells make of EMFILE, EFBIG, ENOSPC and EAGAIN
_MEANT = {
    b"too many open files": "limits.files",
    b"file too large": "limits.file_size",
    b"no space left on device": "size or files of [tmp], or a full disk",
    b"cannot fork": "limits.pids",
    b"can't start new thread": "limits.pids",
    b"fork: resource temporarily unavailable": "limits.pids",
    b"fork: retry": "limits.pids",
}
_LONGEST = max(map(len, _MEANT))


class Hints:
    """What has been found so far is in `found`, each once."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._tail = b""

    def look(self, data: bytes) -> list[str]:
        """What is new in this piece of text."""
        text = self._tail + data.lower()
        self._tail = text[-_LONGEST:]
        said = [f'"{words.decode()}" may be {limit} (profile)' for words, limit in _MEANT.items() if words in text]
        new = [each for each in said if each not in self.found]
        self.found += new
        return new
