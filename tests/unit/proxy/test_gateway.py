"""What several clients have in common: new configurations, the monitor's end, and words that are nobody's."""

from __future__ import annotations

import asyncio
import json

import pytest

from supervisor.proxy import envelope, gateway, message
from tests.unit.proxy.puppet import LISTED, TOOLS, Json, Puppet
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Client, World, code, modern, puppet, said, small, world

CALL = {"name": "p__one"}


async def under_way(it: World, client: Client, params: Json | None = None) -> tuple[int, Puppet, Json]:
    number = client.ask("tools/call", params or CALL)
    server = await it.greeted()
    return number, server, await server.until("tools/call")


def note(method: str, **params: object) -> Json:
    return {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params}


@scene
async def test_a_call_in_flight_when_the_configuration_changes_is_answered_by_the_old_process() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        number, server, asked = await under_way(it, client)
        old = it.gateway.servers["p"]
        it.stand.servers["p"].settings = {"tools": {"deny": [["two", "f:1"]]}}
        assert await it.gateway.load() == []
        assert it.gateway.servers["p"] is not old
        assert code(await client.request("tools/call", {"name": "p__two"})) == message.NOT_ALLOWED
        server.answer(asked, {"old": 1})
        assert (await client.answer(number))["result"] == {"old": 1}
        await it.until(lambda: server.killed and not it.gateway._retired)
        _, again, _ = await under_way(it, client)
        assert again is not server


