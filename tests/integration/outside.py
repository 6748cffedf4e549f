"""Two network namespaces with a cable between them: in one the product is started, in the other the world is.

Runs as root. Addresses are from documentation ranges, which the product takes for public ones; some that it must
never dial (private, metadata) are there as well, and answer.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.escape.arena import Arena, dismiss

INSIDE, WEB = "203.0.113.1", "203.0.113.10"
ELSEWHERE = ("198.51.100.7", "10.0.0.5", "169.254.169.254", "100.64.0.1", "168.63.129.16", "192.168.1.1")
SERVERS = Path(__file__).with_name("outside_servers.py")
CERTIFIED = ("example.test", "another.test", "forbidden.test", "*.wild.test", "a.b.wild.test", "db.test")
ZONE: dict[str, dict[str, list[str]]] = {
    **{name: {"A": [WEB]} for name in (*CERTIFIED, "one.wild.test", "xn--bcher-kva.test", "metadata.test")},
    "six.test": {"A": [WEB], "AAAA": ["2001:db8:1::10"]},
    "onlysix.test": {"AAAA": ["2001:db8:1::10"]},
    "slow.test": {"A": ["203.0.113.77", WEB]},
    "alias.test": {"CNAME": ["example.test"]},
    "many.test": {"A": [WEB] * 40},
    "dead.test": {"A": ["203.0.113.11"]},
    "tosix.test": {"AAAA": ["2002:a00:5::1"]},
    "private.test": {"A": ["10.0.0.5"]},
    "loopback.test": {"A": ["127.0.0.1"]},
    "link.test": {"A": ["169.254.169.254"]},
    "own.test": {"A": [INSIDE]},
    "mapped.test": {"AAAA": ["::ffff:10.0.0.5"]},
    "nat64.test": {"AAAA": ["64:ff9b::a00:5"]},
    "zero.test": {"A": ["0.0.0.0"]},
    "mixed.test": {"A": [WEB, "10.0.0.5"]},
    "hidden.test": {"CNAME": ["private.test"]},
    "inner.test": {"A": ["198.18.0.1"]},
    "chain.test": {"CNAME": ["link2.test"]},
    "link2.test": {"CNAME": ["link3.test"]},
    "link3.test": {"CNAME": ["private.test"]},
    "carrier.test": {"A": ["100.64.0.1"]},
    "cloud.test": {"A": ["168.63.129.16"]},
    "home.test": {"A": ["192.168.1.1"]},
    "unique.test": {"AAAA": ["fd00:ec2::254"]},
    "compatible.test": {"AAAA": ["::10.0.0.5"]},
    "teredo.test": {"AAAA": ["2001:0:a00:5::f5ff:fffa"]},
    # one of them each time
    "flip.test": {"TURN": [WEB, "10.0.0.5"]},
}
HTTP2 = """
const pem = require("fs").readFileSync(process.argv[1]);
require("http2").createSecureServer({key: pem, cert: pem}, (_, answer) => answer.end("served by http2"))
  .listen(9444, "203.0.113.10");
