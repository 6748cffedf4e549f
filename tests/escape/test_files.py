"""Reading what the profile does not name: other people's homes, keys, accounts, the host's configuration."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from tests.escape.arena import BAIT, MARKER, MODES, Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import FOLDER, Bait, Held, hostile, others, prepared, secret, slurp, syscall, taken

ETC = "passwd group hosts hostname resolv.conf nsswitch.conf ssl ca-certificates pki localtime alternatives"


@hostile(control="root")
def read_the_home_of_another_user(bait: Bait) -> str:
    return secret(bait.text("other_key"))


@hostile()
def read_the_ssh_key_of_the_caller(bait: Bait) -> str:
    return secret(bait.text("own_key"))


@hostile()
def list_the_home_of_the_caller(bait: Bait) -> str:
    names = os.listdir(bait.text("own_home"))
    return taken(".ssh" in names, str(names), "the key folder is not there")


@hostile(control="root")
def list_the_home_of_root(bait: Bait) -> str:
    names = os.listdir("/root")
    return taken(names, str(names), "empty")


@hostile(control="root")
def read_the_password_hashes(bait: Bait) -> str:
    return taken(b"root:" in slurp("/etc/shadow"), "/etc/shadow", "no hash in it")


@hostile()
def read_the_account_names(bait: Bait) -> str:
    content = slurp("/etc/passwd").decode() + slurp("/etc/group").decode()
    return taken(bait.text("account") in content, bait.text("account"), "none of the host's accounts")


@hostile()
def read_the_configuration_of_the_host(bait: Bait) -> str:
    more = set(os.listdir("/etc")) - set(bait.text("etc").split())
    return taken(more, str(sorted(more)), "only the synthetic files")


@hostile()
def find_the_marker_by_walking(bait: Bait) -> str:
    skip, found = {"/proc", "/sys", "/usr"}, []
    for directory, below, names in os.walk("/"):
        found += [os.path.join(directory, name) for name in names if name == bait.text("marker")]
        deep = directory.count("/") > 3
        below[:] = [] if deep else [name for name in below if os.path.join(directory, name) not in skip]
    return taken(found, str(found), "nowhere")


@hostile()
def read_the_temporary_file_of_the_host(bait: Bait) -> str:
    return secret(f"/tmp/{bait.text('marker')}")


@hostile()
def climb_out_of_the_working_directory(bait: Bait) -> str:
    return secret("../" * 40 + bait.text("outside").lstrip("/"))


@hostile(profiles=FOLDER)
def climb_out_of_the_folder(bait: Bait) -> str:
    return secret(f"{bait.text('folder')}/../outside/secret.txt")


@hostile(profiles=FOLDER)
def follow_a_link_out_of_the_folder(bait: Bait) -> str:
    return secret(f"{bait.text('folder')}/link")


@hostile(profiles=FOLDER)
def open_relative_to_the_folder(bait: Bait) -> str:
    directory = os.open(bait.text("folder"), os.O_PATH | os.O_DIRECTORY)
    fd = os.open("../outside/secret.txt", os.O_RDONLY, dir_fd=directory)
    return taken(b"BAIT" in os.read(fd, 99), "read", "something else")


@hostile()
def read_through_the_root_of_another_process(bait: Bait) -> str:
    for pid in others():
        for root in (f"/proc/{pid}/root", f"/proc/{pid}/cwd/../../../../../../.."):
            try:
                return secret(f"{root}{bait.text('outside')}")
            except OSError:
                continue
    raise Held("no process lends its root")


@hostile()
def read_through_a_descriptor_of_another_process(bait: Bait) -> str:
    for pid in others():
        try:
            return secret(f"/proc/{pid}/fd/{bait.number('holder_fd')}")
        except (OSError, Held):
            continue
    raise Held("no process lends its descriptors")


@hostile(control="root")
def read_by_handle(bait: Bait) -> str:
    handle, size = bytes.fromhex(bait.text("handle")), bait.number("handle_size")
    for mount in ("/", "/usr", "/tmp", bait.text("folder"), bait.text("scope"), "."):
        try:
            at = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
            fd = syscall(304, at, struct.pack("Ii", size, bait.number("handle_type")) + handle, os.O_RDONLY)
        except OSError as error:
            last = error
            continue
        return taken(b"BAIT" in os.read(fd, 99), f"through {mount}", "another file")
    raise last


@hostile(control="root")
def break_out_by_a_second_chroot(bait: Bait) -> str:
    with prepared():
        directory, cage = os.open("/tmp", os.O_RDONLY), "cage-" + bait.text("marker")
        os.mkdir(cage, dir_fd=directory)
    try:
        os.chroot(f"/tmp/{cage}")
    finally:
        os.rmdir(cage, dir_fd=directory)
    for _ in range(40):
        os.chdir("..")
    os.chroot(".")
    return secret(bait.text("outside"))


def handle_of(path: Path) -> tuple[bytes, int]:
    """The file handle and its type, as name_to_handle_at(2) gives them."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.create_string_buffer(8)
    syscall(303, -100, bytes(path), ctypes.addressof(buffer), ctypes.addressof(mount), 0)
    size, kind = struct.unpack_from("Ii", buffer.raw)
    return buffer.raw[8 : 8 + size], kind


def bait(place: Place) -> Values:
    arena, plot = place.arena, place.plot
    other = arena.plots["user" if place.mode == "root" else "root"]
    for directory in (Path("/tmp"), Path("/run"), Path("/var/tmp"), plot.home):
        marked = directory / MARKER
        if not marked.exists():
            marked.write_text(BAIT)
            arena.stack.callback(marked.unlink, missing_ok=True)
        marked.chmod(0o644)
    holder = f"import os,sys; os.dup2(os.open({str(plot.key)!r}, 0), 77); print(flush=True); sys.stdin.read()"
    arena.companion("holder", ["/usr/bin/python3", "-I", "-S", "-c", holder], place.mode)
    handle, kind = handle_of(plot.outside / "secret.txt")
    return {
        "other_key": str(other.key),
        "own_key": str(plot.key),
        "own_home": str(plot.home),
        "account": arena.account,
        "etc": ETC,
        "marker": MARKER,
        "outside": str(plot.outside / "secret.txt"),
        "folder": place.folder,
        "scope": place.scope,
        "holder_fd": 77,
        "handle": handle.hex(),
        "handle_size": len(handle),
        "handle_type": kind,
    }


BATCH = Batch.of(globals(), bait=bait)


def test_no_file_outside_the_profile_is_read(case: Case, arena: Arena) -> None:
    assert_held(arena, case)


def test_what_the_profile_grants_is_read(arena: Arena) -> None:
    """Without this the refusals above could come from a sandbox in which nothing works at all."""
    for mode in MODES:
        program = "print(open('/data/hello.txt').read())"
        done = arena.inside("fs-readonly", mode, ["/usr/bin/python3", "-I", "-S", "-c", program])
        assert done.stdout.strip() == "nothing secret", done.stderr
