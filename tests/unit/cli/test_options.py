"""What was typed is what is meant."""

from __future__ import annotations

import pytest

from supervisor.cli.options import parser, read
from supervisor.errors import ConfigError


@pytest.mark.parametrize("words", [["--auth", ""], ["--auth="], ["--config", "x", "--auth", "", "--http", "1"]])
def test_an_option_that_a_shell_has_emptied_is_not_left_out(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="serve: --auth is empty"):
        read(parser(), ["serve", *words])


def test_what_may_be_empty_is() -> None:
    options = read(parser(), ["call", "--profile", "none", "--env", "A=", "--param", "x=", "tool", ""])
    assert (options.env, options.param, options.arguments) == (["A="], ["x="], [""])
