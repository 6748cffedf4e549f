"""Layers that somebody made to get out, to get in, or to use everything up. Each with what is said of it."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile

from backports import zstd

from tests.unit.oci.making import files, info, tar

DIR, SYM, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
PLAIN = files({"a": b"a"})


def one(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **values: object) -> bytes:
    """A tar of one member."""
    return tar((info(name, kind, **values), data), form=tarfile.GNU_FORMAT)


def two(*members: tarfile.TarInfo) -> bytes:
    """A tar of some empty members."""
    return tar(*((member, b"") for member in members), form=tarfile.GNU_FORMAT)


def pax(**headers: str) -> bytes:
    """A tar of one member with these pax headers."""
    return tar((info("a", pax_headers={key.replace("_dot_", "."): value for key, value in headers.items()}), b"a"))


def patched(data: bytes, at: int, new: bytes, *, checksum: bool = True) -> bytes:
    """A tar with bytes of its first header changed, the checksum made right again."""
    block = bytearray(data[:512])
    block[at : at + len(new)] = new
    if checksum:
        block[148:156] = b"        "
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:]


def record(text: bytes) -> bytes:
    """A tar whose pax header is exactly this."""
    out = io.BytesIO()
    header = info("pax", b"x")
    header.size = len(text)
    out.write(header.tobuf(tarfile.USTAR_FORMAT))
    out.write(text + bytes(-len(text) % 512))
    return out.getvalue() + PLAIN


def shared(**headers: str) -> bytes:
    """A tar with a global pax header."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        archive.addfile(info("a"))
    return out.getvalue()


def sparse() -> bytes:
    """GNU's old kind of sparse file: a size in the header that the data does not have."""
    return patched(one("a", data=b"x" * 512), 156, b"S")


def bomb(size: int) -> bytes:
    """Zeros that compress a thousand times."""
    return one("a", data=bytes(size))


