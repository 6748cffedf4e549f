"""Policies for the tests, as a gateway gets them."""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.roles import bundle, statements
from supervisor.roles.bundle import Bundle
from supervisor.roles.judge import Judge


def made(
    server: str,
    text: str,
    *,
    accounts: Mapping[int, str] | None = None,
    members: Mapping[str, tuple[int, ...]] | None = None,
) -> Bundle:
    """The policies of one server, written in a file p.cedar."""
    parsed = [each.statement for each in statements.split(text, "p.cedar")]
    listed = tuple((each.origin, each.label, each.text) for each in parsed)
    return Bundle(server, "none", listed, dict(accounts or {}), dict(members or {}))


def policy(server: str, text: str, *, accounts: Mapping[int, str] | None = None) -> str:
    """The same as the monitor passes it on."""
    return bundle.encode(made(server, text, accounts=accounts))


def judge(text: str, *, accounts: Mapping[int, str] | None = None) -> Judge:
    """Of a server "s"; uid 7 is in the group "staff"."""
    return Judge(made("s", text, accounts=accounts, members={"staff": (7,)}))
