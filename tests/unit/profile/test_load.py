"""Profiles: merging, the chain, errors with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.profile import load

HEAD = 'profile = 1\nname = "mine"\nextends = "none"\nsummary = "x"\n'


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", load.names())
def test_every_shipped_profile_loads(name: str) -> None:
    chain = load.load(name)
    assert chain.profile.name == name
    assert chain.sources[0].name == "none.toml"


def test_a_chain_reads_from_the_floor_up() -> None:
    chain = load.load("ci-runner")
    names = [source.data["name"] for source in chain.sources]
    assert names == ["none", "fs-readonly", "fs-scoped", "ci-runner"]


def test_scalars_replace_tables_merge_and_arrays_append(tmp_path: Path) -> None:
    text = HEAD + '[limits]\nmemory = "1G"\n[seccomp]\ngroups = ["network"]\n[process.env]\nA = "b"\n'
    profile = load.load(write(tmp_path, text)).profile
    floor = load.load("none").profile
    assert profile.limits.memory == 1 << 30
    assert profile.limits.pids == floor.limits.pids
    assert profile.seccomp.groups == (*floor.seccomp.groups, "network")
    assert profile.process.env == {**floor.process.env, "A": "b"}


def test_a_mount_says_where_it_was_written() -> None:
    chain = load.load("fs-readonly")
    (mount,) = chain.profile.mount
    file, line = mount.origin.split(":")
    assert file == "fs-readonly.toml"
    written = (load.share_folder("profiles") / file).read_text().splitlines()
    assert written[int(line) - 1] == "[[mount]]"


def test_the_last_word_on_a_limit_is_found(tmp_path: Path) -> None:
    chain = load.load(write(tmp_path, HEAD + '\n[limits]\nmemory = "1G"\n'))
    assert chain.origin("limits", "memory") == "mine.toml:7"
    assert chain.origin("limits", "pids").startswith("none.toml:")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (HEAD + "colour = 1\n", 5, 'unknown key "colour"'),
        (HEAD + "[limits]\nmemroy = '1M'\n", 6, 'unknown key "limits.memroy"'),
        (HEAD + "[limits]\nmemory = 12\n", 6, 'a size is written like "256M"'),
        (HEAD + "[limits]\npids = 0\n", 6, "limits.pids"),
        (HEAD + "[limits]\ncpus = true\n", 6, "cpus is a number"),
        (HEAD + '[session]\nlife = "soon"\n', 6, 'a time is written like "10s"'),
        (HEAD + '[network]\nmode = "host"\n', 6, "network.mode"),
        (HEAD + '\n[[mount]]\nsource = "/a"\ntarget = "/b"\nmode = "rwx"\n', 9, "mount.0.mode"),
        (HEAD + '[[mount]]\nsource = "/a"\n', 5, 'key "mount.0.target" is missing'),
        (HEAD + '[[mount]]\nsource="/a"\ntarget="/b"\nmode="ro"\norigin="x"\n', 9, "mount.0.origin"),
        (HEAD + '[[mount]]\nsource="/a"\ntarget="/b"\nmode="ro"\nflags=["suid"]\n', 9, "flags"),
        (HEAD + '[writable]\nkeep = ["../x"]\n', 6, "a path below a writable folder"),
        (HEAD + '[writable]\nkeep = ["/x"]\n', 6, "a path below a writable folder"),
        ("profile = 2\n" + HEAD.split("\n", 1)[1], 1, "profile"),
        (HEAD.replace("none", "nothing"), 3, 'unknown profile "nothing"'),
        (HEAD + "a = = b\n", 5, "Invalid value"),
    ],
)
def test_an_error_names_file_line_and_key(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert says in str(caught.value)


def test_a_profile_without_a_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="extends is missing"):
        load.load(write(tmp_path, HEAD.replace('extends = "none"\n', "")))


def test_a_chain_has_at_most_four_links(tmp_path: Path) -> None:
    parent = "none"
    for number in range(4):
        name = f"p{number}"
        text = f'profile = 1\nname = "{name}"\nextends = "{parent}"\nsummary = "x"\n'
        write(tmp_path, text, f"{name}.toml")
        parent = name
    assert load.load(str(tmp_path / "p2.toml")).profile.name == "p2"
    with pytest.raises(ConfigError, match="more than 4"):
        load.load(str(tmp_path / "p3.toml"))


def test_a_chain_that_bites_its_tail_is_refused(tmp_path: Path) -> None:
    write(tmp_path, HEAD.replace('"none"', '"other"'))
    path = write(tmp_path, HEAD.replace('"none"', '"mine"').replace('= "mine"\ne', '= "other"\ne'), "other.toml")
    with pytest.raises(ConfigError, match="comes back to itself"):
        load.load(path)


def test_the_file_is_named_after_the_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="but the file is"):
        load.load(write(tmp_path, HEAD, "other.toml"))


def test_a_profile_beside_it_does_not_shadow_a_shipped_one(tmp_path: Path) -> None:
    write(tmp_path, HEAD.replace('"mine"', '"none"'), "none.toml")
    chain = load.load(write(tmp_path, HEAD))
    assert chain.sources[0].path == str(load.share_folder("profiles") / "none.toml")


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o602])
def test_a_profile_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, HEAD)
    Path(path).chmod(mode)
    with pytest.raises(Refused, match="chmod go-w"):
        load.load(path)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\x00", b"a" * (2 << 20)])
def test_a_file_that_is_no_text_is_an_error_of_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        load.load(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("written", "bytes_"), [("1", 1), ("2K", 2048), ("3M", 3 << 20), ("4G", 4 << 30)])
def test_sizes_are_powers_of_1024(written: str, bytes_: int) -> None:
    assert load.Size(written) == bytes_


@pytest.mark.parametrize("written", ["", "M", "1.5G", "-1M", "1T", "1 M", None, 5, True])
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="a size is written"):
        load.Size(written)
