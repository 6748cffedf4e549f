"""Values are found by whoever does not know them; nothing else is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.secrets import marks
from supervisor.secrets.marks import Marks, make

VALUE = 'pa"ss wörd/123456'


def test_every_spelling_is_found_and_the_value_is_in_no_mark() -> None:
    made = make({"T": VALUE}, b"key")
    assert VALUE not in json.dumps(made, ensure_ascii=False)
    found = Marks(json.loads(json.dumps(made)))
    for each in marks.spellings(VALUE):
        assert found.replace(f"a{each}b{each}", lambda name: f"<{name}>") == "a<T>b<T>"


@given(st.text(max_size=60))
def test_what_is_no_value_stays_as_it_is(text: str) -> None:
    found = Marks(make({"T": "a value that nobody draws"}, b"key"))
    assert found.replace(text, lambda _: "<>") == text


def test_of_two_values_the_longer_is_taken_and_short_ones_are_not_looked_for() -> None:
    """Of short ones a mark would tell too much."""
    found = Marks(make({"LONG": "token-123456789012345", "SHORT": "token-1234567890", "PIN": "48392071"}, b"key"))
    said = found.replace("token-123456789012345 token-1234567890 48392071", lambda name: name)
    assert said == "LONG SHORT 48392071"
    assert not Marks(make({"PIN": "48392071"}, b"key"))


def test_a_text_made_to_cost_time_is_taken_out_as_a_whole() -> None:
    found = Marks(make({"T": "aaaaaaaaaaaaaaaaab"}, b"key"))
    assert found.replace("a" * 100_000, lambda name: f"<{name}>") == "<too many places to look at>"


@pytest.mark.parametrize("made", [1, [], {}, {"key": "zz", "marks": []}, {"key": "00", "marks": [[1]]}])
def test_what_are_no_marks_is_an_error(made: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        Marks(made)
