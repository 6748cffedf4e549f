"""What a stranger's program may do to the terminal of whoever started it: write, colour, go back on its line.

Pure, used by the unprivileged proxy, and only where output goes to a terminal: elsewhere bytes pass as they are.
Sequences that set titles, fill the clipboard, or make the terminal answer (the answer would be typed into the
next shell) are shown instead of sent.
"""

from __future__ import annotations

import codecs
import re

# ESC [ ... m colours, ESC [ ... K clears to the end of the line; tab, backspace, newline, carriage return are plain
_SEQUENCE = "\x1b\\[[0-9;:]{0,32}[mK]"
# C0, DEL, C1, and the marks that change the order of what is read
_ACTING = "[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
_FOUND = re.compile(f"{_SEQUENCE}|{_ACTING}")
_UNFINISHED = re.compile("\x1b(\\[[0-9;:]{0,32})?\\Z")


class Screen:
    """A stream of output on its way to a terminal."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._kept = ""

    def feed(self, data: bytes) -> bytes:
        """What may be written of it; b"" is its end. The beginning of a sequence waits for the rest."""
        text = self._kept + self._decoder.decode(data, final=not data)
        unfinished = _UNFINISHED.search(text) if data else None
        end = unfinished.start() if unfinished else len(text)
        self._kept = text[end:]
        return _FOUND.sub(_shown, text[:end]).encode()


def _shown(found: re.Match[str]) -> str:
    said = found[0]
    return said if len(said) > 1 else f"\\x{ord(said):02x}"
