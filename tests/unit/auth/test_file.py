"""The file of --auth: what it may say, and that everything else is an error with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.auth import file
from supervisor.errors import ConfigError, Refused

HASH = "0" * 63
TOKEN = f'[[token]]\nsubject = "ci"\nsha256 = "{HASH}0"\n'
OIDC = 'resource = "https://mcp.example.com"\n[oidc]\nissuer = "https://login.example.com"\n'


def write(folder: Path, text: str) -> str:
    path = folder / "auth.toml"
    path.write_text(text)
    path.chmod(0o644)
    return str(path)


def test_everything_that_may_be_said(tmp_path: Path) -> None:
    text = f"""
resource = "https://mcp.example.com/some/path"

[[token]]
subject = "ci@example.com"
sha256 = "{HASH}1"
groups = ["builders"]
expires = 2027-01-31

[[token]]
subject = "ops"
sha256 = "{HASH}2"
expires = 2027-01-31T12:00:00+02:00

[oidc]
issuer = "https://login.example.com/tenant"
audience = ["api://gateway"]
keys = "keys.json"
algorithms = ["ES256"]
groups = "roles"
scopes = ["mcp"]

[rate]
requests = 100
burst = 200
"""
    path = write(tmp_path, text)
    found = file.load(path)
    assert [each.subject for each in found.token] == ["ci@example.com", "ops"]
    assert [each.expires for each in found.token] == [1801353600.0, 1801389600.0]
    assert found.oidc is not None
    assert file.keys_path(path, found.oidc) == str(tmp_path / "keys.json")
    assert found.rate == file.Rate(requests=100, burst=200)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", "", "nobody could get in; supervisor token SUBJECT --file"),
        ("unknown = 1\n" + TOKEN, ":1:", 'unknown key "unknown"'),
        (TOKEN + "scope = 5\n", ":4:", 'unknown key "token.0.scope"'),
        (TOKEN.replace("ci", "uid:0"), ":2:", "token.0.subject"),
        (TOKEN.replace("ci", ""), ":2:", "token.0.subject"),
        (TOKEN.replace("0", "A"), ":3:", "token.0.sha256"),
        (TOKEN.replace(HASH, "0"), ":3:", "token.0.sha256"),
        (TOKEN + 'expires = "2027-01-01"\n', ":4:", "token.0.expires: a date or a time, without quotes"),
        (TOKEN + "expires = 2027-01-01T00:00:00\n", ":4:", "token.0.expires: a time needs its offset"),
        (TOKEN + TOKEN, ":6:", "this token is there already, for ci"),
        ('resource = "https://mcp.example.com/mcp"\n' + TOKEN, ":1:", "that stands before /mcp"),
        ('resource = "http://mcp.example.com"\n' + TOKEN, ":1:", "an https:// URL"),
        ('resource = "https://u:p@mcp.example.com"\n' + TOKEN, ":1:", "scheme, host and path alone"),
        (OIDC.replace("resource", "# resource"), ":2:", '[oidc] needs "resource"'),
        (OIDC.replace("https://login", "http://login"), ":3:", "oidc.issuer: an https:// URL"),
        (OIDC.replace("https://login", "file://login"), ":3:", "oidc.issuer: an https:// URL"),
        (OIDC + 'keys = "http://login.example.com/keys"\n', ":4:", "oidc.keys: an https:// URL"),
        (OIDC + 'keys = "file:///etc/passwd"\n', ":4:", "oidc.keys: an https:// URL"),
        (OIDC + 'algorithms = ["HS256"]\n', ":4:", "oidc.algorithms.0"),
        (OIDC + 'algorithms = ["none"]\n', ":4:", "oidc.algorithms.0"),
        (OIDC + "algorithms = []\n", ":4:", "oidc.algorithms"),
        (OIDC + 'scopes = ["a b"]\n', ":4:", "oidc.scopes.0"),
        (OIDC + 'scopes = ["a\\"b"]\n', ":4:", "oidc.scopes.0"),
        (TOKEN + "[rate]\nrequests = 0\nburst = 1\n", ":5:", "rate.requests"),
        (TOKEN + "[rate]\nrequests = 1\n", ":4:", 'key "rate.burst" is missing'),
    ],
)
def test_everything_else_is_an_error_with_its_line(tmp_path: Path, text: str, line: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        file.load(path)
    assert str(caught.value).startswith(path + line)
    assert said in str(caught.value)


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, TOKEN)
    os.chmod(path, 0o664)
    with pytest.raises(Refused, match="chmod go-w"):
        file.load(path)
