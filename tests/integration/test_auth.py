"""`serve --http --auth`: tokens and an issuer before a real gateway; among the clients the SDK's own for OAuth."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from tests.integration.caller import SECONDS, Caller
from tests.integration.gateway import Entry, Gateway
from tests.integration.raw_http import INFO, LEGACY, META, MODERN, Answer, parsed
from tests.unit.auth.issuer import Issuer, running

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
HEADERS = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as made:
        yield made


def table(subject: str, text: str) -> str:
    return f'[[token]]\nsubject = "{subject}"\nsha256 = "{hashlib.sha256(text.encode()).hexdigest()}"\n'


def reachable(path: Path) -> None:
    """As /etc/supervisor is: anybody may read the file."""
    path.chmod(0o644)
    for each in list(path.parents)[:4]:
        each.chmod(each.stat().st_mode | 0o011)


@contextmanager
def guarded(caller: Caller, text: str, *words: str) -> Iterator[Gateway]:
    """A gateway over the files of a project, before which a file of --auth stands; PORT in it is the gateway's."""
    made = Gateway(caller, [Entry("files", profile="fs-readonly", params={"root": str(caller.project)})])
    made.write()
    made.pin()
    path = made.folder / "auth.toml"
    path.write_text(text.replace("PORT", str(made.port)), encoding="utf-8")
    reachable(path)
    try:
        made.start("--auth", str(path), *words)
        yield made
    finally:
        made.close()


def tools(gateway: Gateway, token: str, path: str = "/mcp", **more: str) -> Answer:
    headers = HEADERS | ({"Authorization": f"Bearer {token}"} if token else {}) | more
    return post(gateway.port, path, LIST, headers)


def post(port: int, path: str, body: object, headers: Mapping[str, str]) -> Answer:
    """One POST; a refusal is text, and no message."""
    given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"} | dict(headers)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("POST", path, json.dumps(body), given)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        data, kind = answer.read(), found.get("content-type", "")
        return Answer(answer.status, found, () if kind.startswith("text/plain") else tuple(parsed(data, kind)))
    finally:
        connection.close()


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_token_opens_everything_and_nothing_opens_without(caller: Caller) -> None:
    with guarded(caller, table("ci", "secret") + table("ops", "other")) as gateway:
        refused = post(gateway.port, "/mcp", LIST, HEADERS)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert 'error="invalid_token"' in tools(gateway, "wrong").headers["www-authenticate"]
        answer = tools(gateway, "secret").response(1)
        assert isinstance(answer["result"], dict)
        assert answer["result"]["tools"][0]["name"].startswith("files__")
        call = {"name": "list_directory", "arguments": {"path": "."}, "_meta": META}
        headers = HEADERS | {"Mcp-Method": "tools/call", "Mcp-Name": "list_directory"}
        headers |= {"Authorization": "Bearer secret"}
        body = LIST | {"method": "tools/call", "params": call}
        assert "result" in post(gateway.port, "/servers/files/mcp", body, headers).response(1)
        assert get(gateway.port, "/metrics")[0] == 401
        status, page = get(gateway.port, "/metrics", Authorization="Bearer other")
        assert status == 200
        line = 'supervisor_calls_total{outcome="ok",server="files",tool="list_directory"} 1.0'
        assert line in page.decode().splitlines()
        shown = caller.finish(caller.command("ps", "--json"))
        # gateways of other tests, without authentication, may be there too
        users = [each["user"] for each in json.loads(shown.stdout)["sessions"]]
        assert [each for each in users if each != "local"] == ["ci"]


def test_a_session_opens_for_its_own_principal_only(caller: Caller) -> None:
    with guarded(caller, table("ci", "secret") + table("ops", "other")) as gateway:
        hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": INFO}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        mine, theirs = {"Authorization": "Bearer secret"}, {"Authorization": "Bearer other"}
        session = {"Mcp-Session-Id": post(gateway.port, "/mcp", body, mine).headers["mcp-session-id"]}
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        assert post(gateway.port, "/mcp", ping, session | theirs).status == 404
        assert post(gateway.port, "/mcp", ping, session).status == 401
        assert post(gateway.port, "/mcp", ping, session | mine).status == 200


