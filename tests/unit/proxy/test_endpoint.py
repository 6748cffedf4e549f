"""What an endpoint shows: every name leads to one server, and none can be made to look like another's."""

from __future__ import annotations

import json
import time

import msgspec
import pytest

from supervisor.proxy import endpoint as module
from supervisor.proxy import manifests, settings
from supervisor.proxy.channel import Channel
from supervisor.proxy.endpoint import Endpoint
from supervisor.proxy.manifests import Lists, Manifest
from supervisor.proxy.servers import Server
from tests.unit.proxy.puppet import LEGACY, LISTED, MODERN, Json, manifest
from tests.unit.proxy.stand import Stand


class Unused(Stand):
    """Nothing is started here."""

    def __init__(self) -> None:
        """No socket either."""


CHANNEL: Channel = Unused()


def server(name: str, *eras: str, lists: Json | None = None, **rules: object) -> Server:
    data = manifest(*eras, lists=LISTED | (lists or {}))
    return Server(name, settings.decode(json.dumps(rules), name), manifests.decode(data, "f"), CHANNEL)


def resources(*uris: str) -> Json:
    return {"resources/list": {"resources": [{"uri": uri, "name": uri} for uri in uris]}}


def templates(*patterns: str) -> Json:
    return {"resources/templates/list": {"resourceTemplates": [{"uriTemplate": each} for each in patterns]}}


def shown(endpoint: Endpoint, kind: str, *, modern: bool = False) -> list[str]:
    """The names in a list, over all its pages."""
    _, member, key = manifests.KINDS[kind]
    found, cursor = [], None
    while True:
        page = endpoint.page(kind, cursor, modern=modern)
        assert page is not None
        table = json.loads(page)
        found += [each[key] for each in table[member]]
        cursor = table.get("nextCursor")
        if cursor is None:
            return found


def leads(endpoint: Endpoint, uri: str) -> tuple[str, str] | None:
    """The server of a resource, and what it is called there."""
    route = endpoint.resource(uri)
    if route is None:
        return None
    return route.server.name, uri if route.name is None else json.loads(bytes(route.name))


def test_tools_and_prompts_are_called_by_their_server_in_its_order() -> None:
    made = Endpoint([server("b"), server("a")], single=False)
    assert shown(made, "tools") == ["b__one", "b__two", "a__one", "a__two"]
    assert shown(made, "prompts") == ["b__hello", "a__hello"]
    route = made.routes["tools"]["a__two"]
    assert (route.server.name, route.name and bytes(route.name)) == ("a", b'"two"')


def test_one_server_alone_keeps_its_names_and_its_pages_as_they_were_written() -> None:
    one = server("a")
    made = Endpoint([one], single=True)
    assert made.page("tools", None, modern=False) == bytes(one.manifest.eras["legacy"].pages["tools"][0])
    assert json.loads(made.handshake("2025-06-18")) == LEGACY | {"protocolVersion": "2025-06-18"}


@pytest.mark.parametrize(
    ("first", "second"),
    [(("a", "b__c"), ("a__b", "c")), (("a__b", "c"), ("a", "b__c")), (("a", "_c"), ("a_", "c"))],
)
def test_one_name_is_never_shown_twice(first: tuple[str, str], second: tuple[str, str]) -> None:
    made = Endpoint(
        [server(name, lists={"tools/list": {"tools": [{"name": tool}]}}) for name, tool in (first, second)],
        single=False,
    )
    names = shown(made, "tools")
    assert len(names) == 1
    assert made.routes["tools"][names[0]].server.name == first[0]


def test_resources_keep_their_names_but_where_they_collide() -> None:
    made = Endpoint([server("a", lists=resources("mem://a", "x://1")), server("b")], single=False)
    names = ["supervisor://a/mem://a", "x://1", "supervisor://b/mem://a"]
    assert shown(made, "resources") == names
    assert [leads(made, each) for each in names] == [("a", "mem://a"), ("a", "x://1"), ("b", "mem://a")]
    assert made.alias(made.servers[1], "mem://a") == names[2]
    assert leads(made, "mem://a") is None


