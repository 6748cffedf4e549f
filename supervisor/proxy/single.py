"""What `supervisor call` writes down of its one call, without an event loop.

Runs unprivileged. The call is made when its intent is written; Unrecorded says why it is not, and what to do.
"""

from __future__ import annotations

import json
import os
import time

from supervisor.audit import record
from supervisor.audit.client import Plain, Unrecorded
from supervisor.audit.record import Answer, Reached, Touched
from supervisor.errors import SessionLost, SupervisorError
from supervisor.proxy import client, recording
from supervisor.proxy.gate import Audited
from supervisor.proxy.instance import PATIENCE

_SECONDS = 20.0


def call(session: client.Client, asked: client.Json, audited: Audited) -> client.Json:
    """The result of one tools/call, written down before and after."""
    hosts: list[Reached] = []
    session.link.reached = hosts.append
    about = record.Call(audited.context("supervisor"), f"{os.urandom(6).hex()}-1", str(asked["name"]))
    ledger = _ledger(audited)
    try:
        ledger.tell(b"intent", record.intent(about, json.dumps(asked["arguments"]).encode()))
    except Unrecorded as error:
        raise SupervisorError(f"{error} ({audited.way.where}); mend that and call again") from None
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
        touched = Touched((), tuple(hosts), limits=recording.limits(answer.message))
        ledger.tell(b"outcome", record.outcome(about, took, answer, touched))


def _ledger(audited: Audited) -> Plain:
    """A connection to it; the keeper makes one where there is none yet."""
    return Plain(recording.connection(audited.way, _SECONDS), _SECONDS)
