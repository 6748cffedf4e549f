"""`run`, `exec`, `call`: one server or command, through the host's daemon or a tree of processes of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from supervisor.cli import entry, personal
from supervisor.proxy import identity, pump
from supervisor.proxy.link import Link, Opened, connect
from supervisor.shown import printable

if TYPE_CHECKING:
    from supervisor.cli.keeper import Kept
    from supervisor.proxy import client
    from supervisor.proxy.gate import Audited


class Started:
    """A running session, and whatever must be taken down after it."""

    def __init__(self, link: Link, opened: Opened, tree: personal.Tree | None, audited: Audited | None) -> None:
        self.link = link
        self.opened = opened
        self.audited = audited
        self._tree = tree

    def close(self) -> None:
        """Hang up; in personal mode wait until everything is gone."""
        self.link.catch_up()
        if self._tree:
            self._tree.close()
        else:
            self.link.close()


def _refused(text: str) -> None:
    # names are what a server asked for: nothing a terminal would act on
    pump.note(printable(text))


def _start(
    options: argparse.Namespace,
    tree: personal.Tree | None,
    kept: Kept | None = None,
    refused: Callable[[str], None] = _refused,
) -> Started:
    """Greet the monitor and open; without a tree of our own, the host's daemon. Raises what planning raised.

    Whatever is to be imported has been imported by now: here privileges are given up.
    """
    who = f"uid:{os.getuid()}"
    if kept:
        from supervisor.proxy import gate
    try:
        link = Link(tree.monitor) if tree else connect(f"{entry.runtime_folder(options)}/proxy.sock")
        identity.drop()
        link.refused = refused
        greeting = link.hello()
        if kept:
            kept.begin(greeting.ledger)
        identity.confine(greeting.filter)
        opened = link.open(entry.NAME if tree else options.server)
        if kept is None:
            return Started(link, opened, tree, None)
        audited = gate.Audited(
            kept.way, opened, who, kept.groups, str(greeting.pid), options.server or opened.profile
        )
        return Started(link, opened, tree, audited)
    except BaseException:
        if tree:
            tree.close()
        raise


@contextlib.contextmanager
def _kept(options: argparse.Namespace, tree: personal.Tree | None) -> Iterator[Kept | None]:
    """Whoever keeps the audit log, unless the operator has accepted by name that nobody does."""
    if entry.AUDIT in entry.accepted(options):
        yield None
        return
    from supervisor.cli import keeper

    made = keeper.start(None if tree else f"{entry.runtime_folder(options)}/audit.sock")
    try:
        yield made
    finally:
        made.close()


def _account(options: argparse.Namespace, opened: Opened) -> None:
    missing = (*opened.accepted, *({entry.AUDIT} & {*entry.accepted(options)}))
    gaps = f", WITHOUT {', '.join(missing)}" if missing else ""
    if not options.quiet or gaps:
        where = "" if opened.runtime in ("", "native") else f", in {opened.runtime}"
        pump.note(f"profile {opened.profile}, spec {opened.spec[:12]}{where}{gaps}")
    for line in [] if options.quiet else opened.summary.splitlines():
        pump.note(line)
    if opened.files < 0 and not options.quiet:
        pump.note("not recorded: which files it opens (supervisor explain says why)")


def run(options: argparse.Namespace, tree: personal.Tree | None) -> int:
    """Relay MCP between our stdio and the server's."""
    # an event loop, which the other commands do not need
    from supervisor.proxy import relay

    with _kept(options, tree) as kept:
        started = _start(options, tree, kept)
        try:
            _account(options, started.opened)
            if os.isatty(0) and not options.quiet:
                pump.note("waiting for an MCP client on standard input; Ctrl-C ends it")
            return relay.run(started.link, started.opened, started.audited)
        finally:
            started.close()


def execute(
    options: argparse.Namespace, tree: personal.Tree | None, refused: Callable[[str], None] = _refused
) -> int:
    """Run a command on our stdio, byte for byte; `refused` hears of each host that it may not reach."""
    woken = pump.interruptible()
    try:
        started = _start(options, tree, refused=refused)
        try:
            _account(options, started.opened)
            return pump.attend(started.link, started.opened, woken)
        finally:
            started.close()
    except pump.Interrupted as interrupt:
        return 128 + interrupt.number


def call(options: argparse.Namespace, tree: personal.Tree | None) -> int:
    """One tool call. 0, or 1 when the tool says that it failed."""
    from supervisor.proxy import client, single  # noqa: F401 - what is imported now need not be opened later

    pump.interruptible()
    try:
        with _kept(options, tree) as kept:
            started = _start(options, tree, kept)
            try:
                _account(options, started.opened)
                pump.start_errors(started.opened)
                session = client.Client(started.link, started.opened, options.timeout)
                return _call(options, session, started.audited)
            finally:
                started.close()
    except pump.Interrupted as interrupt:
        return 128 + interrupt.number


def _call(options: argparse.Namespace, session: client.Client, audited: Audited | None) -> int:
    from supervisor.proxy import client, single

    session.initialize()
    if options.tool is None:
        return _list(options, session.tools())
    tool = client.find_tool(session.tools(), options.tool)
    arguments = client.arguments(options.arguments, tool.get("inputSchema"))
    asked: client.Json = {"name": options.tool, "arguments": arguments}
    result = single.call(session, asked, audited) if audited else session.request("tools/call", asked)
    if options.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _print(result)
    return 1 if result.get("isError") is True else 0


def _list(options: argparse.Namespace, tools: list[client.Json]) -> int:
    if options.json:
        print(json.dumps(tools, indent=2, ensure_ascii=False))
    for tool in [] if options.json else tools:
        said = str(tool.get("description") or tool.get("title") or "").strip().split("\n")[0]
        print(f"{printable(str(tool.get('name'))):24} {printable(said)}")
    return 0


def _print(result: client.Json) -> None:
    content = result.get("content")
    for block in content if isinstance(content, list) else []:
        if not isinstance(block, dict):
            continue
        if block.get("type") == "text":
            text = str(block.get("text"))
            if sys.stdout.isatty():
                # what a server says must not act on the terminal
                text = "".join(each if each in "\n\t" else printable(each) for each in text)
            print(text)
        else:
            size = len(str(block.get("data") or block.get("resource") or ""))
            print(f"[{printable(str(block.get('type')))}, {size} characters; --json shows it]")
