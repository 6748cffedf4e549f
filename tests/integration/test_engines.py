"""Sessions of the command line in podman, a user's own too, and docker: chosen, given secrets, watched, killed.

What each runtime holds of a profile is asked in test_runtimes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor import wire
from supervisor.errors import Unenforceable
from supervisor.model import Registered
from supervisor.monitor.children import Spawner
from supervisor.monitor.loop import Loop
from supervisor.monitor.requests import Monitor
from supervisor.profile import load
from supervisor.profile.entry import ServerEntry
from supervisor.registry import images, policies
from supervisor.registry.planner import Planning, answer
from supervisor.runtimes.api import entries
from supervisor.runtimes.docker import Docker
from supervisor.runtimes.podman import Podman
from tests.escape.arena import Arena
from tests.integration import engines, imaging, remains
from tests.integration.adversary import write_profile
from tests.integration.audited import AuditLog, piped
from tests.integration.caller import Caller, said_ready, stop
from tests.integration.engine_image import image
from tests.integration.engines import SECONDS, Started
from tests.integration.test_bad_input_host import WITHOUT_CALL
from tests.integration.test_secrets import descendants, of
from tests.unit.oci import making

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="starts engines of its own"),
    pytest.mark.xdist_group("engines"),
]
REFERENCE = f"{making.NAME}@{image().digest}"
FANOTIFY_INIT = 300  # on x86-64
WAITS = "echo ready; read line"


@dataclass
class Place:
    """An engine, and an image in a store of root's: signed, and added by its own command line."""

    engine: Started
    bench: imaging.Bench

    @property
    def caller(self) -> Caller:
        return self.bench.caller

    @property
    def own(self) -> bool:
        """Whether nobody is root in it."""
        return self.caller.mode == "user"

    def argv(self, command: str, *options: str | Path, profile: str = "none") -> list[str]:
        where = ("--store", self.bench.store, "--image", REFERENCE, "--engine", self.engine.socket)
        runtime = ("--runtime", self.engine.runtime, *(self.caller.arena.accept("user") if self.own else ()))
        return self.caller.command(command, "--profile", profile, *where, *runtime, *options)

    def runs(self, script: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
        """The shell of the image with a line of input."""
        process = self.caller.process(self.argv("exec", *options, "--", "-c", script), stdin=subprocess.PIPE)
        out, errors = process.communicate(b"it\n", SECONDS)
        return subprocess.CompletedProcess([], process.returncode, out.decode(), errors.decode())

    def session(self, *options: str | Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """One that has said "ready", and waits."""
        return said_ready(self.caller, self.argv("exec", *options, "--", "-c", WAITS))


OWN = "podman of a user"


@pytest.fixture(scope="module", params=["podman", OWN, "docker"])
def place(request: pytest.FixtureRequest, arena: Arena) -> Iterator[Place]:
    mode = "user" if request.param == OWN else "root"
    bench = imaging.Bench(Caller(arena, mode), arena.base / f"engines-{mode}")
    bench.caller.reset()
    if not bench.folder.exists():
        bench.folder.mkdir()
        bench.own(bench.folder)
        imaging.signed_layout(bench, image(), making.key())
        assert bench.image("add", f"oci:{bench.folder}/layout:1.0", "--as", making.NAME).returncode == 0
    starts = {
        "podman": lambda: engines.podman(arena, Podman),
        OWN: lambda: engines.own(arena, Podman),
        "docker": lambda: engines.docker(arena, Docker),
    }
    with starts[request.param]() as engine:
        yield Place(engine, bench)
        assert engine.swept() == []


def test_the_command_line_starts_an_image_in_it_and_leaves_nothing(place: Place) -> None:
    done = place.runs("read line; echo got $line; echo $HOME; exit 3")
    assert (done.stdout, done.returncode) == ("got it\n/tmp\n", 3), done.stderr
    assert f"{REFERENCE} read-only" in done.stderr
    missing = ", WITHOUT limits.cpus, limits.memory" if place.own else ""
    assert f", in {place.engine.runtime}{missing}\n" in done.stderr
    assert place.engine.swept() == []


def test_a_user_s_image_runs_in_his_own_podman_without_being_told_and_from_his_registry(place: Place) -> None:
    if not place.own:
        return
    caller, env = place.caller, {"XDG_RUNTIME_DIR": str(place.engine.folder.parent)}
    named = ("--store", place.bench.store, "--image", REFERENCE, "--profile", "none")
    argv = caller.command("exec", *named, *caller.arena.accept("user"), "--", "-c", "echo it runs")
    done = caller.arena.finish(caller.process(argv, env=env))
    assert done.stdout == "it runs\n", done.stderr
    assert ", in podman, WITHOUT limits" in done.stderr
    refused = caller.arena.finish(caller.process(caller.command("exec", *named, "--", "-c", "true"), env=env))
    assert refused.returncode == 4
    assert "limits.memory" in refused.stderr
    shutil.copy(Path(__file__).parent / "opening_server.py", caller.plot.folder / "opening.py")
    text = f"""[server.files]
profile = "fs-readonly"
image = "{REFERENCE}"
store = "{place.bench.store}"
runtime = "podman"
accept_missing = ["limits.cpus", "limits.memory"]
command = ["-c", "exec python3 -I -S /data/opening.py"]
params.root = "{caller.plot.folder}"
"""
    config = place.bench.write("servers.toml", text)
    caller.plot.folder.chmod(0o755)
    log = AuditLog(caller, "own-engine")
    log.env |= env
    done = caller.arena.finish(caller.process(caller.command("pin", "files", "--yes", "--config", config), env=env))
    assert done.returncode == 0, done.stderr
    with piped(log, caller.command("serve", "-q", "--config", config)) as pipe:
        answer = pipe.call("files__open", paths=["/data/hello.txt"])
        assert "result" in answer, answer
        stop(pipe.process)
    [found] = log.query("--tool", "open")
    about = log.records(found["call"])[1]["unmapped"]
    assert (about["runtime"], about["image"], about["files"]) == ("podman", REFERENCE, "none")
    assert place.engine.swept() == []


def test_several_commands_of_a_user_at_once_leave_his_folders_as_they_were(place: Place) -> None:
    if not place.own:
        return
    arena, argv = place.caller.arena, place.argv("exec", "--", "-c", "echo it runs")
    done = [arena.finish(each) for each in [place.caller.process(argv) for _ in range(3)]]
    assert [each.stdout for each in done] == ["it runs\n"] * 3, done
    # podman has let everybody search them meanwhile
    places = (place.engine.folder, *place.engine.folder.parents[:2])
    assert [stat.S_IMODE(each.stat().st_mode) for each in places] == [0o700] * 3
    assert place.engine.swept() == []


def test_auto_takes_the_native_runtime_first_and_an_engine_when_that_cannot(place: Place) -> None:
    if place.own:
        return
    entry = ServerEntry(
        name="any",
        profile="none",
        image=REFERENCE,
        store=str(place.bench.store),
        engine=place.engine.socket,
        command=("-c", "true"),
        origin="test",
    )
    planning = Planning(images.find)
    made, others = planning.plan(load.load("none"), entry)
    assert made.spec.runtime == "native"
    nowhere = planning.plan(load.load("none"), entry.model_copy(update={"engine": "/nowhere"}))[1]
    assert {each.spec.runtime for each in nowhere} <= {"gvisor"}
    # both are asked at the one socket that there is: the other engine does not answer there as it should
    lacking = made.model_copy(update={"gaps": {"image": "no loop devices"}})
    there = tuple(each for each in others if each.spec.runtime == place.engine.runtime)
    loop, (answers, asked) = Loop(), wire.pair()
    monitor = Monitor(loop, Spawner(), None, asked.detach())
    try:
        monitor.spawners["native"].greet()
        server = monitor._loaded(Registered(entry=entry, plan=lacking, others=there), monitor.facts)
        assert server.plan.spec.runtime == server.plan.told["runtime"] == place.engine.runtime
        with pytest.raises(Unenforceable, match="native: image: no loop devices"):
            monitor._loaded(Registered(entry=entry, plan=lacking, others=(lacking,)), monitor.facts)
    finally:
        for each in monitor.spawners.values():
            each.close()
        for fd in planning.sealed.values():
            os.close(fd)
        monitor.sessions.secrets._socket.close()
        answers.close()


def test_an_approval_is_of_one_runtime(place: Place) -> None:
    if place.own:
        return
    numbers, engine = {}, place.engine
    for runtime in ("auto", "native", engine.runtime):
        text = f"""[approvals]
required = true
[server.any]
profile = "none"
image = "{REFERENCE}"
store = "{place.bench.store}"
engine = "{engine.socket}"
runtime = "{runtime}"
"""
        planning = Planning(images.find)
        config = place.bench.write("servers.toml", text)
        planned = answer({"catalog": str(config)}, policies.govern, planning)
        for fd in planning.sealed.values():
            os.close(fd)
        [server] = planned.servers or pytest.fail(planned.error)
        assert server.held
        assert server.others == (), "another runtime was not approved"
        numbers[runtime] = server.approval
        touches = json.loads(server.bound)["touches"]
        assert any(each.startswith(f"be run by {runtime} at /") for each in touches) == (runtime == engine.runtime)
    assert numbers["auto"] == numbers["native"] != numbers[engine.runtime]


def test_only_the_hosts_that_it_may_reach_have_a_name_there(place: Place) -> None:
    code = "import socket\\nfor name in ('yes.example', 'no.example'):\\n"
    code += " try: print(socket.gethostbyname(name))\\n except OSError: print('none')"
    options = ("--allow", "yes.example:443", "--", "-c", f'exec python3 -I -S -c "$(printf "{code}")"')
    done = place.caller.finish(place.argv("exec", *options, profile="net-allowlist"))
    found, other = done.stdout.splitlines() or pytest.fail(done.stderr)
    assert found.startswith(("198.18.", "198.19."))
    assert other == "none"
    assert "egress: no.example" in done.stderr


def test_secrets_are_files_and_variables_of_its_own_and_nowhere_in_the_engine(place: Place) -> None:
    values = {name: f"canary-{name}-{os.urandom(12).hex()}" for name in ("file", "env")}
    for name, value in values.items():
        place.bench.write(name, f"{value}\n")
    given = [
        f"--secret={'file/KEY' if name == 'file' else 'TOKEN'}=file:{place.bench.folder}/{name}" for name in values
    ]
    done = place.runs('cat /run/secrets/KEY; echo "$TOKEN"; echo >>/run/secrets/KEY', *given)
    assert done.stdout == "{file}\n{env}\n".format(**values), done.stderr
    assert "ermission denied" in done.stderr or "ead-only" in done.stderr
    with place.session(*given) as process:
        names = [str(each["Id"]) for each in place.engine.kind(place.engine.socket, "").containers()]
        assert len(names) == 1
        told = json.dumps(place.engine.kind(place.engine.socket, "").api.get(f"/containers/{names[0]}/json"))
        base = place.engine.folder.parents[1] if place.own else place.engine.folder
        files = (path for path in base.rglob("*.json") if path.is_file() and not path.is_symlink())
        written = b"".join(path.read_bytes() for path in files)
        lines = b"".join(of(pid, file) for pid in descendants(process.pid) for file in ("cmdline", "environ"))
        assert b"/supervisor-" in written, "the control: what an engine writes down is found"
        for value in values.values():
            assert value.encode() not in told.encode() + written + lines
        assert REFERENCE.encode() not in written, "an engine is given ids, never a name"
    assert place.engine.swept() == []


def test_what_is_written_to_a_folder_is_bounded(place: Place) -> None:
    if place.own:
        return  # refused: see test_runtimes
    profile = write_profile(place.bench.folder, "bounded", '[limits]\ndisk = "8M"\n')
    # each on the disk before the next: how much fits between two counts is the disk's speed, not the memory's
    code = "import os\nfor n in range(10000): f = open(f'/work/{n}', 'wb', 0); f.write(bytes(1 << 20)); os.fsync(f)"
    options = ("--rw", f"{place.caller.plot.scope}:/work", "--", "-c", f'exec python3 -I -S -c "{code}"')
    done = place.caller.finish(place.argv("exec", *options, profile=str(profile)))
    assert (done.returncode, "(limits.disk)" in done.stderr) == (137, True), done.stderr
    written = list(place.caller.plot.scope.glob("[0-9]*"))
    assert 8 <= len(written) < 500
    assert {each.stat().st_uid for each in written} == {place.caller.plot.uid}
    place.caller.reset()
    assert place.engine.swept() == []


def test_what_a_call_opens_is_recorded_with_the_runtime_and_the_image(place: Place) -> None:
    if place.own:
        return  # the kernel tells root alone: see the next test
    caller, log = place.caller, AuditLog(place.caller, f"engine-{place.engine.runtime}")
    folder = caller.plot.folder
    shutil.copy(Path(__file__).parent / "opening_server.py", folder / "opening.py")
    options = ("-q", "--param", f"root={folder}", "--", "-c", "exec python3 -I -S /data/opening.py")
    with piped(log, place.argv("run", *options, profile="fs-readonly")) as pipe:
        assert "result" in pipe.call("open", paths=["/data/hello.txt"])
        stop(pipe.process)
    [found] = log.query("--path", "/data/hello.txt")
    outcome = log.records(found["call"])[1]
    assert {each["name"]: each["data"]["mode"] for each in outcome["resources"]}["/data/hello.txt"] == "r"
    about = outcome["unmapped"]
    assert (about["runtime"], about["image"], about["files"]) == (place.engine.runtime, REFERENCE, "all")
    log.verified()


def test_where_the_kernel_tells_of_no_files_that_is_said_or_refused(place: Place) -> None:
    profile = write_profile(place.bench.folder, "needed", '[audit]\nfiles = "required"\n')
    for name in ("none", str(profile)):
        argv = place.argv("exec", "--", "-c", "echo it runs", profile=name)
        without = [] if place.own else ["/usr/bin/python3", "-c", WITHOUT_CALL, str(FANOTIFY_INIT)]
        done = place.caller.finish([*without, *argv])
        if name == "none":
            assert done.stdout == "it runs\n", done.stderr
            assert "not recorded: which files it opens" in done.stderr
        else:
            assert (done.returncode, done.stdout) == (4, "")
            assert f"the {place.engine.runtime} runtime cannot enforce this profile" in done.stderr
            assert "file-audit: fanotify" in done.stderr


def test_whoever_is_killed_of_ours_leaves_nothing(place: Place) -> None:
    before = remains.descendants()
    for role in ("proxy", "monitor", "keeper"):
        with remains.nothing_left(place.caller, patience=SECONDS), place.session() as process:
            os.kill(ours(process.pid)[role], signal.SIGKILL)
            process.wait(SECONDS)
            assert place.engine.swept() == [], role
            adopted(before)


@pytest.mark.parametrize(
    "place", ["podman"], indirect=True
)  # docker mounts none on the host, and a user's podman out of sight
def test_a_volume_that_podman_forgot_while_it_was_mounted_goes_with_the_next_keeper(place: Place) -> None:
    """As podman 4.3 leaves one behind, seldom, when the keeper of a session is killed."""
    engine = Podman(place.engine.socket, "")
    volumes = Path(str(entries(engine.facts()["folders"])[2]))
    ended = subprocess.Popen(["sleep", "0"])
    ended.wait()
    forgotten = volumes / f"supervisor-{ended.pid}-1-1.tmp/_data"
    another = volumes / "of-somebody-else/_data"
    try:
        for each in (forgotten, another):
            each.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", each], check=True)
        assert place.runs("echo in a keeper").returncode == 0
        assert not forgotten.parent.exists()
        assert os.path.ismount(another)
    finally:
        for each in (forgotten, another):
            if os.path.ismount(each):
                subprocess.run(["umount", each], check=True)
            shutil.rmtree(each.parent, ignore_errors=True)


def test_an_engine_that_is_killed_ends_its_sessions_and_what_it_had_of_them_is_gone_with_the_next(
    place: Place,
) -> None:
    with place.session() as process:
        inside = descendants(ours(process.pid)["keeper"])
        pids = [int(str(state["Pid"])) for state in states(place)]
        place.engine.kill()
        assert process.wait(SECONDS) != 0
        assert not [pid for pid in (*pids, *inside) if alive(pid)]
    place.engine.start()
    assert place.runs("echo again").stdout == "again\n"
    assert place.engine.swept() == []


def states(place: Place) -> Iterator[dict[str, object]]:
    """What the engine says of each container of keepers."""
    kind = place.engine.kind(place.engine.socket, "")
    for each in kind.containers():
        yield kind.state(str(each["Id"]))


def ours(pid: int) -> dict[str, int]:
    """The processes of one command by what they are: whoever was typed is the proxy."""
    found = {"proxy": pid}
    for each in descendants(pid):
        line = of(each, "cmdline").decode()
        if "supervisor.runtimes." in line:
            found.setdefault("keeper", each)
            found["monitor"] = int(of(each, "stat").decode().rsplit(") ", 1)[1].split()[1])
    return found


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}") and b") Z" not in of(pid, "stat")


def adopted(before: dict[tuple[int, str], str]) -> None:
    """Reap what came to this process when its parent was killed, until nothing is there but what was before."""
    deadline = time.monotonic() + SECONDS
    while remains.unknown(remains.descendants(), before) and time.monotonic() < deadline:
        if os.waitpid(-1, os.WNOHANG) == (0, 0):
            time.sleep(0.02)
