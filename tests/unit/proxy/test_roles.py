"""Policies in the gateway: each principal has its own lists, calls are judged, and a new policy holds at once."""

from __future__ import annotations

import json

from supervisor.proxy import message
from tests.unit.proxy.puppet import LISTED
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Client, Entry, World, code, modern, puppet, said, world
from tests.unit.roles.policies import policy

TEXT = {"type": "object", "properties": {"path": {"type": "string"}}}
LISTS = LISTED | {"tools/list": {"tools": [{"name": each, "inputSchema": TEXT} for each in ("one", "two")]}}
RULES = """
@id("all") permit(principal == User::"uid:1", action, resource);
@id("one") permit(principal == User::"uid:2", action in Action::"use", resource == Tool::"p/one");
@id("path") forbid(principal, action == Action::"call", resource)
when { context.text has path && context.text.path like "/etc/*" };
@id("ci") permit(principal in Group::"token:build", action in Action::"use", resource == Prompt::"p/hello");
"""


def governed(text: str = RULES) -> Entry:
    made = puppet(lists=LISTS)
    made.policy = policy("p", text)
    return made


async def names(client: Client, kind: str = "tools") -> set[str]:
    found = (await client.request(f"{kind}/list"))["result"][kind]
    return {each.get("name") or each["uri"] for each in found}


async def call(it: World, client: Client, tool: str, **given: object) -> object:
    """The error of a call, or None when the server got it."""
    number = client.ask("tools/call", {"name": f"p__{tool}", "arguments": given})
    if client.waiting():
        return said(await client.answer(number))
    server = await it.puppet()
    await server.greet(LISTS)
    server.answer(await server.until("tools/call"), {})
    await client.answer(number)
    return None


@scene
async def test_a_list_shows_what_its_reader_may_use_and_nothing_else() -> None:
    async with world({"p": governed(), "q": puppet()}) as it:
        all_of_it = {"q__one", "q__two"}
        assert await names(await it.legacy(name="uid:1")) == {"p__one", "p__two"} | all_of_it
        two = await it.legacy(name="uid:2")
        assert await names(two) == {"p__one"} | all_of_it
        assert await names(two, "prompts") == {"q__hello"}
        other = await it.legacy(name="uid:3")
        assert await names(other) == all_of_it
        ci = Client(it.gateway, None, "ci", ("build",))
        assert await names_modern(ci, "prompts") == {"p__hello", "q__hello"}
        assert it.gateway.knows(two.talk.principal, "p")
        assert not it.gateway.knows(other.talk.principal, "p")


async def names_modern(client: Client, kind: str) -> set[str]:
    found = (await client.request(f"{kind}/list", modern()))["result"][kind]
    return {each["name"] for each in found}


@scene
async def test_a_call_is_refused_with_the_policy_and_no_process_is_started_for_it() -> None:
    async with world({"p": governed()}) as it:
        two = await it.legacy(name="uid:2")
        refused = await two.request("tools/call", {"name": "p__two", "arguments": {}})
        assert code(refused) == message.NOT_ALLOWED
        assert "p.cedar: no policy there permits uid:2 to call tool" in said(refused)
        refused = await two.request("tools/call", {"name": "p__one", "arguments": {"path": "/etc/shadow"}})
        assert said(refused).startswith('p.cedar:4: policy "path" forbids uid:2 to call tool "one"')
        refused = await two.request("tools/call", {"name": "p__one", "arguments": {"path": {"__entity": 1}}})
        assert "cannot judge this call" in said(refused)
        assert it.stand.opened == []
        assert ("refused", "path") in it.meter.counted
        assert await call(it, two, "one", path="/data") is None


@scene
async def test_a_call_between_eras_is_judged_again_with_its_retry() -> None:
    async with world({"p": governed()}) as it:
        client = it.client(name="uid:2")
        params = modern({"name": "p__one", "arguments": {"path": "/etc/x"}, "requestState": "x"})
        assert code(await client.request("tools/call", params)) == message.NOT_ALLOWED


@scene
async def test_resources_completions_and_unknown_methods_are_judged_as_well() -> None:
    async with world({"p": governed()}) as it:
        two = await it.legacy("p", name="uid:2")
        for method, params in (
            ("resources/read", {"uri": "mem://a"}),
            ("resources/read", {"uri": "mem://t/unlisted"}),
            ("resources/subscribe", {"uri": "mem://a"}),
            ("prompts/get", {"name": "hello"}),
            ("completion/complete", {"ref": {"type": "ref/prompt", "name": "hello"}, "argument": {}}),
            ("x-vendor/do", {}),
        ):
            refused = await two.request(method, params)
            assert code(refused) == message.NOT_ALLOWED, method
            assert "p.cedar" in said(refused)
        assert it.stand.opened == []


@scene
async def test_a_new_policy_holds_for_clients_that_are_there_and_ends_no_process() -> None:
    async with world({"p": governed()}) as it:
        one = await it.legacy(name="uid:1")
        assert await call(it, one, "two") is None
        server = it.gateway.servers["p"]
        it.stand.servers["p"].policy = policy("p", 'permit(principal, action, resource == Tool::"p/one");')
        await it.gateway._reload()
        assert it.gateway.servers["p"] is server
        assert json.loads(one.lines[-1])["method"] == "notifications/resources/list_changed"
        assert await names(one) == {"p__one"}
        refused = await one.request("tools/call", {"name": "p__two"})
        assert code(refused) == message.NOT_ALLOWED
        it.stand.servers["p"].policy = ""
        await it.gateway._reload()
        assert await names(one) == {"p__one", "p__two"}
        assert len(it.stand.opened) == 1


@scene
async def test_policies_that_cannot_be_read_leave_their_server_out() -> None:
    async with world({"p": governed(), "q": puppet()}) as it:
        it.stand.servers["p"].policy = "nonsense"
        (problem,) = await it.gateway.load()
        assert "the policies of a server cannot be read" in problem
        assert set(it.gateway.servers) == {"q"}
