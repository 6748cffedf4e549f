"""Which process of several a call gets, and what that is told of its client.

Runs unprivileged. Nothing here starts one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.proxy import eras, message
from supervisor.proxy.instance import Hello
from supervisor.proxy.servers import NOBODY, Key, Server, usable

if TYPE_CHECKING:
    from supervisor.proxy.calls import Call
    from supervisor.proxy.conversation import Conversation


def vacant(server: Server, key: Key) -> Key:
    """The place of the first process that takes another call, or of none yet."""
    place, number = key, 1
    while (found := server.instances.get(place)) and usable(found) and not found.vacant:
        place, number = (*key, number), number + 1
    return place


def hello(to: Conversation, call: Call, server: Server, owner: Conversation | None) -> Hello:
    """What a legacy process hears of its client."""
    lists = server.manifest.era(modern=False)
    version = lists.version if lists.version in eras.LEGACY else eras.LEGACY[-1]
    if owner:
        to.hello.version = version
        return to.hello
    if call.modern and server.settings.session.share != "server":
        meta = call.meta or {}
        return Hello(version, meta.get(eras.CAPABILITIES, message.EMPTY), meta.get(eras.CLIENT, NOBODY))
    return Hello(version, message.EMPTY, NOBODY)