# name: (layers, what is said). Uncompressed unless they say so.
HOSTILE: dict[str, tuple[list[bytes], str]] = {
    "absolute name": ([one("/etc/passwd")], "an absolute entry name"),
    "dot dot": ([one("../etc/passwd")], "'..' in the entry name"),
    "dot dot in the middle": ([one("a/../../b")], "'..' in the entry name"),
    "dot dot at the end": ([one("a/..", DIR)], "'..' in the entry name"),
    "dot in the middle": ([one("a/./b")], "'.' in the entry name"),
    "empty part": ([one("a//b")], "'' in the entry name"),
    "no name": ([one("x").replace(b"x", b"\0", 1)], "checksum"),
    "nul in a name": ([pax(path="a\0b")], "a NUL in a name"),
    "nul in a link": ([tar((info("a", SYM, pax_headers={"linkpath": "b\0c"}), b""))], "a NUL in a name"),
    "newline in a name": ([one("a\nb")], "control character"),
    "escape in a name": ([one("a\x1b[2Jb")], "control character"),
    "name that is not UTF-8": ([patched(one("xx"), 0, b"\xff\xfe")], "not UTF-8"),
    "long part": ([one("a" * 256)], "more than 255 bytes"),
    "long path": ([one("/".join(["a" * 200] * 30))], "longer than"),
    "deep path": ([one("/".join("a" * 200))], "folders deep"),
    "root as a file": ([patched(one("./", DIR), 156, b"0")], "the root is not a folder"),
    "through a symbolic link": (
        [two(info("a", SYM, linkname="/etc"), info("a/passwd"))],
        "through the symbolic link",
    ),
    "through a link of a lower layer": (
        [one("a", SYM, linkname="/etc"), one("a/passwd")],
        "through the symbolic link",
    ),
    "through a link to itself": ([two(info("a", SYM, linkname="."), info("a/b"))], "through the symbolic link"),
    "through a file": ([two(info("a"), info("a/b"))], "through the file"),
    "link that climbs out": ([one("a/b", SYM, linkname="../../etc")], "climbs out"),
    "absolute link that climbs out": ([one("a/b", SYM, linkname="/../etc")], "climbs out"),
    "link to nothing": ([one("a", SYM)], "link to nothing"),
    "hard link out": ([one("a", HARD, linkname="../etc/shadow")], "'..' in the link name"),
    "absolute hard link": ([one("a", HARD, linkname="/etc/shadow")], "an absolute link name"),
    "hard link to nothing": ([one("a", HARD, linkname="b")], "which is not there"),
    "hard link to itself": ([one("a", HARD, linkname="a")], "which is not there"),
    "hard link through a link": (
        [two(info("d/f"), info("l", SYM, linkname="d"), info("a", HARD, linkname="l/f"))],
        "which is not there",
    ),
    "hard link to a folder": ([two(info("d", DIR), info("a", HARD, linkname="d"))], "hard link to a folder"),
    "hard link to a hidden file": ([one("b"), two(info(".wh.b"), info("a", HARD, linkname="b"))], "is not there"),
    "hard link with data": ([patched(one("a", data=b"x" * 512), 156, b"1")], "bytes of data"),
    "folder with data": ([patched(one("a", data=b"x" * 512), 156, b"5")], "bytes of data"),
    "same name twice": ([two(info("a"), info("a"))], "twice in one layer"),
    "file and then folder": ([two(info("a"), info("a", DIR))], "twice in one layer"),
    "folder and then link": ([two(info("a", DIR), info("a", SYM, linkname="/"))], "twice in one layer"),
    "whiteout in another case": ([one(".WH.a")], "almost a whiteout"),
    "whiteout of nothing": ([one(".wh.")], "a whiteout of no name"),
    "whiteout of dot dot": ([one(".wh...")], "a whiteout of no name"),
    "whiteout of a whiteout": ([one(".wh..wh.a")], "a whiteout of no name"),
    "whiteout that is a folder": ([one(".wh.a", DIR)], "not an empty file"),
    "whiteout that is a link": ([one(".wh.a", SYM, linkname="b")], "not an empty file"),
    "whiteout with data": ([one(".wh.a", data=b"x")], "not an empty file"),
    "below a whiteout": ([one(".wh.a/b")], "below a whiteout"),
    "whiteout through a link": ([one("a", SYM, linkname="/etc"), one("a/.wh.passwd")], "through the symbolic link"),
    "sparse file": ([sparse()], "a sparse file"),
    "sparse file in pax": ([pax(GNU_dot_sparse_dot_major="1")], "a sparse file"),
    "pax that changes the size": ([pax(size="99")], "changes an entry's size"),
    "pax for everything": ([shared(path="b")], "would change every entry"),
    "unknown pax key": ([pax(EVIL_dot_key="1")], "is not known"),
    "pax record with a wrong length": ([record(b"99 path=b\n")], "wrong length"),
    "pax record with length zero": ([record(b"0 path=b\n")], "wrong length"),
    "pax record with a signed length": ([record(b"+9 path=b\n")], "wrong length"),
    "pax key twice": ([record(b"10 path=b\n10 path=c\n")], "twice"),
    "pax header at the end": ([record(b"10 path=b\n")[:1024] + bytes(1024)], "belongs to the next entry"),
    "unknown kind": ([patched(PLAIN, 156, b"Z")], "unknown kind"),
    "wrong checksum": ([patched(PLAIN, 0, b"b", checksum=False)], "checksum is wrong"),
    "negative size": ([patched(PLAIN, 124, b"\xff" * 12)], "a negative size"),
    "huge size": ([patched(PLAIN, 124, b"\x80" + bytes(3) + struct.pack(">Q", 1 << 60))], "a size of"),
    "size that is no number": ([patched(PLAIN, 124, b"9" * 11)], "no octal number"),
    "cut off in the data": ([one("a", data=b"x" * 5000)[:2048]], "ends in the middle"),
    "cut off in a header": ([PLAIN[:700]], "ends in the middle"),
    "no end": ([PLAIN[:1024]], "no end mark"),
    "something after the end": ([PLAIN + PLAIN], "follows the end"),
    "no tar at all": ([b"\x7fELF" + bytes(600)], "checksum"),
    "many bytes": ([bomb(3 << 20)], "more than 2097152 bytes"),
    "many bytes in many layers": ([bomb(1 << 20)] * 3, "more than 2097152 bytes"),
}


def squeezed(data: bytes) -> bytes:
    """gzip, always the same."""
    return gzip.compress(data, mtime=0)


# name: (blob, compression, what is said)
COMPRESSED: dict[str, tuple[bytes, str, str]] = {
    "ratio": (squeezed(bomb(1 << 20)), "gzip", "more than 100 times its size"),
    "ratio in zstd": (zstd.compress(bomb(1 << 20)), "zstd", "more than 100 times its size"),
    "gzip cut off": (squeezed(PLAIN)[:-9], "gzip", "ends in the middle"),
    "gzip without its checksum": (squeezed(PLAIN)[:-4], "gzip", "ends in the middle"),
    "gzip with a wrong checksum": (squeezed(PLAIN)[:-8] + bytes(8), "gzip", "cannot be decompressed"),
    "something after gzip": (squeezed(PLAIN) + b"x" * 32, "gzip", "cannot be decompressed"),
    "not gzip": (PLAIN, "gzip", "cannot be decompressed"),
    "zstd cut off": (zstd.compress(PLAIN)[:-5], "zstd", "ends in the middle"),
    "not zstd": (squeezed(PLAIN), "zstd", "cannot be decompressed"),
    "nothing": (b"", "gzip", "the archive has no end mark"),
}
