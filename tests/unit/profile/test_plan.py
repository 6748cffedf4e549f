"""Planning: from a profile and an entry to a spec with nothing left to look up."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.profile import load, plan, toml
from supervisor.profile.entry import Account, ServerEntry


def entry(folder: Path, **fields: object) -> ServerEntry:
    given: dict[str, object] = {
        "name": "personal",
        "profile": "none",
        "command": ["/usr/bin/true"],
        "cwd": str(folder),
        "home": "/nonexistent",
        "personal": True,
        "origin": "command line",
    }
    return toml.made(given | fields, ServerEntry)


def make(folder: Path, **fields: object) -> Account:
    written = entry(folder, **fields)
    return plan.plan(load.load(written.profile), written)


def test_none_shows_nothing_of_the_user(tmp_path: Path) -> None:
    spec = make(tmp_path).spec
    assert spec.mounts == ()
    assert spec.network.mode == "none"
    assert spec.cwd == "/tmp"
    assert set(spec.env) == {"HOME", "TMPDIR", "LANG", "PATH"}


def test_what_is_shown_for_the_program_is_told_to_whoever_starts_it(tmp_path: Path) -> None:
    """What a stranger's program says is part of it may be somebody's."""
    package = tmp_path / "package"
    (package / "node_modules/.bin").mkdir(parents=True)
    (package / "node_modules/.bin/server").write_text("#!/bin/sh\n")
    (package / "node_modules/.bin/server").chmod(0o755)
    made = make(tmp_path, command=[str(package / "node_modules/.bin/server")])
    assert f"; the program's own {package}/node_modules; " in str(made.told["summary"])
    assert "own" not in str(make(tmp_path).told["summary"])


def test_the_same_words_give_the_same_digest_and_others_another(tmp_path: Path) -> None:
    assert make(tmp_path).spec.digest == make(tmp_path).spec.digest
    assert make(tmp_path).spec.digest != make(tmp_path, env={"A": "b"}).spec.digest


def test_fs_readonly_shows_the_working_directory_at_data(tmp_path: Path) -> None:
    (mount,) = make(tmp_path, profile="fs-readonly").spec.mounts
    assert (mount.source, mount.target, mount.mode, mount.noexec) == (str(tmp_path), "/data", "ro", True)


def test_a_default_of_a_path_is_for_personal_mode_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='param "root" is not set'):
        make(tmp_path, profile="fs-readonly", personal=False)


def test_a_param_the_profile_does_not_have_is_an_error_that_lists_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='no param "rot"; it has: root'):
        make(tmp_path, profile="fs-readonly", params={"rot": "."})


def test_a_folder_keeps_its_name_or_gets_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    mounts = make(tmp_path, ro=["a"], rw=[f"{tmp_path}/a:/work"]).spec.mounts
    assert [(each.target, each.mode) for each in mounts] == [(str(tmp_path / "a"), "ro"), ("/work", "rw")]


def test_the_operator_s_own_grants_are_shown_as_such(tmp_path: Path) -> None:
    grants = make(tmp_path, ro=["."], env={"KEY": "v"}).grants
    assert [grant.why for grant in grants] == ["the operator's own grant"] * 2
    assert "v" not in grants[1].what.split()


def test_a_writable_scope_is_the_working_directory_inside(tmp_path: Path) -> None:
    spec = make(tmp_path, profile="ci-runner").spec
    assert spec.cwd == str(tmp_path)
    (scope,) = [each for each in spec.mounts if each.target == str(tmp_path)]
    assert (scope.mode, scope.noexec, scope.map_owner) == ("rw", False, True)


def test_what_the_host_obeys_unasked_stays_as_it_is_in_a_writable_folder(tmp_path: Path) -> None:
    for name in (".git/hooks", ".vscode"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".git/config").touch()
    (tmp_path / ".envrc").symlink_to("elsewhere")
    made = make(tmp_path, profile="ci-runner")
    shown = {each.target: (each.mode, each.is_file, each.source == each.target) for each in made.spec.mounts}
    del shown["/data"]
    assert {
        target.removeprefix(str(tmp_path)): found for target, found in shown.items() if "/etc" not in target
    } == {
        "": ("rw", False, True),
        "/.git": ("rw", False, True),
        "/.git/config": ("ro", True, True),
        "/.git/hooks": ("ro", False, True),
        "/.vscode": ("ro", False, True),
    }
    assert f"{tmp_path}/.git/config stays as it is" in [each.what for each in made.grants]
    assert ".git" not in str(made.told["summary"])


def test_a_git_file_of_a_linked_work_tree_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: elsewhere\n")
    (mount,) = [each for each in make(tmp_path, rw=["."]).spec.mounts if each.is_file]
    assert (mount.target, mount.mode) == (f"{tmp_path}/.git", "ro")


def test_a_grant_of_the_path_itself_opens_what_would_stay_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".git/hooks").mkdir(parents=True)
    (tmp_path / ".git/config").touch()
    made = make(tmp_path, profile="fs-scoped", rw=[".git/config"]).spec.mounts
    modes = {each.target.removeprefix(str(tmp_path)): each.mode for each in made}
    assert (modes["/.git/config"], modes["/.git/hooks"]) == ("rw", "ro")


def test_more_mounts_than_a_sandbox_can_get_are_an_error(tmp_path: Path) -> None:
    folders = [str(number) for number in range(plan.MAX_MOUNTS)]
    for name in folders:
        (tmp_path / name).mkdir()
    assert len(make(tmp_path, ro=folders).spec.mounts) == plan.MAX_MOUNTS
    with pytest.raises(ConfigError, match="over the limit of 64"):
        make(tmp_path, ro=[*folders, "."])


def test_a_granted_working_directory_is_kept_inside(tmp_path: Path) -> None:
    assert make(tmp_path, rw=["."]).spec.cwd == str(tmp_path)


def test_a_program_in_a_folder_that_is_shown_anyway_needs_no_grant_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    shown = make(tmp_path, command=["./tool"], ro=["."]).spec.mounts
    alone = make(tmp_path, command=["./tool"]).spec.mounts
    assert [each.source for each in shown] == [str(tmp_path)]
    assert [each.source for each in alone] == [str(script)]


def test_a_command_that_would_download_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="npm install"):
        make(tmp_path, command=["npx", "-y", "some-server"])


def test_a_profile_without_a_server_of_its_own_wants_a_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="after --"):
        make(tmp_path, command=[])


def test_the_default_server_is_started_with_its_own_interpreter(tmp_path: Path) -> None:
    spec = make(tmp_path, profile="fs-readonly", command=[]).spec
    assert spec.argv[1] == "-I"
    assert spec.argv[2].endswith("images/filesystem/server.py")
    assert spec.argv[3] == "/data"


def test_a_name_that_is_none_for_a_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment variable"):
        make(tmp_path, env={"A B": "c"})
