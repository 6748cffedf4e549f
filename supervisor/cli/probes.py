"""The program that `supervisor selftest` runs inside a sandbox: it tries each boundary and tells what happened.

Runs inside, as the server would; standard library only, on its own. One JSON object on standard output:
{"probes": [[boundary, what was tried, held, what happened]], "calls": [numbers that were answered],
"reach": [[host, "answers" | "silent" | "refused" | "pattern", what happened]]}. A probe holds when the attempt
failed; an allowed host that is down is no boundary. Nothing here can hurt a host on which it succeeds.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from functools import partial

Row = tuple[str, str, bool, str]
Target = tuple[str, str, int]
NOBODY = "not-allowed.invalid"
# longer than whoever dials outside takes to give up
PATIENCE = 14.0
QUIET = 6.0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
LAST_CALL = 480
# of the kernel's own trampolines (uprobes): it lets them past every filter, and kills whoever else calls them
_TRAMPOLINES = (335, 336) if os.uname().machine == "x86_64" else ()
# x86_64 and aarch64 share the numbers from 424 on; the rest by machine
_CALLS = {
    "x86_64": {
        "ptrace": 101,
        "mount": 165,
        "unshare": 272,
        "setns": 308,
        "bpf": 321,
        "keyctl": 250,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "kexec_load": 246,
        "init_module": 175,
        "process_vm_readv": 310,
        "open_by_handle_at": 304,
        "name_to_handle_at": 303,
        "memfd_create": 319,
        "reboot": 169,
        "swapon": 167,
        "syslog": 103,
        "acct": 163,
        "shmget": 29,
        "mq_open": 240,
        "pivot_root": 155,
        "chroot": 161,
    },
    "aarch64": {"ptrace": 117, "mount": 40, "unshare": 97, "setns": 268, "bpf": 280, "keyctl": 219},
}.get(os.uname().machine, {})
_NEWER = {"io_uring_setup": 425, "open_tree": 428, "fsopen": 430, "clone3": 435, "mount_setattr": 442}


def attempt(boundary: str, what: str, action: Callable[[], object]) -> Row:
    """One row: held if `action` raises OSError (or MemoryError), crossed if it returns."""
    try:
        result = action()
    except (OSError, MemoryError) as error:
        return boundary, what, True, getattr(error, "strerror", None) or type(error).__name__
    return boundary, what, False, f"succeeded: {result!r:.60}"


def check(boundary: str, what: str, *, held: bool, seen: object) -> Row:
    """One row of a plain observation."""
    return boundary, what, held, f"{seen}"[:120]


def call(number: int, *arguments: int) -> int:
    """A system call; OSError as usual."""
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(each) for each in arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def read(path: str) -> str:
    """The first bytes of a file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(64)


def names(path: str) -> list[str]:
    """What is in a folder, nothing if it is not there."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def files(granted: list[str], *, image: bool) -> list[Row]:
    """The host's files are not there, and nothing of the system can be written. An image has folders of its own."""
    rows = [
        attempt("files", f"read {path}", partial(read, path))
        for path in ("/etc/shadow", "/root/.ssh/id_ed25519", "/proc/kcore", "/proc/sys/kernel/hostname", "/.sealed")
    ]
    usual = ("/root", "/home", "/var", "/run", "/sys", "/boot", "/srv", "/opt", "/mnt")
    for path in () if image else ("/", *usual):
        below = path.rstrip("/") + "/"
        expected = {place[len(below) :].split("/")[0] for place in granted if place.startswith(below)}
        strange = sorted(set(names(path)) - expected)
        rows.append(check("files", f"find anything that was not granted in {path}", held=not strange, seen=strange))
    rows += [
        attempt("files", f"write in {path}", partial(os.open, f"{path}/x", os.O_CREAT | os.O_WRONLY))
        for path in ("/usr", "/usr/bin", "/etc", "/", "/dev", "/proc/self", *(usual if image else ()))
        if path not in granted or path not in usual
    ]
    return rows


def processes() -> list[Row]:
    """Only its own processes, and not the init among them."""
    seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [
        check("processes", "see only itself in /proc", held=set(seen) <= {os.getpid(), os.getppid()}, seen=seen),
        attempt("processes", "read the environment of process 1", partial(read, "/proc/1/environ")),
        attempt("processes", "trace process 1", lambda: call(_CALLS.get("ptrace", 101), 16, 1, 0, 0)),
        attempt("processes", "limit process 1", lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (1, 1))),
    ]


