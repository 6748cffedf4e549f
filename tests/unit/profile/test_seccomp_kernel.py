"""The compiled groups, loaded for real: calls that must end as the lists say, programs that must work.

Every refused call is also made without the filter and has to end otherwise there.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from supervisor.profile import seccomp

GROUPS = Path(__file__).parents[3] / "profiles" / "syscalls"
SERVER = ("base", "files-read", "files-write", "events", "process", "socketpair", "newer")
CI = (*SERVER, "network", "ci-build", "ci-sockets")

# Loads the filter of file argv[1] on itself, as the sandbox does, then becomes argv[2:].
LOADER = """
import ctypes, os, sys
code = open(sys.argv[1], "rb").read()
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
program = Program(len(code) // 8, code)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no_new_privs"
assert libc.syscall(317, 1, 0, ctypes.byref(program)) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[2], sys.argv[2:])
"""

# Prints the errno of one raw system call, or "done".
ATTEMPT = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    args = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_ulong(a) for a in args]
    result = libc.syscall(ctypes.c_long(number), *args)
    if number in (56, 57) and result == 0:
        os._exit(0)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else "done"
pair = socket.socketpair()
path, new = b"file", b"new"
open(path, "w").close()
"""


@cache
def compiled(names: tuple[str, ...], *, write_execute: bool = True) -> bytes:
    return seccomp.compile_filter(seccomp.load_groups(GROUPS, names), write_execute=write_execute)


def confined(
    folder: Path, argv: list[str], names: tuple[str, ...] = SERVER, *, write_execute: bool = True
) -> subprocess.CompletedProcess[str]:
    (folder / "filter").write_bytes(compiled(names, write_execute=write_execute))
    return run(folder, [sys.executable, "-I", "-c", LOADER, str(folder / "filter"), *argv])


def run(folder: Path, argv: list[str]) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


def python(snippet: str) -> list[str]:
    return [sys.executable, "-I", "-c", snippet]


