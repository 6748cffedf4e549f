"""What discover finds, as a request of the approvals: pending, shown, approved as it was shown, or denied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.caller import Caller
from tests.integration.test_discover import USER, Desk, entry


@pytest.fixture
def desk(caller: Caller) -> Iterator[Desk]:
    made = Desk(caller)
    missing = [word for word in caller.start_options() if word not in ("-q", "--accept-missing")]
    made.lacking = f"accept_missing = {json.dumps(missing[0].split(','))}\n" if missing else ""
    yield made
    shutil.rmtree(made.folder)


def told(desk: Desk, *words: str) -> Any:
    done = desk.type(words[0], *words[1:], "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def request(desk: Desk, command: str = "/usr/bin/cat") -> str:
    """File one, with what this host lacks accepted; its number."""
    desk.write("a.toml", entry(command))
    told(desk, "discover", "--request", "one")
    path = desk.folder / "servers.d/proposed/one.toml"
    path.write_text(path.read_text() + desk.lacking)
    (row,) = told(desk, "pending")
    assert (row["server"], row["request"]) == ("one", True)
    return str(row["approval"])


def test_a_request_waits_is_shown_and_is_registered_as_it_was_shown(desk: Desk) -> None:
    number = request(desk)
    shown = told(desk, "show", number)
    assert shown["entry"]["command"] == ["/usr/bin/cat"]
    assert {"sign": "+", "what": "run /usr/bin/cat"} in shown["changes"]
    assert any("a.toml" in line for line in shown["found"])
    person = desk.type("show", number).stdout
    assert "+ run /usr/bin/cat" in person
    assert "command: /usr/bin/cat" in person
    by_name = desk.type("approve", "one")
    assert (by_name.returncode, number in by_name.stderr) == (2, True)
    assert desk.type("list").returncode == 2, "nothing is registered before"
    assert told(desk, "approve", number, "--reason", "seen")["done"] == "approve"
    assert [each["name"] for each in told(desk, "list")] == ["one"]
    assert not (desk.folder / "servers.d/proposed/one.toml").exists()
    (line,) = [json.loads(each) for each in (desk.folder / "approvals.jsonl").read_text().splitlines()]
    assert (line["req"], line["server"], line["reason"]) == ("approve", "one", "seen")
    desk.config.write_text("[approvals]\nrequired = true\n" + desk.config.read_text())
    assert [each["server"] for each in told(desk, "list", "--approved")] == ["one"]


@USER
def test_a_request_that_is_edited_after_it_was_shown_has_another_number(desk: Desk) -> None:
    number = request(desk)
    path = desk.folder / "servers.d/proposed/one.toml"
    kept = path.read_text()
    for line in ('env = { A = "1" }\n', 'tools = { allow = ["x"] }\n', 'session = { idle = "5s" }\n'):
        path.write_text(kept + line)
        stale = desk.type("approve", number)
        assert (stale.returncode, desk.config.exists()) == (2, False), stale.stderr
        assert told(desk, "pending")[0]["approval"] != number
    path.write_text(kept)
    assert told(desk, "pending")[0]["approval"] == number


@USER
def test_what_was_denied_is_not_proposed_again_until_it_has_changed(desk: Desk) -> None:
    number = request(desk)
    assert desk.type("deny", number).returncode == 2, "a reason is asked for"
    assert told(desk, "deny", number, "--reason", "what for?")["done"] == "deny"
    assert not (desk.folder / "servers.d/proposed/one.toml").exists()
    assert desk.discover() == [("known", "one", "denied")]
    again = desk.type("discover", "--request", "one")
    assert again.returncode == 2
    assert "it was denied (what for?) and has not changed" in again.stderr
    assert told(desk, "discover", "--request", "all")["requested"] == []
    nothing = desk.type("pending")
    assert nothing.returncode == 2, nothing.stdout
    desk.write("a.toml", entry("/usr/bin/true"))
    assert desk.discover() == [("changed", "one", "proposed")]
    assert request(desk, "/usr/bin/true") != number


@USER
def test_a_request_that_cannot_be_registered_is_pending_with_the_reason_and_can_be_denied(desk: Desk) -> None:
    desk.write("a.toml", entry("/usr/bin/no-such-program"))
    told(desk, "discover", "--request", "one")
    (row,) = told(desk, "pending")
    assert row["approval"] == ""
    assert "no-such-program" in row["why"]
    refused = desk.type("approve", "one")
    assert (refused.returncode, "cannot be approved now" in refused.stderr) == (2, True)
    assert told(desk, "show", "one")["problem"]
    assert told(desk, "deny", "one", "--reason", "is not there")["done"] == "deny"
    assert desk.discover() == [("known", "one", "denied")]


@USER
def test_a_request_that_was_edited_into_nonsense_is_shown_with_the_reason_and_can_be_denied(desk: Desk) -> None:
    request(desk)
    path = desk.folder / "servers.d/proposed/one.toml"
    for text, said in ((entry("x") + "summary = 2020-01-01\n", "a date"), (entry("x") + "# \udcff", "not UTF-8")):
        path.write_bytes(text.encode(errors="surrogateescape"))
        assert said in told(desk, "show", "one")["problem"]
        assert told(desk, "deny", "one", "--reason", "nonsense")["done"] == "deny"
        assert not path.exists()
