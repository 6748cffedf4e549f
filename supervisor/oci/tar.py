"""A strict reader of tar streams: POSIX ustar, pax and GNU long names, nothing that two readers see differently.

Pure parsing of a stream that is read once, forwards; runs in the fetcher (archives) and the unpacker (layers).
Refused: sparse files, wrong checksums, numbers out of range, pax headers that change a size or are no pax, global
pax headers with anything but a comment, unknown kinds of entry, anything but zeros after the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from supervisor.errors import Refused

BLOCK = 512
_ZERO = bytes(BLOCK)
_MAX_PAX = 1 << 20
_MAX_LONG_NAME = 1 << 16
_MAX_SIZE = 1 << 40
_OCTAL = re.compile(rb"[ ]*([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"(?:0|[1-9][0-9]{0,18})")
_TIME = re.compile(rb"-?[0-9]{1,18}(?:\.[0-9]{0,18})?")
FILE, HARD_LINK, SYMBOLIC_LINK, CHARACTER, DEVICE, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = {b"\0": FILE, b"0": FILE, b"7": FILE, b"1": HARD_LINK, b"2": SYMBOLIC_LINK, b"3": CHARACTER}
_KINDS |= {b"4": DEVICE, b"5": FOLDER, b"6": FIFO}
_PAX_IGNORED = {b"atime", b"ctime", b"comment", b"charset", b"hdrcharset", b"uname", b"gname", b"uid", b"gid"}
# what libarchive and bsdtar add for other systems; none of it reaches a file here
_PAX_FOREIGN = (b"LIBARCHIVE.", b"SUN.", b"RHT.", b"MSWINDOWS.")


class Stream(Protocol):
    """Something to read from; `read` gives fewer bytes than asked only at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Entry:
    """One member: bytes as they stand in the archive, `offset` of its data in the stream."""

    name: bytes
    kind: bytes
    mode: int
    mtime: int
    size: int
    link: bytes
    offset: int
    xattrs: tuple[bytes, ...]