@pytest.mark.parametrize("stage", ["held", "started", "under way"])
@scene
async def test_a_call_that_outlasts_the_change_is_told(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.proxy.servers._DRAIN", 0.05)
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        if stage == "held":
            it.stand.held.clear()
        number = client.ask("tools/call", CALL)
        if stage == "started":
            await it.puppet()
        elif stage == "under way":
            await (await it.greeted()).until("tools/call")
        if stage == "started":
            it.stand.servers["p"].settings = {"summary": "new"}
        else:
            del it.stand.servers["p"]
        await it.gateway.load()
        await asyncio.sleep(0.1)
        it.stand.held.set()
        answer = await client.answer(number)
        assert code(answer) in (envelope.SERVER_ENDED, envelope.SERVER_SILENT)
        assert "its configuration has changed" in said(answer)
        await it.until(lambda: not it.gateway._retired and not it.stand.living)
        assert client.talk.instances == set()


@scene
async def test_processes_of_what_has_not_changed_live_on() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client = await it.legacy()
        number, server, asked = await under_way(it, client)
        kept = it.gateway.servers["p"]
        it.stand.servers["q"].settings = {"summary": "new"}
        await asyncio.gather(it.gateway.load(), it.gateway.load(), it.gateway.load())
        assert it.gateway.servers["p"] is kept
        assert it.gateway.servers["q"].settings.summary == "new"
        server.answer(asked, {})
        assert "result" in await client.answer(number)
        assert not server.killed


@scene
async def test_a_configuration_that_cannot_be_read_is_told_and_the_others_are_served() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client = await it.legacy()
        it.stand.servers["p"].settings = {"nonsense": 1}
        it.stand.servers["r"] = small()
        problems = await it.gateway.load()
        assert len(problems) == 2
        assert 'server "p"' in problems[0]
        assert "supervisor pin r" in problems[1]
        names = [each["name"] for each in (await client.request("tools/list"))["result"]["tools"]]
        assert names == ["q__one", "q__two"]
        it.stand.servers["p"].settings = {}
        assert len(await it.gateway.load()) == 1
        assert "p" in it.gateway.servers


@scene
async def test_clients_hear_that_the_configuration_has_changed() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        it.stand.servers["q"] = puppet()
        it.stand.reloaded()
        methods = {(await client.next())["method"] for _ in range(3)}
        assert methods == {f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")}
        it.stand.reloaded()
        assert (await client.request("ping"))["result"] == {}
        assert client.waiting() == 0


@scene
async def test_the_end_of_the_monitor_is_told_to_every_call() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client = await it.legacy()
        number, server, _ = await under_way(it, client)
        starting = client.ask("tools/call", {"name": "q__one"})
        await it.puppet()
        it.stand.lost()
        for each in list(it.stand.living.values()):
            each.exit(-9)
        for each_number in (number, starting):
            assert "the supervisor's monitor ended" in said(await client.answer(each_number))
        assert server


@scene
async def test_a_name_as_long_as_its_client_likes_is_no_label() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        client.ask("resources/read", {"uri": "mem://t/" + "x" * 5000})
        server = await it.greeted()
        server.answer(await server.next(), {})
        await client.next()
        assert it.meter.counted[-1] == ("called", "p", "resources/read", "ok")


@scene
async def test_a_log_message_goes_to_the_call_that_wants_it() -> None:
    async with world({"p": puppet("modern")}) as it:
        quiet, loud = it.client(), it.client()
        params = modern(CALL)
        assert isinstance(params["_meta"], dict)
        quiet.ask("tools/call", params)
        server = await it.greeted()
        await server.next()
        params["_meta"]["io.modelcontextprotocol/logLevel"] = "warning"
        loud.ask("tools/call", params)
        await server.next()
        for level in ("debug", "error"):
            server.send(note("message", level=level, data="x", n=1.5))
        assert await loud.next() == note("message", level="error", data="x", n=1.5)
        assert quiet.waiting() == loud.waiting() == 0


@scene
async def test_a_legacy_client_gets_every_log_message_of_its_own_process() -> None:
    async with world({"p": puppet()}) as it:
        client, other = await it.legacy(), await it.legacy()
        number, server, asked = await under_way(it, client)
        server.answer(asked, {})
        await client.answer(number)
        for level in ("debug", "nonsense"):
            server.send(note("message", level=level))
            assert await client.next() == note("message", level=level)
        assert other.waiting() == 0


PRIVATE = [
    note("message", level="error", data="a secret of somebody's"),
    note("vendor/news", secret=1),
    note("elicitation/complete", elicitationId="x"),
    note("tasks/status", taskId="t"),
]


@scene
async def test_what_cannot_be_attributed_in_a_process_of_several_people_is_told_to_nobody() -> None:
    async with world({"p": puppet("modern", session={"share": "server"})}) as it:
        first, second = await it.legacy(), await it.legacy(name="uid:2")
        number, server, asked = await under_way(it, first)
        for each in PRIVATE:
            server.send(each)
            assert await first.next() == each
        server.answer(asked, {})
        await first.answer(number)
        number = second.ask("tools/call", CALL)
        asked = await server.next()
        for each in PRIVATE:
            server.send(each)
        server.answer(asked, {})
        assert (await second.next())["id"] == number
        assert first.waiting() == second.waiting() == 0


@scene
async def test_our_own_subscriptions_are_not_acknowledged_to_clients() -> None:
    async with world({"p": puppet("modern")}) as it:
        client = await it.legacy()
        _, server, asked = await under_way(it, client)
        server.send(note("subscriptions/acknowledged", notifications={}))
        server.answer(asked, {})
        assert "result" in await client.next()


async def relist(server: Puppet, tools: object = TOOLS) -> None:
    for _ in LISTED:
        asked = await server.next()
        server.answer(asked, LISTED[asked["method"]] | ({"tools": tools} if "tools" in asked["method"] else {}))


@scene
async def test_a_list_that_has_changed_is_told_only_if_it_is_as_it_was_pinned() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        number, server, _ = await under_way(it, client)
        server.send(note("tools/list_changed"))
        await relist(server)
        assert await client.next() == note("tools/list_changed")
        await asyncio.sleep(0)
        it.gateway._changed.clear()
        server.send(note("tools/list_changed"))
        await relist(server, [*TOOLS, {"name": "three"}])
        answer = await client.answer(number)
        assert code(answer) == envelope.SERVER_ENDED
        assert 'tool "three" added since it was pinned' in said(answer)
        assert it.gateway.servers["p"].state == "DEGRADED"
        assert "supervisor pin p" in said(await client.request("tools/call", CALL))


@scene
async def test_a_server_that_says_again_and_again_that_its_lists_have_changed_is_checked_once_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway, "_BREATH", 0.02)
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        _, server, _ = await under_way(it, client)
        await server.pour((json.dumps(note("tools/list_changed")).encode() + b"\n") * 5000)
        before = len(asyncio.all_tasks())
        await relist(server)
        await relist(server)
        assert before < 20
        assert [(await client.next())["method"] for _ in range(2)] == ["notifications/tools/list_changed"] * 2
        await it.until(lambda: not it.gateway._changed)
        assert client.waiting() == 0


@scene
async def test_a_list_that_changes_while_its_server_starts_is_looked_at_again() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        client.ask("tools/call", CALL)
        server = await it.puppet()
        server.send(note("tools/list_changed"))
        await server.greet()
        seen = {(await server.next())["method"] for _ in range(5)}
        assert seen == {"tools/call", *LISTED}


@scene
async def test_a_server_whose_lists_cannot_be_compared_is_not_used() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        number = client.ask("tools/call", CALL)
        server = await it.puppet()
        hello = await server.next()
        server.answer(hello, {"capabilities": {"tools": {}}})
        asked = await server.until("tools/list")
        deep = '{"tools":[{"name":"one","x":' + "9" * 5000 + "}]}"
        await server.pour(b'{"jsonrpc":"2.0","id":%d,"result":%s}\n' % (asked["id"], deep.encode()))
        assert "too deep" in said(await client.answer(number))


@scene
async def test_what_a_session_was_not_let_reach_is_in_its_journal() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        await under_way(it, client)
        it.stand.refused(1, "egress: example.com:443: not allowed")
        it.stand.refused(99, "nobody's")
        assert it.gateway.journal.lines("p") == [b"(egress: example.com:443: not allowed)"]


@scene
async def test_one_server_alone_is_all_that_is_asked_for() -> None:
    async with world({"p": puppet(), "q": puppet()}, only="q") as it:
        assert list(it.gateway.servers) == ["q"]
        client = await it.legacy()
        names = [each["name"] for each in (await client.request("tools/list"))["result"]["tools"]]
        assert names == ["one", "two"]
