"""The authenticator as a process: what it may do, whom it lets in, and that a change of its file holds at once."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from supervisor import wire
from supervisor.cli import auth
from supervisor.errors import ConfigError, SupervisorError
from supervisor.proxy.authority import Authority, Denied
from supervisor.proxy.principal import Principal
from tests.unit.auth.issuer import RESOURCE, Issuer, running


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that any uid can reach, as /etc/supervisor is."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as made:
        yield made


def write(folder: Path, text: str) -> str:
    """As editors do: a new file in the place of the old."""
    new = folder / "new"
    new.write_text(text)
    new.chmod(0o644)
    return str(new.replace(folder / "auth.toml"))


def table(subject: str, text: str, more: str = "") -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'[[token]]\nsubject = "{subject}"\nsha256 = "{digest}"\n{more}\n'


def oidc(issuer: Issuer, more: str = "") -> str:
    return f'resource = "{RESOURCE}"\n[oidc]\nissuer = "{issuer.url}"\n{more}\n'


def play(path: str, part: Callable[[Authority, int], Awaitable[None]]) -> None:
    """A running authenticator, and the gateway's end of it."""
    started = auth.start(path)

    async def whole() -> None:
        authority = Authority(started.socket, started.ready)
        authority.start()
        try:
            await part(authority, started.pid)
        finally:
            authority.close()

    try:
        uvloop.run(whole())
    finally:
        started.close()


async def who(authority: Authority, token: str, path: str = "/mcp") -> Principal:
    return await authority.principal({b"authorization": [f"Bearer {token}".encode()]}, "127.0.0.1", path)


async def denied(authority: Authority, token: str, path: str = "/mcp") -> Denied:
    with pytest.raises(Denied) as caught:
        await who(authority, token, path)
    return caught.value


def test_tokens_of_the_file_get_in_and_no_others(folder: Path) -> None:
    expired = table("old", "expired", "expires = 2020-01-01")
    path = write(folder, table("ci", "secret", 'groups = ["builders"]') + expired)

    async def part(authority: Authority, _pid: int) -> None:
        assert await who(authority, "secret") == Principal("ci", ("builders",))
        assert (await denied(authority, "wrong")).said == "the token is not known here"
        assert (await denied(authority, hashlib.sha256(b"secret").hexdigest())).status == 401
        assert (await denied(authority, "expired")).said == "the token has expired"

    play(path, part)


def test_a_token_that_is_taken_out_of_the_file_lets_nobody_in_any_more(folder: Path) -> None:
    path = write(folder, table("ci", "secret") + table("ops", "other"))

    async def part(authority: Authority, _pid: int) -> None:
        await who(authority, "secret")
        write(folder, table("ops", "other") + table("new", "newer"))
        async with asyncio.timeout(20):
            while await _gets_in(authority, "secret"):
                await asyncio.sleep(0.02)
        assert (await who(authority, "newer")).name == "new"

    play(path, part)


async def _gets_in(authority: Authority, token: str) -> bool:
    try:
        await who(authority, token)
    except Denied:
        return False
    return True


def test_a_change_that_is_wrong_is_told_and_what_was_said_before_holds(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, table("ci", "secret"))

    async def part(authority: Authority, _pid: int) -> None:
        write(folder, table("ci", "secret") + "typo = 1\n")
        said = ""
        async with asyncio.timeout(20):
            while "what this file said before still holds" not in said:
                await asyncio.sleep(0.02)
                said += capfd.readouterr().err
        assert f'{path}:5: unknown key "token.0.typo"' in said
        assert (await who(authority, "secret")).name == "ci"

    play(path, part)


def test_an_issuer_s_tokens_get_in_for_what_they_are_for(folder: Path, issuer: Issuer) -> None:
    path = write(folder, oidc(issuer, 'scopes = ["mcp"]') + table("ci", "secret"))

    async def part(authority: Authority, _pid: int) -> None:
        assert await who(authority, issuer.token()) == Principal("oidc:alice", ("dev",))
        assert (await who(authority, "secret")).name == "ci"
        assert (await denied(authority, issuer.token(exp=1))).said == "the token has expired"
        assert (await denied(authority, issuer.token(scope="other"))).status == 403
        files = issuer.token(aud=f"{RESOURCE}/servers/files/mcp")
        assert (await who(authority, files, "/servers/files/mcp")).name == "oidc:alice"
        assert (await denied(authority, files)).status == 401
        assert authority.page("/.well-known/oauth-protected-resource/mcp") is not None

    play(path, part)


def test_an_issuer_that_is_down_is_no_fault_of_the_token(folder: Path, issuer: Issuer) -> None:
    path = write(folder, oidc(issuer))

    async def part(authority: Authority, _pid: int) -> None:
        issuer.pages.clear()
        found = await denied(authority, issuer.token())
        assert (found.status, found.headers) == (503, ((b"retry-after", b"5"),))

    play(path, part)


