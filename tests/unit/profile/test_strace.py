"""What strace writes, read as calls: halves put together, text unescaped, and no line taken for more than it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.profile.observed import Observed, Watch
from supervisor.profile.strace import Call, Ended, Reader, Signalled

START = '7 execve("/usr/bin/sh", ["sh"], 0x7ffd /* 5 vars */) = 0'


def read(line: str) -> Call:
    found = Reader().read(line)
    assert isinstance(found, Call)
    return found


def observed(*lines: str, ours: int = 1) -> Observed:
    """What is seen of a command in /work whose process is 7."""
    watch, reader = Watch("/work", lambda _: None, lambda pid: pid == ours), Reader()
    for line in (START, *lines):
        seen = reader.read(line)
        if seen:
            watch.take(seen)
    return watch.observed


def test_arguments_are_told_apart_at_their_own_commas() -> None:
    call = read(r'7 openat(-100</a, b>, "x, \"y\"\303\251", 0x80241, 0666) = 3</a/x>')
    assert call.args == ["-100</a, b>", r'"x, \"y\"\303\251"', "0x80241", "0666"]
    assert call.string(1) == 'x, "y"é'
    assert (call.number(2), call.number(3), call.folder(0), call.made) == (0x80241, 0o666, "/a, b", "/a/x")


def test_the_halves_of_a_call_are_put_together() -> None:
    reader = Reader()
    assert reader.read('7 mkdir("a", <unfinished ...>') is None
    assert isinstance(reader.read("8 +++ exited with 0 +++"), Ended)
    found = reader.read("7 <... mkdir resumed>0777) = -1 EEXIST (File exists)")
    assert isinstance(found, Call)
    assert (found.name, found.string(0), found.error) == ("mkdir", "a", "EEXIST")


def test_signals_and_ends_are_no_calls() -> None:
    assert Reader().read("7 --- SIGSYS {si_signo=31} ---") == Signalled(7, "SIGSYS")
    assert Reader().read("7 +++ killed by SIGKILL +++") == Ended(7)


@pytest.mark.parametrize("line", ["", "7", "x y", "7 exit_group(0) = ?", "7 open(", "7 = 3", "strace: error"])
def test_what_is_no_call_is_left_out(line: str) -> None:
    assert Reader().read(line) is None


@given(st.text(max_size=200))
def test_no_line_stops_the_reader(text: str) -> None:
    seen = Reader().read(f"7 {text}")
    if isinstance(seen, Call):
        observed(f"7 {text}")


def test_what_was_done_before_the_command_is_not_the_command_s() -> None:
    watch, reader = Watch("/", lambda _: None, lambda pid: pid == 1), Reader()
    for line in ('7 openat(-100</>, "/early", 0x80000) = 3</early>', START, '1 open("/ours", 0) = 3</ours>'):
        seen = reader.read(line)
        assert seen
        watch.take(seen)
    assert set(watch.observed.touched) == {"/usr/bin/sh"}


def test_paths_are_followed_through_folders_and_descriptors() -> None:
    seen = observed(
        '7 chdir("src") = 0',
        '7 mkdir("new", 0777) = 0',
        '7 openat(-100</work/src>, "a.c", 0x80000) = 3</work/src/a.c>',
        '7 openat(5</other>, "b", 0x80241, 0666) = 4</other/b>',
        '7 rename("new", "../old") = 0',
        '7 newfstatat(-100</work/src>, "..", {st_mode=040755, st_size=1, ...}, 0) = 0',
        '7 openat(-100</work/src>, "gone", 0) = -1 ENOENT (No such file or directory)',
        '7 unlink("/etc/x") = -1 EROFS (Read-only file system)',
    ).touched
    assert seen["/work/src"] == {"look"}
    assert seen["/work/src/new"] == {"made", "write"}
    assert seen["/work/old"] == {"write"}
    assert seen["/work/src/a.c"] == {"read"}
    assert seen["/other/b"] == {"write"}
    assert seen["/work"] == {"look"}
    assert "/work/src/gone" not in seen
    assert "/etc/x" not in seen


def test_what_was_refused_and_what_was_missing_is_kept_apart() -> None:
    seen = observed(
        '7 openat(-100</work>, "/home/u/x", 0) = -1 ENOENT (No such file or directory)',
        '7 unlink("/etc/x") = -1 EROFS (Read-only file system)',
    )
    assert seen.missing == {"/home/u/x"}
    assert dict(seen.refused) == {("unlink", "/etc/x", "EROFS"): 1}


def test_the_most_at_once_is_counted() -> None:
    seen = observed(
        "7 clone(child_stack=NULL, flags=0x1200011) = 8",
        "8 getpid() = 3",
        "8 +++ exited with 0 +++",
        "9 getpid() = 4",
        "7 pipe2([3<pipe:[1]>, 4<pipe:[1]>], 0) = 0",
        "7 dup(1<pipe:[2]>) = 9<pipe:[2]>",
    )
    assert seen.processes == 2
    assert seen.files == 10


def test_connections_and_memory_are_seen() -> None:
    address = r'{sa_family=0x2, sin_port="\x01\xbb", sin_addr="\xc6\x12\x01\x00"}'
    seen = observed(
        f"7 connect(3<socket:[1]>, {address}, 16) = -1 EINPROGRESS (Operation now in progress)",
        "7 mmap(NULL, 4096, 0x7, 0x22, -1, 0) = 0x7f00",
    )
    assert dict(seen.connected) == {("198.18.1.0", 443): 1}
    assert seen.write_execute


@pytest.mark.parametrize(
    "name", ["x) = 0", "q) = -1 EPERM (x", "q) = -1 ENOENT (x)", "x) = 5</etc/y", "x) = 0 (y", "x) += 1"]
)
def test_no_name_of_a_file_is_taken_for_the_result(name: str) -> None:
    # as strace writes it: in a path that a descriptor has < and > are escaped, in an argument they are not
    path = "/work/" + name.replace("<", r"\74").replace(">", r"\76")
    seen = observed(
        f'7 openat(-100</work>, "{name}", 0x80002) = 3<{path}>',
        f"7 getdents64(3<{path}>, 0x56, 32768) = 0",
        f"7 poll([{{fd=3<{path}>, events=0x1}}], 1, 0) = 1 ([{{fd=3<{path}>, revents=0x1}}])",
        f'7 unlink("/work/z/{name}") = 0',
        f'7 access("/work/y/{name}", 0) = -1 ENOENT (No such file or directory)',
    )
    assert seen.touched[f"/work/{name}"] == {"write", "list"}
    assert seen.touched[f"/work/z/{name}"] == {"write"}
    assert seen.missing == {f"/work/y/{name}"}
    assert not seen.refused
    assert read(f'7 openat(-100</work>, "{name}", 0x80002) = 3<{path}>(deleted)').result == 3
