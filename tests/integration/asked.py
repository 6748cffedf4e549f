"""What the compliance test of the runtimes asks: the program that looks around inside, and the table of fields."""

from __future__ import annotations

from supervisor.model import Mount, Plan
from supervisor.profile import host
from supervisor.registry.engines import guest
from supervisor.runtimes import gvisor, native
from tests.integration.sessions import Bench

ECHO = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line); sys.stdout.flush()"
PROBE = """import json, os, resource, socket
def tried(action):
    try: return str(action())
    except OSError as error: return error.strerror
def status():
    return dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
def program():
    fd = os.open("/tmp/program", os.O_CREAT | os.O_WRONLY, 0o755)
    os.write(fd, b"#!/bin/sh\\n"); os.close(fd)
    os.execv("/tmp/program", ["program"])
def reach():
    sock = socket.socket(); sock.settimeout(2); return sock.connect(("10.0.0.1", 80))
def namespace():
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000): raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
said = status()
def no_new_privs():
    import ctypes
    return str(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))
print(json.dumps({
    "env": dict(os.environ), "uid": os.getuid(), "cwd": os.getcwd(), "pid1": os.readlink("/proc/self/exe"),
    "capabilities": [said[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")],
    "ambient": said.get("CapAmb", "0" * 16),
    "no_new_privs": no_new_privs(), "seccomp": said["Seccomp"].strip(),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE), "core": resource.getrlimit(resource.RLIMIT_CORE),
    "devices": sorted(os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else ["lo"],
    "root": tried(lambda: open("/usr/written", "w")), "etc": tried(lambda: open("/etc/passwd", "a")),
    "tmp": tried(lambda: open("/tmp/some", "w").close()), "program": tried(program),
    "network": tried(reach), "namespace": tried(namespace),
    "init": tried(lambda: open("/proc/1/environ", "rb").read()), "hostname": os.uname().nodename,
    "passwd": open("/etc/passwd").read().split("\\n")[0],
}))"""

FORKS = """import os, time
for number in range(100):
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError as error:
        print(number, error.strerror, flush=True)
        break
time.sleep(1)"""
FILLS = """import errno, os
opened = []
try:
    while True: opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error: print(len(opened), errno.errorcode[error.errno])
for fd in opened: os.close(fd)
try:
    with open("/tmp/big", "wb") as file:
        while True: file.write(bytes(1 << 20))
except OSError as error: print(errno.errorcode[error.errno])
os.unlink("/tmp/big")
try:
    for number in range(100000): open(f"/tmp/{number}", "x").close()
except OSError as error: print(number, errno.errorcode[error.errno])"""
WRITES = """import os
print(open("/work/private").read(), open("/one").read(), os.stat("/work").st_uid)
open("/work/made", "w").write("inside")
for path in ("/work/kept", "/one"):
    try: open(path, "a")
    except OSError as error: print(error.strerror)"""


# each of these has a test, for every runtime
EVERYWHERE = (
    "system call filter, Landlock rules",
    "no capability, no-new-privileges",
    "namespaces, user namespace",
    "memory, processors, processes",
    "open files, file size, core",
    "/tmp: size, files, noexec",
    "exact environment",
    "secrets, as files and variables",
    "record of the files that it opens",
    "no network; egress by name",
)


def held_by(bench: Bench) -> dict[str, str]:
    """Field -> held or refused, asked of the runtime itself."""
    folder = Mount(source="/usr/share", target="/share")
    asked = {
        "folder, read-only, noexec": (folder,),
        "folder, writable": (folder.model_copy(update={"mode": "rw"}),),
        "single file": (Mount(source="/usr/share/common-licenses/GPL-3", target="/one", is_file=True),),
    }
    found, own = dict.fromkeys(EVERYWHERE, "held"), bench.engine is not None and bench.engine.owner[0]
    for name, mounts in asked.items():
        document = native.document(bench.spec(ECHO, *mounts), host.probe())
        gaps = gvisor.gaps(document) if bench.name == "gvisor" else {}
        if bench.engine:
            engine = bench.engine.kind(bench.engine.socket, "")
            gaps = engine.gaps(document, engine.facts())
            unlimited = {name for name in gaps if name.startswith("limits.")}
            assert unlimited == ({"limits.memory", "limits.cpus"} if own else set())
            gaps = {name: gaps[name] for name in gaps.keys() - unlimited}
        found[name] = "refused" if gaps else "held"
    if own:
        assert host.probe().unseen
        found |= dict.fromkeys(("memory, processors, processes", "record of the files that it opens"), "refused")
    if bench.name == "gvisor":
        spec = bench.spec(ECHO)
        needed = spec.model_copy(update={"audit": spec.audit.model_copy(update={"files": "required"})})
        lacking = guest(Plan(spec=needed, told={})).gaps
        found["record of the files that it opens"] = "refused" if "file-audit" in lacking else "held"
    found["host's /usr, without an image"] = "refused" if bench.engine else "held"
    found["a host user of its own"] = "shared" if own or bench.name == "docker" else "held"
    return found
