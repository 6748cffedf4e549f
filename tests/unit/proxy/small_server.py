"""A small MCP server without the SDK, of either era or both: what it is asked for, it does.

Words: `legacy`, `modern` (both by default), `tool=NAME` for one tool more, `crash` to end during its first call.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

Json = dict[str, Any]
WORDS = sys.argv[1:]
LEGACY = "modern" not in WORDS
MODERN = "legacy" not in WORDS
CAPABILITIES = {"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "completions": {}, "logging": {}}
INFO = {"name": "small", "version": "1", "x-vendor": True}
KEY = "io.modelcontextprotocol/"
TOOLS = ["echo", "ask", "wait", "exit", "progress", "log", "touch"] + [
    w[5:] for w in WORDS if w.startswith("tool=")
]
PLAIN = (
    "ping",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/get",
    "completion/complete",
    "resources/read",
)
waiting: dict[object, Json] = {}
levels: list[str] = []


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def answer(request: Json, result: Json) -> None:
    if KEY + "protocolVersion" in (request.get("params") or {}).get("_meta", {}):
        result = {"resultType": "complete", **result, "_meta": {KEY + "serverInfo": INFO}}
        if "list" in request["method"] or request["method"] == "server/discover":
            result |= {"ttlMs": 5, "cacheScope": "public"}
    say({"jsonrpc": "2.0", "id": request["id"], "result": result, "x-top": 1})


def fail(request: Json, code: int, text: str) -> None:
    say({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": text, "data": {"m": 1}}})


def call(request: Json) -> None:
    params = request["params"]
    name, arguments = params["name"], params.get("arguments", {})
    modern = KEY + "protocolVersion" in params.get("_meta", {})
    if name == "echo" or name not in TOOLS:
        answer(request, {"content": [{"type": "text", "text": json.dumps(params)}], "structuredContent": 1.50})
    elif name == "exit":
        os._exit(int(arguments.get("status", 3)))
    elif name == "progress":
        token = params["_meta"]["progressToken"]
        note = {"progressToken": token, "progress": 1, "x": 1}
        say({"jsonrpc": "2.0", "method": "notifications/progress", "params": note})
        answer(request, {"content": []})
    elif name == "log":
        say({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": levels}})
        answer(request, {"content": []})
    elif name == "touch":
        say({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "mem://a"}})
        answer(request, {"content": []})
    elif name == "ask" and modern:
        if "inputResponses" in params:
            answer(request, {"content": [], "got": params["inputResponses"], "state": params.get("requestState")})
        else:
            asked = {"q": {"method": "roots/list", "params": {}}}
            answer(request, {"resultType": "input_required", "inputRequests": asked, "requestState": "s-1"})
    elif name == "ask":
        waiting["ask-1"] = request
        say({"jsonrpc": "2.0", "id": "ask-1", "method": "roots/list", "params": {}})


def listed(method: str) -> Json | None:
    tools = [{"name": n, "description": f"does {n}", "inputSchema": {"type": "object"}} for n in TOOLS]
    found: dict[str, Json] = {
        "tools/list": {"tools": tools},
        "prompts/list": {"prompts": [{"name": "hello", "x-vendor": 1}]},
        "resources/list": {"resources": [{"uri": "mem://a", "name": "a"}]},
        "resources/templates/list": {"resourceTemplates": [{"uriTemplate": "mem://t/{x}", "name": "t"}]},
        "server/discover": {
            "supportedVersions": ["2026-07-28"],
            "capabilities": CAPABILITIES,
            "instructions": "be small",
        },
    }
    return found.get(method)


def handle(message: Json) -> None:
    method, params = message.get("method"), message.get("params") or {}
    modern = KEY + "protocolVersion" in params.get("_meta", {})
    if method is None:
        request = waiting.pop(message["id"], None)
        if request:
            answer(request, {"content": [], "got": message.get("result"), "error": message.get("error")})
    elif "id" not in message:
        if method == "notifications/cancelled":
            sys.stderr.write(f"cancelled {params['requestId']}\n")
            sys.stderr.flush()
    elif not (MODERN if modern else LEGACY) and method != "ping":
        fail(message, -32601, "Method not found")
    elif found := listed(method):
        answer(message, found)
    else:
        requested(message, method, params)


def requested(message: Json, method: str, params: Json) -> None:
    if method == "initialize":
        version = params["protocolVersion"]
        answer(message, {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": INFO})
    elif method == "tools/call":
        call(message)
    elif method == "logging/setLevel":
        levels.append(params["level"])
        answer(message, {})
    elif method == "subscriptions/listen":
        waiting[message["id"]] = message
    elif method in PLAIN:
        answer(message, {"params": params})
    else:
        fail(message, -32601, "Method not found")


for line in sys.stdin:
    handle(json.loads(line))
