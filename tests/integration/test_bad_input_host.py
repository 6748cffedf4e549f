"""Hosts that lack something: a layer of the kernel, a place for sockets, a name for the user.

What is missing is taken away for one process: a system call by a filter that answers ENOSYS, user namespaces by
the limit of a namespace around it, the disk by a mount namespace with a tiny one.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.escape.arena import Arena
from tests.integration import adversary
from tests.integration.adversary import BINARY, assert_told

pytestmark = pytest.mark.timeout(60)

TRUE = ("--", "/usr/bin/true")
LANDLOCK_CREATE_RULESET, SECCOMP = 444, 317

# argv: the number of a system call that is not there, the command
WITHOUT_CALL = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = int(sys.argv[1])
filter = struct.pack("HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, number, 0x06, 0, 0, 0x50026, 0x06, 0, 0, 0x7FFF0000)
code = ctypes.create_string_buffer(filter)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(code)))
if libc.prctl(22, 2, program, 0, 0) != 0: sys.exit("no filter")
os.execv(sys.argv[2], sys.argv[2:])
"""

# argv: uid, gid, how many user namespaces may be made below this one, the command
IN_A_NAMESPACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
uid, gid, most = map(int, sys.argv[1:4])
(go, wait), (ready, tell) = os.pipe(), os.pipe()
pid = os.fork()
if pid:
    os.close(tell)
    os.read(ready, 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as file: file.write("0 0 4294967295")
    os.close(wait)
    os.close(go)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.close(wait)
if libc.unshare(0x10000000) != 0: sys.exit("no user namespace")
os.write(tell, b"x")
os.read(go, 1)
with open("/proc/sys/user/max_user_namespaces", "w") as file: file.write(str(most))
os.setgroups([])
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
os.closerange(3, 100)
os.execv(sys.argv[4], sys.argv[4:])
"""


def without_call(number: int, *argv: str) -> subprocess.CompletedProcess[str]:
    return finished("/usr/bin/python3", "-c", WITHOUT_CALL, str(number), BINARY, *argv)


def finished(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, capture_output=True, text=True, cwd="/var/tmp", timeout=40, stdin=subprocess.DEVNULL
    )


def test_without_landlock_nothing_starts_and_the_remedy_is_named() -> None:
    done = without_call(LANDLOCK_CREATE_RULESET, "exec", "--profile", "none", *TRUE)
    assert_told(done, 4, "landlock: this kernel has no Landlock", "lsm=", "--accept-missing landlock")


def test_without_landlock_it_runs_when_that_is_accepted_and_says_so() -> None:
    accepted = ("exec", "--profile", "none", "--accept-missing", "landlock", *TRUE)
    done = without_call(LANDLOCK_CREATE_RULESET, *accepted)
    assert done.returncode == 0, done.stderr
    assert "WITHOUT landlock" in done.stderr
    there = finished(BINARY, *accepted)
    assert there.returncode == 0
    assert "WITHOUT" not in there.stderr
    digests = [re.findall(r"spec (\w+)", each.stderr)[0] for each in (done, there)]
    assert digests[0] != digests[1]


def test_accepting_another_layer_does_not_replace_the_missing_one() -> None:
    done = without_call(
        LANDLOCK_CREATE_RULESET, "exec", "--profile", "none", "--accept-missing", "limits.memory", *TRUE
    )
    assert_told(done, 4, "landlock", "--accept-missing landlock")


@pytest.mark.parametrize("accept", [(), ("--accept-missing", "landlock")])
def test_without_seccomp_nothing_starts_whatever_is_accepted(accept: tuple[str, ...]) -> None:
    done = without_call(SECCOMP, "exec", "--profile", "none", *accept, *TRUE)
    assert_told(
        done, 4, "seccomp: this kernel has no seccomp filters", "CONFIG_SECCOMP_FILTER", "nothing was started"
    )
    assert "--accept-missing" not in done.stderr


def test_seccomp_and_namespaces_cannot_be_accepted_away() -> None:
    for name in ("seccomp", "namespaces"):
        done = finished(BINARY, "exec", "--profile", "none", "--accept-missing", name, *TRUE)
        assert_told(done, 2, "no such layer", "landlock")


@pytest.mark.parametrize("number", [LANDLOCK_CREATE_RULESET, SECCOMP])
def test_check_and_explain_say_what_is_missing(number: int) -> None:
    name = "landlock" if number == LANDLOCK_CREATE_RULESET else "seccomp"
    done = without_call(number, "check")
    assert done.returncode == 4
    assert re.search(rf"{name} +missing", done.stdout)
    done = without_call(number, "check", "--json")
    assert list(json.loads(done.stdout)["facts"]["missing"]) == [name]
    done = without_call(number, "explain", "--profile", "none", *TRUE)
    assert done.returncode == 4
    assert f"{name}: " in done.stderr


def test_a_daemon_does_not_start_where_a_layer_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "servers.toml"
    config.write_text('[server.a]\nprofile = "none"\ncommand = ["/usr/bin/cat"]\n')
    config.chmod(0o644)
    argv = ("daemon", "--config", str(config), "--runtime-dir", str(tmp_path / "run"))
    assert_told(without_call(LANDLOCK_CREATE_RULESET, *argv), 4, "landlock")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("mode", ["root", "user"])
def test_without_user_namespaces_nothing_starts_and_the_remedy_is_named(arena: Arena, mode: str) -> None:
    plot = arena.plots[mode]
    program = ("/usr/bin/python3", "-c", IN_A_NAMESPACE, str(plot.uid), str(plot.gid))
    command = (*arena.commands[mode], "exec", "--profile", "none", *arena.accept(mode), *TRUE)
    there = finished(*program, "100", *command)
    assert "namespaces" not in there.stderr
    done = finished(*program, "0", *command)
    assert_told(done, 4, "namespaces: ", "sysctl user.max_user_namespaces", "nothing was started")
    assert "--accept-missing" not in done.stderr


# argv: options of the mount, the command; the place is /mnt
ON_A_DISK = 'mount -t tmpfs -o "$1" none /mnt; shift; exec "$@"'


def on_a_disk(options: str, *argv: str) -> subprocess.CompletedProcess[str]:
    apart = ("/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", ON_A_DISK, "sh")
    return finished(*apart, options, BINARY, *argv)


@pytest.mark.parametrize(
    ("options", "folder", "says"),
    [
        ("nr_inodes=1", "/mnt/run", "/mnt/run: No space left on device"),
        ("nr_inodes=1", "/mnt", "/mnt/proxy.sock: No space left on device"),
        ("nr_inodes=2", "/mnt", "/mnt/admin.sock: No space left on device"),
        ("ro", "/mnt/run", "/mnt/run: Read-only file system"),
        ("ro", "/mnt", "/mnt/proxy.sock: Read-only file system"),
        ("size=4k", "/dev/null", "/dev/null: "),
        ("size=4k", "/mnt/" + "x" * 120, "too long"),
        ("size=4k", "/mnt/" + "x" * 300, "File name too long"),
    ],
)
def test_a_daemon_that_has_no_room_for_its_sockets_says_so(
    tmp_path: Path, options: str, folder: str, says: str
) -> None:
    config = tmp_path / "servers.toml"
    config.write_text("")
    config.chmod(0o644)
    done = on_a_disk(options, "daemon", "--config", str(config), "--runtime-dir", folder)
    assert_told(done, 1, re.escape(says))


def test_one_typed_command_needs_no_disk(tmp_path: Path) -> None:
    """Every tmpfs and disk read-only: it makes no file."""
    script = (
        'for each in / /tmp /run /var/tmp /dev/shm; do mount -o bind,remount,ro $each 2>/dev/null; done; exec "$@"'
    )
    apart = ("/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh")
    done = finished(*apart, BINARY, "exec", "-q", "--profile", "none", "--", "/usr/bin/echo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")


def test_a_second_daemon_in_the_same_place_is_told_of_the_first(tmp_path: Path) -> None:
    with adversary.daemon(tmp_path, "") as host:
        argv = ("daemon", "--config", str(host.config), "--runtime-dir", str(host.folder))
        assert_told(finished(BINARY, *argv), 2, "another supervisor daemon is listening")
        assert host.inspect()["servers"] == []


def test_sockets_of_a_daemon_that_was_killed_are_replaced(tmp_path: Path) -> None:
    with adversary.daemon(tmp_path, "") as host:
        host.process.kill()
        host.process.wait(10)
    assert len(list(host.folder.iterdir())) == 3
    with adversary.daemon(tmp_path, "") as host:
        assert host.inspect()["servers"] == []


def test_sockets_that_somebody_removed_are_no_error_at_the_end(tmp_path: Path) -> None:
    with adversary.daemon(tmp_path, "") as host:
        for path in host.folder.iterdir():
            path.unlink()


def test_a_root_that_is_alone_in_its_user_namespace_is_told_so() -> None:
    done = finished("/usr/bin/unshare", "--map-root-user", BINARY, "exec", "--profile", "none", *TRUE)
    assert_told(done, 1, "alone in its user namespace", "map a range of users")


def test_a_user_without_a_name_gets_a_sandbox_or_a_reason(arena: Arena) -> None:
    """A uid that no password file knows, as in many containers."""
    argv = (*arena.commands["user"], "exec", "--profile", "none", *arena.accept("user"), *TRUE)
    done = finished("/usr/bin/setpriv", "--reuid=61234", "--regid=61234", "--clear-groups", "env", "HOME=", *argv)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
