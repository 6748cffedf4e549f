"""The files of an image as its layers make them, kept as a tree in memory: nothing is written while names are read.

Pure; runs in the unpacker. No name can lead out of the tree and no link is followed, because there are no links to
follow: a symbolic link is a leaf with a text. Whiteouts hide what lower layers brought, never what their own layer
brings. What a sandbox must not see (devices, sockets and pipes, set-id bits, extended attributes) is left out and
counted in `dropped`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from supervisor.errors import Refused
from supervisor.oci import tar
from supervisor.oci.limits import Limits

Parts: TypeAlias = tuple[bytes, ...]
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


@dataclass(eq=False)
class File:
    """A regular file: its bytes stand in layer `layer` at `offset`."""

    layer: int
    offset: int
    size: int
    executable: bool
    mtime: int


@dataclass(eq=False)
class Link:
    """A symbolic link; its target means something only inside the sandbox's own root."""

    target: bytes
    mtime: int


@dataclass
class Slot:
    """A name in a folder: what it stands for, and the last layer that said something about it."""

    node: Node
    layer: int


@dataclass(eq=False)
class Folder:
    """A folder."""

    mtime: int = 0
    children: dict[bytes, Slot] = field(default_factory=dict)


Node: TypeAlias = "File | Link | Folder"


