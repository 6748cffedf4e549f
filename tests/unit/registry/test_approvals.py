"""Approvals: whatever changes asks again, who counts, how one ends, and a file that is not as it was written."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused, SupervisorError
from supervisor.model import Planned, Registered
from supervisor.monitor import approvals as store
from supervisor.profile import toml
from supervisor.registry import approvals, policies
from supervisor.registry.approvals import Bound, Decision, State
from supervisor.registry.planner import answer

MADE = Bound(
    server="a",
    command=("/usr/bin/cat", "x"),
    files={"/usr/bin/cat": "0" * 64},
    image="",
    manifest="1" * 64,
    version="1.0",
    profile="none",
    spec="2" * 64,
    params={"root": "/srv"},
    accepted=(),
    touches=("read /srv at /data",),
)
OTHER: dict[str, object] = {
    "server": "b",
    "command": ("/usr/bin/cat", "y"),
    "files": {"/usr/bin/cat": "9" * 64},
    "image": "x@sha256:" + "0" * 64,
    "manifest": "",
    "version": "1.1",
    "profile": "fs-readonly",
    "spec": "3" * 64,
    "params": {"root": "/"},
    "accepted": ("limits.memory",),
    "touches": ("read / at /data",),
}
NOW = 1000.0


def said(req: str, by: int = 0, *, made: Bound = MADE, **fields: object) -> Decision:
    words = {"at": 1.0, "id": 1, "reason": "", "until": 0.0, "uid": 0, "login": by}
    table = words | {"req": req, "server": made.server, "approval": made.number, "bound": made.text} | fields
    return toml.made(table, Decision)


def judged(*past: Decision, persons: int = 1, made: Bound = MADE) -> State:
    return approvals.state(made, past, persons, approvals.anybody, NOW)


def test_what_nobody_has_approved_is_held_with_its_number() -> None:
    assert judged().held == f"approval {MADE.number} needed: supervisor approve {MADE.number}"
    assert judged(said("approve")) == State("", 0.0, (0,))


@pytest.mark.parametrize("field", sorted(Bound.__struct_fields__))
def test_a_change_of_anything_that_is_bound_is_noticed(field: str) -> None:
    changed = MADE.model_copy(update={field: OTHER[field]})
    assert changed.number != MADE.number
    assert judged(said("approve"), made=changed).held


def test_an_approval_ends_when_it_was_to_end_was_denied_or_was_taken_back() -> None:
    assert judged(said("approve", until=NOW + 1)) == State("", NOW + 1, (0,))
    assert judged(said("approve", until=NOW)).held.endswith("(it has expired)")
    assert judged(said("approve"), said("deny", reason="no")).held.endswith("(denied: no)")
    assert judged(said("approve"), said("revoke")).held
    other = MADE.model_copy(update={"spec": "4" * 64})
    assert judged(said("approve"), said("revoke", made=other)).held, "of the server, whatever it was then"
    assert judged(said("deny"), said("approve")).held == ""


def test_two_persons_are_two_logins_and_not_one_twice() -> None:
    assert judged(said("approve", 1000), said("approve", 1000), persons=2).held.endswith("(1 of 2 persons have)")
    assert judged(said("approve", 1000), said("approve", 1001), persons=2).held == ""
    unknown = (1 << 32) - 1
    assert judged(said("approve", unknown), said("approve", 0), persons=2).held, "without a login it is the uid"


def test_who_may_not_approve_by_policy_does_not_count() -> None:
    def may(server: str, uid: int) -> bool:
        return (server, uid) == ("a", 7)

    past = [said("approve", 1)]
    told = approvals.state(MADE, past, 1, may, NOW).held
    assert told.endswith("(that of uid 1 does not count: no policy lets that user approve)")
    assert approvals.state(MADE, [*past, said("revoke")], 1, may, NOW).held.endswith(MADE.number)
    assert approvals.state(MADE, [said("approve", 7)], 1, may, NOW).held == ""


def test_the_difference_is_told_in_words() -> None:
    new = MADE.model_copy(update={"touches": ("read /srv at /data", "reach example.com:443"), "version": "2"})
    assert approvals.differences(MADE, new) == [
        ("+", "reach example.com:443"),
        ("~", "it calls itself version 2 instead of 1.0"),
    ]
    assert approvals.differences(new, MADE)[0] == ("-", "reach example.com:443")
    assert approvals.differences(None, MADE) == [("+", "read /srv at /data")]


class Registry:
    """A registry in which one server has to be approved; its program is a file of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = str(folder / "servers.toml")
        self.store = folder / "approvals.jsonl"
        (folder / "program").write_text("#!/usr/bin/cat\n")
        (folder / "program").chmod(0o755)
        self.write()

    def write(self, more: str = "", approvals: str = "required = true") -> None:
        text = f'[approvals]\n{approvals}\n[server.a]\ncommand = ["{self.folder}/program"]\n' + (
            more or 'profile = "none"\n'
        )
        Path(self.path).write_text(text)

    def plan(self, **more: str) -> Planned:
        found = answer({"catalog": self.path, **more}, policies.govern)
        assert not found.error, found.error
        return found

    def server(self, **more: str) -> Registered:
        return self.plan(**more).servers[0]

    def approve(self) -> None:
        server = self.server()
        words: dict[str, object] = {"id": 1, "req": "approve", "server": "a", "approval": server.approval}
        about = {"reason": "", "until": 0.0, "bound": server.bound, "uid": 0, "asked": []}
        store.record(self.path, os.getpid(), words | about)
        assert self.server().held == ""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_nothing_is_held_where_nobody_asks_for_approvals(registry: Registry) -> None:
    registry.write(approvals="required = false")
    assert (registry.server().held, registry.server().approval) == ("", "")


