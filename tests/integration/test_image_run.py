"""A session from an image: its root is exactly what was verified; what was not is refused before anything runs."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from supervisor.monitor.children import Spawner
from supervisor.oci.store import Store
from supervisor.profile import host, load, plan
from supervisor.profile.entry import ServerEntry
from supervisor.proxy.link import connect
from supervisor.registry.images import find
from supervisor.runtimes import native
from tests.escape.arena import Arena, end
from tests.integration import box
from tests.integration.adversary import Processes
from tests.integration.caller import Caller
from tests.integration.imaging import Bench, bench
from tests.integration.test_posture import Trial
from tests.unit.oci import making
from tests.unit.oci.making import NAME

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts images")
SECONDS = 20
Members = tuple[tuple[tarfile.TarInfo, bytes], ...]


class Shelf:
    """A store of root's with an image in it, and the command line over it."""

    def __init__(self, place: Bench, image: making.Image) -> None:
        self.place = place
        self.record = box.added(place, image)

    @property
    def blob(self) -> Path:
        """The file of the store that is going to be the root."""
        return self.place.store / "blobs/sha256" / self.record.sealed[7:]

    def argv(self, command: str, *options: str | Path, profile: str = "none") -> list[str]:
        where = ("--profile", profile, "--image", self.record.reference, "--store", self.place.store)
        return self.place.caller.command(command, *self.place.caller.start_options(), *where, *options)

    def runs(self, script: str, *options: str | Path, profile: str = "none") -> str:
        done = self.place.caller.finish(self.argv("exec", *options, "--", script, profile=profile))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, status: int, *said: str, options: tuple[str | Path, ...] = (), profile: str = "none") -> None:
        """It must end with this status and these words, and start nothing."""
        done = self.place.caller.finish(self.argv("exec", *options, "--", "echo ran", profile=profile))
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert all(each in done.stderr for each in said), done.stderr
        assert devices() == []

    @contextmanager
    def session(self, script: str) -> Iterator[subprocess.Popen[bytes]]:
        """One that has said "ready"."""
        process = self.place.caller.process(self.argv("exec", "--", f"echo ready; {script}"), stdin=subprocess.PIPE)
        try:
            assert line(process) == "ready\n"
            yield process
        finally:
            end(process)


def line(process: subprocess.Popen[bytes]) -> str:
    """The next line, and no byte of what follows it."""
    assert process.stdout
    said = b""
    while not said.endswith(b"\n"):
        assert select.select([process.stdout], [], [], SECONDS)[0]
        said += os.read(process.stdout.fileno(), 1) or b"(its end)\n"
    return said.decode()


