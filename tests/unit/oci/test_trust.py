"""trust.toml: the longest pattern decides alone; what could mean less than it seems is an error with its line."""

from __future__ import annotations

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.oci import keyfile, trust

ONE, TWO = (keyfile.public(keyfile.generate()) for _ in range(2))
KEYS = f'trust = 1\n[keys.one]\npublic = """{ONE}"""\n[keys.two]\npublic = """{TWO}"""\n'
KEYS += 'repository = "a.example/b/c"\n'
WHO = '[identities.ci]\nsubject = "https://ci.example/x"\nissuer = "https://issuer.example"\n'


def parse(text: str) -> trust.Trust:
    return trust.parse("/etc/supervisor/trust.toml", text.encode())


def rule(pattern: str, more: str = "", keys: str = '["one"]') -> str:
    return f'[[repository]]\npattern = "{pattern}"\nkeys = {keys}\n{more}'


def test_what_no_pattern_matches_is_refused() -> None:
    found = parse(KEYS + rule("a.example/b/*"))
    for name in ("a.example/b", "a.example/bc", "b.example/b/c", "a.example/c/b/d"):
        with pytest.raises(Refused, match=f"{name}: no pattern in /etc/supervisor/trust.toml matches"):
            found.rule(name)


def test_the_longest_pattern_decides_alone() -> None:
    found = parse(
        KEYS
        + WHO
        + rule("a.example/*")
        + rule("a.example/b/*", "threshold = 2\n", '["one", "two"]')
        + rule("a.example/b/c", 'identities = ["ci"]\n', "[]")
    )
    assert [s.name for s in found.rule("a.example/x").signers] == ["one"]
    assert found.rule("a.example/b/x").threshold == 2
    assert [s.name for s in found.rule("a.example/b/c").signers] == ["ci"]
    assert found.rule("a.example/b/c/d").threshold == 2
    assert found.rule("a.example/b/c").origin == "trust.toml:25"


def test_a_rule_without_signers_or_with_too_few_is_an_error() -> None:
    for text in (rule("a.example/b", keys="[]"), rule("a.example/b", "threshold = 2\n")):
        with pytest.raises(ConfigError, match="fewer than it needs"):
            parse(KEYS + text)
    with pytest.raises(ConfigError, match="fewer than it needs"):
        parse(KEYS + rule("a.example/b", "threshold = 2\n", '["one", "one"]'))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'trust.toml:1: key "trust" is missing'),
        ("trust = 2\n", "trust.toml:1"),
        (KEYS + "[key.three]\n", 'unknown key "key"'),
        (KEYS + rule("a.example/b", 'key = "one"\n'), 'unknown key "repository.0.key"'),
        (KEYS + rule("a.example/b", keys='["three"]'), r"there is no \[keys.three\]"),
        (KEYS + rule("a.example/b", 'identities = ["ci"]\n'), r"there is no \[identities.ci\]"),
        (KEYS + rule("*"), "write a whole repository name"),
        (KEYS + rule("a.example"), "write a whole repository name"),
        (KEYS + rule("a.example/b*"), "write a whole repository name"),
        (KEYS + rule("*/b"), "write a whole repository name"),
        (KEYS + rule("A.example/b"), "write a whole repository name"),
        (KEYS + rule("a.example/b") + rule("a.example/b"), "is there twice"),
        (KEYS + rule("a.example/x", keys='["two"]'), "signs for a.example/b/c alone"),
        (KEYS + rule("a.example/b", "threshold = 0\n"), "threshold"),
        (KEYS + rule("a.example/b", 'builders = ["x"]\n'), "say which predicate"),
        (KEYS + f'[keys.three]\npublic = """{ONE}"""\n', 'the same key as "one"'),
        ('trust = 1\n[keys.a]\npublic = "x"\n', "trust.toml:3: keys.a: not a public key"),
        (f'trust = 1\n[keys.a]\npublic = """{ONE}"""\nrepository = "b"\n', "write the registry too"),
        ('trust = 1\n[identities.a]\nsubject = ""\nissuer = "x"\n', "subject"),
        ('trust = 1\n[identities.a]\nsubject = "x"\n', 'key "identities.a.issuer" is missing'),
    ],
)
def test_what_is_written_wrong_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(text)