def test_an_issuer_s_subject_is_nobody_of_the_file(folder: Path, issuer: Issuer) -> None:
    path = write(folder, oidc(issuer) + table("ci", "secret"))

    async def part(authority: Authority, _pid: int) -> None:
        assert (await who(authority, issuer.token(sub="ci"))).name == "oidc:ci"
        assert (await who(authority, issuer.token(sub="uid:0"))).name == "oidc:uid:0"

    play(path, part)


def test_keys_in_a_file_are_read_again_when_it_changes(folder: Path, issuer: Issuer) -> None:
    keys = folder / "keys.json"
    keys.write_bytes(b'{"keys":[{"kty":"oct","kid":"x","k":"AAAA"}]}')
    path = write(folder, oidc(issuer, 'keys = "keys.json"'))

    async def part(authority: Authority, _pid: int) -> None:
        assert (await denied(authority, issuer.token())).said == "the issuer has no such key"
        keys.write_bytes(issuer.pages["/keys"][1])
        async with asyncio.timeout(20):
            while not await _gets_in(authority, issuer.token()):
                await asyncio.sleep(0.02)
        assert issuer.hits == []

    play(path, part)


def test_it_can_do_nothing_but_its_work(folder: Path, issuer: Issuer) -> None:
    path = write(folder, oidc(issuer))

    async def part(authority: Authority, pid: int) -> None:
        await who(authority, issuer.token())
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        uids = {int(each) for each in status["Uid"].split()}
        assert uids == ({os.getuid()} if os.getuid() else uids)
        assert 0 not in uids

    play(path, part)


def test_it_ends_with_the_gateway_and_the_gateway_hears_of_its_end(folder: Path) -> None:
    path = write(folder, table("ci", "secret"))

    async def part(authority: Authority, pid: int) -> None:
        told = asyncio.Event()
        authority.gone = told.set
        await who(authority, "secret")
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(told.wait(), 10)
        assert (await denied(authority, "secret")).status == 503

    play(path, part)
    started = auth.start(path)
    started.close()  # waits for its end
    assert not os.path.exists(f"/proc/{started.pid}")


def test_what_is_wrong_with_the_file_is_told_before_anything_listens(folder: Path) -> None:
    path = write(folder, "typo = 1\n")
    with pytest.raises(ConfigError, match=r'auth.toml:1: unknown key "typo"'):
        auth.start(path)
    with pytest.raises(SupervisorError, match=r"--auth .*/gone.toml: No such file") as missing:
        auth.start(str(folder / "gone.toml"))
    assert missing.value.exit_status == 2
    os.mkfifo(folder / "pipe")
    with pytest.raises(ConfigError, match=r"/pipe: not a regular file"):
        auth.start(str(folder / "pipe"))


@pytest.mark.skipif(os.getuid() != 0, reason="root alone becomes somebody who cannot read its own files")
def test_a_file_that_the_authenticator_cannot_read_is_told_with_the_remedy(folder: Path) -> None:
    path = write(folder, table("ci", "secret"))
    os.chmod(path, 0o600)
    with pytest.raises(SupervisorError, match=rf"chmod a\+r {path}"):
        auth.start(path)


def test_a_made_token_gets_in_and_the_file_never_holds_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "auth.toml"

    def make(subject: str, *groups: str, days: int = 0) -> str:
        options = argparse.Namespace(subject=subject, group=list(groups), days=days, file=str(path))
        assert auth.token(options) == 0
        return capsys.readouterr().out.strip()

    first, second = make("ci", "builders", days=30), make("ops")
    text = path.read_text()
    assert first not in text
    assert second not in text
    assert text.count("expires") == 1

    async def part(authority: Authority, _pid: int) -> None:
        assert await who(authority, first) == Principal("ci", ("builders",))
        assert await who(authority, second) == Principal("ops")

    play(str(path), part)


def test_a_token_that_cannot_be_added_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(write(folder, table("ci", "secret") + "typo = 1\n"))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="typo"):
        auth.token(argparse.Namespace(subject="ops", group=[], days=1, file=str(path)))
    with pytest.raises(ConfigError, match="subject"):
        auth.token(argparse.Namespace(subject="uid:0", group=[], days=1, file=str(path)))
    assert path.read_bytes() == before
    assert list(folder.iterdir()) == [path]
    assert capsys.readouterr().out == ""


def test_the_gateway_may_ask_for_nothing_else(folder: Path) -> None:
    started = auth.start(write(folder, table("ci", "secret")))
    try:
        wire.send(started.socket, {"id": 1, "req": "reload"})
        assert wire.receive(started.socket) is None
    finally:
        started.close()
