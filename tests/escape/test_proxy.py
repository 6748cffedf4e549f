"""A taken-over proxy: what the process that carries strangers' bytes can still do once it has given up its power.

The program is the proxy itself up to its first byte, and then hostile. As control it does the same without
`identity.drop` and `identity.confine`.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.profile import seccomp
from tests.escape.arena import CHECKOUT, PYTHON, Arena

PROGRAM = """
import ctypes, fcntl, json, mmap, os, signal, socket, sys, threading
sys.path.insert(0, sys.argv[1])
from supervisor.proxy import identity
key, filter = sys.argv[2], sys.argv[3]
# another program of the same user
reader, writer = os.pipe()  # it ends with us, at the end of its input
other = os.posix_spawn("/usr/bin/cat", ["cat"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)])
libc, parameters = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(120)
def call(*arguments):
    if libc.syscall(*(ctypes.c_long(each) for each in arguments)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
if filter:
    identity.drop()
    identity.confine(filter)
def tries(action):
    try:
        action()
    except OSError as error:
        return error.strerror
    return "CROSSED"
def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
SAY = {
    "read a key": lambda: open(key).close(),
    "read a public file": lambda: open("/etc/hostname").close(),
    "list a folder": lambda: os.listdir("/"),
    "write a file": lambda: open("/tmp/svtest-proxy", "w").close(),
    "remove a file": lambda: os.unlink("/tmp/svtest-proxy"),
    "read a link": lambda: os.readlink("/proc/self/exe"),
    "run a program": lambda: os.execv("/bin/true", ["true"]) if filter else None,
    "start a program": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
    "fork": fork,
    "read the environment of another program": lambda: open(f"/proc/{other}/environ").close(),
    "signal another program": lambda: os.kill(other, 0),
    "signal itself": lambda: os.kill(os.getpid(), 0),
    "have another program signalled": lambda: fcntl.fcntl(reader, fcntl.F_SETOWN, other),
    "trace another program": lambda: call(101, 0x4206, other, 0, 0),
    "hold another program": lambda: os.pidfd_open(other),
    "speak TCP": lambda: socket.socket(),
    "speak UDP": lambda: socket.socket(type=socket.SOCK_DGRAM),
    "speak to a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "speak to the kernel": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "have a datagram pair": lambda: socket.socketpair(type=socket.SOCK_DGRAM),
    "make a namespace": lambda: call(272, 0x10000000),
    "use a ring": lambda: call(425, 4, ctypes.addressof(parameters)),
    "have memory that can be executed": lambda: mmap.mmap(-1, 4096, prot=7),
    "have a file in memory": lambda: os.memfd_create("x"),
    "be dumped": lambda: call(157, 4, 1, 0, 0, 0),
    "be less nice to others": lambda: os.nice(1),
    "use another processor": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "watch files": lambda: call(294, 0),
    "keep a key": lambda: call(250, 0, -3, 1),
}
print(json.dumps({name: tries(action) for name, action in SAY.items()}))
"""


@pytest.mark.parametrize("mode", ["root", "user"])
def test_a_proxy_that_was_taken_over_does_nothing_but_carry_bytes(arena: Arena, mode: str) -> None:
    plot = arena.plots[mode]

    def said(program: str) -> dict[str, str]:
        # modules are found by path: the interpreter of the tests may lie where this user cannot read
        python = "/usr/bin/python3"
        argv = [python, "-I", "-c", PROGRAM, str(CHECKOUT), str(plot.key), program]
        done = arena.outside(argv, mode)
        assert done.stdout, done.stderr
        answer: dict[str, str] = json.loads(done.stdout)
        return answer

    try:
        control = said("")
        assert set(control.values()) == {"CROSSED"}, control
    finally:
        Path("/tmp/svtest-proxy").unlink(missing_ok=True)
    held = said(seccomp.own("proxy"))
    assert held.keys() == control.keys()
    assert "CROSSED" not in held.values(), held


def test_every_thread_of_a_running_proxy_is_confined(arena: Arena, mode: str) -> None:
    echo = 'import sys\nfor line in sys.stdin: print(\'{"jsonrpc":"2.0","id":1,"result":{}}\', flush=True)'
    argv = arena.command("none", mode, [*PYTHON, "-c", echo])
    argv[argv.index("exec")] = "run"
    process = arena.start(argv, mode, stdin=subprocess.PIPE)
    try:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        process.stdin.flush()
        assert b"result" in process.stdout.readline()
        own = filters(Path("/proc/self/status"))
        threads = list(Path(f"/proc/{process.pid}/task").iterdir())
        assert len(threads) > 1
        for thread in threads:
            assert filters(thread / "status") == own + 1
            assert "NoNewPrivs:\t1" in (thread / "status").read_text()
    finally:
        arena.finish(process)


def filters(status: Path) -> int:
    """How many system call filters it is under."""
    fields = dict(line.partition(":\t")[::2] for line in status.read_text().splitlines())
    return int(fields["Seccomp_filters"])


GATEWAY = """
import asyncio, os, socket, sys, time
import uvloop
from supervisor.proxy import identity
listeners = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
listeners[1].bind(sys.argv[1])
listeners[1].listen()
identity.drop()
identity.confine(sys.argv[2])
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        sock = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            transport.write(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4])
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport.get_extra_info("peername")
    def data_received(self, data):
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.01)
        self.transport.write(data)
        self.transport.write_eof()
async def serve():
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Echo, sock=listeners[0], backlog=64)]
    servers.append(await loop.create_unix_server(Echo, sock=listeners[1]))
    print(listeners[0].getsockname()[1], flush=True)
    await loop.connect_read_pipe(Hold, sys.stdin)
    await ended.wait()
class Hold(asyncio.Protocol):
    def connection_lost(self, error):
        ended.set()
ended = asyncio.Event()
uvloop.run(serve())
"""


def test_what_a_gateway_needs_still_works(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    argv = [sys.executable, "-c", GATEWAY, path, seccomp.own("proxy")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CHECKOUT) as gateway:
        assert gateway.stdin
        assert gateway.stdout
        port = int(gateway.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(b"hello")
            assert client.makefile("rb").read() == b"hello"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"hello")
            assert client.makefile("rb").read() == struct.pack("i", os.getpid()) + b"hello"
        gateway.stdin.close()
    assert gateway.returncode == 0