def test_an_endpoint_for_others_is_refused_without_authentication_and_told_of_without_encryption(
    caller: Caller,
) -> None:
    made = Gateway(caller, [])
    made.write()
    done = caller.finish([*made.command(), "--http", "0.0.0.0:0"])
    assert done.returncode == 2
    assert "without authentication; say who may with --auth FILE" in done.stderr
    with guarded(caller, table("ci", "secret"), "--http", "0.0.0.0:0") as gateway:
        assert tools(gateway, "secret").status == 200
    assert "0.0.0.0:0 is not encrypted" in gateway.said()
    done = caller.finish([*made.command(), "--auth", "x.toml"])
    assert (done.returncode, done.stderr.startswith("supervisor: --auth goes with --http")) == (2, True)


def test_what_is_wrong_with_the_file_is_told_and_nothing_listens(caller: Caller) -> None:
    made = Gateway(caller, [])
    made.write()
    path = made.folder / "auth.toml"
    path.write_text("typo = 1\n")
    reachable(path)
    done = caller.finish([*made.command(), "--http", f"127.0.0.1:{made.port}", "--auth", str(path)])
    assert done.returncode == 2
    assert f'{path}:1: unknown key "typo"' in done.stderr
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", made.port)) != 0


def connected(path: str) -> socket.socket:
    """To a socket of a gateway that listens on another one already, and on this one now or soon."""
    deadline = time.monotonic() + SECONDS
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(SECONDS)
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            sock.close()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return sock


def test_the_peer_of_a_unix_socket_is_who_the_kernel_says(caller: Caller) -> None:
    path = caller.project / "gateway" / "socket"
    with guarded(caller, table("ci", "secret"), "--http", f"unix:{path}") as gateway:
        body = json.dumps(LIST)
        head = "\r\n".join(f"{name}: {value}" for name, value in HEADERS.items())
        kinds = "Content-Type: application/json\r\nAccept: application/json, text/event-stream"
        request = f"POST /mcp HTTP/1.1\r\nHost: x\r\n{kinds}\r\n{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        with connected(str(path)) as sock:
            sock.sendall(request.encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert tools(gateway, "").status == 401


class Storage:
    """What the SDK's client remembers."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


def provider(url: str, asked: list[str]) -> OAuthClientProvider:
    """The SDK's own; the user agrees at once."""

    async def redirected(where: str) -> None:
        asked.append(where)

    async def agreed() -> AuthorizationCodeResult:
        [state] = parse_qs(urlsplit(asked[-1]).query)["state"]
        return AuthorizationCodeResult(code="a-code", state=state)

    about = OAuthClientMetadata(client_name="test", redirect_uris=[AnyUrl("http://127.0.0.1:9/callback")])
    return OAuthClientProvider(url, about, Storage(), redirected, agreed)


@pytest.mark.parametrize("path", ["/mcp", "/servers/files/mcp"])
def test_the_sdk_s_oauth_client_finds_its_way_in(caller: Caller, issuer: Issuer, path: str) -> None:
    text = f'resource = "http://127.0.0.1:PORT"\n[oidc]\nissuer = "{issuer.url}"\nscopes = ["mcp"]\n'
    asked: list[str] = []

    async def visit(url: str) -> list[str]:
        async with (
            httpx2.AsyncClient(auth=provider(url, asked), timeout=SECONDS) as web,
            Client(streamable_http_client(url, http_client=web)) as client,
        ):
            return [tool.name for tool in (await client.list_tools()).tools]

    with guarded(caller, text) as gateway:
        names = anyio.run(visit, f"{gateway.base}{path}")
        assert "files__list_directory" in names or "list_directory" in names
        query = parse_qs(urlsplit(asked[0]).query)
        assert (query["scope"], query["resource"]) == (["mcp"], [f"{gateway.base}{path}"])
        token = issuer.token(aud=f"{gateway.base}/servers/files/mcp")
        assert tools(gateway, token, "/servers/files/mcp").status == 200
        refused = tools(gateway, token)
        assert refused.status == 401
        place = f'resource_metadata="{gateway.base}/.well-known/oauth-protected-resource/mcp"'
        assert place in refused.headers["www-authenticate"]
        weak = tools(gateway, issuer.token(aud=gateway.base, scope="other"))
        assert weak.status == 403
        assert 'error="insufficient_scope"' in weak.headers["www-authenticate"]
        assert tools(gateway, issuer.token(aud=gateway.base)).status == 200
