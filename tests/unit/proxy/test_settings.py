"""The registry's word to the gateway: read closed, with defaults."""

from __future__ import annotations

import json

import pytest

from supervisor.errors import ConfigError
from supervisor.proxy import settings


def test_what_is_not_said_has_a_default() -> None:
    found = settings.decode("{}", "s")
    assert (found.session.share, found.restart.limit, found.quota.calls) == ("principal", 8, 64)


def test_patterns_are_those_of_their_kind_and_templates_are_resources() -> None:
    text = {"tools": {"allow": [["t", "f:1"]]}, "resources": {"deny": [["r", "f:2"]]}}
    found = settings.decode(json.dumps(text), "s")
    assert found.patterns("tools") is found.tools
    assert found.patterns("templates") is found.patterns("resources") is found.resources
    assert found.resources.deny[0].origin == "f:2"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"toolz":{}}', '{"session":{"idle":"10"}}', '{"quota":{"x":1}}', "\ud800"]
)
def test_what_is_of_another_version_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match='server "s"'):
        settings.decode(text, "s")
