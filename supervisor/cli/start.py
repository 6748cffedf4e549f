"""`run`, `exec`, `call`: one server or command, through the host's daemon or a tree of processes of its own."""

from __future__ import annotations

import argparse
import json
import sys

from supervisor.cli import entry, personal
from supervisor.errors import ConfigError
from supervisor.proxy import client, pump
from supervisor.proxy.link import Link, Opened, connect


class Started:
    """A running session, and whatever must be taken down after it."""

    def __init__(self, link: Link, opened: Opened, tree: personal.Tree | None) -> None:
        self.link = link
        self.opened = opened
        self._tree = tree

    def close(self) -> None:
        """Hang up; in personal mode wait until everything is gone."""
        if self._tree:
            self._tree.close()
        else:
            self.link.close()


def _start(options: argparse.Namespace, tail: list[str], server: str | None) -> Started:
    if server is not None:
        if tail or options.profile:
            raise ConfigError(f'"{server}" is a registered server: --profile and a command do not go with it')
        link = connect(f"{entry.runtime_folder(options)}/proxy.sock")
        link.hello()
        return Started(link, link.open(server), None)
    tree = personal.start(entry.build(options, tail))
    try:
        return Started(tree.link, tree.link.open(entry.NAME), tree)
    except BaseException:
        tree.close()
        raise


def _account(options: argparse.Namespace, opened: Opened) -> None:
    if not options.quiet:
        for line in opened.summary.splitlines():
            pump.note(line)


def run(options: argparse.Namespace, tail: list[str]) -> int:
    """Relay MCP between our stdio and the server's."""
    # imported before privileges are given up
    from supervisor.proxy import relay

    started = _start(options, tail, options.server)
    try:
        _account(options, started.opened)
        return relay.run(started.link, started.opened)
    finally:
        started.close()


def execute(options: argparse.Namespace, tail: list[str]) -> int:
    """Run a command on our stdio, byte for byte."""
    if not tail:
        raise ConfigError("exec: name a command after --, as in: supervisor exec --profile ci-runner -- make test")
    pump.interruptible()
    try:
        started = _start(options, tail, None)
    except pump.Interrupted as interrupt:
        return 128 + interrupt.number
    try:
        _account(options, started.opened)
        return pump.attend(started.link, started.opened)
    finally:
        started.close()


def call(options: argparse.Namespace, tail: list[str]) -> int:
    """One tool call. 0, or 1 when the tool says that it failed."""
    pump.interruptible()
    try:
        started = _start(options, tail, options.server)
        try:
            _account(options, started.opened)
            limit = started.opened.stderr_limit
            pump.start(started.opened.stderr, 2, limit=limit, what="the server's standard error")
            return _call(options, client.Client(started.link, started.opened, options.timeout))
        finally:
            started.close()
    except pump.Interrupted as interrupt:
        return 128 + interrupt.number


def _call(options: argparse.Namespace, session: client.Client) -> int:
    session.initialize()
    tool = client.find_tool(session.tools(), options.tool)
    arguments = client.arguments(options.arguments, tool.get("inputSchema"))
    result = session.request("tools/call", {"name": options.tool, "arguments": arguments})
    if options.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _print(result)
    return 1 if result.get("isError") is True else 0


def _print(result: client.Json) -> None:
    content = result.get("content")
    for block in content if isinstance(content, list) else []:
        if not isinstance(block, dict):
            continue
        if block.get("type") == "text":
            text = str(block.get("text"))
            if sys.stdout.isatty():
                # what a server says must not act on the terminal
                text = "".join(each if each in "\n\t" else pump.printable(each) for each in text)
            print(text)
        else:
            size = len(str(block.get("data") or block.get("resource") or ""))
            print(f"[{pump.printable(str(block.get('type')))}, {size} characters; --json shows it]")
