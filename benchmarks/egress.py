"""What egress by name costs: a DNS answer, a TLS request, bulk, each beside a direct connection in the same run.

Run from a checkout as root, `python benchmarks/egress.py [--runs N]`: it makes the network namespaces of the tests.
The same program runs inside a sandbox and beside it; the name server and the web server are the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.escape.arena import make_arena
from tests.integration.outside import make_world

PROGRAM = """
import json, os, socket, ssl, struct, sys, time
runs = int(sys.argv[1])
server = open("/etc/resolv.conf").read().split()[1]
question = b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\7example\\4test\\0\\0\\1\\0\\1"
took = {"dns": [], "tls": [], "bulk": []}
ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); ask.connect((server, 53))
context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
address = socket.gethostbyname("example.test")
for _ in range(runs):
    began = time.perf_counter(); ask.send(question); ask.recv(999); took["dns"].append(time.perf_counter() - began)
for _ in range(runs // 4):
    began = time.perf_counter()
    raw = socket.create_connection((address, 443), 5); raw.setsockopt(6, 1, 1)
    with context.wrap_socket(raw, server_hostname="example.test") as sock:
        sock.sendall(b"GET / HTTP/1.1\\r\\nHost: example.test\\r\\n\\r\\n"); sock.recv(9999)
    took["tls"].append(time.perf_counter() - began)
    time.sleep(0.025)
buffer = bytearray(1 << 20)
for _ in range(3):
    with socket.create_connection((address, 80), 5) as sock:
        sock.sendall(b"GET /size/200000000 HTTP/1.1\\r\\nHost: example.test\\r\\n\\r\\n")
        began, got = time.perf_counter(), 0
        while got < 200000000: got += sock.recv_into(buffer)
        took["bulk"].append((time.perf_counter() - began))
print(json.dumps(took))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = str(parser.parse_args().runs)
    argv = ["/usr/bin/python3", "-I", "-c", PROGRAM, runs]
    with ExitStack() as stack:
        arena = make_arena(stack)
        world = make_world(arena, stack)
        for mode in ("root", "user"):
            direct = json.loads(world.outside(mode, argv).stdout)
            done = world.run(mode, ["example.test:443", "example.test:80"], argv, seconds=120)
            inside = json.loads(done.stdout)
            for what in ("dns", "tls", "bulk"):
                ours, theirs = (statistics.median(each[what]) for each in (inside, direct))
                unit = 0.2 if what == "bulk" else 0
                shown = [f"{unit / each:8.2f} GB/s" if unit else f"{each * 1e6:8.0f} us" for each in (ours, theirs)]
                print(f"{mode:5} {what:5} sandbox {shown[0]}  direct {shown[1]}  ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
