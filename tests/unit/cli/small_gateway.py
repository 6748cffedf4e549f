"""A gateway in a process of its own, over the tests' stand: says "ready", does what its standard input says.

Lines: `write TEXT` (as if server "a" had written it), `talk` (one call); each is answered by "done".
"""

from __future__ import annotations

import asyncio
import os
import sys

from supervisor.proxy import control
from supervisor.proxy.control import Control
from supervisor.proxy.gateway import Gateway
from supervisor.proxy.journal import Journal
from tests.unit.proxy.stand import Client, Meter, Stand, pinned, small


async def main() -> None:
    stand = Stand(await pinned({"a": small("legacy")}))
    gateway = Gateway(stand, Meter(), Journal(quiet=True))
    await gateway.load()
    control_socket = control.bind()
    serving = asyncio.ensure_future(Control(gateway, owner=os.getuid(), monitor=0).serve(control_socket))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        word, _, rest = line.partition(" ")
        if word == "write":
            gateway.journal.add("a", rest.encode())
        else:
            client = Client(gateway)
            await client.initialize()
            await client.request("tools/call", {"name": "a__echo", "arguments": {}})
        print("done", flush=True)
    serving.cancel()
    await gateway.close()
    await stand.end()


if __name__ == "__main__":
    asyncio.run(main())
