"""What a gateway costs in memory: idle, and for each server that runs and waits; beside the peers in the same run.

Run from a checkout, `python benchmarks/memory.py [--servers N] [--json FILE] [--fastmcp PYTHON]`. The numbers are
proportional set sizes (shared pages counted once), of every process of ours: proxy, monitor, spawner, inits. The
servers are a C program of about 0.1 MiB, so that what is seen is ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.call_overhead import HERE, INITIALIZE, compiled, message


def tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    found, todo = [], [pid]
    while todo:
        each = todo.pop()
        found.append(each)
        try:
            for task in os.listdir(f"/proc/{each}/task"):
                children = Path(f"/proc/{each}/task/{task}/children").read_text(encoding="utf-8")
                todo += [int(child) for child in children.split()]
        except OSError:
            continue
    return found


def used(pid: int) -> dict[str, float]:
    """MiB of a process and all that it has started, by what each of them is."""
    total: dict[str, float] = {}
    for each in tree(pid):
        try:
            line = Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ")
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        kib = sum(int(row.split()[1]) for row in rollup if row.startswith("Pss:"))
        kinds = {b"spawner import main": "spawner and inits", b"monitor": "monitor", b"echo_server": "servers"}
        kind = next((name for mark, name in kinds.items() if mark in line), "proxy")
        total[kind] = total.get(kind, 0.0) + kib / 1024
    return total


def talk(process: subprocess.Popen[bytes], method: str, params: object) -> None:
    """One request and its answer."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(message(1, method, params))
    process.stdin.flush()
    line = process.stdout.readline()
    assert b'"result"' in line, line


def gateway(folder: Path, server: str, count: int) -> dict[str, dict[str, float]]:
    """Ours: idle, with every server started, and what one more costs."""
    tables = [f'[server.echo{n}]\nprofile = "none"\ncommand = ["{server}"]\n' for n in range(count)]
    config = folder / "servers.toml"
    config.write_text("\n".join(tables), encoding="utf-8")
    ours = [str(Path(sys.executable).parent / "supervisor")]
    for n in range(count):
        pin = [*ours, "pin", f"echo{n}", "--config", str(config), "--yes", "-q"]
        subprocess.run(pin, check=True, stdout=subprocess.DEVNULL)
    serve = [*ours, "serve", "--config", str(config), "-q"]
    with subprocess.Popen(serve, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        talk(process, "initialize", INITIALIZE)
        talk(process, "tools/list", {})
        time.sleep(1)
        idle = used(process.pid)
        for n in range(count):
            talk(process, "tools/call", {"name": f"echo{n}__echo", "arguments": {}})
        time.sleep(1)
        running = used(process.pid)
        assert process.stdin
        process.stdin.close()
        process.wait(20)
    each = {kind: (running[kind] - idle.get(kind, 0.0)) / count for kind in running}
    return {"idle": idle, f"{count} servers": running, "per server": each}


def peer(argv: list[str]) -> dict[str, float]:
    """Another gateway with one server."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        talk(process, "initialize", INITIALIZE)
        time.sleep(1)
        found = used(process.pid)
        process.kill()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=20)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--fastmcp", metavar="PYTHON")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        server = compiled(folder, "echo_server")
        table = gateway(folder, server, options.servers)
        table["SDK client + server, 1"] = peer([sys.executable, str(HERE / "peers" / "sdk_glue.py"), server])
        if options.fastmcp:
            table["fastmcp proxy, 1"] = peer([options.fastmcp, str(HERE / "peers" / "fastmcp_proxy.py"), server])
    for name, kinds in table.items():
        shown = ", ".join(f"{kind} {mib:.2f}" for kind, mib in sorted(kinds.items()) if mib >= 0.005)
        print(f"{name:24} {sum(kinds.values()):7.2f} MiB  ({shown})")
    if options.json:
        Path(options.json).write_text(json.dumps(table, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
