"""What a guest changes in a writable folder for the host's own tools to run later: git's hooks and settings, what
shells, editors and agents obey when somebody enters the folder or opens it.

What was there when the session began stays as it was, by whichever door; the host looks afterwards. What was not
there can be made, and is not tried here: a folder that a server may write is not to be trusted unseen.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from tests.escape.arena import PYTHON, Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import SCOPE, Bait, hostile, prepared, syscall

BEFORE = {
    ".git/config": "[core]\n\tbare = false\n\thooksPath = tools/hooks\n[include]\n\tpath = ../shared.gitconfig\n",
    ".git/hooks/pre-commit": "#!/bin/sh\n",
    ".git/modules/part/config": "[core]\n",
    "tools/hooks/pre-commit": "#!/bin/sh\n",
    "shared.gitconfig": "[core]\n",
    ".husky/pre-push": "true\n",
    ".envrc": "export A=b\n",
    ".npmrc": "fund=false\n",
    ".vscode/tasks.json": "{}\n",
    ".mcp.json": "{}\n",
    ".hg/hgrc": "[ui]\n",
    ".yarn/releases/yarn.cjs": "//\n",
    ".cargo/config.toml": "[build]\n",
    "rust-toolchain.toml": "[toolchain]\n",
    ".pre-commit-config.yaml": "repos: []\n",
    ".tool-versions": "python 3.11.2\n",
}


def put(path: str) -> str:
    with open(path, "w", encoding="utf-8") as stream:
        stream.write("HOSTILE")
    return path


@hostile(profiles=SCOPE)
def change_the_settings_of_git(bait: Bait) -> str:
    """core.fsmonitor is a command, and `git status` runs it: so does a prompt that shows the branch."""
    return put(f"{bait.text('scope')}/.git/config")


@hostile(profiles=SCOPE)
def change_a_hook_of_git(bait: Bait) -> str:
    return put(f"{bait.text('scope')}/.git/hooks/pre-commit")


@hostile(profiles=SCOPE)
def add_a_hook_of_git(bait: Bait) -> str:
    return put(f"{bait.text('scope')}/.git/hooks/post-checkout")


@hostile(profiles=SCOPE)
def change_a_hook_where_git_s_settings_say_they_are(bait: Bait) -> str:
    """core.hooksPath: git runs those, and .git/hooks no longer."""
    return put(f"{bait.text('scope')}/tools/hooks/pre-commit")


@hostile(profiles=SCOPE)
def add_a_hook_where_git_s_settings_say_they_are(bait: Bait) -> str:
    return put(f"{bait.text('scope')}/tools/hooks/post-checkout")


@hostile(profiles=SCOPE)
def exchange_the_folder_around_those_hooks(bait: Bait) -> str:
    scope = bait.text("scope")
    with prepared():
        os.makedirs(f"{scope}/others/hooks")
        put(f"{scope}/others/hooks/pre-commit")
    os.rename(f"{scope}/tools", f"{scope}/away")
    os.rename(f"{scope}/others", f"{scope}/tools")
    return "exchanged"


@hostile(profiles=SCOPE)
def change_what_the_settings_include(bait: Bait) -> str:
    return put(f"{bait.text('scope')}/shared.gitconfig")


@hostile(profiles=SCOPE)
def make_a_hook_executable(bait: Bait) -> str:
    path = f"{bait.text('scope')}/.git/hooks/pre-commit"
    os.chmod(path, 0o755)
    return oct(os.stat(path).st_mode)


@hostile(profiles=SCOPE)
def change_the_settings_of_a_submodule(bait: Bait) -> str:
    return put(f"{bait.text('scope')}/.git/modules/part/config")


@hostile(profiles=SCOPE)
def put_a_new_file_in_the_place_of_the_settings(bait: Bait) -> str:
    """As every editor saves, and git itself."""
    scope = bait.text("scope")
    with prepared():
        put(f"{scope}/.git/new")
    os.rename(f"{scope}/.git/new", f"{scope}/.git/config")
    return "replaced"


@hostile(profiles=SCOPE)
def exchange_the_settings(bait: Bait) -> str:
    scope = bait.text("scope").encode()
    with prepared():
        put(f"{bait.text('scope')}/.git/other")
    return str(syscall(316, -100, scope + b"/.git/other", -100, scope + b"/.git/config", 2))


@hostile(profiles=SCOPE)
def move_git_s_folder_away(bait: Bait) -> str:
    """A mount goes along with the folder above it; a new folder would have none."""
    os.rename(f"{bait.text('scope')}/.git", f"{bait.text('scope')}/moved")
    return "moved"


@hostile(profiles=SCOPE)
def remove_a_file_of_the_shell(bait: Bait) -> str:
    os.unlink(f"{bait.text('scope')}/.envrc")
    return "removed"


@hostile(profiles=SCOPE)
def change_a_file_by_a_second_name(bait: Bait) -> str:
    scope = bait.text("scope")
    os.link(f"{scope}/.npmrc", f"{scope}/second")
    return put(f"{scope}/second")


@hostile(profiles=SCOPE)
def change_a_file_by_a_descriptor_of_the_folder(bait: Bait) -> str:
    with prepared():
        folder = os.open(bait.text("scope"), os.O_PATH)
    fd = os.open(".mcp.json", os.O_WRONLY | os.O_TRUNC, dir_fd=folder)
    return str(os.write(fd, b"HOSTILE"))


@hostile(profiles=SCOPE)
def change_the_settings_of_mercurial(bait: Bait) -> str:
    """Hooks and extensions, which `hg status` runs."""
    return put(f"{bait.text('scope')}/.hg/hgrc")


@hostile(profiles=SCOPE)
def change_what_every_yarn_command_runs(bait: Bait) -> str:
    """yarnPath in .yarnrc.yml names it."""
    return put(f"{bait.text('scope')}/.yarn/releases/yarn.cjs")


@hostile(profiles=SCOPE)
def change_what_an_editor_compiles_with(bait: Bait) -> str:
    """rustc-wrapper is a command, and a language server runs it as soon as the folder is opened."""
    return put(f"{bait.text('scope')}/.cargo/config.toml")


@hostile(profiles=SCOPE)
def change_which_toolchain_an_editor_starts(bait: Bait) -> str:
    """`path` in it is a folder whose bin/cargo rustup starts."""
    return put(f"{bait.text('scope')}/rust-toolchain.toml")


@hostile(profiles=SCOPE)
def change_what_an_installed_hook_runs(bait: Bait) -> str:
    """The hook stays as it was, and runs at `git commit` what stands here."""
    return put(f"{bait.text('scope')}/.pre-commit-config.yaml")


@hostile(profiles=SCOPE)
def change_which_programs_a_shell_finds(bait: Bait) -> str:
    """asdf takes `path:FOLDER` for a version."""
    return put(f"{bait.text('scope')}/.tool-versions")


@hostile(profiles=SCOPE)
def add_a_task_of_an_editor(bait: Bait) -> str:
    return put(f"{bait.text('scope')}/.vscode/launch.json")


@hostile(profiles=SCOPE)
def put_a_link_in_the_place_of_a_folder(bait: Bait) -> str:
    scope = bait.text("scope")
    os.rename(f"{scope}/.husky", f"{scope}/elsewhere")
    os.symlink("elsewhere", f"{scope}/.husky")
    return "linked"


@hostile(profiles=SCOPE)
def take_the_mount_off(bait: Bait) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    path = f"{bait.text('scope')}/.mcp.json"
    if libc.umount2(path.encode(), 2) and libc.umount2(path.encode(), 0):
        return put(path)
    return "taken off"


def furnish(scope: Path, uid: int, gid: int) -> None:
    """A folder in which somebody works."""
    for name, text in BEFORE.items():
        (scope / name).parent.mkdir(parents=True, exist_ok=True)
        (scope / name).write_text(text)
        (scope / name).chmod(0o644)
    for path in scope.rglob("*"):
        os.chown(path, uid, gid, follow_symlinks=False)


def bait(place: Place) -> Values:
    furnish(place.plot.scope, place.plot.uid, place.plot.gid)
    return {"scope": place.scope}


def judge(place: Place) -> dict[str, str]:
    """Nothing of what was there may have changed, whoever is the one that says so."""
    scope = place.plot.scope
    changed = [
        name for name, text in BEFORE.items() if not (scope / name).is_file() or (scope / name).read_text() != text
    ]
    more = [name for name in (".git/hooks", ".vscode", "tools/hooks") if len(list((scope / name).iterdir())) != 1]
    modes = [name for name in BEFORE if (scope / name).exists() and (scope / name).stat().st_mode & 0o111]
    return {"change_the_settings_of_git": f"{changed + more + modes}"} if changed or more or modes else {}


BATCH = Batch.of(globals(), helpers=(put,), bait=bait, judge=judge)


def test_what_the_host_obeys_stays_as_it_was(case: Case, arena: Arena) -> None:
    assert_held(arena, case)


@pytest.mark.parametrize("mode", ["root", "user"])
def test_git_works_in_a_folder_whose_settings_stay(arena: Arena, mode: str) -> None:
    plot = arena.plots[mode]
    plot.reset()
    git = f"cd {plot.scope} && git init -q && git config user.name a && git config user.email a@b"
    process = arena.start(["/bin/sh", "-c", git], mode)
    assert arena.finish(process).returncode == 0
    inside = (
        f"cd {plot.scope} && git add -A && git commit -qm inside && git checkout -qb other && git log --format=%s"
    )
    done = arena.inside("fs-scoped", mode, ["/bin/sh", "-c", inside])
    assert done.stdout == "inside\n", done.stderr


@pytest.mark.parametrize("mode", ["root", "user"])
def test_what_is_granted_by_its_path_can_be_changed(arena: Arena, mode: str) -> None:
    plot = arena.plots[mode]
    plot.reset()
    furnish(plot.scope, plot.uid, plot.gid)
    write = [*PYTHON, "-c", f"open('{plot.scope}/.envrc', 'w').write('changed')"]
    assert arena.inside("fs-scoped", mode, write).returncode == 1
    assert (plot.scope / ".envrc").read_text() == BEFORE[".envrc"]
    done = arena.inside("fs-scoped", mode, write, options=("--rw", f"{plot.scope}/.envrc"))
    assert (plot.scope / ".envrc").read_text() == "changed", done.stderr
    assert (plot.scope / ".envrc").stat().st_uid == plot.uid


@pytest.mark.parametrize("mode", ["root", "user"])
def test_a_folder_whose_hooks_cannot_be_held_is_not_given(arena: Arena, mode: str) -> None:
    plot = arena.plots[mode]
    plot.reset()
    furnish(plot.scope, plot.uid, plot.gid)
    (plot.scope / "turned").symlink_to("tools")
    (plot.scope / ".git/config").write_text("[core]\n\thooksPath = turned/hooks\n")
    done = arena.inside("fs-scoped", mode, ["/usr/bin/true"])
    assert done.returncode == 2
    assert f"{plot.scope}/.git/config:2: git obeys" in done.stderr


def test_outside_git_runs_the_hooks_that_its_settings_name(tmp_path: Path) -> None:
    (tmp_path / "repository/tools/hooks").mkdir(parents=True)
    hook = tmp_path / "repository/tools/hooks/pre-commit"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/obeyed\n")
    hook.chmod(0o755)
    commit = "git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x"
    script = f"git init -q && git config core.hooksPath tools/hooks && {commit}"
    subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path / "repository", check=True, timeout=20)
    assert (tmp_path / "obeyed").exists()


def test_outside_git_runs_what_its_settings_say(tmp_path: Path) -> None:
    """Why it matters: looking at the state of a folder is enough."""
    (tmp_path / "repository").mkdir()
    script = f'git init -q && git config core.fsmonitor "touch {tmp_path}/obeyed; false" && git status --short'
    subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path / "repository", check=True, timeout=20)
    assert (tmp_path / "obeyed").exists()
