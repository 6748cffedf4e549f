"""The tools that answer about one file: its text, its bytes, its facts.

Runs as the session's unprivileged uid. Must never hold a whole file of unbounded size in memory:
text is decoded in blocks and the answer is cut at a fixed size, with a note that says how to go on.
"""

import codecs
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import quote

from .answer import Answer, Budget, Media, ToolError
from .roots import Place, Roots, kind_of

BLOCK = 256 * 1024  # bytes
TEXT_LIMIT = 100_000  # characters in one answer
MEDIA_LIMIT = 5 * 1024 * 1024  # bytes; base64 makes a third more of it
SNIFFED = 8192  # bytes looked at to tell text from binary

# These decode to something other than the text of a file, or in more than linear time.
NOT_FOR_FILES = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined", "utf-7"})

MIME_TYPES = {
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".opus": "audio/opus",
    ".wav": "audio/wav",
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".xml": "application/xml",
    ".zip": "application/zip",
}
NOT_SHOWN_AS_IMAGES = frozenset({"image/svg+xml", "image/tiff", "image/bmp", "image/avif"})


def mime_type_of(name: str) -> str:
    return MIME_TYPES.get(os.path.splitext(name)[1].lower(), "application/octet-stream")


def read_text_file(
    roots: Roots,
    budget: Budget,
    path: str,
    *,
    offset: int = 0,
    limit: int | None = None,
    column: int = 0,
    encoding: str = "utf-8",
) -> Answer:
    """Lines `offset` to `offset + limit` of a text file; `column` skips characters of the first of them."""
    codec = _codec(encoding)
    place = roots.find(path)
    window = Window(offset, limit, column)
    with roots.open_file(place) as file:
        size = os.fstat(file.fileno()).st_size
        for text in _decoded(file.fileno(), place, codec):
            if window.take(text):
                break
            if budget.spent():
                raise ToolError(
                    f'"{place.shown}" ({size} bytes): line {offset} is too far to reach in time. '
                    "Read an earlier part of it, or use search_files with content."
                )
    return _text_answer(place, window, size)


class Window:
    """Collects the asked-for lines from decoded blocks, up to TEXT_LIMIT characters."""

    def __init__(self, offset: int, limit: int | None, column: int) -> None:
        self.offset = offset
        self.limit = limit
        self.column = column
        self.line = 0  # line number at the point reached
        self.taken: list[str] = []
        self.room = TEXT_LIMIT
        self.more = False  # the file goes on after what was taken
        self._skip = column
        self._inside = offset == 0

    def take(self, text: str) -> bool:
        """Feed the next block; True when no more is wanted."""
        if not self._inside:
            text = self._skip_lines(text)
        if self._skip and text:
            text = self._skip_column(text)
        if text and self._full():
            self.more = True
            return True
        return self._collect(text)

    def _full(self) -> bool:
        return self.room == 0 or (self.limit is not None and self.line - self.offset >= self.limit)

    def _skip_lines(self, text: str) -> str:
        count = text.count("\n")
        if self.line + count < self.offset:
            self.line += count
            return ""
        at = 0
        while self.line < self.offset:
            at = text.index("\n", at) + 1
            self.line += 1
        self._inside = True
        return text[at:]

    def _skip_column(self, text: str) -> str:
        end = text.find("\n")
        skipped = min(self._skip, len(text) if end < 0 else end)
        self._skip = 0 if end >= 0 else self._skip - skipped
        return text[skipped:]

    def _collect(self, text: str) -> bool:
        end = min(len(text), self.room)
        if self.limit is not None:
            end = min(end, _after_lines(text, self.limit - (self.line - self.offset)))
        if end:
            self.taken.append(text[:end])
        self.room -= end
        self.line += text.count("\n", 0, end)
        self.more = end < len(text)
        return self.more


def _after_lines(text: str, lines: int) -> int:
    """The index after the `lines`-th newline, or the end."""
    if text.count("\n") < lines:
        return len(text)
    at = 0
    for _ in range(lines):
        at = text.index("\n", at) + 1
    return at


def _text_answer(place: Place, window: Window, size: int) -> Answer:
    text = "".join(window.taken)
    data: dict[str, object] = {"path": place.shown, "size": size, "offset": window.offset}
    notes = []
    if window.more:
        text, following, column = _cut(text, window)
        data |= {"next_offset": following} | ({"next_column": column} if column else {})
        call = f"offset={following}" + (f", column={column}" if column else "")
        notes.append(f"Not the whole file ({size} bytes). Continue with {call}.")
    elif not text:
        lines = window.line
        notes.append(
            "The file is empty."
            if size == 0
            else f"There is no text at offset {window.offset}: {lines} lines in all."
        )
    # Text that a codec made of half pairs cannot be sent as UTF-8.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    data |= {"text": text, "lines": text.count("\n") + (not text.endswith("\n") and text != "")}
    return Answer(text, data, notes)


