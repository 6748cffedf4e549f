"""The network: no address of the host, no name server, no metadata service, no family but what programs need.

Control and sandbox are both started from a network namespace that the test makes. It has the addresses that
a guest would like to reach on its loopback, each with a listener that says BAIT.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess

from tests.escape.arena import PYTHON, Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import OFFLINE, SCOPE, Bait, address, hostile, slurp, syscall, taken

METADATA, RESOLVER, PUBLIC, PRIVATE, LOCAL6 = (
    "169.254.169.254",
    "192.0.2.53",
    "203.0.113.80",
    "10.1.2.3",
    "fd00::80",
)
PORT = 8471

# One TCP listener and one UDP echo on every address given, all on the same port (53 and 80 where programs
# would look for them).
OFFER = """
import select, socket, sys
sockets = []
for word in sys.argv[1:]:
    host, port = word.rsplit("@", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, int(port)))
        if kind == socket.SOCK_STREAM:
            made.listen(64)
        sockets.append(made)
print("ready", flush=True)
while True:
    for ready in select.select([sys.stdin, *sockets], [], [])[0]:
        if ready is sys.stdin:
            sys.exit()
        if ready.type == socket.SOCK_STREAM:
            peer, _ = ready.accept()
            peer.sendall(b"BAIT")
            peer.close()
        else:
            question, peer = ready.recvfrom(512)
            ready.sendto(b"BAIT" + question, peer)
"""


def dial(host: str, port: int) -> str:
    with socket.create_connection((host, port), timeout=3) as connection:
        return taken(connection.recv(4) == b"BAIT", f"{host}:{port} answered", "another listener")


def ask(host: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.settimeout(3)
        asking.sendto(b"\1\2\1\0\0\1\0\0\0\0\0\0\6svtest\7example\0\0\1\0\1", (host, port))
        return taken(asking.recv(512).startswith(b"BAIT"), f"{host}:{port} answered", "another answer")


def make(family: int, kind: int, protocol: int = 0) -> str:
    with socket.socket(family, kind, protocol):
        return f"socket({family}, {kind}, {protocol})"


@hostile()
def reach_the_loopback_of_the_host(bait: Bait) -> str:
    return dial("127.0.0.1", bait.number("port"))


@hostile()
def reach_another_loopback_address(bait: Bait) -> str:
    return dial("127.8.8.8", bait.number("port"))


@hostile()
def reach_the_loopback_by_version_6(bait: Bait) -> str:
    return dial("::1", bait.number("port"))


@hostile()
def reach_the_loopback_by_a_mapped_address(bait: Bait) -> str:
    return dial("::ffff:127.0.0.1", bait.number("port"))


@hostile()
def reach_every_address_of_the_host_at_once(bait: Bait) -> str:
    return dial("0.0.0.0", bait.number("port"))


@hostile()
def send_a_datagram_to_the_loopback(bait: Bait) -> str:
    return ask("127.0.0.1", bait.number("port"))


@hostile()
def reach_the_metadata_service(bait: Bait) -> str:
    return dial(bait.text("metadata"), 80)


@hostile()
def ask_a_name_server(bait: Bait) -> str:
    return ask(bait.text("resolver"), 53)


@hostile()
def ask_a_name_server_by_tcp(bait: Bait) -> str:
    return dial(bait.text("resolver"), 53)


@hostile()
def reach_a_public_address(bait: Bait) -> str:
    return dial(bait.text("public"), bait.number("port"))


@hostile()
def send_a_datagram_to_a_public_address(bait: Bait) -> str:
    return ask(bait.text("public"), bait.number("port"))


@hostile()
def reach_a_private_address(bait: Bait) -> str:
    return dial(bait.text("private"), bait.number("port"))


@hostile()
def reach_a_local_address_of_version_6(bait: Bait) -> str:
    return dial(bait.text("local6"), bait.number("port"))


@hostile()
def send_data_with_the_first_packet(bait: Bait) -> str:
    """TCP fast open connects without connect(2)."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 3, 0))
        connection.sendto(b"x", socket.MSG_FASTOPEN, (bait.text("metadata"), 80))
        return taken(connection.recv(4) == b"BAIT", "answered", "another listener")


@hostile()
def send_data_with_the_first_packet_of_a_message(bait: Bait) -> str:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 3, 0))
        connection.sendmsg([b"x"], [], socket.MSG_FASTOPEN, (bait.text("metadata"), 80))
        return taken(connection.recv(4) == b"BAIT", "answered", "another listener")


@hostile()
def reach_it_by_multipath_tcp(bait: Bait) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as connection:
        connection.settimeout(3)
        connection.connect((bait.text("metadata"), 80))
        return "connected"


@hostile()
def make_a_multipath_socket(bait: Bait) -> str:
    return make(socket.AF_INET, socket.SOCK_STREAM, 262)


@hostile(control="root")
def make_a_raw_socket(bait: Bait) -> str:
    return make(socket.AF_INET, socket.SOCK_RAW, 1)


@hostile(control="root")
def make_a_raw_socket_of_version_6(bait: Bait) -> str:
    return make(socket.AF_INET6, socket.SOCK_RAW, 58)


@hostile(control="root")
def make_a_packet_socket(bait: Bait) -> str:
    return make(socket.AF_PACKET, socket.SOCK_RAW, 768)


@hostile()
def make_a_virtual_machine_socket(bait: Bait) -> str:
    return make(socket.AF_VSOCK, socket.SOCK_STREAM)


