"""State that a guest shares with the host and with every other session: page cache, watches, disks, processors.

None of it belongs to anybody, so no mount and no namespace stands between. Who may watch, empty or fill it learns
what others do, or signals to them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os

from tests.escape.arena import Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import FOLDER, STRICT, Bait, address, hostile, prepared, syscall, taken


@hostile()
def watch_the_programs_of_the_host(bait: Bait) -> str:
    """inotify is on the inode: it tells of everybody who starts a program of /usr/bin, whoever that is."""
    watcher = syscall(294, 0o4000)
    return str(syscall(254, watcher, b"/usr/bin", 0x20))


@hostile(profiles=FOLDER)
def watch_who_works_in_the_folder(bait: Bait) -> str:
    watcher = syscall(253)
    return str(syscall(254, watcher, bait.text("folder").encode(), 0x3FF))


@hostile()
def be_told_of_programs_by_a_signal(bait: Bait) -> str:
    """F_NOTIFY, the watch from before inotify."""
    with prepared():
        folder = os.open("/usr/bin", os.O_RDONLY | os.O_DIRECTORY)
    return str(fcntl.fcntl(folder, 1026, 1))


@hostile(control="root")
def be_told_before_a_file_is_written(bait: Bait) -> str:
    """A lease makes whoever wants to write the file wait, for 45 seconds."""
    with prepared():
        fd = os.open("/usr/bin/true", os.O_RDONLY)
    return str(fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK))


@hostile()
def ask_whether_a_file_was_read_lately(bait: Bait) -> str:
    """RWF_NOWAIT reads what is in memory already, and says when it is not."""
    with prepared():
        fd = os.open("/usr/bin/true", os.O_RDONLY)
    for _ in range(100):
        # another test may drop it from memory in between
        with prepared():
            os.pread(fd, 4096, 0)
        with contextlib.suppress(BlockingIOError):
            return str(os.preadv(fd, [bytearray(4096)], 0, os.RWF_NOWAIT))
    raise BlockingIOError(errno.EAGAIN, "not in memory")


@hostile(control="root")
def count_the_pages_of_a_file_in_memory(bait: Bait) -> str:
    """cachestat(2), which only the file's owner may ask since 6.13."""
    with prepared():
        fd = os.open("/usr/bin/true", os.O_RDONLY)
    window, found = ctypes.create_string_buffer(16), ctypes.create_string_buffer(40)
    return str(syscall(451, fd, address(window), address(found), 0))


@hostile()
def drop_a_shared_file_from_memory(bait: Bait) -> str:
    """POSIX_FADV_DONTNEED: the next to read it waits for the disk, which can be measured."""
    with prepared():
        fd = os.open("/usr/bin/true", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return "dropped"


@hostile(profiles=STRICT)
def learn_how_full_the_disk_is(bait: Bait) -> str:
    return str(os.statvfs("/usr").f_bfree)


@hostile(profiles=STRICT)
def learn_how_full_the_disk_of_a_descriptor_is(bait: Bait) -> str:
    with prepared():
        fd = os.open("/usr/bin/true", os.O_RDONLY)
    return str(os.fstatvfs(fd).f_bfree)


@hostile()
def make_every_disk_write(bait: Bait) -> str:
    """sync(2) writes back whatever anybody has changed, and everybody waits."""
    return str(syscall(162))


@hostile()
def make_the_disk_write(bait: Bait) -> str:
    with prepared():
        fd = os.open("/usr/bin/true", os.O_RDONLY)
    return str(syscall(306, fd))


@hostile()
def share_equal_pages_with_others(bait: Bait) -> str:
    """MADV_MERGEABLE: a page that is slow to write was merged, so somebody else has the same."""
    with prepared():
        area = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return str(syscall(28, ctypes.addressof(ctypes.c_char.from_buffer(area)), 4096, 12))


@hostile()
def take_a_huge_page_of_the_host(bait: Bait) -> str:
    """Huge pages come from a pool of the host's; an empty one is told apart from a refusal."""
    try:
        return str(syscall(9, None, 1 << 21, 3, 0x40022, -1, 0))
    except OSError as error:
        return taken(error.errno == errno.ENOMEM, "the pool is empty", "refused")


@hostile()
def interrupt_every_processor(bait: Bait) -> str:
    """membarrier(2) with MEMBARRIER_CMD_GLOBAL."""
    return str(syscall(324, 1, 0, 0))


@hostile(profiles=FOLDER)
def write_to_a_pipe_of_the_host(bait: Bait) -> str:
    """A read-only mount does not keep anybody from writing to a FIFO in it."""
    pipe = os.open(f"{bait.text('folder')}/pipe", os.O_RDWR | os.O_NONBLOCK)
    return str(os.write(pipe, b"hello"))


def bait(place: Place) -> Values:
    pipe = place.plot.folder / "pipe"
    with contextlib.suppress(FileExistsError):
        os.mkfifo(pipe, 0o666)
    os.chown(pipe, place.plot.uid, place.plot.gid)
    return {"folder": place.folder}


BATCH = Batch.of(globals(), bait=bait)


def test_nothing_that_all_share_tells_or_takes(case: Case, arena: Arena) -> None:
    assert_held(arena, case)
