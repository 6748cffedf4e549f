"""Whether a server from a sealed image starts as fast as one from the host's /usr: our four Python images.

Run as root from a checkout, `python -m benchmarks.image_start [NAME...] [--runs N] [--layouts DIR] [--json FILE]`.
The host's server is the same packages, compiled, in a virtual environment of /usr/bin/python3.11. The cases take
turns, and processor time is told beside the time on the wall, which others on the machine lengthen. DIR/NAME is
an OCI layout that was built before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import own_image
from benchmarks.cold_start import ENV, OURS, SERVER, Ready, Warm, greet, start
from supervisor.oci.build import DIST_PACKAGES
from supervisor.oci.layout import Folder, Layout
from supervisor.oci.manifest import image
from supervisor.profile import host

PYTHON = "/usr/bin/python3.11"
MODULES = {"time": "mcp_server_time", "git": "mcp_server_git", "fetch": "mcp_server_fetch"}
NAMES = ("filesystem", *MODULES)
BASE = "spawner, host's /usr"
RUN = "supervisor run, host's /usr"
Start = tuple[float, float]
Run = Callable[[], Start]
Found = dict[str, list[Start]]


def processor(pid: int) -> float:
    """Seconds on a processor of a process and of those below it, each with its threads."""
    found, above = [pid], {}
    for each in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            above[int(each.parent.name)] = int(each.read_text("latin-1").rpartition(")")[2].split()[1])
    for parent in found:
        found += [child for child, its in above.items() if its == parent]
    tasks = [task for number in found for task in Path(f"/proc/{number}/task").iterdir()]
    return sum(int((task / "schedstat").read_text("ascii").split()[0]) for task in tasks) / 1e9


def command(*argv: str) -> Run:
    """From start to the initialize reply of a program, and what it has used by then."""

    def run() -> Start:
        began = time.perf_counter()
        process = start(argv, ENV)
        greet(process.stdin, process.stdout)
        took, used = time.perf_counter() - began, processor(process.pid)
        os.close(process.stdin)
        os.close(process.stdout)
        os.waitpid(process.pid, 0)
        return took, used

    return run


def session(warm: Warm, ready: Ready) -> Run:
    """The same of a session, which is init and the server."""

    def run() -> Start:
        began = time.perf_counter()
        fds = warm.open(ready)
        greet(fds[0], fds[1])
        took = time.perf_counter() - began
        line = Path(f"/proc/self/fdinfo/{fds[3]}").read_text("ascii").split("Pid:")[1]
        used = processor(int(line.split()[0]))
        warm.close(fds)
        return took, used

    return run


def environment(layout: Path, folder: Path) -> str:
    """A virtual environment with the image's packages, compiled as pip does; its Python."""
    python = folder / "bin/python"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder], check=True)
    (layer,) = image(Layout(Folder(str(layout))).only().data, "it").layers
    packages = folder / "lib/python3.11/site-packages"
    with tarfile.open(layout / "blobs/sha256" / layer.digest[7:]) as archive:
        for member in archive:
            if member.name.startswith(f"{DIST_PACKAGES}/") and "__pycache__" not in member.name:
                member.name = member.name.removeprefix(f"{DIST_PACKAGES}/")
                archive.extract(member, packages, filter="data")
    subprocess.run([python, "-m", "compileall", "-q", packages], check=True)
    return str(python)


def cases(warm: Warm, name: str, work: Path) -> dict[str, Run]:
    """By name; each is one start up to the initialize reply."""
    record = own_image.make(work, name)
    python, store = environment(work / "layout", work / "host"), str(work / "store")
    shown = work / "shown"
    shown.mkdir()
    module = ("-I", "-m", MODULES[name]) if name in MODULES else ("-I", SERVER)
    plain = (python, *module, *(() if name in MODULES else (str(shown),)))
    inside = (python, *module, *(() if name in MODULES else ("/data",)))
    params = {} if name in MODULES else {"root": str(shown)}
    profile = "none" if name in MODULES else "fs-readonly"
    run = (OURS, "run", "-q", "--profile", profile, *(f"--param={key}={value}" for key, value in params.items()))
    on_host = warm.load(profile, inside, **params)
    sealed = warm.load(profile, (), image=record.reference, store=store, **params)
    print(
        f"{name}: {record.contents.bytes / 1e6:.1f} MB of files, {record.sealed_size / 1e6:.1f} MB sealed",
        flush=True,
    )
    return {
        "plain, host's /usr": command(*plain),
        BASE: session(warm, on_host),
        "spawner, sealed image": session(warm, sealed),
        RUN: command(*run, "--", *inside),
        "supervisor run --image": command(*run, "--image", record.reference, "--store", store),
    }


def measure(name: str, made: dict[str, Run], runs: int) -> Found:
    """(seconds, processor seconds) of each; the first round is not counted."""
    found: Found = {f"{name}: {each}": [] for each in made}
    for number in range(runs + 1):
        for each, run in made.items():
            time.sleep(0.06)
            taken = run()
            if number:
                found[f"{name}: {each}"].append(taken)
    return found


def table(found: Found) -> str:
    """Milliseconds, and ratios to the host's /usr, of medians, of the fastest, and of processor time."""
    lines = [f"{'':42} {'p50 ms':>8} {'/host':>6} {'least':>8} {'/host':>6} {'cpu p50':>8} {'/host':>6}"]
    for row, taken in found.items():
        name, _, case = row.partition(": ")
        beside = found[f"{name}: {RUN if case.startswith('supervisor run') else BASE}"]
        text = f"{row:42}"
        for pick, which in ((statistics.median, 0), (min, 0), (statistics.median, 1)):
            value, base = (pick([each[which] for each in rows]) for rows in (taken, beside))
            text += f" {value * 1e3:8.1f} {value / base:6.2f}"
        lines.append(text)
    return "\n".join(lines)


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description="Starts from sealed images beside the host's /usr.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--runs", type=int, default=20, help="rounds (default 20)")
    parser.add_argument("--layouts", type=Path, metavar="DIR", help="where NAME is a layout already")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single time, in seconds")
    options = parser.parse_args()
    warm, found = Warm(host.probe()), Found()
    for name in options.names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            if options.layouts:
                shutil.copytree(options.layouts / name, work / "layout")
            found |= measure(name, cases(warm, name, work), options.runs)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), "utf-8")


if __name__ == "__main__":
    main()