class Tree:
    """Built entry by entry, layer by layer; every refusal names the entry and the layer."""

    def __init__(self, limits: Limits) -> None:
        self.root = Folder()
        self.dropped: Counter[str] = Counter()
        self._limits = limits
        self._layer = -1
        self._entries = 0

    def begin_layer(self) -> None:
        """What is added from here on belongs to the next layer up."""
        self._layer += 1

    def add(self, entry: tar.Entry) -> None:
        """Apply one entry of the current layer."""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise Refused(f"more than {self._limits.entries} files and folders in all layers")
        parts = self._parts(entry.name, "entry")
        if not parts:
            if entry.kind != tar.FOLDER:
                raise self._fault(entry.name, "the root is not a folder")
            return
        folder = self._folder(parts[:-1], entry.name)
        if parts[-1].lower().startswith(_WHITEOUT):
            self._whiteout(folder, parts[-1], entry)
        elif entry.kind == tar.FOLDER:
            self._add_folder(folder, parts[-1], entry)
        else:
            self._add_leaf(folder, parts, entry)

    def walk(self) -> Iterator[tuple[Parts, Node]]:
        """Every name with what it stands for, parents first, sorted."""
        waiting: list[tuple[Parts, Node]] = [((), self.root)]
        while waiting:
            parts, node = waiting.pop()
            if parts:
                yield parts, node
            if isinstance(node, Folder):
                below = sorted(node.children.items(), reverse=True)
                waiting += [((*parts, name), slot.node) for name, slot in below]

    def _fault(self, name: bytes, message: str) -> Refused:
        return Refused(f"layer {self._layer}, {name.decode(errors='backslashreplace')[:200]!r}: {message}")

    def _parts(self, name: bytes, what: str) -> Parts:
        if name.startswith(b"/"):
            raise self._fault(name, f"an absolute {what} name")
        if len(name) > self._limits.path:
            raise self._fault(name, f"longer than {self._limits.path} bytes")
        parts = name.split(b"/")
        if parts[-1] == b"" and len(parts) > 1:
            parts.pop()
        if parts[0] == b".":
            parts.pop(0)
        if len(parts) > self._limits.depth:
            raise self._fault(name, f"more than {self._limits.depth} folders deep")
        for part in parts:
            if part in (b"", b".", b".."):
                raise self._fault(name, f"{part.decode()!r} in the {what} name")
            if len(part) > self._limits.name:
                raise self._fault(name, f"a part of more than {self._limits.name} bytes")
            self._check_characters(part, name)
        return tuple(parts)

    def _check_characters(self, part: bytes, name: bytes) -> None:
        if min(part) < 0x20 or 0x7F in part:
            raise self._fault(name, "a control character in the name")
        try:
            part.decode()
        except UnicodeDecodeError:
            raise self._fault(name, "a name that is not UTF-8") from None

    def _folder(self, parts: Parts, name: bytes) -> Folder:
        """The folder at `parts`, made where missing; nothing else on the way is gone through."""
        here = self.root
        for part in parts:
            if part.lower().startswith(_WHITEOUT):
                raise self._fault(name, "below a whiteout")
            slot = here.children.setdefault(part, Slot(Folder(), self._layer))
            if not isinstance(slot.node, Folder):
                kind = "symbolic link" if isinstance(slot.node, Link) else "file"
                raise self._fault(name, f"the way there goes through the {kind} {part.decode()!r}")
            slot.layer = self._layer
            here = slot.node
        return here

    def _add_folder(self, folder: Folder, name: bytes, entry: tar.Entry) -> None:
        self._count_dropped(entry)
        slot = folder.children.get(name)
        if slot is None or not isinstance(slot.node, Folder):
            self._refuse_twice(slot, entry)
            folder.children[name] = slot = Slot(Folder(), self._layer)
        slot.layer = self._layer
        if isinstance(slot.node, Folder):
            slot.node.mtime = entry.mtime

    def _add_leaf(self, folder: Folder, parts: Parts, entry: tar.Entry) -> None:
        self._refuse_twice(folder.children.get(parts[-1]), entry)
        node = self._leaf(parts, entry)
        folder.children.pop(parts[-1], None)
        if node is not None:
            folder.children[parts[-1]] = Slot(node, self._layer)

    def _refuse_twice(self, slot: Slot | None, entry: tar.Entry) -> None:
        if slot is not None and slot.layer == self._layer:
            raise self._fault(entry.name, "twice in one layer")

    def _leaf(self, parts: Parts, entry: tar.Entry) -> Node | None:
        if entry.kind in (tar.CHARACTER, tar.DEVICE, tar.FIFO):
            self.dropped["pipes" if entry.kind == tar.FIFO else "devices"] += 1
            return None
        if entry.kind == tar.HARD_LINK:
            return self._linked(entry)
        self._count_dropped(entry)
        if entry.kind == tar.SYMBOLIC_LINK:
            self._check_target(len(parts) - 1, entry)
            return Link(entry.link, entry.mtime)
        return File(self._layer, entry.offset, entry.size, bool(entry.mode & 0o111), entry.mtime)

    def _count_dropped(self, entry: tar.Entry) -> None:
        if entry.mode & 0o6000 and entry.kind == tar.FILE:
            self.dropped["set-id bits"] += 1
        if entry.xattrs:
            self.dropped["extended attributes"] += len(entry.xattrs)

    def _linked(self, entry: tar.Entry) -> Node:
        """The file that a hard link is another name of; it must be there already, and not behind a link."""
        here: Node = self.root
        for part in self._parts(entry.link, "link"):
            slot = here.children.get(part) if isinstance(here, Folder) else None
            if slot is None:
                target = entry.link.decode(errors="backslashreplace")[:200]
                raise self._fault(entry.name, f"a hard link to {target!r}, which is not there")
            here = slot.node
        if isinstance(here, Folder):
            raise self._fault(entry.name, "a hard link to a folder")
        return here

    def _check_target(self, depth: int, entry: tar.Entry) -> None:
        """A target may be absolute, which means the sandbox's root, but not climb above that root."""
        target = entry.link
        if not target or len(target) > self._limits.path:
            raise self._fault(entry.name, "a symbolic link to nothing, or to a name that is too long")
        depth = 0 if target.startswith(b"/") else depth
        for part in target.split(b"/"):
            if part == b"..":
                depth -= 1
                if depth < 0:
                    raise self._fault(
                        entry.name, f"a symbolic link that climbs out: {target.decode(errors='replace')!r}"
                    )
            elif part not in (b"", b"."):
                depth += 1

    def _whiteout(self, folder: Folder, name: bytes, entry: tar.Entry) -> None:
        if not name.startswith(_WHITEOUT):
            raise self._fault(entry.name, "almost a whiteout: another case")
        if entry.kind != tar.FILE or entry.size:
            raise self._fault(entry.name, "a whiteout that is not an empty file")
        if name == _OPAQUE:
            self._hide(folder)
            return
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b"..") or hidden.startswith(_WHITEOUT):
            raise self._fault(entry.name, "a whiteout of no name")
        slot = folder.children.get(hidden)
        if slot is None:
            return
        if slot.layer < self._layer:
            del folder.children[hidden]
        elif isinstance(slot.node, Folder):
            self._hide(slot.node)

    def _hide(self, folder: Folder) -> None:
        """Take away what lower layers brought below a folder."""
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            here.children = {name: slot for name, slot in here.children.items() if slot.layer == self._layer}
            waiting += [slot.node for slot in here.children.values() if isinstance(slot.node, Folder)]

    def case_variants(self) -> int:
        """How many names differ from a sibling only in case; a reader on another system would lose one."""
        count, waiting = 0, [self.root]
        while waiting:
            here = waiting.pop()
            count += len(here.children) - len({name.decode().casefold() for name in here.children})
            waiting += [slot.node for slot in here.children.values() if isinstance(slot.node, Folder)]
        return count
