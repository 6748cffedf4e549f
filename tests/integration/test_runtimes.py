"""One compliance test for every runtime: native, gVisor, podman, a user's own podman, docker.

The same promises, in the same words, through the monitor's own end of the protocol and its own posture.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from supervisor.errors import SupervisorError, Unenforceable
from supervisor.model import ImageRoot, Mount, Network
from supervisor.profile import load, seccomp
from supervisor.runtimes.docker import Docker
from supervisor.runtimes.podman import Podman
from supervisor.sandbox.syscalls import FIRST_UID
from tests.escape.arena import Arena
from tests.integration import engines, sessions
from tests.integration.asked import ECHO, FILLS, FORKS, PROBE, WRITES, held_by
from tests.integration.sessions import Bench, acting
from tests.unit.oci import making

OWN = "podman of a user"
RUNTIMES = ("native", "gvisor", "podman", OWN, "docker")
WAITS = "import sys, time\nprint('here', flush=True)\nsys.stdin.read()\ntime.sleep(60)"
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="starts engines of its own"),
    pytest.mark.xdist_group("engines"),
]


@pytest.fixture(scope="module", params=RUNTIMES)
def bench(request: pytest.FixtureRequest, arena: Arena) -> Iterator[Bench]:
    """Each runtime with its process; the engine is stopped before the next is started."""
    blobs = engines.store(arena.base / "store")
    for path in (Path(blobs[0]), *Path(blobs[0]).rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if request.param in ("native", "gvisor"):
        made = Bench(request.param, None, blobs)
        yield made
        made.close()
        return
    starts = {
        "podman": lambda: engines.podman(arena, Podman),
        OWN: lambda: engines.own(arena, Podman),
        "docker": lambda: engines.docker(arena, Docker),
    }
    with starts[request.param]() as engine, ExitStack() as stack:
        if request.param == OWN:
            sessions.reachable(arena, stack.enter_context(pytest.MonkeyPatch.context()))
        with acting(*engine.owner):
            made = Bench(request.param, engine, blobs)
        yield made
        made.close()
        assert engine.swept() == []


@pytest.fixture(autouse=True)
def _asked_by_whose_it_is(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whoever has the engine is the monitor, too."""
    if "bench" not in request.fixturenames:
        yield
        return
    engine = request.getfixturevalue("bench").engine
    with acting(*(engine.owner if engine else (0, 0))):
        yield


def test_bytes_pass_both_ways_and_the_end_of_input_and_the_status_too(bench: Bench) -> None:
    code = "import sys\nsaid = sys.stdin.read()\nprint(said.upper())\nprint('seen', file=sys.stderr)\nsys.exit(7)"
    assert bench.result(bench.spec(code), b"hello") == (b"HELLO\n", b"seen\n", 7, [])


def test_two_megabytes_pass_whole(bench: Bench) -> None:
    code = "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())"
    said = os.urandom(1 << 20) * 2
    running = bench.run(bench.spec(code))
    child = os.fork()
    if child == 0:
        os.close(running.stdout)
        running.say(said, last=True)
        os._exit(0)
    os.close(running.stdin)
    running.stdin = -1
    assert running.heard() == said
    assert os.waitpid(child, 0)[1] == 0
    assert bench.ends(running) == (0, [])
    running.close()


def test_a_line_is_answered_while_the_session_goes_on(bench: Bench) -> None:
    running = bench.run(bench.spec(ECHO))
    for number in range(3):
        line = b"line %d\n" % number
        running.say(line)
        assert os.read(running.stdout, 100) == line
    running.say(b"", last=True)
    assert bench.ends(running) == (0, [])
    running.close()


def test_a_signal_reaches_the_program_and_its_end_is_told(bench: Bench) -> None:
    code = """import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("here", flush=True)
signal.sigwait({signal.SIGTERM})
sys.exit(9)"""
    running = bench.run(bench.spec(code))
    assert os.read(running.stdout, 100) == b"here\n"
    bench.kill(running, signal.SIGTERM)
    assert bench.ends(running) == (9, [])
    running.close()