class Reader:
    """Iterates over entries; the data of an entry may be read by `data` before the next one is asked for."""

    def __init__(self, stream: Stream, what: str, *, most_entries: int = 200_000) -> None:
        self._stream = stream
        self._what = what
        self._most = most_entries
        self._at = 0
        self._left = 0
        self._padding = 0

    def fault(self, message: str) -> Refused:
        """A Refused that names the archive and the place in it."""
        return Refused(f"{self._what}: at byte {self._at}: {message}")

    def __iter__(self) -> Iterator[Entry]:
        count = 0
        while (entry := self._next()) is not None:
            count += 1
            if count > self._most:
                raise self.fault(f"more than {self._most} entries")
            yield entry

    def data(self) -> Iterator[bytes]:
        """The rest of the current entry's data, in parts."""
        while self._left:
            part = self._exactly(min(self._left, 1 << 18))
            self._left -= len(part)
            yield part

    def _exactly(self, size: int) -> bytes:
        part = self._stream.read(size)
        if len(part) != size:
            raise self.fault("the archive ends in the middle")
        self._at += size
        return part

    def _next(self) -> Entry | None:
        pax: dict[bytes, bytes] = {}
        long: dict[bytes, bytes] = {}
        while True:
            for _ in self.data():
                pass
            self._exactly(self._padding)
            self._padding = 0
            block = self._block()
            if block is None:
                if pax or long:
                    raise self.fault("the archive ends after a header that belongs to the next entry")
                return None
            kind = block[156:157]
            if kind in (b"x", b"g"):
                if pax and kind == b"x":
                    raise self.fault("two pax headers for one entry")
                found = self._pax(self._body(block, _MAX_PAX), shared=kind == b"g")
                pax = found if kind == b"x" else pax
            elif kind in (b"L", b"K"):
                if kind in long:
                    raise self.fault("two long names for one entry")
                long[kind] = self._body(block, _MAX_LONG_NAME).rstrip(b"\0")
            else:
                return self._entry(block, pax, long)

    def _block(self) -> bytes | None:
        """The next header; None at the end, after which only zeros may follow."""
        first = self._stream.read(BLOCK)
        if len(first) not in (0, BLOCK):
            raise self.fault("the archive ends in the middle of a header")
        self._at += len(first)
        if first and first != _ZERO:
            self._check(first)
            return first
        if not first:
            raise self.fault("the archive has no end mark")
        while rest := self._stream.read(1 << 16):
            if rest.count(0) != len(rest):
                raise self.fault("something follows the end of the archive")
        return None

    def _check(self, block: bytes) -> None:
        said = self._octal(block[148:156], "checksum")
        if said != sum(block[:148]) + 8 * 32 + sum(block[156:]):
            raise self.fault("a header's checksum is wrong")
        if block[257:263] not in (b"ustar\0", b"ustar ", bytes(6)):
            raise self.fault("a header of no known kind of tar")

    def _octal(self, part: bytes, what: str) -> int:
        if part[0] & 0x80:  # GNU's binary numbers; the sign bit and absurd sizes are nobody's honest need
            if part[0] != 0x80:
                raise self.fault(f"a negative {what}")
            number = int.from_bytes(part[1:], "big")
        else:
            found = _OCTAL.fullmatch(part)
            if found is None:
                raise self.fault(f"{what} {part!r} is no octal number")
            number = int(found.group(1) or b"0", 8)
        if number >= _MAX_SIZE:
            raise self.fault(f"a {what} of {number}")
        return number

    def _body(self, block: bytes, most: int) -> bytes:
        size = self._octal(block[124:136], "size")
        if size > most:
            raise self.fault(f"a header of {size} bytes, more than {most}")
        body = self._exactly(size)
        self._exactly(-size % BLOCK)
        return body

    def _pax(self, body: bytes, *, shared: bool) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        while body:
            length, space, _ = body.partition(b" ")
            if not space or _DECIMAL.fullmatch(length) is None or not len(length) + 2 < int(length) <= len(body):
                raise self.fault("a pax record with a wrong length")
            record, body = body[len(length) + 1 : int(length)], body[int(length) :]
            key, equals, value = record[:-1].partition(b"=")
            if record[-1:] != b"\n" or not equals or not key:
                raise self.fault("a malformed pax record")
            if key in found:
                raise self.fault(f"the pax key {_show(key)} twice")
            if shared and key != b"comment":
                raise self.fault(f"a global pax header with {_show(key)}, which would change every entry")
            found[key] = value
        return found

    def _entry(self, block: bytes, pax: dict[bytes, bytes], long: dict[bytes, bytes]) -> Entry:
        flag = block[156:157]
        if flag == b"S" or any(key.startswith(b"GNU.sparse.") for key in pax):
            raise self.fault("a sparse file")
        kind = _KINDS.get(flag)
        if kind is None:
            raise self.fault(f"an entry of unknown kind {flag!r}")
        size = self._octal(block[124:136], "size")
        if b"size" in pax and pax[b"size"] != b"%d" % size:
            raise self.fault("a pax header that changes an entry's size")
        mtime = self._octal(block[136:148], "time") if block[136] & 0xC0 != 0xC0 else 0  # GNU: before 1970
        xattrs = self._known(pax)
        if b"mtime" in pax:
            mtime = max(0, int(pax[b"mtime"].partition(b".")[0] or b"0"))
        if kind != FILE and size:
            raise self.fault(f"an entry of kind {flag!r} with {size} bytes of data")
        name, link = self._name(block, pax, long)
        self._left, self._padding = size, -size % BLOCK
        mode = self._octal(block[100:108], "mode")
        return Entry(name, kind, mode, min(mtime, 0xFFFFFFFF), size, link, self._at, xattrs)

    def _known(self, pax: dict[bytes, bytes]) -> tuple[bytes, ...]:
        """The names of extended attributes; Refused for a pax key that could mean something."""
        attributes = []
        for key, value in pax.items():
            if key.startswith(b"SCHILY.xattr."):
                attributes.append(key.removeprefix(b"SCHILY.xattr."))
            elif key == b"mtime":
                if _TIME.fullmatch(value) is None:
                    raise self.fault("a pax time that is no number")
            elif key not in (*_PAX_IGNORED, b"path", b"linkpath", b"size") and not key.startswith(_PAX_FOREIGN):
                raise self.fault(f"the pax key {_show(key)} is not known")
        return tuple(attributes)

    def _name(self, block: bytes, pax: dict[bytes, bytes], long: dict[bytes, bytes]) -> tuple[bytes, bytes]:
        name, link = _until_nul(block[:100]), _until_nul(block[157:257])
        if block[257:263] == b"ustar\0" and (prefix := _until_nul(block[345:500])):
            name = prefix + b"/" + name
        for where, key, flag in (("name", b"path", b"L"), ("link", b"linkpath", b"K")):
            if key in pax and flag in long:
                raise self.fault(f"a {where} both in a pax header and in GNU's way")
        name = pax.get(b"path", long.get(b"L", name))
        link = pax.get(b"linkpath", long.get(b"K", link))
        if b"\0" in name or b"\0" in link:
            raise self.fault("a NUL in a name")
        return name, link


def _until_nul(part: bytes) -> bytes:
    return part.partition(b"\0")[0]


def _show(key: bytes) -> str:
    return repr(key[:40])[1:]
