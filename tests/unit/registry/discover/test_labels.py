"""Labels of containers: they narrow what the operator has bounded, and name nothing that would run."""

from __future__ import annotations

import pytest

from supervisor.registry.discover import labels
from supervisor.registry.discover.proposal import Proposal

NUMBER = "ab" * 32
IMAGE = f"registry.example.org/team/server@sha256:{NUMBER}"


def proposal(more: dict[str, object], bound: str = "none", names: tuple[str, ...] = (IMAGE,)) -> Proposal:
    """What becomes of a container with these labels; `_` in a key is a dot."""
    own = {f"supervisor.{key.replace('_', '.')}": value for key, value in more.items()}
    container = {
        "Id": NUMBER,
        "Names": ["/web"],
        "Image": "registry.example.org/team/server:1.2",
        "ImageID": f"sha256:{NUMBER}",
        "Labels": {"supervisor.server": "time", "org.example.other": "x"} | own,
    }
    return labels.propose("docker", container, lambda _: list(names), bound)


def test_a_container_is_proposed_by_its_image_s_digest_and_the_bound() -> None:
    made = proposal({})
    assert made.refused == ""
    assert made.name == "time"
    assert made.place == "container web abababababab"
    assert made.fields == {"image": IMAGE, "profile": "none"}


def test_labels_narrow_what_may_be_used() -> None:
    own: dict[str, object] = {"profile": "fs-readonly", "tools_allow": "get_*, list_*", "tools_deny": "get_all"}
    made = proposal(own, "fs-scoped")
    assert made.fields["profile"] == "fs-readonly"
    assert made.fields["tools"] == {"allow": ["get_*", "list_*"], "deny": ["get_all"]}


@pytest.mark.parametrize(("bound", "asked"), [("none", "net-allowlist"), ("net-allowlist", "ci-runner")])
def test_a_label_never_widens_the_bound(bound: str, asked: str) -> None:
    made = proposal({"profile": asked}, bound)
    assert f"{asked} grants more than the bound, {bound}" in made.refused
    assert made.fields == {}


@pytest.mark.parametrize(
    "label",
    ["command", "mount", "rw", "allow", "users", "env.PATH", "image", "accept_missing", "tools", "x\x1b[2J"],
)
def test_a_label_that_would_grant_something_refuses_the_container(label: str) -> None:
    made = proposal({label: "/bin/sh"})
    assert "label" in made.refused
    assert made.refused.isprintable()
    assert made.fields == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tools_allow", "a,,b"),
        ("tools_allow", ",".join("a" * 100)),
        ("summary", "x\x1b]0;gone\x07"),
        ("summary", "\u202eevil"),
        ("summary", "x" * 257),
        ("server", ""),
        ("server", "a\nb"),
        ("profile", "/etc/passwd"),
        ("profile", "../none"),
        ("summary", 7),
    ],
)
def test_a_label_that_cannot_be_shown_or_read_is_refused_by_name(key: str, value: object) -> None:
    made = proposal({key: value})
    assert f"label supervisor.{key.replace('_', '.')}" in made.refused
    assert made.refused.isprintable()


@pytest.mark.parametrize("names", [(), ("server:1.2",), (f"server@sha256:{NUMBER}",), (f"{IMAGE}\n",)])
def test_an_image_without_a_full_name_and_digest_is_refused(names: tuple[str, ...]) -> None:
    assert "no digest of a registry" in proposal({}, names=names).refused
