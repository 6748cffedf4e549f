"""A gateway on this process's standard streams over the stand: what the tests of the stdio front run.

Words: `count` writes, on standard error at the end, which functions of ours each turn of the loop has called;
`audit` has calls written down, as root in LOGS_DIRECTORY, `acknowledged` has a process that writes nothing say that
they are: the least that can cost; `command=FILE` is a server of its own for "a";
`governed` has policies say who may use what; `http=PORT` serves that on loopback instead, until a signal.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from types import CodeType, FrameType

import uvloop

from supervisor import wire
from supervisor.audit.record import Context
from supervisor.cli import keeper
from supervisor.profile.audit import ledger_filter
from supervisor.proxy import http_server
from supervisor.proxy.auditing import Audit
from supervisor.proxy.gateway import Gateway
from supervisor.proxy.http import Anybody, Front
from supervisor.proxy.http_headers import Headers, Visitors
from supervisor.proxy.journal import Journal
from supervisor.proxy.principal import Principal
from supervisor.proxy.recording import Recording, Way
from supervisor.proxy.stdio import Stdio
from tests.unit.proxy.stand import Entry, Meter, Stand, pinned, small
from tests.unit.roles.policies import policy


class Everybody(Anybody):
    """Whoever comes is the one that the policies know."""

    async def principal(self, headers: Headers, client: str, path: str) -> Principal:
        """See Authority."""
        return Principal("uid:1")


class Counted:
    """The calls of our own code in each turn: file and function in order, and how deep they went."""

    def __init__(self) -> None:
        self.turns: list[dict[str, object]] = []
        self._calls: list[str] = []
        self._depth = self._deepest = 0

    def event(self, frame: FrameType, event: str, _: object) -> None:
        """sys.setprofile's."""
        if not self._ours(frame.f_code):
            return
        if event == "call":
            self._depth += 1
            self._deepest = max(self._deepest, self._depth)
            file = frame.f_code.co_filename.rsplit("/", 1)[1]
            self._calls.append(f"{file}:{frame.f_code.co_qualname}")
        elif event == "return":
            self._depth -= 1
            if self._depth == 0:
                self.turns.append({"calls": self._calls, "deepest": self._deepest})
                self._calls, self._deepest = [], 0

    @staticmethod
    def _ours(code: CodeType) -> bool:
        return "/supervisor/" in code.co_filename


class Acknowledging:
    """What stands for the ledger, as the keeper does, when nothing is written."""

    def __init__(self) -> None:
        ours, theirs = wire.pair()
        keeper_of_none, self._other = wire.pair()
        self.way = Way(ours, keeper_of_none, "nowhere")
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            while message := theirs.recv(1 << 16):
                theirs.send(b'{"ok":[%b]}' % message[6 : message.index(b",")])
            os._exit(0)
        theirs.close()

    def begin(self, filter_: str) -> None:
        """It has begun."""

    def close(self) -> None:
        """It has heard that the gateway is gone."""
        os.waitpid(self._pid, 0)


async def main() -> int:
    given = [word[8:] for word in sys.argv if word.startswith("command=")]
    servers = await pinned({"a": Entry(given) if given else small(), "b": small("legacy")})
    kept = keeper.start(None) if "audit" in sys.argv else Acknowledging() if "acknowledged" in sys.argv else None
    if "governed" in sys.argv:
        servers["a"].policy = policy(
            "a", 'permit(principal == User::"one", action, resource);', accounts={1: "one"}
        )
    stand = Stand(servers)
    gateway = Gateway(stand, Meter(), Journal())
    await gateway.load()
    gateway.start()
    if kept:
        kept.begin(ledger_filter())
        recording = Recording(kept.way, Context("uid:1", "", "", ""))
        recording.start()
        gateway.audit = Audit(recording, "stdio", 1)
    ports = [word[5:] for word in sys.argv if word.startswith("http=")]
    counted = Counted()
    if "count" in sys.argv:
        sys.setprofile(counted.event)
    status = await (web(gateway, ports[0]) if ports else Stdio(gateway, Principal("uid:1")).run())
    sys.setprofile(None)
    await gateway.close()
    await stand.end()
    if kept:
        kept.close()
    if "count" in sys.argv:
        sys.stderr.write(json.dumps(counted.turns) + "\n")
    return status


async def web(gateway: Gateway, port: str) -> int:
    """The same over HTTP."""
    prepared = http_server.Prepared([http_server.bind(f"127.0.0.1:{port}")])
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, prepared.stop)
    front = Front(gateway, Everybody(), Visitors(), {})
    await prepared.serve(front)
    front.close()
    return 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
