"""Pinning: a server is started once, asked for everything it lists, and shown to whoever reviews it.

Runs unprivileged: these are a stranger's words. What is shown cannot act on a terminal, and text that hides is
named.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import textwrap
from collections.abc import Iterator

import msgspec

from supervisor.errors import SupervisorError
from supervisor.proxy import eras, manifests, message
from supervisor.proxy.channel import Channel
from supervisor.proxy.instance import Hello, Instance
from supervisor.proxy.journal import Journal
from supervisor.proxy.link import Exited
from supervisor.proxy.manifests import KINDS, Lists, Manifest
from supervisor.proxy.servers import FULL, NOBODY
from supervisor.shown import printable

# how long a server may be silent on the first request of an era that it does not know
_PROBE = 5.0
# characters: of an item's line, of a text in full, and from how many on a text is shown though it is one word
_SHOWN, _FULL, _WORD, _WIDE = 100, 4000, 40, 100


class Pinning:
    """One server, started once for each era."""

    def __init__(self, channel: Channel, name: str, journal: Journal) -> None:
        self.channel, self.name, self.journal = channel, name, journal
        self.spec = ""
        self._instance: Instance | None = None
        channel.ended = self._ended
        channel.lost = lambda: self._ended(None)

    def _ended(self, ended: Exited | None) -> None:
        if self._instance and not self._instance.ended.done():
            self._instance.ended.set_result(ended)

    async def run(self) -> Manifest:
        """The manifest; SupervisorError when the server answers in neither era."""
        found: dict[str, Lists] = {}
        reasons: dict[str, str] = {}
        for era in ("modern", "legacy"):
            try:
                found[era] = await self._era(modern=era == "modern")
            except (SupervisorError, TimeoutError) as error:
                reasons[era] = str(error) or "no answer in time"
        if not found:
            # what both are told has nothing to do with an era
            each = [f"{era}: {reason}" for era, reason in reasons.items()]
            said = each if len({*reasons.values()}) > 1 else [reasons["legacy"]]
            raise SupervisorError(f'server "{self.name}" could not be pinned: {"; ".join(said)}')
        first = found.get("legacy") or found["modern"]
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return Manifest(manifests.FORMAT, self.name, now, self.spec, found, manifests.digests(first))

    async def _era(self, *, modern: bool) -> Lists:
        instance = Instance(self.name, self.channel, modern=modern, hello=Hello(eras.LEGACY[-1], FULL, NOBODY))
        instance.stderr = lambda line, loud: self.journal.add(self.name, line, loud)
        self._instance = instance
        opened = await instance.open()
        self.spec = opened.spec
        over = asyncio.create_task(instance.over())
        try:
            await instance.connect(opened)
            async with asyncio.timeout(_PROBE if modern else opened.start):
                handshake = await instance.shake()
            if modern and not _speaks(handshake):
                raise SupervisorError("it does not speak a revision that this gateway knows")
            async with asyncio.timeout(opened.start):
                lists = await instance.lists(handshake)
            lists.check()
        finally:
            instance.end("pinned")
            await over
        return lists


def _speaks(handshake: msgspec.Raw) -> bool:
    table = message.fields(handshake) or {}
    return any(message.text(each) in eras.MODERN for each in message.items(table.get("supportedVersions")))


def review(made: Manifest, old: Manifest | None) -> Iterator[str]:
    """The account of a manifest, line by line: every item, what hides in it, what has changed since the last."""
    versions = ", ".join(f"{era} ({printable(lists.version)})" for era, lists in made.eras.items())
    yield f"{made.server}: {versions}"
    for handshake in dict.fromkeys(bytes(each.handshake) for each in made.eras.values()):
        yield from _read(msgspec.Raw(handshake), "")
    lists = made.era(modern=False)
    for kind in KINDS:
        for name, item in lists.items(kind).items():
            said = _summary(item)
            yield f"  {kind[:-1]:9} {printable(name):32} {made.digests[kind][name][:12]}  {said}"
            yield from _read(item, said)
    for era, others in made.eras.items():
        # what only clients of the other era see
        yield from _told(manifests.changes(lists, others), f"IN THE {era.upper()} ERA ")
    for each in flagged(made):
        yield f"  ATTENTION {each}"
    if old is not None:
        found = [
            each
            for era in made.eras
            if era in old.eras
            for each in manifests.changes(old.eras[era], made.eras[era])
        ]
        yield from _told(found, "")
        if not found and old.eras.keys() == made.eras.keys():
            yield f"  nothing has changed since {old.pinned}"


def _read(item: msgspec.Raw, shown: str) -> Iterator[str]:
    """Every text that a model reads as such, in full: what is not shown nobody has reviewed. `shown` has been."""
    for where, text in manifests.texts(item):
        line = printable(" ".join(text.split()))
        if line == shown or (len(line) <= _WORD and " " not in line):
            continue
        yield f"      {printable(where)}:"
        yield from (f"        {each}" for each in textwrap.wrap(line[:_FULL], _WIDE))
        if len(line) > _FULL:
            yield f"        ATTENTION {len(line) - _FULL} more characters, which are not shown here"


def _told(found: list[manifests.Change], where: str) -> Iterator[str]:
    for change in found:
        yield f"  {where}{change.how.upper()} {change.kind[:-1]} {json.dumps(change.name)}"
        yield from (f"    {line}" for line in change.diff.splitlines())


def _summary(item: msgspec.Raw) -> str:
    table = message.fields(item) or {}
    said = message.text(table.get("description")) or message.text(table.get("title")) or ""
    line = printable(" ".join(said.split()))
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def flagged(made: Manifest) -> Iterator[str]:
    """Every text that tries not to be seen, or to be taken for somebody else's; by item and member."""
    for lists in made.eras.values():
        for why in manifests.hidden(lists.handshake):
            yield f"its own description: {why}"
        for kind in KINDS:
            for name, item in lists.items(kind).items():
                for why in manifests.hidden(item):
                    yield f"{kind[:-1]} {json.dumps(name)}: {why}"