def test_no_server_can_take_the_alias_of_another() -> None:
    evil = resources("supervisor://b/mem://a", "SUPERVISOR://b/mem://a")
    made = Endpoint([server("evil", lists=evil), server("a"), server("b")], single=False)
    assert leads(made, "supervisor://b/mem://a") == ("b", "mem://a")
    assert leads(made, "supervisor://evil/supervisor://b/mem://a") == ("evil", "supervisor://b/mem://a")
    assert leads(made, "supervisor://nobody/mem://a") is None


def test_what_is_not_listed_goes_by_alias_template_or_scheme() -> None:
    made = Endpoint(
        [
            server("a", lists=resources("x://1") | templates("x://t/{id}")),
            server("b", lists=resources("y://1") | templates()),
        ],
        single=False,
    )
    assert leads(made, "supervisor://b/x://t/5") == ("b", "x://t/5")
    assert leads(made, "x://t/5") == ("a", "x://t/5")
    assert leads(made, "y://unlisted") == ("b", "y://unlisted")
    assert leads(made, "z://nobody") is None


@pytest.mark.parametrize("hostile", ["{x}", "{+anything}", "x://{id}", "x://t/{id}", "{a}{b}{c}"])
def test_a_template_does_not_catch_what_another_server_has_a_template_for(hostile: str) -> None:
    own = server("own", lists=resources("x://1") | templates("x://t/{id}"))
    for order in (1, -1):
        evil = server("evil", lists=resources() | templates(hostile))
        made = Endpoint([evil, own][::order], single=False)
        assert leads(made, "x://1") == ("own", "x://1")
        assert leads(made, "x://t/5") in (None, ("own", "x://t/5"))
        assert leads(made, "supervisor://own/x://t/5") == ("own", "x://t/5")


@pytest.mark.parametrize(
    "template",
    [
        "x://" + "{a}" * 2000,
        "x://" + "a{b}" * 1500,
        "{" * 8000,
        "x://{a" * 1000,
        "(" * 8000,
        "x://[!-]*?" * 500,
        "x" * 1_000_000,
        "\\" * 999,
    ],
)
def test_no_template_takes_long_or_raises(template: str) -> None:
    began = time.process_time()
    made = Endpoint([server("a", lists=templates(template)), server("b")], single=False)
    for uri in ("x://" + "a" * 8000, "x://" + "a/" * 4000 + "b", "x" * 1_000_000):
        made.resource(uri)
    assert time.process_time() - began < 2


def test_templates_mean_what_they_say() -> None:
    made = Endpoint([server("a", lists=templates("x://[a]*/{id}/end?")), server("b")], single=False)
    assert leads(made, "x://[a]*/any/thing/end?") == ("a", "x://[a]*/any/thing/end?")
    assert made._matched("x://a/5/end?") == []


PLACE = "servers.toml:9"


@pytest.mark.parametrize(
    ("uri", "outcome"),
    [
        ("file:///data/x", "allow"),
        ("file:///other", "deny"),
        ("file:///data/../etc/passwd", "deny"),
        ("file:///data/%2e%2E/etc/passwd", "deny"),
        ("file:///data/..\\etc", "deny"),
        ("file:///data/a..b", "allow"),
    ],
)
@pytest.mark.parametrize("single", [True, False])
def test_a_way_out_of_what_is_allowed_is_refused(uri: str, outcome: str, *, single: bool) -> None:
    rules = {"allow": [["file:///data/*", PLACE]]}
    made = Endpoint([server("a", lists=templates("file:///{+path}"), resources=rules)], single=single)
    route = made.resource(uri)
    assert route is not None
    assert route.verdict.outcome == outcome
    if ".." in uri and outcome == "deny":
        assert "no pattern can judge" in route.verdict.reason


