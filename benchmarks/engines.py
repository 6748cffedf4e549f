"""What another runtime costs at start: sessions under gVisor, podman and docker, beside a native one and by hand.

Run as root from a checkout, `python -m benchmarks.engines [--runs N]`, where runsc, podman, docker.io and runc are:
it starts its own engines. One program, of the host's Python, in an image where there is an engine: from the request
to its first line, every session's posture read back. The cases of one runtime take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from supervisor.profile import host
from supervisor.runtimes import bundle, native
from supervisor.runtimes.docker import Docker
from supervisor.runtimes.podman import Podman
from tests.escape.arena import Arena
from tests.integration import engines
from tests.integration.engine_image import PYTHON
from tests.integration.engines import Started
from tests.integration.sessions import Bench

CODE = "print('ready', flush=True)"
# as tight as its command line is usually made
TIGHT = (
    *("--rm", "-i", "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--pids-limit=64", "--memory=256m", "--log-driver=none", "--pull=never", "--ulimit=nofile=512:512"),
)
Run = Callable[[], float]


def session(bench: Bench) -> Run:
    """One of ours, from the request to its first line."""
    spec = bench.spec(CODE)
    bench.load(spec)

    def run() -> float:
        began = time.perf_counter()
        running = bench.run(spec, loaded=True)
        assert os.read(running.stdout, 64) == b"ready\n"
        took = time.perf_counter() - began
        bench.ends(running)
        running.close()
        return took

    return run


def typed(engine: Started, config: str) -> Run:
    """The engine's own command line."""
    image = config.removeprefix("sha256:")
    head = ["docker", "-H", f"unix://{engine.socket}", "run"]
    if engine.runtime == "podman":
        # the options of its service, without the service
        head = [*engine.argv[: engine.argv.index("system")], "run", "--ulimit=nproc=1000:1000"]
    argv = [*head, *TIGHT, "--entrypoint", PYTHON, image, "-I", "-S", "-c", CODE]
    env = engine.env | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(engine.folder)}

    def run() -> float:
        began = time.perf_counter()
        with subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            return time.perf_counter() - began

    return run


def bundled(folder: Path, bench: Bench) -> Run:
    """`runsc run` by hand, of the bundle that a session has: without a gate, and over a root of three links."""
    spec = bench.spec(CODE)
    document = native.document(spec, host.probe())
    made = json.loads(bundle.config(document, []))
    made["process"] |= {"args": list(spec.argv), "env": [f"{name}={value}" for name, value in spec.env.items()]}
    made["root"]["path"] = str(folder / "root")
    tmp, usr = folder / "root/tmp", folder / "root/usr"
    for place in (tmp, usr):
        place.mkdir(parents=True)
    for name, target in spec.links.items():
        (folder / "root" / name).symlink_to(target)
    for each in made["mounts"]:
        if each["destination"] == "/tmp":
            each["source"] = str(tmp)
    made["mounts"].append({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]})
    (folder / "config.json").write_text(json.dumps(made))
    flags = [f"--root={folder}/state", "--ignore-cgroups", f"--platform={bundle.platform()}", "--network=none"]
    argv = [bundle.RUNSC, *flags, "run", f"--bundle={folder}"]

    def run() -> float:
        began = time.perf_counter()
        one = [*argv, f"guest-{began}"]
        with subprocess.Popen(one, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            return time.perf_counter() - began

    return run


def measure(cases: dict[str, Run], runs: int, pause: float) -> None:
    """Print the median and the 95th of a hundred of each; the first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(runs + 1):
        for name, run in cases.items():
            time.sleep(pause)
            took = run()
            if number:
                found[name].append(took)
    first = statistics.median(next(iter(found.values())))
    for name, taken in found.items():
        middle, late = statistics.median(taken), sorted(taken)[round(0.95 * (len(taken) - 1))]
        print(f"  {name:28} {middle * 1000:8.1f} {late * 1000:8.1f} {middle / first:7.2f}")


def main() -> None:
    """Each engine in turn."""
    parser = argparse.ArgumentParser(description="What an engine costs at start.")
    parser.add_argument("--runs", type=int, default=20, help="rounds (default 20)")
    parser.add_argument("--pause", type=float, default=0.06, help="seconds before each run (default 0.06)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        # the containers' users pass through it
        Path(folder).chmod(0o711)
        # an account with a group of its name, whose ids docker may hand out
        arena = Arena(base=Path(folder), plots={}, account="games", stack=stack)
        blobs = engines.store(arena.base / "store")
        ours, guests = Bench("native", None, blobs), Bench("gvisor", None, blobs)
        heading = f"{'p50 ms':>8} {'p95 ms':>8} {'/native':>7}"
        plain = {"native, the host's /usr": session(ours)}
        print(f"{'gvisor':30} {heading}")
        by_hand = {"a session under gVisor": session(guests), "runsc run": bundled(arena.base / "bundle", guests)}
        measure(plain | by_hand, options.runs, options.pause)
        guests.close()
        starts: dict[str, Callable[[], AbstractContextManager[Started]]] = {
            "podman": lambda: engines.podman(arena, Podman),
            "docker": lambda: engines.docker(arena, Docker),
        }
        for name, start in starts.items():
            with start() as engine:
                bench = Bench(name, engine, blobs)
                print(f"{name:30} {heading}")
                cases = {f"a session in {name}": session(bench), f"{name} run": typed(engine, blobs[1])}
                measure(plain | cases, options.runs, options.pause)
                bench.close()
        ours.close()


if __name__ == "__main__":
    main()