# an engine gives those who read slowly ten seconds
@pytest.mark.parametrize("bench", ["podman"], indirect=True)
def test_a_killed_session_whose_output_nobody_reads_ends_and_holds_up_no_other(bench: Bench) -> None:
    running = bench.run(bench.spec("while True: print('x' * 65536)"))
    bench.until(lambda: running.unread() > 16384)
    bench.kill(running)
    assert bench.ends(running)[1] == []
    running.close()


def test_what_is_killed_leaves_with_everything_it_started(bench: Bench) -> None:
    code = "import os, time\nos.fork() or os.setsid()\nprint('here', flush=True)\ntime.sleep(60)"
    running = bench.run(bench.spec(code))
    assert os.read(running.stdout, 100)
    bench.kill(running)
    bench.ends(running)
    assert not os.path.exists(f"/proc/{running.pid}")
    running.close()


def test_inside_is_what_was_asked_for_and_nothing_else(bench: Bench, arena: Arena) -> None:
    out, errors, code, _ = bench.result(bench.spec(PROBE))
    assert code == 0, errors
    found = json.loads(out)
    assert found["env"] == sessions.ENV
    assert found["uid"] == 1000
    assert found["cwd"] == "/tmp"
    assert {*found["capabilities"], found["ambient"]} == {"0" * 16}
    assert (found["no_new_privs"], found["seccomp"]) == ("1", "2")
    assert found["files"] == [512, 512]
    assert found["core"] == [0, 0]
    assert found["devices"] == ["lo"]
    assert found["root"] == "Read-only file system" or found["root"] == "Permission denied"
    assert found["etc"] in ("Read-only file system", "Permission denied")
    assert found["tmp"] == "None"
    assert found["program"] == "Permission denied"
    assert found["network"] in ("Address family not supported by protocol", "Network is unreachable")
    assert found["namespace"] == "Operation not permitted"
    # gVisor shows what it was started with, which is not the session's
    assert found["init"] in ("Permission denied", "No such file or directory", str(b"HOME=/\0"))
    assert found["hostname"] == "sandbox"
    assert found["passwd"].startswith("sandbox:x:1000:1000:")
    if bench.name == OWN:
        # podman has let everybody search them meanwhile
        places = (bench.ground(arena), *bench.ground(arena).parents[:2])
        assert [stat.S_IMODE(each.stat().st_mode) for each in places] == [0o700] * 3