def devices() -> list[str]:
    """The loop devices that hold a memory file; those that are about to go are waited for."""
    deadline = time.monotonic() + 5
    while (found := holding()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def shelf(arena: Arena) -> Shelf:
    root = Caller(arena, "root")
    root.reset()
    return Shelf(bench(root, "shelf"), box.made())


@pytest.fixture
def other(arena: Arena, request: pytest.FixtureRequest) -> Bench:
    """A store of the test's own."""
    root = Caller(arena, "root")
    return bench(root, re.sub(r"\W+", "-", request.node.name)[-60:])


def test_the_image_is_the_root_and_nothing_of_the_host_s_is(shelf: Shelf) -> None:
    said = shelf.runs(
        "pwd; env; id -u; cat /etc/said /etc/passwd; ls /usr /usr/bin; readlink /bin /etc/mtab; cat /etc/hosts"
    )
    here, *lines = said.splitlines()
    assert here == "/srv/work"
    assert {"PATH=/usr/bin", "PYTHONSAID=yes", "1000", "by the image"} <= set(lines)
    assert "LD_PRELOAD" not in said
    assert "sandbox:x:1000:1000:sandbox:/tmp:/bin/sh" in lines
    assert "own" not in lines
    assert "python3" not in said
    assert lines[-4:] == ["usr/bin", "/proc/self/mounts", "127.0.0.1 localhost sandbox", "::1 localhost sandbox"]
    mounts = [each.split() for each in shelf.runs("cat /proc/self/mountinfo").splitlines()]
    image = [each for each in mounts if "squashfs" in each]
    assert {each[4] for each in image} == {"/usr", "/srv", "/home", "/etc/said"}
    assert all({"ro", "nosuid", "nodev"} <= set(each[5].split(",")) for each in image)
    rest = {each[4] for each in mounts} - {each[4] for each in image}
    assert rest == {
        "/",
        "/proc",
        "/tmp",
        *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")),
    }
    assert devices() == []


def test_what_a_profile_mounts_is_laid_over_it(shelf: Shelf) -> None:
    granted = shelf.place.folder / "granted"
    granted.mkdir(exist_ok=True)
    (granted / "file").write_text("the host's\n")
    for place in ("/data", "/srv/work/deep/er", "/new/place"):
        options = ("--ro", f"{granted}:{place}")
        assert shelf.runs(f"cat {place}/file /etc/said", *options) == "the host's\nby the image\n"
    assert shelf.runs("cat /data/file", "--param", f"root={granted}", profile="fs-readonly") == "the host's\n"


def test_an_operator_s_words_go_to_the_entry_point_and_without_them_the_image_s_own_do(shelf: Shelf) -> None:
    process = shelf.place.caller.process(shelf.argv("exec"), stdin=subprocess.PIPE)
    out, err = process.communicate(b"said\n", SECONDS)
    assert out == b"started\nsaid\n", err


def test_explain_says_what_is_taken_from_the_image_and_starts_nothing(shelf: Shelf) -> None:
    done = shelf.place.caller.finish(shelf.argv("explain"))
    assert done.returncode == 0, done.stderr
    assert f"image {shelf.record.reference} as its root" in done.stdout
    assert "variables LD_PRELOAD" in done.stdout
    assert "signed by release" in done.stdout


def test_what_is_mounted_cannot_change_whatever_root_does_to_the_store(shelf: Shelf) -> None:
    good = shelf.blob.read_bytes()
    with shelf.session("while read x; do cat /etc/said; uname; done") as process:
        assert process.stdin
        (device,) = holding()
        try:
            shelf.blob.chmod(0o600)
            shelf.blob.write_bytes(b"\0" * len(good))
            for access in (os.O_WRONLY, os.O_RDWR):
                with (
                    pytest.raises(OSError, match=r"not permitted|denied|Read-only"),
                    open(os.open(device, access)) as raw,
                ):
                    os.pwrite(raw.fileno(), b"\0" * 4096, 0)
            Path("/proc/sys/vm/drop_caches").write_text("3")
            process.stdin.write(b"x\n")
            process.stdin.flush()
            assert [line(process), line(process)] == ["by the image\n", "Linux\n"]
        finally:
            shelf.blob.write_bytes(good)
            shelf.blob.chmod(0o400)
    assert devices() == []


@pytest.mark.parametrize("other_file", [False, True])
def test_a_root_that_is_not_the_sealed_file_is_noticed_before_anything_runs(shelf: Shelf, other_file: bool) -> None:
    entry = ServerEntry(
        name="x", profile="none", origin="test", image=shelf.record.reference, store=str(shelf.place.store)
    )
    found = find(entry)
    assert found
    spec, facts = plan.plan(load.load("none"), entry, found.image).spec, host.probe()
    document, fd, spawner = native.document(spec, facts), found.sealed(), Spawner()
    try:
        document["sealed"] = [[os.fstat(fd).st_dev, os.fstat(fd).st_ino + other_file]]
        made = Trial(spawner, spec, document, [fd])
        os.close(fd)
        made.run()
    finally:
        spawner.close()
    assert made.started is not other_file
    assert [each for each in made.seen if "/usr" in each] == (
        ["mount /usr was not asked for"] if other_file else []
    )
    assert devices() == []


CONFIG = """
[server.{name}]
profile = "none"
image = "{image}"
store = "{store}"
command = ["echo ready; sleep 60"]
"""


def test_sessions_of_a_daemon_share_one_mount_which_goes_with_the_last_user(shelf: Shelf) -> None:
    caller, config = shelf.place.caller, shelf.place.folder / "servers.toml"
    text = "".join(
        CONFIG.format(name=name, image=shelf.record.reference, store=shelf.place.store) for name in ("one", "two")
    )
    config.write_text(text)
    where = ("--runtime-dir", shelf.place.folder / "run")
    with ExitStack() as stack:
        daemon = caller.process(caller.command("daemon", "--config", config, *where))
        stack.callback(end, daemon)
        assert daemon.stderr
        assert b"2 servers, listening" in daemon.stderr.readline()
        first = holding()
        links = [connect(str(shelf.place.folder / "run/proxy.sock")) for _ in range(2)]
        for link, name in zip(links, ("one", "two"), strict=True):
            stack.callback(link.close)
            link.hello()
            assert os.read(link.open(name).stdout, 6) == b"ready\n"
        assert len(first) == 1
        config.write_text(text.replace("sleep 60", "sleep 61"))
        assert caller.finish(caller.command("admin", "reload", *where)).returncode == 0
        # not sealed again: it is the same file
        assert holding() == first
        config.write_text("")
        assert caller.finish(caller.command("admin", "reload", *where)).returncode == 0
        for link in links:
            link.close()
        assert devices() == []


@pytest.mark.parametrize("role", ["proxy", "monitor", "spawner", "init", "server"])
def test_whoever_is_killed_the_image_s_device_and_memory_go_with_the_session(shelf: Shelf, role: str) -> None:
    with shelf.session("sleep 60") as process:
        assert holding()
        os.kill(Processes(process.pid).role(role), signal.SIGKILL)
        process.wait(SECONDS)
    assert devices() == []


def test_an_image_that_is_not_in_the_store_is_named_with_the_command_that_adds_it(shelf: Shelf) -> None:
    missing = f"{NAME}@sha256:{'0' * 64}"
    options = ("--image", missing)
    shelf.refused(2, f"{missing} is not in {shelf.place.store}", f"supervisor image add {missing}", options=options)
    shelf.refused(2, "name it by digest", options=("--image", f"{NAME}:1.0"))


def test_bytes_of_the_store_that_have_changed_are_not_run(shelf: Shelf) -> None:
    good = shelf.blob.read_bytes()
    try:
        shelf.blob.chmod(0o600)
        shelf.blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        shelf.refused(3, "its file system in", "has been changed; add it again")
    finally:
        shelf.blob.write_bytes(good)
        shelf.blob.chmod(0o400)


def test_a_record_without_a_verdict_is_not_run_until_it_is_verified(shelf: Shelf) -> None:
    store = Store(shelf.place.store)
    for nothing in ({"signers": ()}, {"basis": ""}):
        store.update(shelf.record.model_copy(update=nothing))
        shelf.refused(3, "was never verified", f"supervisor image verify {shelf.record.reference}")
    assert shelf.place.image("verify", shelf.record.reference).returncode == 0
    assert shelf.runs("cat /etc/said") == "by the image\n"


def test_trust_that_was_taken_back_stops_what_it_let_in(shelf: Shelf) -> None:
    path = shelf.place.folder / "trust.toml"
    good = path.read_text()
    try:
        for changed in (making.trust(making.key()), making.trust(box.KEY, pattern="a.example/b")):
            path.write_text(changed)
            shelf.refused(3, str(path), shelf.record.name)
        path.unlink()
        shelf.refused(3, str(path), "does not hold any more")
    finally:
        shelf.place.write("trust.toml", good)
    assert shelf.runs("cat /etc/said") == "by the image\n"


def test_a_lock_decides_which_image_of_a_name_may_run(shelf: Shelf) -> None:
    lock = shelf.place.write("images.lock", f'lock = 1\n[[image]]\nname = "{NAME}"\ndigest = "sha256:{"1" * 64}"\n')
    shelf.refused(3, f"{lock} locks {NAME} to sha256:111", options=("--lock", lock))
    shelf.place.write("images.lock", "lock = 1\n")
    shelf.refused(3, f"{lock} does not list {NAME}", options=("--lock", lock))
    shelf.place.write("images.lock", f'lock = 1\n[[image]]\nname = "{NAME}"\ndigest = "{shelf.record.digest}"\n')
    assert shelf.runs("cat /etc/said", "--lock", lock) == "by the image\n"


HOSTILE: dict[str, Members] = {
    "/etc": (box.link("etc", "usr/lib"),),
    "/proc": (box.link("proc", "/usr"),),
    "/tmp": (box.link("tmp", "/var/tmp"),),
    "/dev": (box.file("dev", b"no folder"),),
    "/data": (box.link("data", "/etc"),),
    "/srv/work": (box.link("srv/work", "/proc/self/root"),),
}


@pytest.mark.parametrize("where", HOSTILE)
def test_a_link_or_a_file_where_a_folder_is_mounted_is_refused_by_its_name(other: Bench, where: str) -> None:
    gone = {"/etc": ("etc/said", "etc/passwd", "etc/mtab", "etc/hosts")}
    shelf = Shelf(other, box.made(*HOSTILE[where], without=gone.get(where, ())))
    granted = ("--ro", f"{other.folder}:{where}") if where == "/data" else ("--ro", f"{other.folder}:/srv/work/in")
    shelf.refused(1, f"the image has no folder at {where}", options=granted)


def test_a_link_of_the_image_s_leads_nowhere_but_into_its_own_root(other: Bench) -> None:
    members = (box.link("out", "/etc/shadow"), box.link("usr/fd", "/proc/1/root/etc"), box.link("up", "/"))
    shelf = Shelf(other, box.made(*members, without=("usr/share",)))
    said = shelf.runs("cat /out; cat /usr/fd/passwd; ls /up/")
    assert said.splitlines() == sorted(
        ["bin", "dev", "etc", "home", "lib", "lib64", "out", "proc", "srv", "tmp", "up", "usr"]
    )


def test_an_image_whose_usr_is_a_link_does_not_get_the_host_s(other: Bench) -> None:
    shelf = Shelf(
        other, making.image([making.tar(box.link("usr", "/proc/1/root/usr"), box.folder("etc"))], run=box.RUN)
    )
    shelf.refused(1, "execute sh", "No such file")


def test_an_ordinary_user_is_told_what_to_do_instead(arena: Arena) -> None:
    user = Caller(arena, "user")
    user.reset()
    shelf = Shelf(bench(user, "own"), box.made())
    shelf.refused(4, "image: an ordinary user cannot mount it", "supervisor daemon", 'runtime = "podman"')
    learned = shelf.place.folder / "learned.toml"
    where = ("--image", shelf.record.reference, "--store", shelf.place.store, "--output", learned)
    done = user.finish(user.command("profile", "learn", *user.start_options(), "--bound", "none", *where))
    assert (done.returncode, "ordinary user cannot mount it" in done.stderr) == (4, True), done.stderr
    done = user.finish(shelf.argv("selftest"))
    assert (done.returncode, 'is "sh": try the profile in an image with a Python' in done.stderr) == (2, True)
    assert not learned.exists()


def holding() -> list[str]:
    """The loop devices that hold a memory file now."""
    argv = ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [each.split()[0] for each in said.stdout.splitlines() if "/memfd:" in each]