def program(name: str) -> str:
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize(
    ("expression", "free", "inside"),
    [
        ("call(16, 0, 0x5412 | 1 << 40, path)", "ENOTTY", "EPERM"),  # ioctl TIOCSTI
        ("call(90, path, 0o4755)", "done", "EPERM"),  # chmod
        ("call(91, os.open(path, 0), 0o2755)", "done", "EPERM"),  # fchmod
        ("call(268, -100 & 0xffffffff, path, 0o4755)", "done", "EPERM"),  # fchmodat
        ("call(452, -100 & 0xffffffff, path, 0o4755, 0)", "done", "ENOSYS"),  # fchmodat2
        ("call(2, new, os.O_CREAT, 0o4644)", "done", "EPERM"),  # open
        ("call(257, -100 & 0xffffffff, new, os.O_CREAT, 0o4644)", "done", "EPERM"),  # openat
        ("call(257, -100 & 0xffffffff, b'.', os.O_TMPFILE | 2, 0o4644)", "done", "EPERM"),
        ("call(85, new, 0o4644)", "done", "EPERM"),  # creat
        ("call(133, new, 0o104644, 0)", "done", "EPERM"),  # mknod of a regular file
        ("call(133, new, 0o140644, 0)", "done", "EPERM"),  # mknod of a socket
        ("call(437, 0, path, 0, 0)", "EINVAL", "ENOSYS"),  # openat2
        ("call(56, 0x10000011, 0, 0, 0, 0)", "done", "EPERM"),  # clone CLONE_NEWUSER
        ("call(435, 0, 0)", "EINVAL", "ENOSYS"),  # clone3
        ("call(272, 0x10000000)", "done", "EPERM"),  # unshare
        ("call(41, 2, 1, 0)", "done", "EAFNOSUPPORT"),  # socket
        ("call(53, 2, 1, 0, path)", "ENOTSUP", "EPERM"),  # socketpair AF_INET
        ("call(53, 1, 2, 0, bytes(8))", "done", "EPERM"),  # socketpair SOCK_DGRAM
        ("call(53, 1, 5, 0, bytes(8))", "done", "done"),
        ("call(137, path, bytes(120))", "done", "ENOSYS"),  # statfs
        ("call(221, os.open(path, 0), 0, 0, 4)", "done", "EPERM"),  # POSIX_FADV_DONTNEED
        ("call(221, os.open(path, 0), 0, 0, 3)", "done", "done"),
        ("call(28, 0, 0, 12)", "done", "EPERM"),  # MADV_MERGEABLE
        ("call(9, 0, 1 << 21, 3, 0x40022, -1 & 0xffffffff, 0) == 'EPERM'", "False", "True"),  # MAP_HUGETLB
        ("call(54, pair[0].fileno(), 1, 26, 0, 16)", "EFAULT", "EPERM"),  # SO_ATTACH_FILTER
        ("call(425, 1, 0)", "EFAULT", "ENOSYS"),  # io_uring_setup
        ("call(319, path, 0)", "done", "EPERM"),  # memfd_create
        ("call(101, 0, 0, 0, 0)", "done", "EPERM"),  # ptrace PTRACE_TRACEME
        ("call(135, 0x40000)", "done", "EPERM"),  # personality ADDR_NO_RANDOMIZE
        ("call(302, os.getppid(), 7, 0, 0)", "done", "EPERM"),  # prlimit64 of another process
        ("call(72, os.open(path, 0), 1024, 0)", "done", "EPERM"),  # fcntl F_SETLEASE
        ("call(462, 0, 0, 0)", "done", "ENOSYS"),  # mseal: newer than the library that compiles the filter
        ("call(191, path, b'user.x', 0, 0)", "ENODATA", "ENOTSUP"),  # getxattr
        ("call(90, path, 0o755)", "done", "done"),
        ("call(2, new, os.O_CREAT | 1, 0o644)", "done", "done"),
        ("call(257, -100 & 0xffffffff, path, 0, 0o4644)", "done", "done"),  # no O_CREAT: the mode means nothing
        ("call(133, new, 0o010644, 0)", "done", "done"),  # mkfifo
        ("call(83, new, 0o6755) + oct(os.stat(new).st_mode)", "done0o40755", "done0o40755"),  # mkdir
        ("call(57)", "done", "done"),  # fork
        ("call(302, 0, 7, 0, 0)", "done", "done"),
    ],
)
def test_a_call_ends_as_the_lists_say(tmp_path: Path, expression: str, free: str, inside: str) -> None:
    snippet = python(f"{ATTEMPT}\nprint({expression})")
    outcomes = []
    for name in ("free", "inside"):
        (tmp_path / name).mkdir()
        start = run if name == "free" else confined
        outcomes.append(start(tmp_path / name, snippet).stdout.strip())
    assert outcomes == [free, inside]


@pytest.mark.parametrize(
    ("expression", "strict"),
    [
        ("call(9, 0, 4096, 7, 0x22, -1 & 0xffffffff, 0)", "EPERM"),  # mmap, written and executed
        ("call(9, 0, 4096, 3, 0x22, -1 & 0xffffffff, 0)", "done"),
        ("call(10, libc.mmap(0, 4096, 3, 0x22, -1, 0), 4096, 5)", "EPERM"),  # mprotect, written then executed
    ],
)
def test_memory_is_written_or_executed_unless_the_profile_says_both(
    tmp_path: Path, expression: str, strict: str
) -> None:
    snippet = python(f"{ATTEMPT}\nlibc.mmap.restype = ctypes.c_ulong\nprint({expression})")
    assert confined(tmp_path, snippet).stdout.strip() == "done"
    assert confined(tmp_path, snippet, write_execute=False).stdout.strip() == strict


X32 = f"{ATTEMPT}\nprint(call(0x40000000 | 39))"
INT80 = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
print("alive", ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0, flush=True)
"""


@pytest.mark.parametrize("snippet", [X32, INT80], ids=["x32", "int80"])
def test_another_architecture_ends_the_process(tmp_path: Path, snippet: str) -> None:
    assert run(tmp_path, python(snippet)).returncode == 0
    ended = confined(tmp_path, python(snippet))
    assert ended.returncode == -signal.SIGSYS
    assert ended.stdout == ""


ASYNCIO = """
import asyncio, concurrent.futures, multiprocessing, os, signal, subprocess, sys, tempfile, threading
async def main():
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    out, _ = await child.communicate(b"hello")
    assert (child.returncode, out) == (0, b"hello")
    assert await asyncio.to_thread(threading.active_count) >= 2
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, done.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(done.wait(), 10)
done = asyncio.Event()
asyncio.run(main())
assert subprocess.run(["id", "-u"], capture_output=True, start_new_session=True).returncode == 0
with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
import sqlite3
with sqlite3.connect("base.sqlite") as base:
    base.execute("pragma journal_mode=wal")
    base.execute("create table t (x)")