def privilege() -> list[Row]:
    """No capability, no way to one, no other id, no new namespace."""
    with open("/proc/self/status", encoding="utf-8") as file:
        status = dict(line.rstrip("\n").partition(":\t")[::2] for line in file)
    sets = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    return [
        check("privilege", "have no capability", held=not any(int(each, 16) for each in sets.values()), seen=sets),
        check("privilege", "have no_new_privs", held=status["NoNewPrivs"] == "1", seen=status["NoNewPrivs"]),
        check("privilege", "be filtered", held=status["Seccomp"] == "2", seen=status["Seccomp"]),
        check("privilege", "not be root", held=os.getuid() != 0, seen=os.getuid()),
        attempt("privilege", "become root", lambda: os.setuid(0)),
        attempt("privilege", "make a set-uid file", set_uid),
        attempt("privilege", "make a device", lambda: os.mknod("/tmp/null", 0o20666, os.makedev(1, 3))),
        attempt("privilege", "make a user namespace", lambda: call(_CALLS.get("unshare", 272), 0x10000000)),
    ]


def set_uid() -> None:
    """A set-uid file in /tmp."""
    fd = os.open("/tmp/set-uid", os.O_CREAT | os.O_WRONLY, 0o700)
    try:
        os.fchmod(fd, 0o4755)
    finally:
        os.close(fd)
        os.unlink("/tmp/set-uid")


def kernel() -> list[Row]:
    """Entry points that a server has no business at; refused before the kernel looks at an argument."""
    rows = []
    for name, number in sorted({**_CALLS, **_NEWER}.items()):
        try:
            call(number, -1, -1, -1, -1, -1)
            refused, seen = False, "succeeded"
        except OSError as error:
            refused = error.errno in (errno.EPERM, errno.ENOSYS)
            seen = error.strerror or ""
        rows.append(check("kernel", name, held=refused, seen=seen))
    return rows


def network(allowed: bool) -> list[Row]:
    """No interface but lo, no packet anywhere; socket families by profile."""
    families = {"netlink": 16, "packet": 17, "vsock": 40, "alg": 38, "bluetooth": 31}
    rows = [
        attempt("network", f"a {name} socket", partial(socket.socket, number, socket.SOCK_RAW))
        for name, number in families.items()
    ]
    targets = {"a public address": ("203.0.113.1", 443), "the metadata address": ("169.254.169.254", 80)}
    rows += [
        attempt("network", f"connect to {name}", partial(socket.create_connection, at, 2))
        for name, at in targets.items()
    ]
    if not allowed:
        rows.append(attempt("network", "an internet socket", lambda: socket.socket().close()))
    return rows


def beyond(targets: list[Target]) -> list[Row]:
    """What the hosts that are allowed do not lead to: other names, other ports, other names at the same address."""
    rows = [attempt("network", "find a name that is not allowed", partial(socket.getaddrinfo, NOBODY, 443))]
    for host, port in [(host, port) for kind, host, port in targets if kind == "tls"][:1]:
        closed = min(set(range(1, 1024)) - {number for _, name, number in targets if name == host})
        what = f"connect to {host} at a port that is not allowed"
        rows.append(attempt("network", what, partial(socket.create_connection, (host, closed), 2)))
        rows.append(attempt("network", f"say another name to {host}", partial(secure, host, port, NOBODY)))
    return rows


