"""Secrets as they are written: what is wrong is told with file and line, what is granted in words, and no value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.model import Planned
from supervisor.registry.planner import answer

CANARY = "ghp_canary1234567890"


def planned(folder: Path, secret: str, more: str = "", profile: str = "net-allowlist") -> Planned:
    """A registry with one server, its secret on line 5."""
    path = folder / "servers.toml"
    text = f'[server.s]\nprofile = "{profile}"\ncommand = ["/usr/bin/true"]\n{more}\n[server.s.secrets]\n{secret}\n'
    path.write_text(text.replace("\n\n", "\n"), encoding="utf-8")
    return answer({"catalog": str(path)})


def test_the_reader_is_told_where_from_and_where_to(tmp_path: Path) -> None:
    made = planned(
        tmp_path, 'T = { file = "/etc/t", to = "header", host = "API.Example.com:8443", header = "X-Key" }'
    )
    spec = made.servers[0].plan.spec
    told = {
        "name": "T",
        "to": "header",
        "file": "/etc/t",
        "host": "api.example.com",
        "header": "X-Key",
        "prefix": "",
    }
    assert json.loads(spec.secrets) == [told | {"origin": f"{tmp_path}/servers.toml:5"}]
    assert spec.network.allow == ("header:api.example.com:8443",)
    assert ("198.18.1.0", 80) in spec.network.tcp
    assert planned(tmp_path, "").servers[0].plan.spec.secrets == ""


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        (f'T = "{CANARY}"', "server.s.secrets.T: expected a table, got a text"),
        (f'T = {{ value = "{CANARY}", to = "env" }}', 'unknown key "server.s.secrets.T.value"'),
        (f'T = {{ env = "{CANARY}-", to = "env" }}', "server.s.secrets.T.env: expected a text matching"),
        (
            'T = { to = "env" }',
            "name one of file, env, credential, keyring, command, where it comes from, not none",
        ),
        ('T = { file = "/t", env = "T", to = "env" }', "not file and env"),
        ('T = { file = "/t" }', 'key "server.s.secrets.T.to" is missing'),
        ('T = { file = "t", to = "env" }', '"t" is relative; write it from /'),
        ('T = { file = "/t", to = "header" }', 'needs host = "api.example.com"'),
        ('T = { file = "/t", to = "env", host = "a.test" }', 'host goes with to = "header"'),
        ('T = { file = "/t", to = "header", host = "a.test", header = "Host" }', "not the server's to say"),
        ('T = { file = "/t", to = "header", host = "*.a.test" }', "not to a pattern"),
        (
            'T = { file = "/t", to = "header", host = "10.0.0.1:443" }',
            "no name that a certificate could be checked",
        ),
        ('T = { file = "/t", to = "header", host = "a b" }', "is no host name"),
        ('"a-b" = { file = "/t", to = "env" }', 'the name of a variable has no "." or "-"'),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_no_value(tmp_path: Path, secret: str, says: str) -> None:
    made = planned(tmp_path, secret)
    assert made.status == 2
    assert made.error.startswith(f"{tmp_path}/servers.toml:5: ")
    assert says in made.error
    assert CANARY not in made.error


def test_what_would_mean_two_things_or_give_the_secret_away_is_refused(tmp_path: Path) -> None:
    header = 'T = { file = "/t", to = "header", host = "a.test" }'
    made = planned(tmp_path, header, 'allow = ["a.test:80"]')
    assert '"a.test:80" would be the same inside: take one of them away' in made.error
    made = planned(tmp_path, header, 'allow = ["header:a.test:443"]')
    assert '"header:" comes with a secret' in made.error
    made = planned(tmp_path, header, profile="none")
    assert made.status == 3
    assert "network.operator" in made.error
    made = planned(tmp_path, 'T = { file = "/t", to = "env" }', 'env = { T = "x" }')
    assert "env sets T as well" in made.error
    made = planned(tmp_path, f'T = {{ file = "{tmp_path}/t", to = "env" }}', f'rw = ["{tmp_path}"]')
    assert made.status == 3
    assert "which the server is shown: put it elsewhere" in made.error
    assert not planned(tmp_path, header, 'allow = ["*.a.test:80", "a.test:443"]').error