def test_on_the_host_it_is_a_user_that_is_nobody_s(bench: Bench) -> None:
    running = bench.run(bench.spec(ECHO))
    fields = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{running.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    real = int(fields["Uid"].split()[0])
    assert real >= (100_000 if bench.name in (OWN, "docker") else FIRST_UID)
    running.say(b"", last=True)
    bench.ends(running)
    running.close()


def test_a_folder_is_shown_as_it_is_meant(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, arena: Arena
) -> None:
    folder = bench.ground(arena) / "shown"
    folder.mkdir(exist_ok=True)
    (folder / "text").write_text("of the host")
    (folder / "run").write_text("#!/bin/sh\n")
    for path, mode in ((folder, 0o755), (folder / "text", 0o644), (folder / "run", 0o755)):
        path.chmod(mode)
    code = """import os
print(open("/data/text").read())
try: open("/data/text", "a")
except OSError as error: print(error.strerror)
try: os.execv("/data/run", ["run"])
except OSError as error: print(error.strerror)"""
    spec = bench.spec(code, Mount(source=str(folder), target="/data"))
    out, errors, status, _ = bench.result(spec)
    assert status == 0, errors
    first, second, third = out.decode().splitlines()
    assert first == "of the host"
    assert second in ("Read-only file system", "Permission denied")
    assert third == "Permission denied"


def test_memory_beyond_the_limit_ends_the_session_by_name(bench: Bench) -> None:
    spec = bench.spec("held = b'x' * (300 << 20)")
    if bench.name == OWN:
        with pytest.raises(Unenforceable, match=r"limits\.memory: this podman"):
            bench.run(spec.model_copy(update={"accepted": ("limits.cpus",)}))
        return
    _, _, code, limits = bench.result(spec)
    assert code in (-9, 137)
    assert limits == ["memory"]


def test_processes_beyond_the_limit_are_refused_by_name(bench: Bench) -> None:
    spec = bench.spec(FORKS)
    others = bench.run(spec) if bench.name == OWN else None
    running = bench.run(spec)
    out = os.read(running.stdout, 100)
    if others:
        # the same user outside, and still each is counted by itself
        assert os.read(others.stdout, 100) == out
        others.close()
    running.say(b"", last=True)
    _, limits = bench.ends(running)
    running.close()
    number, said = out.decode().strip().split(" ", 1)
    assert int(number) < sessions.PIDS
    assert said == "Resource temporarily unavailable"
    # a resource limit tells nobody, and a sentry counts for itself
    assert limits == ([] if bench.name in (OWN, "gvisor") else ["pids"])


def test_open_files_and_sizes_are_bounded(bench: Bench) -> None:
    out, errors, _, _ = bench.result(bench.spec(FILLS))
    files, size, inodes = out.decode().splitlines()
    assert files.split()[1] == "EMFILE"
    assert int(files.split()[0]) < 512
    assert size in ("EFBIG", "ENOSPC")
    assert inodes.split()[1] == "ENOSPC", errors
    assert int(inodes.split()[0]) < 4200


def test_its_network_has_the_sockets_of_the_broker_and_no_other(bench: Bench) -> None:
    reach = Network(
        mode="allowlist",
        allow=("example.org:443",),
        addresses=("198.18.0.1/15",),
        udp=(("198.18.0.1", 53),),
        tcp=(("198.18.0.2", 443),),
    )
    code = """import socket
sock = socket.create_connection(("198.18.0.2", 443), 5)
sock.sendall(b"hello")
print(sock.recv(5).decode())
try: socket.create_connection(("198.18.0.3", 443), 5)
except OSError as error: print(error.strerror)"""
    spec = bench.spec(code, network=reach)
    groups = (*spec.seccomp.groups, "network")
    found = seccomp.load_groups(load.share_folder("profiles") / "syscalls", groups)
    program = sessions.encoded(seccomp.compile_filter(found, write_execute=True))
    spec = spec.model_copy(update={"seccomp": spec.seccomp.model_copy(update={"program": program})})
    running = bench.run(spec)
    assert len(bench.donated) == 2
    with socket.socket(fileno=bench.donated.pop()) as listener:
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(5) == b"hello"
            accepted.sendall(b"world")
            said = running.heard()
    assert said == b"world\nConnection refused\n"
    assert bench.ends(running) == (0, [])
    os.close(bench.donated.pop())
    running.close()


@pytest.mark.parametrize("what", ["limit", "mount", "file size"])
def test_a_posture_that_is_not_what_was_asked_for_is_noticed(bench: Bench, what: str) -> None:
    spec = bench.spec("print('it has run')")
    limits = spec.limits.model_copy(update={"memory": sessions.MEMORY - 4096})
    changes: dict[str, dict[str, object]] = {
        "limit": {"limits": limits} if bench.name != OWN else {"rlimits": spec.rlimits | {"NPROC": 8}},
        "mount": {"mounts": (Mount(source="/usr/share", target="/share"),)},
        "file size": {"rlimits": spec.rlimits | {"FSIZE": 4096}},
    }
    with pytest.raises(SupervisorError, match="posture read back"):
        bench.run(spec, spec.model_copy(update=changes[what]))


def test_a_filter_that_the_kernel_refuses_starts_nothing(bench: Bench) -> None:
    if bench.name == "gvisor":
        return  # the guest's kernel is asked: tests/integration/test_gvisor.py
    spec = bench.spec(ECHO)
    broken = spec.seccomp.model_copy(update={"program": sessions.encoded(bytes([255]) * 8)})
    with pytest.raises(SupervisorError, match="filter" if bench.engine else "Invalid argument"):
        bench.run(spec.model_copy(update={"seccomp": broken}))


def test_a_writable_folder_and_a_file_are_their_owner_s_on_both_sides(bench: Bench, arena: Arena) -> None:
    plot, folder = arena.plots["user"], bench.ground(arena) / "written"
    folder.mkdir(exist_ok=True, mode=0o700)
    for name in ("private", "kept"):
        (folder / name).write_text(f"{name}, of its owner")
        (folder / name).chmod(0o600)
    if bench.name != OWN:
        for path in (folder, *folder.iterdir()):
            os.chown(path, plot.uid, plot.gid)
    mounts = [
        Mount(source=str(folder / name), target=target, is_file=bool(name), map_owner=True, per_session=True)
        for name, target in (("", "/work"), ("kept", "/work/kept"), ("private", "/one"))
    ]
    mounts[0] = mounts[0].model_copy(update={"mode": "rw"})
    if bench.name in (OWN, "gvisor"):
        said = "only root" if bench.name == OWN else "what is written through gvisor is not counted"
        with pytest.raises(Unenforceable, match=f"mount /work: {said}"):
            bench.run(bench.spec(WRITES, *mounts))
        return
    out, errors, status, _ = bench.result(bench.spec(WRITES, *mounts))
    assert status == 0, errors
    first, *others = out.decode().splitlines()
    assert first == "private, of its owner private, of its owner 1000"
    assert others == ["Read-only file system"] * 2 or others == ["Permission denied"] * 2
    made = (folder / "made").stat()
    assert (made.st_uid, made.st_gid) == (plot.uid, plot.gid)


def test_an_image_that_is_not_what_was_verified_is_refused(bench: Bench, arena: Arena) -> None:
    if bench.engine is None:
        return
    spec = bench.spec(ECHO)
    other = making.image([making.files({"other": b"of somebody\n"})])
    folder, config, layers = engines.store(bench.ground(arena) / "other", other)
    for path in (Path(folder), *Path(folder).rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    blob = Path(folder) / "blobs/sha256" / layers[0][0][7:]
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    image = {"store": folder, "config": config, "layers": [list(each) for each in layers]}
    parts = spec.engine | {"image": image}
    root = ImageRoot(name="example.org/other", digest=config, config=config)
    with pytest.raises(SupervisorError, match="its content has the digest"):
        bench.run(spec.model_copy(update={"engine": parts, "image": root}))
    assert config not in bench.engine.images()


@pytest.mark.parametrize("victim", ["keeper", "pump", "guard"])
def test_whichever_of_our_processes_is_killed_nothing_is_left(bench: Bench, victim: str) -> None:
    if bench.engine is None:
        return  # the native runtime's own: tests/escape/test_lifecycle.py
    running = bench.run(bench.spec(WAITS))
    assert os.read(running.stdout, 100) == b"here\n"
    keeper = bench.spawner.pid
    below = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    guard, pump = int(below[0]), int(below[-1])
    os.kill({"keeper": keeper, "pump": pump, "guard": guard}[victim], signal.SIGKILL)
    if victim == "guard":
        bench.kill(running)
    if victim == "keeper":
        bench.until(lambda: bench.gone)
        bench.spawner.close()
        bench.until(lambda: not os.path.exists(f"/proc/{running.pid}") and bench.engine.left() == [])  # type: ignore[union-attr]
        bench.spawner = bench.start()
    else:
        bench.ends(running)
        assert not os.path.exists(f"/proc/{running.pid}")
        assert not any("Names" in each for each in bench.engine.left() if each.startswith("supervisor-0"))
    running.close()


def test_what_an_engine_still_has_when_it_comes_back_is_removed(bench: Bench) -> None:
    if bench.engine is None:
        return
    running = bench.run(bench.spec(WAITS))
    assert os.read(running.stdout, 100) == b"here\n"
    engine = bench.engine
    engine.kill()
    bench.ends(running)
    # dead, and a moment later reaped by what is left of the engine
    bench.until(lambda: not os.path.exists(f"/proc/{running.pid}"))
    running.close()
    engine.start()
    # its containers and their volumes; the keeper's own folder stays
    bench.until(lambda: not any(each[0] == "[" or "." in each for each in engine.left()))
    assert bench.result(bench.spec("print('again')"))[0] == b"again\n"


def test_the_table_in_the_readme_says_what_is_held(bench: Bench) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    table = readme.split("| field | native | gvisor | podman | a user's podman | docker |\n", 1)[1].split(
        "\n\n", 1
    )[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    column = RUNTIMES.index(bench.name) + 1
    assert {row[0]: row[column].split(":")[0].split(",")[0] for row in rows} == held_by(bench)