print("served")
"""

INIT = """
import os, signal
every = signal.valid_signals()
signal.pthread_sigmask(signal.SIG_BLOCK, every)
child = os.posix_spawn("/bin/true", ["true"], {}, setsigmask=[], setsigdef=[signal.SIGPIPE])
assert signal.sigwait(every) == signal.SIGCHLD
assert os.waitpid(-1, os.WNOHANG) == (child, 0)
print("served")
"""

NODE = """
const { Worker } = require('node:worker_threads');
const { execFileSync, spawn, fork } = require('node:child_process');
const fs = require('node:fs');
fs.writeFileSync('child.js', "process.on('message', m => { process.send(m + 1); process.disconnect(); });");
fs.copyFileSync('child.js', 'copy.js');
fs.promises.readdir('.').then(names => { if (!names.includes('copy.js')) process.exit(3); });
if (execFileSync('echo', ['hello']).toString() !== 'hello\\n') process.exit(4);
const cat = spawn('cat'); cat.stdin.end('hello');
cat.stdout.on('data', d => { if (d.toString() !== 'hello') process.exit(5); });
const child = fork('./child.js'); child.send(1);
child.on('message', m => { if (m !== 2) process.exit(6); });
const worker = new Worker("let n = 0; for (let i = 0; i < 3e6; i++) n += i; "
  + "require('node:worker_threads').parentPort.postMessage(n)", { eval: true });
worker.on('message', n => { if (n !== 4499998500000) process.exit(7); });
let left = 3;
for (const it of [cat, child, worker]) it.on('exit', () => { if (--left === 0) console.log('served'); });
"""

SHELL = """
set -e
mkdir -p one/two && echo text > one/file && ln -s file one/link && ln one/file one/hard && mkfifo one/fifo
ls -lR one | grep -q hard && cp -R --preserve=mode,timestamps,links one copy
mv copy/file copy/moved && touch -d 2001-01-01 one/file
find one -name 'f*' -print0 | sort -z | xargs -0 stat -c %n | tail -n 1
test -r one/file && timeout 5 cat one/file
tar -cf one.tar one && tar -x --no-same-owner -f one.tar
sleep 0.01 & wait; (exit 3) || test $? = 3; chmod 600 one/file; rm -r one; echo served
"""

GIT = """
set -e
git init -q . && echo text > file && git add file
git -c user.name=a -c user.email=a@b commit -qm first && git gc -q && git clone -q . copy
git status --short && git log --oneline | grep -q first && echo served
"""

BUILD = """
set -e
printf '#include <sys/socket.h>\\nint main(){return socket(16,3,0) >= 0;}' > main.c
printf 'main: main.c\\n\\tgcc -pthread -o main main.c\\n' > Makefile
make -s -j4 main && ./main && nice -n 1 timeout 5 true && df . > /dev/null
python3 -c '
import multiprocessing, socket, os
s = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(s.getsockname()); s.accept()
multiprocessing.get_context("spawn"); os.close(os.pidfd_open(os.getpid()))'
echo served
"""


@pytest.mark.parametrize("write_execute", [True, False])
@pytest.mark.parametrize("snippet", [ASYNCIO, INIT], ids=["asyncio", "init"])
def test_python_works(tmp_path: Path, snippet: str, write_execute: bool) -> None:
    ended = confined(tmp_path, python(snippet), write_execute=write_execute)
    assert (ended.stdout, ended.stderr) == ("served\n", "")


def test_node_works(tmp_path: Path) -> None:
    ended = confined(tmp_path, [program("node"), "-e", NODE])
    assert (ended.stdout, ended.stderr) == ("served\n", "")


@pytest.mark.parametrize(
    ("script", "names"), [(SHELL, SERVER), (GIT, SERVER), (BUILD, CI)], ids=["shell", "git", "build"]
)
def test_tools_work(tmp_path: Path, script: str, names: tuple[str, ...]) -> None:
    for tool in ("git", "gcc", "make"):
        program(tool)
    ended = confined(tmp_path, [program("bash"), "-c", script], names)
    assert ended.stderr == ""
    assert ended.stdout.endswith("served\n")
