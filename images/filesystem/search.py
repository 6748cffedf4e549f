"""The tool that finds files by name and lines by content.

Runs as the session's unprivileged uid. Patterns come from a model that strangers' text can steer, so
neither kind can take more than linear time: content is literal, and a glob is matched name by name.
Must never hold more than one block of a file in memory.
"""

import io
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .answer import Answer, Budget, ToolError
from .folders import Walk, walk_notes
from .roots import Place, Roots, open_regular

BLOCK = 1024 * 1024  # bytes
LINE_LIMIT = 64 * 1024  # bytes read to finish a line that a block cuts
SHOWN = 200  # bytes of a line shown around a match
SNIFFED = 8192  # bytes looked at to tell text from binary
BRACES = re.compile(r"\{([^{}]*)\}")
BRACES_LIMIT = 64  # patterns that one glob may stand for


@dataclass
class Search:
    """What is looked for, and what was found."""

    globs: list[tuple[str, ...]]
    content: bytes
    max_results: int
    found: list[dict[str, object]] = field(default_factory=list)
    binary: int = 0
    full: bool = False

    def matches(self, parts: tuple[str, ...]) -> bool:
        return not self.globs or any(_matches(parts, glob) for glob in self.globs)

    def add(self, shown: str, kind: str, name: str, folder: int, budget: Budget) -> int:
        """Record an entry whose name matches; 1 if its content could not be read, else 0."""
        if not self.content:
            self._found({"path": shown, "type": kind})
            return 0
        if kind != "file":
            return 0
        try:
            with open_regular(name, folder) as file:
                self.lines(shown, file, budget)
        except (OSError, ToolError):
            return 1
        return 0

    def lines(self, shown: str, file: io.FileIO, budget: Budget) -> None:
        """Record the lines of `file` that hold the content."""
        if not self.content:
            self._found({"path": shown, "type": "file"})
            return
        with io.BufferedReader(file, BLOCK) as reader:
            for number, text in _hits(reader, self.content, budget):
                if number == 0:
                    self.binary += 1
                elif not self._found({"path": shown, "type": "file", "line": number, "text": text}):
                    return

    def _found(self, match: dict[str, object]) -> bool:
        self.full = len(self.found) >= self.max_results
        if not self.full:
            self.found.append(match)
        return not self.full


def search_files(
    roots: Roots,
    budget: Budget,
    path: str = ".",
    *,
    glob: str | None = None,
    content: str | None = None,
    max_results: int = 100,
) -> Answer:
    """Files below `path` whose name matches `glob`, or their lines that hold `content`."""
    if not glob and not content:
        raise ToolError('give glob (such as "*.py"), content (literal text), or both')
    if content and ("\n" in content or "\r" in content):
        raise ToolError("content is looked for line by line and cannot hold a line break; give one line of it")
    search = Search(_patterns(glob) if glob else [], (content or "").encode(), max_results)
    place = roots.find(path)
    walk = Walk(budget)
    if stat.S_ISREG(roots.status(place).st_mode):
        with roots.open_file(place) as file:
            search.lines(place.shown, file, budget)
    else:
        with roots.open_folder(place) as folder:
            for parts, entry, fd in walk.entries(folder):
                if search.full:
                    break
                if search.matches(parts):
                    shown = roots.shown(place.root, (*place.parts, *parts))
                    walk.passed_over += search.add(shown, entry.kind, entry.name, fd, budget)
    return _answer(search, walk, place)


def _answer(search: Search, walk: Walk, place: Place) -> Answer:
    notes = walk_notes(walk)
    if search.full:
        notes.append(f"Stopped at {len(search.found)} results. Raise max_results, or narrow path or glob.")
    if search.binary:
        notes.append(f"{search.binary} binary files were not searched.")
    if not search.found:
        notes.append(f'Nothing found below "{place.shown}".')
    if walk.unfinished:
        notes.append(f"{len(walk.unfinished)} directories have too many entries and were searched in part.")
    truncated = bool(search.full or walk.budget.spent() or walk.unfinished)
    lines = [_line(found) for found in search.found]
    return Answer("\n".join(lines), {"path": place.shown, "matches": search.found, "truncated": truncated}, notes)


