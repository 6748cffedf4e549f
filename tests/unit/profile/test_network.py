"""From profile and operator to the network of a spec: who may add hosts, what is granted, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.profile import load, plan
from supervisor.profile.entry import Account
from supervisor.profile.explain import summary
from tests.unit.profile.test_plan import entry


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned(profile: str, *allow: str) -> Account:
    written = entry(Path.cwd(), profile=profile).model_copy(update={"allow": allow})
    return plan.plan(load.load(profile), written)


def own(folder: Path, text: str) -> str:
    path = folder / "own.toml"
    path.write_text(f'profile = 1\nname = "own"\nsummary = "Own."\nextends = "none"\n{text}')
    path.chmod(0o644)
    return str(path)


def test_the_operator_s_host_is_granted_in_words_and_part_of_the_digest() -> None:
    made = planned("net-allowlist", "Example.test:443")
    assert made.spec.network.allow == ("example.test:443",)
    assert ("198.18.1.0", 443) in made.spec.network.tcp
    granted = [each for each in made.grants if "example.test" in each.what]
    assert [each.why for each in granted] == ["the operator's own grant"]
    assert made.spec.digest != planned("net-allowlist", "other.test:443").spec.digest


def test_ci_runner_has_a_network_only_with_a_host() -> None:
    assert planned("ci-runner").spec.network.mode == "none"
    assert planned("ci-runner").spec.network.tcp == ()
    assert planned("ci-runner", "a.test:443").spec.network.mode == "allowlist"


@pytest.mark.parametrize("profile", ["none", "fs-readonly", "fs-scoped"])
def test_a_profile_without_a_network_takes_no_host(profile: str) -> None:
    with pytest.raises(Refused, match=r"network\.operator = false, none\.toml:\d+"):
        planned(profile, "a.test:443")


def test_what_a_profile_says_is_read_with_its_line(tmp_path: Path) -> None:
    head = '[seccomp]\ngroups = ["network"]\n[network]\nmode = "allowlist"\n'
    made = planned(own(tmp_path, f'{head}allow = ["a.test:443"]\nech = "pass"\n'))
    assert made.spec.network.ech == "pass"
    assert [each.origin for each in made.grants if "a.test" in each.what] == ["own.toml:9"]
    assert any("Encrypted Client Hello" in each.what for each in made.grants)
    with pytest.raises(ConfigError, match=r'own\.toml:9: network: "a\.test"'):
        planned(own(tmp_path, f'{head}allow = ["a.test"]\n'))


def test_a_network_needs_its_system_calls_and_hosts_need_a_network(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'own\.toml:6: .*add "network"'):
        planned(own(tmp_path, '[network]\nmode = "allowlist"\n'))
    with pytest.raises(ConfigError, match=r"own\.toml:6: allow needs mode"):
        planned(own(tmp_path, '[network]\nallow = ["a.test:443"]\n'))


def test_a_network_without_a_host_is_told_as_that_with_the_option_that_adds_one() -> None:
    assert "network: no host allowed yet (--allow HOST:PORT)" in summary(planned("net-allowlist").spec)
    assert "network: a.test:443; " in summary(planned("net-allowlist", "a.test:443").spec)
    assert "network: none; " in summary(planned("none").spec)


def test_the_broker_s_filter_travels_with_the_spec() -> None:
    assert planned("net-allowlist").spec.network.filter
    assert not planned("none").spec.network.filter
