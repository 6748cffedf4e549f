"""What a checkout's configuration has git obey: read as git reads it, and held, or the folder is not granted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.model import Mount
from supervisor.profile import gitconfig, kept

HOOKS = b"[core]\n\thooksPath = .tools/hooks\n"
TEXTS = [
    HOOKS,
    b"[CORE]\r\nHOOKSPATH=a b \r\n",
    b"\xef\xbb\xbf[core]hookspath = \"a b \" ; said\n",
    b"[core]\n# hooksPath = no\n; hooksPath = no\nhooksPath = one\nhooksPath = two\n",
    b'[core "sub"]\nhooksPath = x\n[core.sub]\nhooksPath = y\n[ore]\nhooksPath = z\n',
    b'[core]\nhooksPath = a\\\nb\n',
    b'[core]\nhooksPath = "a\\\nb" # \\\n',
    b'[core]\nhooksPath = a\\tb\\"c\\\\d\n',
    b'[core]\nhooksPath = a"b # c";d\n',
    b"[core]\nhooksPath\nbare = false\n",
    b"[core]\nhooksPath =\n",
    b'[remote "o\\"r]\\\\"]\nurl = x\n[core]\nhooksPath = y',
    b"[core]\n\n\n  hooksPath = \xe4\xb8\xad/\xff\n",
    b"[core] bare = false\n\tx-y = 1\n[core]hooksPath=q",
    b"hooksPath = x\n[core]\nhooksPath = y\n",
    b"[]\nhooksPath = x\n",
    b"[core]\nhooksPath = x\\",
    b"",
]  # fmt: skip
BROKEN = [
    b"[core\nhooksPath = x\n",
    b"[core]\nhooksPath : x\n",
    b'[core]\nhooksPath = "x\n',
    b"[core]\nhooksPath = \\x\n",
    b"[core]\n_hooks = x\n",
    b"[core]\nhooks path = x\n",
    b"[core 'x']\n",
    b"\x00",
]


def git(path: Path) -> subprocess.CompletedProcess[bytes]:
    argv = ["git", "config", "--file", str(path), "-z", "--get-all", "core.hooksPath"]
    return subprocess.run(argv, capture_output=True, timeout=20, env=os.environ | {"LC_ALL": "C"})


@pytest.mark.parametrize("text", TEXTS)
def test_a_configuration_is_read_as_git_reads_it(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config").write_bytes(text)
    found = [
        b"" if each.value is None else os.fsencode(each.value)
        for each in gitconfig.settings("config", text)
        if (each.section, each.key) == ("core", "hookspath")
    ]
    assert found == git(tmp_path / "config").stdout.split(b"\0")[:-1]


@pytest.mark.parametrize("text", BROKEN)
def test_what_git_gives_up_at_is_refused_by_its_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config").write_bytes(b"[a]\nb = c\n" + text if text.startswith(b"[") else text)
    assert git(tmp_path / "config").returncode not in (0, 1)
    with pytest.raises(ConfigError, match=r"^config:\d+: not as git writes it"):
        list(gitconfig.settings("config", text))


def test_the_line_of_a_setting_is_known() -> None:
    text = b'[a]\n# x\n b = "c\\\nd"\n\n[core]\n\thooksPath = x # y\n bare = true'
    assert [(each.key, each.line) for each in gitconfig.settings("", text)] == [
        ("b", 3),
        ("hookspath", 7),
        ("bare", 8),
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    top = tmp_path.resolve() / "checkout"
    for each in (".git/hooks", ".tools/hooks", ".husky/_"):
        (top / each).mkdir(parents=True)
    return top


def held(top: Path, names: Sequence[str] = (".git/config", ".git/hooks"), **more: Mount) -> dict[str, str]:
    """Names below /w, and how they are mounted."""
    mounts = [Mount(source=str(top), target="/w", mode="rw", map_owner=True), *more.values()]
    obeyed = gitconfig.named(mounts, str(top.parent))
    return {each.target.removeprefix("/w/"): each.mode for each in kept.kept(mounts, tuple(names), obeyed)}


@pytest.mark.parametrize(
    "written", [".tools/hooks", "./.tools//x/../hooks/", "{top}/.tools/hooks", "~/checkout/.tools/hooks"]
)
def test_the_folder_of_hooks_that_is_named_stays_as_it_is(checkout: Path, written: str) -> None:
    (checkout / ".git/config").write_text(f"[core]\nhooksPath = {written.format(top=checkout)}\n")
    found = held(checkout)
    assert (found[".tools"], found[".tools/hooks"]) == ("rw", "ro")
    assert (found[".git/config"], found[".git/hooks"]) == ("ro", "ro")


def test_a_folder_that_is_kept_anyway_is_not_opened_by_one_in_it(checkout: Path) -> None:
    (checkout / ".git/config").write_text("[core]\nhooksPath = .husky/_\n")
    assert held(checkout, (".husky",))[".husky"] == "ro"
    (checkout / ".git/config").write_text("[core]\nhooksPath = .git\n")
    assert held(checkout)[".git"] == "ro"


def test_what_it_includes_stays_as_it_is(checkout: Path) -> None:
    (checkout / "shared").write_text("[core]\n")
    (checkout / ".git/more").write_text("[core]\n")
    text = '[include]\npath = ../shared\n[includeIf "onbranch:x"]\npath = more\n'
    (checkout / ".git/config").write_text(text)
    found = held(checkout)
    assert (found["shared"], found[".git/more"]) == ("ro", "ro")


def test_what_lies_elsewhere_or_is_not_there_is_not_held(checkout: Path) -> None:
    (checkout / ".git/config").write_text("[core]\nhooksPath = /usr/share\nhooksPath = ../x\nhooksPath = none\n")
    assert set(held(checkout)) == {".git", ".git/config", ".git/hooks"}


def test_what_is_granted_by_its_path_is_open(checkout: Path) -> None:
    (checkout / ".git/config").write_bytes(HOOKS)
    opened = Mount(source=f"{checkout}/.tools/hooks", target="/w/.tools/hooks", mode="rw", map_owner=True)
    assert ".tools/hooks" not in held(checkout, opened=opened)


def test_hooks_in_another_folder_that_may_be_written_are_held_there(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "other/hooks").mkdir(parents=True)
    (checkout / ".git/config").write_text(f"[core]\nhooksPath = {tmp_path.resolve()}/other/hooks\n")
    other = Mount(source=str(tmp_path.resolve() / "other"), target="/o", mode="rw", map_owner=True)
    assert held(checkout, other=other)["/o/hooks"] == "ro"


@pytest.mark.parametrize("written", ["link", "link/deeper", "link/../.tools/hooks"])
def test_a_link_that_a_server_could_turn_is_refused(checkout: Path, written: str) -> None:
    (checkout / "link").symlink_to(".tools/hooks")
    (checkout / ".git/config").write_text(f"[core]\nhooksPath = {written}\n")
    with pytest.raises(ConfigError, match=r"config:2: git obeys .* symbolic link"):
        held(checkout)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[core]\nhooksPath = .\n", "config:2: its hooks are in .* itself"),
        ("[core]\nhooksPath = x", "config: larger than 1 MiB"),
        ("[core]\n" + "".join(f"hooksPath = {each}\n" for each in range(20)), "config:18: more than 16"),
        ("[core]\nhooksPath = a\tb\n", "config:2: a tab in a path"),
        ("[core]\nhooksPath = loop\n", "config:2: .*too many symbolic links"),
    ],
)
def test_what_cannot_be_held_is_refused_with_the_line(checkout: Path, text: str, says: str) -> None:
    (checkout / "loop").symlink_to("loop")
    (checkout / ".git/config").write_text(text + "#" * (1 << 20) if "larger" in says else text)
    with pytest.raises(ConfigError, match=says):
        held(checkout)


def test_a_linked_checkout_has_the_settings_of_its_main_one(checkout: Path, tmp_path: Path) -> None:
    run = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(checkout)], check=True, timeout=20)
    subprocess.run([*run, "config", "core.hooksPath", "hooks"], check=True, timeout=20)
    subprocess.run([*run, "commit", "-q", "--allow-empty", "-m", "x"], check=True, timeout=20)
    linked = tmp_path.resolve() / "linked"
    subprocess.run([*run, "worktree", "add", "-q", str(linked)], check=True, timeout=20, capture_output=True)
    (linked / "hooks").mkdir()
    assert held(linked) == {".git": "ro", "hooks": "ro"}


@pytest.mark.parametrize("said", ["nonsense", "gitdir: /no/such", "gitdir: ../x\n", "gitdir: /proc/self", ""])
def test_a_link_to_no_settings_is_none(checkout: Path, said: str) -> None:
    (checkout.parent / "linked").mkdir()
    (checkout.parent / "linked/.git").write_text(said)
    assert held(checkout.parent / "linked") == {".git": "ro"}
