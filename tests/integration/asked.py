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
    found = dict.fromkeys(EVERYWHERE, "held")
    for name, mounts in asked.items():
        document = native.document(bench.spec(ECHO, *mounts), host.probe())
        gaps = gvisor.gaps(document) if bench.name == "gvisor" else {}
        if bench.engine:
            engine = bench.engine.kind(bench.engine.socket, "")
            gaps = engine.gaps(document, engine.facts())
        found[name] = "refused" if gaps else "held"
    if bench.name == "gvisor":
        spec = bench.spec(ECHO)
        needed = spec.model_copy(update={"audit": spec.audit.model_copy(update={"files": "required"})})
        lacking = guest(Plan(spec=needed, told={})).gaps
        found["record of the files that it opens"] = "refused" if "file-audit" in lacking else "held"
    found["host's /usr, without an image"] = "refused" if bench.engine else "held"
    found["a host user of its own"] = "shared" if bench.name == "docker" else "held"
    return found
