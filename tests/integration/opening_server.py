"""A server without the SDK that opens files, a thread for each call: `open` paths in a mode, wait, and answer."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

TOOLS = [{"name": "open", "inputSchema": {"type": "object", "properties": {"paths": {"type": "array"}}}}]
lock = threading.Lock()


def say(number: object, result: object) -> None:
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}) + "\n")
        sys.stdout.flush()


def call(number: object, arguments: dict[str, Any]) -> None:
    for path in arguments["paths"]:
        with open(path, arguments.get("mode", "r"), encoding="utf-8"):
            pass
    time.sleep(float(arguments.get("seconds", 0)))
    say(number, {"content": [{"type": "text", "text": "done"}]})


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        method, number = message.get("method"), message.get("id")
        if method == "initialize":
            info = {"name": "opening", "version": "1"}
            version = message["params"]["protocolVersion"]
            say(number, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
        elif method == "tools/list":
            say(number, {"tools": TOOLS})
        elif method == "tools/call":
            threading.Thread(target=call, args=(number, message["params"]["arguments"]), daemon=True).start()
        elif number is not None and method is not None:
            error = {"code": -32601, "message": "Method not found"}
            with lock:
                sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": number, "error": error}) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