def _cut(text: str, window: Window) -> tuple[str, int, int]:
    """End the text at a line if one ended in it: (text, the line to go on with, the column in it)."""
    last = text.rfind("\n") + 1
    if last or not text:
        return text[:last], window.line, 0
    return text, window.line, window.column + len(text)


def _codec(encoding: str) -> codecs.CodecInfo:
    try:
        "a".encode(encoding)  # refuses codecs that do not make text, such as "hex"
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError, TypeError):
        codec = None
    if codec is None or codec.name.replace("_", "-") in NOT_FOR_FILES:
        raise ToolError(
            f"encoding {encoding!r} is not known. Try utf-8, utf-16, latin-1, cp1252, shift_jis or gb18030."
        )
    return codec


def _decoded(fd: int, place: Place, codec: codecs.CodecInfo) -> Iterator[str]:
    """The file's text in blocks; raises `ToolError` at the first byte that is not text."""
    decoder = codec.incrementaldecoder()
    wide = codec.name.startswith(("utf-16", "utf-32"))
    offset = 0
    while True:
        block = os.read(fd, BLOCK)
        if offset == 0 and not wide:
            _check_text(place, block[:SNIFFED])
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, not block)
        except UnicodeDecodeError as error:
            raise _not_text(place, codec.name, offset - pending + error.start) from error
        yield text
        if not block:
            return
        offset += len(block)


def _check_text(place: Place, head: bytes) -> None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ToolError(f'"{place.shown}" begins with a UTF-16 byte order mark. Try encoding="utf-16".')
    zero = head.find(b"\0")
    if zero >= 0:
        raise ToolError(
            f'"{place.shown}" is a binary file ({mime_type_of(place.shown)}): byte 0 at offset {zero}. '
            "Use read_media_file for its bytes."
        )


def _not_text(place: Place, name: str, offset: int) -> ToolError:
    return ToolError(
        f'"{place.shown}" is not {name}: the byte at offset {offset} cannot be decoded. '
        'Try encoding="cp1252" or "latin-1" if it is text, read_media_file if it is not.'
    )


def read_media_file(roots: Roots, budget: Budget, path: str) -> Answer:  # noqa: ARG001 (one file, one read)
    """A whole file as an image, a sound, or a blob."""
    place = roots.find(path)
    with roots.open_file(place) as file:
        size = os.fstat(file.fileno()).st_size
        # One byte more than the limit, for a file that grows or tells no size (procfs).
        data = b"" if size > MEDIA_LIMIT else _read_up_to(file.fileno(), MEDIA_LIMIT + 1)
    if max(size, len(data)) > MEDIA_LIMIT:
        raise ToolError(
            f'"{place.shown}" has {max(size, len(data))} bytes; read_media_file gives at most {MEDIA_LIMIT}. '
            "If it is text, read_text_file gives it in parts."
        )
    mime_type = mime_type_of(place.parts[-1])
    media = Media(data, mime_type, _media_kind(data, mime_type), _uri(place))
    facts: dict[str, object] = {"path": place.shown, "size": len(data), "mime_type": mime_type, "kind": media.kind}
    return Answer(f"{place.shown}: {mime_type}, {len(data)} bytes", facts, media=media)


def _read_up_to(fd: int, size: int) -> bytes:
    parts = []
    while size and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _media_kind(data: bytes, mime_type: str) -> str:
    family = mime_type.partition("/")[0]
    shown = family in ("image", "audio") and mime_type not in NOT_SHOWN_AS_IMAGES and data
    return family if shown else "resource"


def _uri(place: Place) -> str:
    return "file://" + quote(os.fsencode(os.path.join(place.root.name, *place.parts)))


def get_file_info(roots: Roots, budget: Budget, path: str) -> Answer:  # noqa: ARG001 (one system call)
    """Type, size, time and permissions of a file or directory."""
    place = roots.find(path)
    status = roots.status(place)
    kind = kind_of(status.st_mode)
    facts: dict[str, object] = {
        "path": place.shown,
        "type": kind,
        "size": status.st_size,
        "modified": datetime.fromtimestamp(int(status.st_mtime), UTC).isoformat(),
        "permissions": stat.filemode(status.st_mode),
    }
    if kind == "file":
        facts["mime_type"] = mime_type_of(place.parts[-1])
    return Answer("\n".join(f"{name}: {value}" for name, value in facts.items()), facts)
