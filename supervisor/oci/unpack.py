"""From verified layers to one read-only file system: the unpacker, a one-shot process without power.

Runs as a uid of its own (root) or as the user, without capabilities, network or files: it reads layers from
descriptors and fills one memory file through mksquashfs. Two passes: the first reads every name and builds the
tree, the second copies the bytes of what is left to see. Both must match the digests, or nothing comes out.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from supervisor.errors import SupervisorError
from supervisor.oci import tar
from supervisor.oci.inflate import Budget, Layer
from supervisor.oci.limits import Limits
from supervisor.oci.tree import File, Folder, Link, Node, Parts, Tree

PROGRAM = "/usr/bin/mksquashfs"
# lz4 would be a third of the time and 1.4 times the memory; every start reads it, memory is held for as long
OPTIONS: tuple[str, ...] = ("-tar", "-noappend", "-no-progress", "-quiet", "-no-xattrs", "-exit-on-error")
# The first line of input is the youngest time in the image: mksquashfs clamps its own clock to SOURCE_DATE_EPOCH.
# It would stand in the root folder otherwise, because -root-time has no effect on a tar (4.5): two images from one.
LAUNCH = 'read -r SOURCE_DATE_EPOCH && export SOURCE_DATE_EPOCH && exec "$0" "$@"'
# -all-root, because the root folder belongs to whoever runs it otherwise (-root-uid has no effect either)
OPTIONS += ("-root-mode", "0555", "-all-root", "-comp", "zstd", "-Xcompression-level", "3", "-mem", "256M")


@dataclass(frozen=True)
class Blob:
    """One layer as the manifest and the configuration name it, open at `fd`."""

    fd: int
    digest: str
    size: int
    compression: str
    diff_id: str


@dataclass(frozen=True)
class Result:
    """What went in and what did not: `dropped` and `case_variants` are for the person who adds the image."""

    files: int
    folders: int
    links: int
    bytes: int
    dropped: dict[str, int]
    case_variants: int


def read_tree(layers: Sequence[Blob], limits: Limits, progress: Callable[[str], None]) -> Tree:
    """The first pass: every layer read to its end, its digests checked, its names applied."""
    tree, budget = Tree(limits), Budget(limits)
    for number, blob in enumerate(layers):
        progress(f"layer {number + 1} of {len(layers)}: reading")
        tree.begin_layer()
        stream = Layer(blob.fd, f"layer {number}", blob.compression, budget)
        for entry in tar.Reader(stream, f"layer {number}", most_entries=limits.entries):
            tree.add(entry)
        stream.finish(blob.digest, blob.size, blob.diff_id)
    return tree


def pack(
    tree: Tree, layers: Sequence[Blob], limits: Limits, out: IO[bytes], progress: Callable[[str], None]
) -> Result:
    """The second pass: the tree as one tar of our own making, which has no trick in it."""
    files: dict[tuple[int, int], tuple[Parts, File]] = {}
    first: dict[int, Parts] = {}
    linked: list[tuple[Parts, Node, Parts]] = []
    kinds: Counter[type[Node]] = Counter()
    out.write(b"%d\n" % max((node.mtime for _, node in tree.walk()), default=0))
    for parts, node in tree.walk():
        kinds[type(node)] += 1
        if not isinstance(node, File):
            out.write(_header(parts, node))
        elif id(node) in first:
            linked.append((parts, node, first[id(node)]))
        else:
            first[id(node)] = parts
            files[node.layer, node.offset] = parts, node
    budget = Budget(limits)
    for number, blob in enumerate(layers):
        progress(f"layer {number + 1} of {len(layers)}: packing")
        stream = Layer(blob.fd, f"layer {number}", blob.compression, budget)
        reader = tar.Reader(stream, f"layer {number}", most_entries=limits.entries)
        for entry in reader:
            if entry.kind == tar.FILE and (number, entry.offset) in files:
                _copy(*files[number, entry.offset], reader, out)
        stream.finish(blob.digest, blob.size, blob.diff_id)
    for parts, node, target in linked:
        out.write(_header(parts, node, target))
    out.write(bytes(2 * tar.BLOCK))
    size = sum(node.size for _, node in files.values())
    return Result(kinds[File], kinds[Folder], kinds[Link], size, dict(tree.dropped), tree.case_variants())


def _copy(parts: Parts, node: File, reader: tar.Reader, out: IO[bytes]) -> None:
    out.write(_header(parts, node))
    for data in reader.data():
        out.write(data)
    out.write(bytes(-node.size % tar.BLOCK))


def _header(parts: Parts, node: Node, target: Parts = ()) -> bytes:
    """One owner, one reader: everybody inside may read everything, and nobody may write anything."""
    info = tarfile.TarInfo(b"/".join(parts).decode())
    info.mtime, info.mode = node.mtime, 0o555
    if target:
        info.type, info.linkname = tarfile.LNKTYPE, b"/".join(target).decode()
    elif isinstance(node, Folder):
        info.type = tarfile.DIRTYPE
    elif isinstance(node, Link):
        info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, os.fsdecode(node.target)
    else:
        info.mode, info.size = 0o555 if node.executable else 0o444, node.size
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def start(output: int) -> subprocess.Popen[bytes]:
    """mksquashfs, waiting for a tar on its standard input; what it makes goes into the file at `output`."""
    if not os.access(PROGRAM, os.X_OK):
        raise SupervisorError(
            f"{PROGRAM} is missing; images are made into a squashfs by it: apt-get install squashfs-tools"
        )
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", LAUNCH, PROGRAM, "-", f"/proc/self/fd/{output}", *OPTIONS],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[output],
            env={"LC_ALL": "C.UTF-8"},
        )
    except OSError as error:
        raise SupervisorError(f"{PROGRAM}: {error.strerror}") from None


def fill(
    squash: subprocess.Popen[bytes], layers: Sequence[Blob], limits: Limits, progress: Callable[[str], None]
) -> Result:
    """Both passes, into a mksquashfs that runs already; Refused or SupervisorError says what was wrong."""
    result: Result | None = None
    if squash.stdin is None or squash.stderr is None:
        raise ValueError("mksquashfs without pipes")
    # at the end of the block its input ends, whatever happened, and so does it
    with squash:
        with contextlib.suppress(BrokenPipeError), squash.stdin as out:
            tree = read_tree(layers, limits, progress)
            result = pack(tree, layers, limits, out, progress)
        said = squash.stderr.read(4096).decode(errors="replace").strip()
    if squash.returncode != 0 or result is None:
        raise SupervisorError(f"{PROGRAM}: {said or f'ended with {squash.returncode}'}")
    return result