def test_without_patterns_nothing_is_judged() -> None:
    route = Endpoint([server("a")], single=True).resource("file:///data/../x")
    assert route is not None
    assert route.verdict.outcome == "allow"


@pytest.mark.parametrize("single", [True, False])
def test_what_may_not_be_used_is_not_listed(*, single: bool) -> None:
    made = Endpoint([server("a", tools={"deny": [["one", PLACE]]})], single=single)
    assert shown(made, "tools") == ["two" if single else "a__two"]
    assert made.routes["tools"]["one" if single else "a__one"].verdict.source == PLACE


def test_long_lists_come_in_pages_and_other_cursors_in_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    tools = {"tools/list": {"tools": [{"name": f"t{n}"} for n in range(5)]}}
    made = Endpoint([server("a", lists=tools), server("b")], single=False)
    assert shown(made, "tools") == [f"a__t{n}" for n in range(5)] + ["b__one", "b__two"]
    assert [made.page("tools", each, modern=False) for each in ("1", "8", "-2", "x", "2 ")] == [None] * 5


def test_a_server_s_own_pages_keep_its_own_cursors() -> None:
    pages = [b'{"tools":[{"name":"a"}],"nextCursor":"opaque \\u0031"}', b'{"tools":[{"name":"b"}],"x":1.50}']
    handshake = msgspec.Raw(json.dumps(LEGACY).encode())
    lists = Lists("2025-11-25", handshake, {"tools": [msgspec.Raw(each) for each in pages]})
    made = Server("a", settings.decode("{}", "a"), Manifest(1, "a", "", "", {"legacy": lists}, {}), CHANNEL)
    endpoint = Endpoint([made], single=True)
    assert endpoint.page("tools", None, modern=False) == pages[0]
    assert endpoint.page("tools", "opaque 1", modern=False) == pages[1]
    modern = json.loads(endpoint.page("tools", "opaque 1", modern=True) or b"")
    assert (modern["resultType"], modern["ttlMs"], modern["cacheScope"], modern["x"]) == (
        "complete",
        0,
        "private",
        1.5,
    )


@pytest.mark.parametrize("eras", [("legacy",), ("modern",), ("legacy", "modern")])
@pytest.mark.parametrize("single", [True, False])
def test_both_handshakes_are_answered_for_servers_of_any_era(eras: tuple[str, ...], *, single: bool) -> None:
    made = Endpoint([server("a", *eras)], single=single)
    legacy, modern = json.loads(made.handshake("2025-06-18")), json.loads(made.discovery())
    assert (legacy["protocolVersion"], modern["supportedVersions"]) == ("2025-06-18", ["2026-07-28"])
    for each in (legacy, modern):
        assert {"tools", "prompts", "resources", "logging"} <= set(each["capabilities"])
    name = "puppet" if single else "supervisor"
    assert legacy["serverInfo"]["name"] == name
    assert modern["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == name
    if single and eras == ("modern",):
        assert modern == MODERN


def test_an_endpoint_without_servers_is_empty_and_does_not_raise() -> None:
    made = Endpoint([], single=False)
    assert [shown(made, kind) for kind in manifests.KINDS] == [[], [], [], []]
    assert made.resource("x://1") is None
    assert json.loads(made.discovery())["capabilities"] == {}


def test_items_that_are_none_do_not_raise() -> None:
    odd: Json = {"tools/list": {"tools": [5, None, [], {"name": 7}, {"name": "a"}, {"name": "a"}]}}
    for single in (True, False):
        made = Endpoint([server("a", lists=odd), server("b", lists={"tools/list": {"tools": 5}})], single=single)
        assert made.page("tools", None, modern=True)


def test_what_no_server_has_is_known_by_whose_it_would_be() -> None:
    one, other = server("a"), server("b")
    made = Endpoint([one, other], single=False)
    assert [made.meant(name) for name in ("a__none", "b__none", "c__none", "none", "")] == [
        one,
        other,
        None,
        None,
        None,
    ]
    assert Endpoint([one], single=True).meant("none") is one
