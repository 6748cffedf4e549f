"""What `supervisor call` writes down of its one call, without an event loop.

Runs unprivileged. The call is made when its intent is written; Unrecorded says why it is not, and what to do.
"""

from __future__ import annotations

import asyncio
import json
import os
import time

from supervisor.audit import record
from supervisor.audit.client import Plain, Unrecorded
from supervisor.audit.record import Answer, Opened, Seen, Touched
from supervisor.errors import SessionLost, SupervisorError
from supervisor.proxy import client, recording
from supervisor.proxy.gate import Audited
from supervisor.proxy.hosts import Hosts
from supervisor.proxy.touched import PATIENCE, Watch

_SECONDS = 20.0


def call(session: client.Client, asked: client.Json, audited: Audited) -> client.Json:
    """The result of one tools/call, written down before and after."""
    hosts = Hosts()
    session.link.reached = hosts.add
    about = record.Call(audited.context("supervisor"), f"{os.urandom(6).hex()}-1", str(asked["name"]))
    ledger = _intended(audited, record.intent(about, json.dumps(asked["arguments"]).encode()))
    # what it opened to start is no call's
    _opened(audited.opened.files)
    began = time.monotonic()
    answer = Answer("lost")
    try:
        result = session.request("tools/call", asked)
        content = json.dumps(result).encode()
        answer = Answer("failed" if result.get("isError") is True else "ok", content=content)
        return result
    except SupervisorError as error:
        answer = Answer("lost" if isinstance(error, SessionLost) else "failed", message=str(error))
        raise
    finally:
        took = int((time.monotonic() - began) * 1_000_000)
        if audited.opened.reaches:
            # what was reached is told by the broker, over the monitor, after the server has answered
            time.sleep(PATIENCE)
            session.link.catch_up()
        files, seen = _opened(audited.opened.files)
        hit = recording.limits(answer.message)
        touched = Touched(files, hosts.listed(), limits=hit, seen=seen, more=hosts.more)
        ledger.tell(b"outcome", record.outcome(about, took, answer, touched))


def _opened(fd: int) -> tuple[list[Opened], Seen]:
    """What was opened since this was asked last."""
    if fd < 0:
        return [], "none"

    async def ask() -> tuple[list[Opened], bool]:
        watch = Watch(os.dup(fd))
        try:
            return await watch.since()
        finally:
            watch.close()

    files, complete = asyncio.run(ask())
    return files, "all" if complete else "part"


def _intended(audited: Audited, written: bytes) -> Plain:
    """The ledger that has taken the intent. The keeper starts it anew, or says why it cannot be."""
    problem = ""
    for way in (audited.way, audited.way._replace(sock=None)):
        try:
            ledger = Plain(recording.connection(way, _SECONDS), _SECONDS)
            ledger.tell(b"intent", written)
        except Unrecorded as error:
            problem = str(error)
        else:
            return ledger
    raise SupervisorError(f"{problem} ({audited.way.where}); mend that and call again")