def secure(host: str, port: int, name: str) -> str:
    """A TLS handshake; nobody's certificate is looked at, because nothing is said afterwards."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection((host, port), PATIENCE)
    with raw, context.wrap_socket(raw, server_hostname=name) as sock:
        return str(sock.version())


def reach(targets: list[Target]) -> list[list[str]]:
    """Every allowed host, dialled at once: [where, how it went, what was seen]."""
    found: list[list[str]] = [[] for _ in targets]

    def dial(index: int, kind: str, host: str, port: int) -> None:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        found[index] = [where, *answer(kind, host, port)]

    threads = [threading.Thread(target=dial, args=(index, *each)) for index, each in enumerate(targets)]
    for start in range(0, len(threads), 16):
        for thread in threads[start : start + 16]:
            thread.start()
        for thread in threads[start : start + 16]:
            thread.join()
    return found


def answer(kind: str, host: str, port: int) -> tuple[str, str]:
    """How one went. The broker says in the protocol of the client that it refused, or reached nobody."""
    if kind == "pattern":
        return "pattern", "stands for many names; name one to try it"
    try:
        if kind == "tls":
            return "answers", secure(host, port, host)
        with socket.create_connection((host, port), PATIENCE) as sock:
            return plain(sock, host) if kind == "http" else stays(sock)
    except ssl.SSLError as error:
        reason = error.reason or type(error).__name__
        kinds = {"TLSV1_ALERT_INTERNAL_ERROR": "silent", "TLSV1_ALERT_ACCESS_DENIED": "refused"}
        # an alert of any other kind was the host's own word
        return kinds.get(reason, "silent" if "EOF" in reason else "answers"), reason
    except socket.gaierror as error:
        return "refused", str(error.strerror)
    except OSError as error:
        return "silent", error.strerror or type(error).__name__


def plain(sock: socket.socket, host: str) -> tuple[str, str]:
    """One plain request, or what the broker says in its place."""
    sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}:{sock.getpeername()[1]}\r\nConnection: close\r\n\r\n".encode())
    said = b""
    while len(said) < 4096 and (more := sock.recv(4096)):
        said += more
    line = said.split(b"\r\n", 1)[0].decode(errors="replace")[:60]
    if b"\r\n\r\nsupervisor: " in said:
        return ("refused" if b" 403 " in said[:20] else "silent"), line
    return ("answers", line) if said else ("silent", "closed")


def stays(sock: socket.socket) -> tuple[str, str]:
    """Anything goes: the host speaks first, or is still there when whoever dialled would have given up."""
    sock.settimeout(QUIET)
    try:
        said = sock.recv(60)
    except TimeoutError:
        return "answers", "waits for the client to speak"
    return ("answers", f"{said!r}") if said else ("silent", "closed")


def inheritance(expected: list[str]) -> list[Row]:
    """No descriptor and no variable of whoever started it."""
    opened = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    fds = [fd for fd in opened if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]
    strange = sorted(set(os.environ) - set(expected))
    return [
        check("inheritance", "have only its three descriptors", held=not fds, seen=fds),
        check("inheritance", "have only the profile's variables", held=not strange, seen=strange),
        check(
            "inheritance",
            "not know the host's name",
            held=os.uname().nodename == expected[0],
            seen=os.uname().nodename,
        ),
    ]


def limits(bounds: dict[str, int]) -> list[Row]:
    """Each limit acts, in a child of its own."""
    rows = []
    if "memory" in bounds:
        held = in_child(lambda: bytearray(bounds["memory"] + (64 << 20)).count(1))
        rows.append(check("limits", "use more memory than it may", held=held, seen=f"{bounds['memory']} bytes"))
    rows.append(
        attempt("limits", "open more files than it may", lambda: [os.dup(0) for _ in range(bounds["files"] + 1)])
    )
    os.closerange(3, bounds["files"] + 8)
    rows.append(attempt("limits", "fill /tmp", lambda: fill(bounds["tmp"])))
    os.unlink("/tmp/fill")
    rows.append(
        check("limits", "start more processes than it may", held=forks(bounds["pids"]), seen=bounds["pids"])
    )
    return rows


def in_child(action: Callable[[], object]) -> bool:
    """Whether a child that does it is killed, or gets an error."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except (MemoryError, OSError):
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] != 0


def fill(size: int) -> None:
    """A file of more than `size` bytes."""
    fd = os.open("/tmp/fill", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        for _ in range((size >> 20) + 2):
            view = memoryview(bytes(1 << 20))
            while view:
                view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def forks(limit: int) -> bool:
    """Whether the kernel stops it at `limit` processes."""
    children = []
    try:
        for _ in range(limit + 8):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    except OSError:
        return True
    else:
        return False
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def answered() -> list[int]:
    """The numbers of system calls that are not refused both with arguments that are all wrong and with zeros."""
    tried = [number for number in range(LAST_CALL) if number not in _TRAMPOLINES]
    at, found = memoryview(mmap.mmap(-1, 8)).cast("q"), []
    while at[0] < len(tried):
        # made in a child, which a call may end, keep or change; one that is refused does nothing
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # vfork ends in a complaint
            while at[0] < len(tried) and refused(tried[at[0]], -1) and refused(tried[at[0]], 0):
                at[0] += 1
            os._exit(0)
        os.waitpid(pid, 0)
        found += tried[at[0] : at[0] + 1]
        at[0] += 1
    return found


def refused(number: int, word: int) -> bool:
    """Whether a call answers EPERM or ENOSYS, if it answers at all."""
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        call(number, *[word] * 6)
    except OSError as error:
        return error.errno in (errno.EPERM, errno.ENOSYS)
    return False


def main() -> None:
    """Try everything; the question is the one argument, as JSON."""
    asked = json.loads(sys.argv[1])
    rows = [
        *inheritance(asked["environment"]),
        *files(asked["granted"], image=asked["image"]),
        *processes(),
        *privilege(),
        *kernel(),
    ]
    targets: list[Target] = [(kind, host, port) for kind, host, port in asked["targets"]]
    rows += network(asked["network"])
    rows += beyond(targets) if targets else []
    # before what uses descriptors and processes up
    reached = reach(targets)
    rows += limits(asked["bounds"])
    print(json.dumps({"probes": rows, "calls": answered(), "reach": reached}))


if __name__ == "__main__":
    main()
