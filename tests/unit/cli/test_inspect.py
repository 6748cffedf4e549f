"""`supervisor check`: what a setting of the host means for sandboxes."""

from __future__ import annotations

import pytest

from supervisor.cli.inspect import crashes


def test_a_program_that_gets_the_memory_of_what_crashes_is_named_with_the_way_to_end_it() -> None:
    said = crashes("|/usr/share/apport/apport -p%p -s%s")
    assert "/usr/share/apport/apport" in said
    assert "-p%p" not in said
    assert "sysctl kernel.core_pattern=core" in said


@pytest.mark.parametrize("pattern", ["core", "/var/crash/core.%p", ""])
def test_a_file_is_bounded_by_the_limits_of_the_sandbox_and_needs_no_words(pattern: str) -> None:
    assert crashes(pattern) == ""