def _line(found: dict[str, object]) -> str:
    if "line" in found:
        return f"{found['path']}:{found['line']}:{found['text']}"
    return f"{found['path']}/" if found["type"] == "directory" else str(found["path"])


def _hits(reader: io.BufferedIOBase, content: bytes, budget: Budget) -> Iterator[tuple[int, str]]:
    """(line number from 1, the line around the match); one (0, "") for a binary file."""
    before, last, carry = (0, 0, b"")  # newlines before the block; last line reported; start of a line cut short
    while not budget.spent():
        block = reader.read(BLOCK)
        if not block:
            return
        block += reader.readline(LINE_LIMIT)
        if before == 0 and not carry and b"\0" in block[:SNIFFED]:
            yield 0, ""
            return
        block = carry + block
        for newlines, at in _positions(block, content):
            if before + newlines + 1 > last:
                last = before + newlines + 1
                yield last, _shown(block, at, len(content))
        before += block.count(b"\n")
        # A line longer than the block goes on in the next: keep enough to see a match across the cut.
        tail = block[-(len(content) - 1) :] if len(content) > 1 else b""
        carry = tail[tail.rfind(b"\n") + 1 :]


def _positions(block: bytes, content: bytes) -> Iterator[tuple[int, int]]:
    """(newlines before it, index) of the first match in each line."""
    newlines, counted, at = 0, 0, block.find(content)
    while at >= 0:
        newlines += block.count(b"\n", counted, at)
        counted = at
        yield newlines, at
        end = block.find(b"\n", at)
        at = block.find(content, end) if end >= 0 else -1


def _shown(block: bytes, at: int, length: int) -> str:
    start = block.rfind(b"\n", 0, at) + 1
    end = block.find(b"\n", at)
    end = len(block) if end < 0 else end
    left, right = max(start, at - SHOWN // 2), min(end, at + max(length, SHOWN // 2))
    text = block[left:right].decode("utf-8", "replace").strip("\r")
    return ("…" if left > start else "") + text + ("…" if right < end else "")


def _patterns(glob: str) -> list[tuple[str, ...]]:
    """The glob's alternatives, each as its path segments; one without "/" is for a name at any depth."""
    if glob.startswith("/"):
        raise ToolError(f"glob {glob!r} is absolute; give the directory as path, and the glob relative to it")
    unexpanded, patterns = [glob], []
    while unexpanded:
        pattern = unexpanded.pop()
        braces = BRACES.search(pattern)
        if braces is None:
            rooted = "/" in pattern
            segments = tuple(pattern.removeprefix("./").rstrip("/").split("/"))
            patterns.append(segments if rooted else ("**", *segments))
        else:
            choices = braces[1].split(",")
            unexpanded += [pattern[: braces.start()] + choice + pattern[braces.end() :] for choice in choices]
        if len(patterns) + len(unexpanded) > BRACES_LIMIT:
            raise ToolError(f"the glob's braces stand for more than {BRACES_LIMIT} patterns; use fewer")
    return patterns


def _matches(parts: tuple[str, ...], glob: tuple[str, ...]) -> bool:
    """Whether the whole path matches; `**` stands for any number of segments.

    `reached` holds the positions in the glob that the segments so far can lead to, so the work is at
    most segments times patterns.
    """
    reached = _past_stars({0}, glob)
    for part in parts:
        stepped = {at for at in reached if at < len(glob) and glob[at] == "**"}
        stepped |= {at + 1 for at in reached if at < len(glob) and glob[at] != "**" and fnmatchcase(part, glob[at])}
        reached = _past_stars(stepped, glob)
    return len(glob) in reached


def _past_stars(reached: set[int], glob: tuple[str, ...]) -> set[int]:
    for at in range(len(glob)):
        if at in reached and glob[at] == "**":
            reached.add(at + 1)
    return reached
