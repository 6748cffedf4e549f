"""Tokens, keys and issuers that try to break whoever checks them: an answer each time, and nobody gets in."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest
from mcp.server.auth.provider import AccessToken

from supervisor import wire
from supervisor.auth import oidc
from supervisor.auth.denial import Denial
from supervisor.auth.file import Oidc
from supervisor.auth.process import Authenticator
from supervisor.errors import Refused
from tests.unit.auth.issuer import RESOURCE, Issuer, running


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as made:
        yield made


def denied(issuer: Issuer, token: str) -> Denial:
    with pytest.raises(Denial) as caught:
        oidc.Verifier(Oidc(issuer=issuer.url), RESOURCE, None).check(token)
    return caught.value


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("exp", 10**400),
        ("exp", float("inf")),
        ("exp", "9e999"),
        ("exp", True),
        ("iss", ["ISSUER"]),
        ("iss", {}),
        ("groups", ["\ud800"]),
        ("groups", ["a\nb"]),
        ("groups", [""]),
        ("groups", ["x" * 256]),
        ("groups", ["x"] * 1001),
        ("aud", [[RESOURCE]]),
        ("aud", f"{RESOURCE}@evil.example"),
        ("sub", "\ud800"),
    ],
)
def test_a_claim_of_a_strange_kind_is_a_refusal(issuer: Issuer, claim: str, value: object) -> None:
    # signed as it is: the library's own maker of tokens is more careful
    key, algorithm = issuer.keys["k1"]
    claims = json.dumps(issuer.claims(**{claim: value})).encode()
    token = jwt.PyJWS().encode(claims, key, algorithm, headers={"kid": "k1"})
    assert denied(issuer, token).status == 401


@pytest.mark.parametrize(
    "keys",
    [
        b'{"keys":' + b"[" * 100_000,
        b'{"keys":[5]}',
        b'{"keys":{"a":1}}',
        b'{"keys":[{"kty":["RSA"]}]}',
        b'{"keys":[{"kty":"EC","crv":{},"x":"AA","y":"AA"}]}',
        b'{"keys":[{"kty":"RSA","n":"","e":"","kid":"k1"}]}',
    ],
)
def test_keys_that_are_none_are_the_issuer_s_fault(issuer: Issuer, keys: bytes) -> None:
    issuer.pages["/keys"] = 200, keys, {}
    assert denied(issuer, issuer.token()).status == 503


def listening(answer: Callable[[socket.socket], object]) -> tuple[str, threading.Thread]:
    """A server that has one way to answer, once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(4096)
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/keys", thread


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 70_000,
    ],
)
def test_an_issuer_that_speaks_no_http_is_one_that_cannot_be_reached(text: bytes) -> None:
    url, thread = listening(lambda connection: connection.sendall(text))
    with pytest.raises(oidc.Unreachable):
        oidc.fetch(url)
    thread.join()


def test_an_issuer_that_answers_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "_TIMEOUT", 0.3)
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n{")
        while not ended.wait(0.02):
            connection.sendall(b" ")

    url, thread = listening(drip)
    began = time.monotonic()
    try:
        with pytest.raises(oidc.Unreachable, match="no whole answer within"):
            oidc.fetch(url)
        assert time.monotonic() - began < 3
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("where", ["http://169.254.169.254/latest", "http://localhost@evil.example/", "file:///x"])
def test_keys_are_not_fetched_from_where_an_issuer_on_this_machine_may_not_send_us(
    issuer: Issuer, where: str
) -> None:
    page = issuer.pages["/.well-known/openid-configuration"][1]
    body = page.replace(f'"jwks_uri": "{issuer.url}/keys"'.encode(), f'"jwks_uri": "{where}"'.encode())
    assert body != page
    issuer.pages["/.well-known/openid-configuration"] = 200, body, {}
    found = denied(issuer, issuer.token())
    assert (found.status, "no jwks_uri that is as safe" in found.log) == (503, True)


def test_a_file_of_keys_that_others_can_write_lets_nobody_in(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(issuer.pages["/keys"][1])
    path.chmod(0o666)
    with pytest.raises(Refused, match="others can write it"):
        oidc.Verifier(Oidc(issuer=issuer.url), RESOURCE, str(path))


class Tripping:
    """A library that trips over a token."""

    def check(self, token: str) -> AccessToken:
        raise OverflowError(token)


class Granting:
    """An issuer that puts all of a company's groups into a token."""

    def check(self, token: str) -> AccessToken:
        groups = [f"\u7d44{number}" for number in range(10_000)]
        claims = {"iss": "x", "groups": groups, "audience": [RESOURCE]}
        return AccessToken(token=token, client_id="", scopes=[], subject="alice", claims=claims)


def answer_of(path: Path, checker: Tripping | Granting) -> wire.Message:
    ours, theirs = wire.pair()
    made = Authenticator(theirs, str(path / "auth.toml"), lambda: oidc)
    made._checker = checker

    async def ask() -> wire.Message:
        running = asyncio.create_task(made.run())
        wire.send(ours, {"id": 1, "token": "x"})
        ours.settimeout(10)
        answer = await asyncio.to_thread(wire.receive, ours)
        ours.close()
        await running
        assert answer
        return answer[0]

    said = asyncio.run(ask())
    theirs.close()
    return said


def test_whatever_a_check_trips_over_is_answered(tmp_path: Path) -> None:
    said = answer_of(tmp_path, Tripping())
    assert said == {"id": 1, "denied": {"status": 401, "code": "invalid_token", "said": "the token is not valid"}}


def test_more_groups_than_a_message_holds_are_a_refusal_and_no_silence(tmp_path: Path) -> None:
    denied = answer_of(tmp_path, Granting())["denied"]
    assert isinstance(denied, dict)
    assert (denied["status"], denied["code"]) == (401, "invalid_token")
    assert "over 64 KiB: give it fewer" in denied["said"]
