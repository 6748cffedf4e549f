"""The gateway's end of the authenticator: who gets in, what is asked and remembered, what a refusal says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from supervisor import wire
from supervisor.proxy import authority
from supervisor.proxy.authority import Authority, Denied, Pace
from supervisor.proxy.principal import Principal

RESOURCE = "https://mcp.example.com"
METADATA = {"resource": RESOURCE, "authorization_servers": ["https://login.example.com"]}
READY: wire.Message = {
    "event": "ready",
    "resource": RESOURCE,
    "metadata": METADATA,
    "scopes": ["mcp", "more"],
    "rate": None,
}
PLAIN: wire.Message = READY | {"resource": None, "metadata": None, "scopes": []}


class Scene:
    """An authority, and the other end of its socket: `known` is what that says of each token."""

    def __init__(self, ready: wire.Message) -> None:
        ours, self.other = wire.pair()
        self.authority = Authority(ours, ready)
        self.known: dict[str, wire.Message] = {}
        self.asked: list[str] = []
        self.silent = False
        self.other.setblocking(False)

    def start(self) -> None:
        self.authority.start()
        asyncio.get_running_loop().add_reader(self.other.fileno(), self._readable)

    def _readable(self) -> None:
        received = wire.receive(self.other)
        if received is None:
            asyncio.get_running_loop().remove_reader(self.other.fileno())
            return
        token = str(received[0]["token"])
        self.asked.append(token)
        unknown: wire.Message = {
            "denied": {"status": 401, "code": "invalid_token", "said": "the token is not known"}
        }
        if not self.silent:
            wire.send(self.other, {"id": received[0]["id"]} | self.known.get(token, unknown))

    def grant(self, token: str, name: str, **more: object) -> None:
        body: wire.Message = {"name": name, "groups": ["g"], "expires": None, "audience": None}
        self.known[token] = {"ok": body | more}

    async def who(self, token: str, path: str = "/mcp") -> Principal:
        return await self.authority.principal({b"authorization": [f"Bearer {token}".encode()]}, "127.0.0.1", path)

    async def denied(self, token: str, path: str = "/mcp") -> Denied:
        with pytest.raises(Denied) as caught:
            await self.who(token, path)
        return caught.value

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.other.fileno())
        self.authority.close()
        self.other.close()


def play(part: Callable[[Scene], Awaitable[None]], ready: wire.Message = READY) -> None:
    async def whole() -> None:
        at = Scene(ready)
        at.start()
        try:
            await part(at)
        finally:
            at.close()

    uvloop.run(whole())


def test_a_token_is_asked_about_once_and_remembered() -> None:
    async def part(at: Scene) -> None:
        at.grant("good", "ci")
        for _ in range(5):
            assert await at.who("good") == Principal("ci", ("g",))
        assert at.asked == ["good"]

    play(part)


def test_many_requests_with_one_new_token_are_one_question() -> None:
    async def part(at: Scene) -> None:
        at.grant("good", "ci")
        found = await asyncio.gather(*(at.who("good") for _ in range(200)))
        assert {each.name for each in found} == {"ci"}
        assert at.asked == ["good"]

    play(part)


def test_the_peer_of_a_unix_socket_needs_no_token() -> None:
    async def part(at: Scene) -> None:
        assert await at.authority.principal({}, "uid:1000", "/mcp") == Principal("uid:1000")
        assert at.asked == []

    play(part)


def test_without_a_token_the_challenge_says_where_tokens_come_from() -> None:
    async def part(at: Scene) -> None:
        with pytest.raises(Denied) as caught:
            await at.authority.principal({}, "127.0.0.1", "/servers/files/mcp")
        assert caught.value.status == 401
        place = f"{RESOURCE}/.well-known/oauth-protected-resource/servers/files/mcp"
        said = f'Bearer resource_metadata="{place}", scope="mcp more"'
        assert caught.value.headers == ((b"www-authenticate", said.encode()),)

    play(part)


def test_a_challenge_leads_to_metadata_that_is_there() -> None:
    async def part(at: Scene) -> None:
        for path in ("/mcp", "/servers/files/mcp", "/metrics"):
            with pytest.raises(Denied) as caught:
                await at.authority.principal({}, "127.0.0.1", path)
            place = caught.value.headers[0][1].decode().partition('"')[2].partition('"')[0]
            assert at.authority.page(place.removeprefix(RESOURCE)) is not None, path

    play(part)


def test_without_an_issuer_the_challenge_is_bare() -> None:
    async def part(at: Scene) -> None:
        with pytest.raises(Denied) as caught:
            await at.authority.principal({}, "127.0.0.1", "/mcp")
        assert caught.value.headers == ((b"www-authenticate", b"Bearer"),)

    play(part, PLAIN)


@pytest.mark.parametrize(
    "values",
    [
        [b"Basic dXNlcjpwYXNz"],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer a b"],
        [b"Bearer a,b"],
        [b'Bearer "a"'],
        [b"Bearer a\xff"],
        [b"Bearer a", b"Bearer a"],
        [b"Bearer " + b"a" * (authority.MAX_TOKEN + 1)],
        [b""],
    ],
)
def test_what_is_not_one_bearer_token_is_told_so_and_never_asked_about(values: list[bytes]) -> None:
    async def part(at: Scene) -> None:
        with pytest.raises(Denied) as caught:
            await at.authority.principal({b"authorization": values}, "127.0.0.1", "/mcp")
        assert caught.value.status == 400
        assert b'error="invalid_request"' in caught.value.headers[0][1]
        assert ("the token is over 16 KiB" in caught.value.said) == (len(values[0]) > authority.MAX_TOKEN)
        assert at.asked == []

    play(part)


def test_the_scheme_may_be_written_in_any_case() -> None:
    async def part(at: Scene) -> None:
        at.grant("a", "ci")
        for scheme in (b"bearer a", b"BEARER  a ", b"Bearer a"):
            found = await at.authority.principal({b"authorization": [scheme]}, "127.0.0.1", "/mcp")
            assert found.name == "ci"

    play(part)


def test_a_token_that_is_not_known_is_refused_each_time_with_the_reason() -> None:
    async def part(at: Scene) -> None:
        for _ in range(2):
            found = await at.denied("bad")
            assert (found.status, found.said) == (401, "the token is not known")
            header = found.headers[0][1]
            assert header.startswith(b'Bearer error="invalid_token", error_description="the token is not known", ')
        assert at.asked == ["bad", "bad"]

    play(part)


def test_a_missing_scope_is_403_and_a_reason_cannot_break_out_of_the_header() -> None:
    async def part(at: Scene) -> None:
        said = 'lacks "x"\r\nSet-Cookie: a=b\\'
        at.known["weak"] = {"denied": {"status": 403, "code": "insufficient_scope", "said": said}}
        found = await at.denied("weak")
        assert found.status == 403
        header = found.headers[0][1]
        assert b'error="insufficient_scope", error_description="lacks ?x???Set-Cookie: a=b?"' in header
        assert b"\n" not in header

    play(part)


def test_a_token_lets_in_until_it_expires_and_not_longer() -> None:
    async def part(at: Scene) -> None:
        at.grant("short", "ci", expires=time.time() + 0.2)
        assert (await at.who("short")).name == "ci"
        await asyncio.sleep(0.25)
        found = await at.denied("short")
        assert (found.status, found.said) == (401, "the token has expired")

    play(part)


def test_a_token_for_one_endpoint_does_not_open_another() -> None:
    async def part(at: Scene) -> None:
        at.grant("files", "a", audience=[f"{RESOURCE}/servers/files/mcp"])
        at.grant("all", "b", audience=[RESOURCE])
        at.grant("joined", "c", audience=[f"{RESOURCE}/mcp"])
        assert (await at.who("files", "/servers/files/mcp")).name == "a"
        for path in ("/mcp", "/servers/git/mcp", "/metrics"):
            assert (await at.denied("files", path)).status == 401
        for path in ("/mcp", "/servers/git/mcp", "/metrics"):
            assert (await at.who("all", path)).name == "b"
        assert (await at.who("joined", "/mcp")).name == "c"
        assert (await at.who("joined", "/metrics")).name == "c"
        assert (await at.denied("joined", "/servers/git/mcp")).status == 401

    play(part)


def test_a_change_of_the_file_forgets_what_was_known() -> None:
    async def part(at: Scene) -> None:
        at.grant("good", "ci")
        await at.who("good")
        del at.known["good"]
        wire.send(at.other, READY | {"event": "changed", "scopes": ["new"]})
        found = await _eventually_denied(at, "good")
        assert b'scope="new"' in found.headers[0][1]

    play(part)


async def _eventually_denied(at: Scene, token: str) -> Denied:
    async with asyncio.timeout(10):
        while True:
            try:
                await at.who(token)
            except Denied as denied:
                return denied
            await asyncio.sleep(0)


def test_an_answer_from_before_a_change_is_not_remembered() -> None:
    async def part(at: Scene) -> None:
        at.silent = True
        at.grant("good", "ci")
        asking = asyncio.ensure_future(at.who("good"))
        while not at.asked:
            await asyncio.sleep(0)
        # the answer and the change arrive in one go: the change is read before the answer is put to use
        wire.send(at.other, {"id": 1} | at.known["good"])
        wire.send(at.other, READY | {"event": "changed"})
        assert (await asking).name == "ci"
        at.silent = False
        assert (await at.who("good")).name == "ci"
        assert len(at.asked) == 2

    play(part)


def test_when_the_authenticator_has_ended_nobody_gets_in_and_somebody_is_told() -> None:
    async def part(at: Scene) -> None:
        told = asyncio.Event()
        at.authority.gone = told.set
        at.grant("good", "ci")
        await at.who("good")
        asyncio.get_running_loop().remove_reader(at.other.fileno())
        at.silent = True
        waiting = asyncio.ensure_future(at.denied("new"))
        await asyncio.sleep(0)
        at.other.shutdown(2)
        await asyncio.wait_for(told.wait(), 10)
        assert (await waiting).status == 503
        assert (await at.denied("good")).status == 503

    play(part)


def test_questions_are_bounded() -> None:
    async def part(at: Scene) -> None:
        at.silent = True
        waiting = [asyncio.ensure_future(at.who(f"t{number}")) for number in range(authority.MAX_ASKED)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        found = await at.denied("one-more")
        assert (found.status, found.headers) == (503, ((b"retry-after", b"1"),))
        for each in waiting:
            each.cancel()

    play(part)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "MAX_KNOWN", 3)

    async def part(at: Scene) -> None:
        for number in range(5):
            at.grant(f"t{number}", "ci")
            await at.who(f"t{number}")
        await at.who("t4")
        await at.who("t0")
        assert at.asked == ["t0", "t1", "t2", "t3", "t4", "t0"]

    play(part)


def test_a_rate_is_each_principal_s_own() -> None:
    async def part(at: Scene) -> None:
        at.grant("a", "alice")
        at.grant("b", "bob")
        for _ in range(3):
            await at.who("a")
        found = await at.denied("a")
        assert found.status == 429
        assert found.said == "alice has made more than 1 requests a second (rate.requests)"
        assert found.headers == ((b"retry-after", b"1"),)
        for _ in range(3):
            await at.who("b")
        for _ in range(3):
            await at.authority.principal({}, "uid:1", "/mcp")
        with pytest.raises(Denied):
            await at.authority.principal({}, "uid:1", "/mcp")

    play(part, READY | {"rate": [1, 3]})


def test_a_pace_allows_the_rate_and_the_burst_and_no_more() -> None:
    pace, passed = Pace(), 0
    for step in range(10_000):  # 10 s, asked every millisecond
        passed += pace.wait(100 + step / 1000, 50, 20) == 0
    assert 519 <= passed <= 521
    assert [pace.wait(200.0, 50, 20) for _ in range(20)] == [0.0] * 20
    assert abs(pace.wait(200.0, 50, 20) - 0.02) < 1e-9


@pytest.mark.parametrize(
    ("resource", "path", "found"),
    [
        (RESOURCE, "", RESOURCE),
        (RESOURCE, "/mcp", f"{RESOURCE}/mcp"),
        (RESOURCE, "/servers/files/mcp", f"{RESOURCE}/servers/files/mcp"),
        (RESOURCE, "/other", None),
        (RESOURCE, "/servers/a/b/mcp", None),
        (f"{RESOURCE}/pre", "/pre/mcp", f"{RESOURCE}/pre/mcp"),
        (f"{RESOURCE}/pre", "/mcp", None),
    ],
)
def test_the_metadata_is_at_the_place_of_each_endpoint(resource: str, path: str, found: str | None) -> None:
    ours, other = wire.pair()
    with ours, other:
        made = Authority(ours, READY | {"resource": resource})
        page = made.page(f"/.well-known/oauth-protected-resource{path}")
    if found is None:
        assert page is None
    else:
        assert page is not None
        assert json.loads(page) == METADATA | {"resource": found}


def test_without_an_issuer_there_is_no_metadata() -> None:
    ours, other = wire.pair()
    with ours, other:
        assert Authority(ours, PLAIN).page("/.well-known/oauth-protected-resource") is None
