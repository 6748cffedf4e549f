"""What is put in the place of a file while a plan is made from it is noticed by whoever watches afterwards."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.model import Planned
from supervisor.profile import host, toml
from supervisor.registry import bindings, policies
from supervisor.registry.planner import answer
from supervisor.registry.seen import Seen


@pytest.fixture
def app(tmp_path: Path) -> Path:
    for name, text in (("app", "approved"), ("evil", "not approved")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__main__.py").write_text(text)
        (tmp_path / name / "index.js").write_text(text)
    return tmp_path / "app"


def planned(app: Path, program: str = "/usr/bin/python3") -> Planned:
    path = app.parent / "servers.toml"
    path.write_text(
        "[approvals]\nrequired = true\n"
        f'[server.a]\nprofile = "none"\nro = ["{app}"]\ncommand = {json.dumps([program, str(app)])}\n'
    )
    found = answer({"catalog": str(path)}, policies.govern)
    assert not found.error, found.error
    return found


def unnoticed(found: Planned) -> bool:
    """Whether everything is as it was read, for who looks once a second."""
    return all(host.changed(path) == seen for path, seen in found.watched)


def test_a_folder_that_is_exchanged_after_it_was_digested_is_noticed(
    app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange() -> None:
        app.rename(app.parent / "kept")
        (app.parent / "evil").rename(app)

    assert unnoticed(planned(app))
    digest = bindings.digest

    def digested(path: str) -> str:
        made = digest(path)
        if path == str(app / "__main__.py") and made == hashlib.sha256(b"approved").hexdigest():
            exchange()
        return made

    monkeypatch.setattr(bindings, "digest", digested)
    assert not unnoticed(planned(app))


@pytest.mark.parametrize("name", ["__main__.py", "package.json"])
def test_what_comes_into_a_folder_that_is_started_is_noticed(app: Path, name: str) -> None:
    (app / "__main__.py").unlink()
    found = planned(app, "/usr/bin/python3")
    assert unnoticed(found)
    (app / name).write_text("{}")
    assert not unnoticed(found)


def test_a_registry_that_is_exchanged_while_it_is_read_is_noticed(
    app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = app.parent / "servers.toml"

    def exchange() -> None:
        (app.parent / "new").write_text("")
        (app.parent / "new").rename(registry)

    real = toml.read
    reads = itertools.count(1)

    def read(path: str) -> object:
        made = real(path)
        # the second time is the one that counts
        if path == str(registry) and next(reads) == 2:
            exchange()
        return made

    monkeypatch.setattr(toml, "read", read)
    assert not unnoticed(planned(app))


def test_what_changes_faster_than_it_can_be_read_is_an_error(tmp_path: Path) -> None:
    numbers = itertools.count()
    with pytest.raises(ConfigError, match="changes faster than it can be read"):
        Seen().settle(lambda: next(numbers), lambda made: [str(tmp_path / str(made))])