process.stdin.on("end", () => process.exit()).resume();
"""
ENTER = (
    'mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/hosts && mount --bind "$3" "$4" && cd "$5" && '
    'shift 5 && exec "$@"'
)
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, timeout=20)


class World:
    """Both namespaces and what runs in the outer one. `log` is what its servers saw."""

    def __init__(self, arena: Arena, stack: ExitStack) -> None:
        self.arena = arena
        self.log: list[str] = []
        token = secrets.token_hex(3)
        self.inner, self.outer = f"svtest-i{token}", f"svtest-o{token}"
        self.folder = arena.base / f"outside-{token}"
        self.folder.mkdir()
        self._cable(stack)
        self.authority = self._certificate()
        (self.folder / "resolv.conf").write_text("nameserver 203.0.113.53\n")
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n10.0.0.5 infile.test\n")
        self.control: dict[str, str] = {}
        self.trusted = False
        web = ["ip", "netns", "exec", self.outer, "/usr/bin/node", "-e", HTTP2, str(self.folder / "server.pem")]
        stack.callback(dismiss, self.popen(web, "root", stdin=subprocess.PIPE))
        servers = ["/usr/bin/python3", "-I", str(SERVERS), str(self.folder / "server.pem"), json.dumps(ZONE)]
        process = self.popen(["ip", "netns", "exec", self.outer, *servers], "root", stdin=subprocess.PIPE)
        stack.callback(dismiss, process)
        assert process.stdout
        ready = threading.Event()
        output = process.stdout

        def listen() -> None:
            for line in output:
                self.log.append(line.decode().strip())
                if self.log[-1] == "ready":
                    ready.set()

        threading.Thread(target=listen, daemon=True).start()
        assert ready.wait(20), process.poll()

    def _cable(self, stack: ExitStack) -> None:
        for name in (self.inner, self.outer):
            ip(f"netns add {name}")
            stack.callback(ip, f"netns del {name}")
            ip(f"-n {name} link set lo up")
        ip(f"-n {self.inner} link add sv0 type veth peer name sv1 netns {self.outer}")
        ip(f"-n {self.inner} addr add {INSIDE}/24 dev sv0")
        ip(f"-n {self.inner} addr add 2001:db8:1::1/64 dev sv0 nodad")
        ip(f"-n {self.inner} link set sv0 up")
        ip(f"-n {self.outer} link set sv1 up")
        for address in (f"{WEB}/24", "203.0.113.11/24", "203.0.113.53/24", "2001:db8:1::10/64"):
            ip(f"-n {self.outer} addr add {address} dev sv1{' nodad' if ':' in address else ''}")
        for address in (*(f"{each}/32" for each in ELSEWHERE), "2002:a00:5::1/128", "fd00:ec2::254/128"):
            ip(f"-n {self.outer} addr add {address} dev lo{' nodad' if ':' in address else ''}")
        ip(f"-n {self.inner} route add default via {WEB}")
        ip(f"-n {self.inner} -6 route add default via 2001:db8:1::10")

    def _certificate(self) -> Path:
        """A certificate authority of our own, and one certificate for every name."""
        names = ",".join(f"DNS:{name}" for name in (*CERTIFIED, *(set(ZONE) - set(CERTIFIED))))
        (self.folder / "names").write_text(f"subjectAltName={names},IP:{WEB}\n")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        commands = (
            ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=tests"],
            ["req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=example.test"],
            ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"],
        )
        commands[2].extend(["-days", "2", "-out", "server.crt", "-extfile", "names"])
        for command in commands:
            subprocess.run(["openssl", *command], cwd=self.folder, check=True, capture_output=True, timeout=20)
        both = (self.folder / "server.key").read_text() + (self.folder / "server.crt").read_text()
        (self.folder / "server.pem").write_text(both)
        (self.folder / "ca.pem").chmod(0o644)
        return self.folder / "ca.pem"

    def popen(
        self,
        argv: Sequence[str],
        mode: str,
        *,
        stdin: int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        return self.arena.start(
            argv, "root", stdin=stdin, extra_env={**self.arena.environment(mode), **(env or {})}
        )

    def within(self, mode: str, argv: Sequence[str]) -> list[str]:
        """The command as that caller, in the inner namespace, with its name server."""
        plot = self.arena.plots[mode]
        # not `ip netns exec`: that hides the cgroup file systems below /sys
        enter = ["/usr/bin/nsenter", f"--net=/run/netns/{self.inner}", "/usr/bin/unshare", "-m"]
        files = [str(self.folder / "resolv.conf"), str(self.folder / "hosts")]
        # the authority of the tests in the place of the host's, or the host's own
        files += [str(self.authority) if self.trusted else BUNDLE, BUNDLE, str(plot.home / "project")]
        become = ["setpriv", f"--reuid={plot.uid}", f"--regid={plot.gid}", "--clear-groups", "--"]
        return [*enter, "/bin/sh", "-c", ENTER, "sh", *files, *(become if mode == "user" else []), *argv]

    def command(
        self, mode: str, allow: Sequence[str], argv: Sequence[str | Path], *options: str, profile: str
    ) -> list[str]:
        """The command line that runs `argv` in a sandbox that knows the test's certificate authority."""
        head = [*self.arena.commands[mode], "exec", "-q", "--profile", profile, *self.arena.accept(mode)]
        trust = ["--ro", f"{self.authority}:/ca.pem"]
        trust += [f"--env={name}=/ca.pem" for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")]
        trust += [f"--env={name}=/ca.pem" for name in ("GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "PGSSLROOTCERT")]
        hosts = [f"--allow={each}" for each in allow]
        return self.within(mode, [*head, *hosts, *trust, *options, "--", *map(str, argv)])

    def run(
        self,
        mode: str,
        allow: Sequence[str],
        argv: Sequence[str | Path],
        *options: str,
        profile: str = "net-allowlist",
        text: str = "",
        seconds: float = 40,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a sandbox, to its end."""
        command = self.command(mode, allow, argv, *options, profile=profile)
        process = self.popen(command, mode, stdin=subprocess.PIPE)
        done = self.arena.finish(process, text=text, seconds=seconds)
        # what this host cannot give an ordinary user is always said, and is not these tests' business
        done.stderr = re.sub(r"^supervisor: profile .*\n", "", done.stderr, flags=re.M)
        return done

    def call(
        self, mode: str, allow: Sequence[str], argv: Sequence[str | Path], *words: str
    ) -> subprocess.CompletedProcess[str]:
        """Call a tool of an MCP server."""
        command = self.command(mode, allow, argv, profile="net-allowlist")
        verb = command.index("exec", command.index("--profile") - 2)
        command[verb : verb + 1] = ["call", *words]
        return self.arena.finish(self.popen(command, mode), seconds=40)

    def start(
        self,
        mode: str,
        allow: Sequence[str],
        argv: Sequence[str | Path],
        *options: str,
        profile: str = "net-allowlist",
    ) -> subprocess.Popen[bytes]:
        """Start a program in a sandbox."""
        return self.popen(self.command(mode, allow, argv, *options, profile=profile), mode, stdin=subprocess.PIPE)

    def outside(self, mode: str, argv: Sequence[str], *, text: str = "") -> subprocess.CompletedProcess[str]:
        """The control: the same caller in the same namespace, without a sandbox."""
        process = self.popen(
            self.within(mode, argv), mode, stdin=subprocess.PIPE, env={"SSL_CERT_FILE": str(self.authority)}
        )
        return self.arena.finish(process, text=text, seconds=60)

    def mark(self, since: int, *texts: str) -> int:
        """How many lines the log has, once these texts came since then: a server writes after its answer."""
        deadline = time.monotonic() + 10
        while not all(any(text in each for each in self.log[since:]) for text in texts):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.005)
        return len(self.log)

    def since(self, mark: int) -> list[str]:
        """What the servers saw since the log had `mark` lines; they have had time to say it."""
        time.sleep(0.05)
        return self.log[mark:]


def make_world(arena: Arena, stack: ExitStack) -> World:
    """Build it; `stack` takes it down."""
    assert os.geteuid() == 0, sys.platform
    return World(arena, stack)
