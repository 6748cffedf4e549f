"""The tools that answer about directories: one level, or a tree.

Runs as the session's unprivileged uid. Links are named, never followed, so a walk cannot leave its
directory or go round in circles; every answer is bounded and says how to get the rest.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from .answer import Answer, Budget
from .roots import FOLDER, Roots, kind_of, printable

ENTRY_LIMIT = 1000  # entries in one list_directory answer
SCAN_LIMIT = 200_000  # names read of one directory
TREE_LIMIT = 2000  # entries in one directory_tree answer
TREE_FOLDER_LIMIT = 200  # of them from one directory
DEPTH_LIMIT = 64  # levels a walk goes down; each holds one fd


@dataclass(frozen=True)
class Entry:
    """One name in a directory, with the type the directory itself records."""

    name: str
    kind: str


def kind_of_entry(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "symlink"
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def scan(folder: int, budget: Budget) -> tuple[list[Entry], bool]:
    """A directory's entries by name, and whether they are all."""
    entries: list[Entry] = []
    with os.scandir(folder) as names:
        for entry in names:
            # The clock is asked every 4096 names: it costs as much as a name.
            if len(entries) >= SCAN_LIMIT or (len(entries) % 4096 == 0 and budget.spent()):
                return sorted(entries, key=lambda entry: entry.name), False
            entries.append(Entry(entry.name, kind_of_entry(entry)))
    return sorted(entries, key=lambda entry: entry.name), True


class Walk:
    """A depth-first walk that goes on past what it may not read, and counts it."""

    def __init__(self, budget: Budget, depth: int = DEPTH_LIMIT, folder_limit: int | None = None) -> None:
        self.budget = budget
        self.depth = depth
        self.folder_limit = folder_limit
        self.passed_over = 0
        self.unfinished: list[tuple[tuple[str, ...], str]] = []
        """Directories of which entries were left out, and why."""

    def entries(self, folder: int, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Entry, int]]:
        """(path below the start, entry, fd of the directory it is in), parents first."""
        found, complete = scan(folder, self.budget)
        if not complete:
            self.unfinished.append((parts, f"more than {len(found)} entries"))
        if self.folder_limit is not None and len(found) > self.folder_limit:
            self.unfinished.append((parts, f"{len(found) - self.folder_limit} of {len(found)} entries left out"))
            found = found[: self.folder_limit]
        for entry in found:
            if self.budget.spent():
                return
            below = (*parts, entry.name)
            yield below, entry, folder
            if entry.kind == "directory":
                yield from self._into(folder, below)

    def _into(self, folder: int, parts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Entry, int]]:
        if len(parts) >= self.depth:
            self.passed_over += self.depth == DEPTH_LIMIT  # a smaller depth is what the caller asked for
            return
        try:
            fd = os.open(parts[-1], os.O_RDONLY | FOLDER, dir_fd=folder)
        except OSError:
            self.passed_over += 1
            return
        try:
            yield from self.entries(fd, parts)
        finally:
            os.close(fd)


def walk_notes(walk: Walk) -> list[str]:
    notes = []
    if walk.budget.spent():
        notes.append("Stopped for lack of time. Start lower down for the rest.")
    if walk.passed_over:
        notes.append(
            f"{walk.passed_over} files or directories that cannot be read or lie too deep were passed over."
        )
    return notes


def list_directory(roots: Roots, budget: Budget, path: str = ".", offset: int = 0) -> Answer:
    """The entries of one directory by name, ENTRY_LIMIT of them from `offset`."""
    place = roots.find(path)
    with roots.open_folder(place) as folder:
        found, complete = scan(folder, budget)
        page = found[offset : offset + ENTRY_LIMIT]
        entries = [_described(entry, folder) for entry in page]
    data: dict[str, object] = {"path": place.shown, "entries": entries, "total": len(found)}
    notes = []
    following = offset + len(page)
    if page and following < len(found):
        data["next_offset"] = following
        notes.append(f"Entries {offset} to {following - 1} of {len(found)}. Continue with offset={following}.")
    if not complete:
        notes.append(
            f"The directory has more than {len(found)} entries. Use search_files with a glob for the others."
        )
    if not page and complete:
        notes.append("The directory is empty." if not found else f"There are only {len(found)} entries.")
    return Answer("\n".join(_line(entry) for entry in entries), data, notes)


def _described(entry: Entry, folder: int) -> dict[str, object]:
    described: dict[str, object] = {"name": printable(entry.name), "type": entry.kind}
    try:
        status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
    except OSError:  # gone since, or not to be looked at: the name still stands
        return described
    described["type"] = kind_of(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        described["size"] = status.st_size
    return described


def _line(entry: dict[str, object]) -> str:
    size = f" ({entry['size']} bytes)" if "size" in entry else ""
    return f"[{entry['type']}] {entry['name']}{size}"


def directory_tree(roots: Roots, budget: Budget, path: str = ".", depth: int = 3) -> Answer:
    """All entries `depth` levels down, at most TREE_FOLDER_LIMIT of one directory and TREE_LIMIT in all."""
    place = roots.find(path)
    walk = Walk(budget, depth, TREE_FOLDER_LIMIT)
    entries: list[dict[str, object]] = []
    lines: list[str] = []
    cut = False
    with roots.open_folder(place) as folder:
        for parts, entry, _ in walk.entries(folder):
            if len(entries) >= TREE_LIMIT:
                cut = True
                break
            entries.append({"path": roots.shown(place.root, (*place.parts, *parts)), "type": entry.kind})
            lines.append(
                "  " * (len(parts) - 1) + printable(entry.name) + ("/" if entry.kind == "directory" else "")
            )
    notes = walk_notes(walk)
    for left, why in walk.unfinished[:10]:
        shown = roots.shown(place.root, (*place.parts, *left))
        notes.append(f'"{shown}": {why}. list_directory("{shown}") gives them in pages.')
    if cut:
        notes.append(
            f"Only the first {TREE_LIMIT} entries. Use a smaller depth, or start at a directory further down."
        )
    if not entries:
        notes.append("The directory is empty.")
    return Answer(
        "\n".join(lines),
        {"path": place.shown, "entries": entries, "truncated": cut or bool(walk.unfinished)},
        notes,
    )
