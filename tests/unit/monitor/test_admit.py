"""Who may open what."""

from __future__ import annotations

import grp
import os

import pytest

from supervisor.model import ServerRules, Verdict
from supervisor.monitor.admit import MAX_PER_PEER, MAX_PER_USER, admit


def entry(*users: str, personal: bool = False) -> ServerRules:
    return ServerRules(name="files", users=users, personal=personal, origin="servers.toml:3")


def ask(known: ServerRules | None, uid: int = 12345, gid: int = 12345, peer: int = 0, user: int = 0) -> Verdict:
    return admit(known, "files", uid=uid, gid=gid, peer_sessions=peer, user_sessions=user)


def test_what_is_not_registered_is_denied() -> None:
    assert (ask(None).outcome, ask(None).rule) == ("deny", "registered")


def test_nobody_is_granted_by_silence() -> None:
    verdict = ask(entry())
    assert verdict.outcome == "deny"
    assert "users = [...]" in verdict.reason
    assert verdict.source == "servers.toml:3"


def test_a_user_is_granted_by_number_name_and_group() -> None:
    assert ask(entry("12345")).outcome == "allow"
    assert ask(entry("daemon"), uid=1, gid=1).outcome == "allow"
    assert ask(entry(f"@{grp.getgrgid(1).gr_name}"), uid=1, gid=1).outcome == "allow"
    assert ask(entry("daemon"), uid=2, gid=2).outcome == "deny"


def test_the_owner_of_the_daemon_needs_no_grant() -> None:
    assert ask(entry(), uid=os.geteuid()).outcome == "allow"


@pytest.mark.parametrize(("peer", "user"), [(MAX_PER_PEER, 0), (0, MAX_PER_USER)])
def test_a_quota_is_a_verdict_with_a_reason(peer: int, user: int) -> None:
    verdict = ask(entry(personal=True), peer=peer, user=user)
    assert (verdict.outcome, verdict.rule) == ("deny", "quota")
