"""What a host's monitor tells, as a record of the audit log.

Pure; runs in the keeper; standard library only. The monitor says what has happened and knows nothing of the form.
"""

from __future__ import annotations

import os
import time

from supervisor import wire
from supervisor.audit import chain, schema

_MOST = 16 * 1024


def message(number: int, told: wire.Message) -> bytes:
    """The message for the ledger (see audit/peers.py): `told` has what, uid, server, session, spec and details."""
    what, call = str(told["what"])[:200], f"monitor-{os.getppid()}-{number}"
    details = told["details"]
    if len(chain.canonical(details)) > _MOST:
        details = {"truncated": chain.canonical(details)[: _MOST - 64].decode()}
    record = {
        "activity_id": 99,
        "actor": {
            "app_name": "monitor",
            "session": {"uid": f"{os.getppid()}-{told['session']}"},
            "user": {"uid": f"uid:{told['uid']}"},
        },
        "api": {"operation": what, "request": {"uid": call}, "service": {"name": str(told["server"])}},
        "category_uid": schema.CATEGORY,
        "class_uid": schema.CLASS,
        "message": what,
        "metadata": {
            "correlation_uid": call,
            "event_code": what,
            "product": {"name": "supervisor", "vendor_name": "supervisor"},
            "profiles": [schema.PROFILE],
            "uid": call,
            "version": schema.VERSION,
        },
        "severity_id": 1,
        "src_endpoint": {"svc_name": "monitor"},
        "time": time.time_ns() // 1_000_000,
        "type_uid": schema.CLASS * 100 + 99,
        "unmapped": {"details": details, "spec": str(told["spec"])},
    }
    return b'{"id":%d,"kind":"event","policy":"process","record":%b}' % (number, chain.canonical(record))
