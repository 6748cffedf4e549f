"""What strangers said, in JSON that no record is too small for.

Pure; runs in the proxy; standard library only. A character takes up to twelve bytes of ASCII, a list as many names
as somebody cares to send, a number as many digits: whatever it was, the ledger takes a record of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring_ascii

# characters of a text, and of a name; names of a list, and bytes of all of them
LONGEST, NAME = 1024, 256
_NAMES, _ROOM = 100, 4 * 1024
# a number of a record has at most fifteen digits (schema.NUMBER)
MOST = 10**15 - 1


def count(number: int) -> int:
    """A number that is not negative."""
    return max(0, min(number, MOST))


def quoted(text: str, most: int = LONGEST) -> bytes:
    """A text in JSON, cut if need be: no more than `most` characters, nor twice as many bytes."""
    return fit(text if len(text) <= most else f"{text[: most - 3]}...", 2 * most)


def fit(text: str, size: int) -> bytes:
    """A text in JSON of at most `size` bytes."""
    made = _escaped(text)
    while len(made) > size:
        text = f"{text[: max(0, len(text) * size // len(made) - 3)]}..."
        made = _escaped(text)
    return made


def _escaped(text: str) -> bytes:
    return encode_basestring_ascii(text).replace("\x7f", "\\u007f").encode("ascii")


def listed(names: Sequence[str]) -> Iterator[bytes]:
    """As many names as a list of a record has room for."""
    room = _ROOM
    for each in names[:_NAMES]:
        made = quoted(each, NAME)
        room -= len(made)
        if room < 0:
            return
        yield made


def texts(names: Sequence[str]) -> bytes:
    """The list."""
    return b"[%b]" % b",".join(listed(names))