@pytest.mark.parametrize(
    "more",
    [
        'profile = "none"\nenv = { A = "b" }',
        'allow = ["example.com:443"]\nprofile = "net-allowlist"',
        "profile = 'none'\n[server.a.session]\nidle = '1m'",
    ],
)
def test_a_change_of_the_entry_asks_again_where_it_is_about_the_sandbox(more: str, registry: Registry) -> None:
    registry.approve()
    registry.write(more + "\n")
    assert bool(registry.server().held) == ("session" not in more)
    registry.write()
    assert registry.server().held == ""


def test_a_change_of_the_program_or_of_what_is_pinned_asks_again(registry: Registry) -> None:
    registry.approve()
    program = registry.folder / "program"
    assert str(program) in dict(registry.plan().watched)
    program.write_text("#!/usr/bin/cat\n# more\n")
    assert registry.server().held
    registry.approve()
    pins = registry.folder / "pins"
    pins.mkdir()
    (pins / "a.json").write_text('{"eras": {"legacy": {"handshake": {"serverInfo": {"version": "3"}}}}}')
    assert registry.server().held
    assert json.loads(registry.server().bound)["version"] == "3"


def test_a_server_is_started_for_its_review_by_whoever_owns_the_registry(registry: Registry) -> None:
    assert registry.server(review="a").held == ""
    assert registry.server(review="b").held


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "not whole": lambda line: line[:-1],
    "no decision": lambda line: b"{}\n",
    "unknown key": lambda line: line.replace(b'"reason"', b'"raeson"'),
    "is not of what stands there": lambda line: line.replace(b"/program", b"/pr0gram"),
}


@pytest.mark.parametrize("why", BROKEN)
def test_a_line_that_is_not_as_it_was_written_holds_everything_and_is_named(why: str, registry: Registry) -> None:
    registry.approve()
    registry.store.write_bytes(registry.store.read_bytes() + BROKEN[why](registry.store.read_bytes()))
    found = answer({"catalog": registry.path}, policies.govern)
    assert found.error.startswith(f"{registry.store}:2: ")
    assert found.servers == ()


def test_a_file_that_others_can_write_is_not_read(registry: Registry) -> None:
    registry.approve()
    registry.store.chmod(0o666)
    with pytest.raises(Refused, match="others can write it"):
        approvals.decisions(registry.path)


def test_an_approver_is_whom_a_policy_lets_approve(registry: Registry) -> None:
    (registry.folder / "policies").mkdir()
    rule = registry.folder / "policies" / "p.cedar"
    rule.write_text('permit(principal, action == Action::"open", resource);')
    words = {"id": 1, "req": "approve", "server": "a", "approval": registry.server().approval, "reason": ""}
    about = {"until": 0.0, "bound": registry.server().bound, "uid": 0, "asked": []}
    store.record(registry.path, os.getpid(), words | about)
    assert registry.server().held
    rule.write_text("permit(principal, action, resource);")
    assert registry.server().held == ""


def test_a_decision_that_cannot_be_written_is_none(registry: Registry) -> None:
    registry.store.symlink_to("elsewhere")
    with pytest.raises(SupervisorError, match="nothing was decided"):
        store.record(registry.path, os.getpid(), {"req": "approve"})
    assert not (registry.folder / "elsewhere").exists()
    registry.store.unlink()
    registry.store.write_text("nonsense\n")
    with pytest.raises(ConfigError, match=r"approvals.jsonl:1: no decision"):
        approvals.decisions(registry.path)


def test_a_decision_for_which_the_disk_has_no_room_leaves_nothing_of_itself(registry: Registry) -> None:
    registry.approve()
    before = registry.store.read_bytes()
    sigxfsz = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # the kernel takes what still fits, and refuses the rest, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(SupervisorError, match="nothing was decided"):
            store.record(registry.path, os.getpid(), {"req": "approve"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, sigxfsz)
    assert registry.store.read_bytes() == before
    assert registry.server().held == ""
