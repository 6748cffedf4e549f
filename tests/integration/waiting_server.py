"""A server without the SDK that answers calls side by side: `wait` takes a while, `resolve` looks a name up.

`wait` says of itself that it destroys, so that its records must survive a loss of power.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from typing import Any

TOOLS = [
    {"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
    {"name": "wait", "inputSchema": {"type": "object"}, "annotations": {"destructiveHint": True}},
    {"name": "resolve", "inputSchema": {"type": "object"}},
    {"name": "forbidden", "inputSchema": {"type": "object"}},
]
lock = threading.Lock()


def say(number: object, result: object) -> None:
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}) + "\n")
        sys.stdout.flush()


def call(number: object, name: str, arguments: dict[str, Any]) -> None:
    text = "done"
    if name == "wait":
        time.sleep(float(arguments.get("seconds", 0.2)))
    elif name == "resolve":
        try:
            socket.create_connection((str(arguments["name"]), 443), 2).close()
        except OSError as error:
            text = str(error)
    say(number, {"content": [{"type": "text", "text": text}]})


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        method, number = message.get("method"), message.get("id")
        if method == "initialize":
            info = {"name": "waiting", "version": "1"}
            version = message["params"]["protocolVersion"]
            say(number, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
        elif method == "tools/list":
            say(number, {"tools": TOOLS})
        elif method == "tools/call":
            params = message["params"]
            argv = (number, params["name"], params.get("arguments", {}))
            threading.Thread(target=call, args=argv, daemon=True).start()
        elif number is not None and method is not None:
            with lock:
                error = {"code": -32601, "message": "Method not found"}
                sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": number, "error": error}) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