@hostile(profiles=OFFLINE)
def make_an_internet_socket(bait: Bait) -> str:
    return make(socket.AF_INET, socket.SOCK_STREAM)


@hostile(profiles=OFFLINE)
def make_an_internet_socket_of_version_6(bait: Bait) -> str:
    return make(socket.AF_INET6, socket.SOCK_DGRAM)


@hostile(profiles=OFFLINE)
def make_a_unix_socket(bait: Bait) -> str:
    return make(socket.AF_UNIX, socket.SOCK_STREAM)


@hostile()
def make_other_sockets(bait: Bait) -> str:
    """Every other family and the protocols of netlink that this kernel has."""
    usual, made = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}, []
    for family in set(range(1, 46)) - usual:
        for kind in (1, 2, 3, 5):
            for protocol in (0, 4, 9, 15, 16, 21) if family == socket.AF_NETLINK else (0,):
                with contextlib.suppress(OSError):
                    made.append(make(family, kind, protocol))
    return taken(made, str(made), "none")


@hostile()
def hide_the_family_in_high_bits(bait: Bait) -> str:
    """The family is an int: the upper half of the register means nothing to the kernel."""
    return str(syscall(41, 0x1_0000_0000 + socket.AF_NETLINK, 3, 0))


@hostile()
def list_the_interfaces(bait: Bait) -> str:
    names = {name for _, name in socket.if_nameindex()} - {"lo"}
    return taken(names, str(names), "only lo")


@hostile()
def list_the_interfaces_by_file(bait: Bait) -> str:
    text = slurp("/proc/net/dev").decode() + slurp("/proc/self/net/dev").decode()
    return taken("svt0" in text, "svt0", "only lo")


@hostile()
def read_the_network_counters(bait: Bait) -> str:
    """The host's ports and peers: a table of its own namespace says nothing of them."""
    port = f"{bait.number('port'):04X}"
    return taken(port in slurp("/proc/net/tcp").decode(), "the listener is listed", "no listener")


@hostile()
def listen_to_hardware_events(bait: Bait) -> str:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as events:
        events.bind((0, 1))
        return "bound to uevents"


@hostile(control="root")
def set_up_an_interface(bait: Bait) -> str:
    """A new address on the guest's own loopback: harmless there, but the capability is not."""
    request = struct.pack("16sHHI8x", b"lo", socket.AF_INET, 0, 0x0101017F)
    buffer = ctypes.create_string_buffer(request, 40)
    with socket.socket() as control:
        syscall(16, control.fileno(), 0x8916, address(buffer))
    return "address set"


@hostile(profiles=SCOPE, control="root")
def bind_a_name_for_the_host(bait: Bait) -> str:
    """A Unix socket left in the writable folder, set up so that everybody may connect."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{bait.text('scope')}/for-the-host")
        os.chmod(f"{bait.text('scope')}/for-the-host", 0o6777)
    return "bound, with set-uid bits"


def bait(place: Place) -> Values:
    arena = place.arena
    offer(arena)
    return {
        "port": PORT,
        "metadata": METADATA,
        "resolver": RESOLVER,
        "public": PUBLIC,
        "private": PRIVATE,
        "local6": LOCAL6,
        "scope": place.scope,
    }


def offer(arena: Arena) -> None:
    """The namespace, its addresses and the listeners; once."""
    if arena.network:
        return
    # one process may have two arenas: the escape tests', and the integration tests'
    name = arena.base.name
    ip(f"netns add {name}")
    arena.stack.callback(ip, f"netns del {name}")
    ip(f"-n {name} link set lo up")
    ip(f"-n {name} link add svt0 type veth peer name svt1")
    for host in (METADATA, RESOLVER, PUBLIC, PRIVATE):
        ip(f"-n {name} addr add {host}/32 dev lo")
    ip(f"-n {name} addr add {LOCAL6}/128 dev lo nodad")
    arena.network = f"/run/netns/{name}"
    usual = [f"{host}@{PORT}" for host in ("0.0.0.0", "::1", LOCAL6)]
    special = [f"{METADATA}@80", f"{RESOLVER}@53"]
    arena.companion("network", [*arena.within("root"), *PYTHON, "-c", OFFER, *usual, *special], "root")


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, timeout=20)


BATCH = Batch.of(globals(), helpers=(dial, ask, make), bait=bait, networked=True)


def test_the_network_is_out_of_reach(case: Case, arena: Arena) -> None:
    assert_held(arena, case)


LISTEN = """
import socket, sys
with socket.create_server(("0.0.0.0", 8472)) as listener:
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_listener_inside_is_not_reached_from_outside(arena: Arena, mode: str) -> None:
    """Its loopback is its own in this direction, too. (The strict profiles have no such sockets at all.)"""
    offer(arena)
    client = [*PYTHON, "-c", "import socket; print(socket.create_connection(('127.0.0.1', 8472), 5).fileno())"]
    listener = [*PYTHON, "-c", LISTEN]
    for argv, reached in ((listener, True), (arena.command("ci-runner", mode, listener), False)):
        more = arena.environment(mode)
        server = arena.start([*arena.within(mode), *argv], "root", stdin=subprocess.PIPE, extra_env=more)
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        done = arena.feed(client, "root", "", True)
        arena.finish(server)
        assert (done.returncode == 0) is reached, done.stdout + done.stderr
