"""From touched files to granted folders: few, sufficient, and never more than the bound."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.model import Mount
from supervisor.profile import folders
from supervisor.profile.granted import below

KEEP = (".git/config", ".git/hooks", ".npmrc")


def mount(source: str, target: str, mode: str = "ro", *, noexec: bool = True) -> Mount:
    made = Mount(source=source, target=target, noexec=noexec, map_owner=True, per_session=True)
    return made.model_copy(update={"mode": mode})


PROJECT = mount("/home/u/proj", "/home/u/proj", "rw")
DATA = mount("/srv/data", "/data")


def learned(touched: dict[str, set[str]], *mounts: Mount) -> list[tuple[str, str, str]]:
    """(source, target, what may be done) of each folder."""
    found = folders.needs(touched, list(mounts), lambda _: True)
    return [(each.source, each.target, "rw" if each.write else "ro") for each in found]


def test_a_file_that_was_read_grants_its_folder_under_both_its_names() -> None:
    assert learned({"/data/a/b.txt": {"read"}}, DATA) == [("/srv/data/a", "/data/a", "ro")]


def test_nothing_is_granted_for_what_lies_in_no_mount_of_the_bound() -> None:
    assert learned({"/usr/lib/x.so": {"read", "exec"}, "/home/u/other": {"read"}}, DATA, PROJECT) == []


def test_a_folder_that_was_passed_through_is_not_granted() -> None:
    touched = {"/home/u/proj": {"look"}, "/home/u/proj/src": {"look"}, "/home/u/proj/src/a.c": {"read"}}
    assert learned(touched, PROJECT) == [("/home/u/proj/src", "/home/u/proj/src", "ro")]


def test_a_folder_that_was_only_looked_at_is_there() -> None:
    assert learned({"/home/u/proj/src": {"look"}}, PROJECT) == [("/home/u/proj/src", "/home/u/proj/src", "ro")]


def test_what_was_made_is_granted_by_the_folder_in_which_it_was_made() -> None:
    touched = {"/home/u/proj/build": {"made", "write"}, "/home/u/proj/build/x.o": {"write"}}
    assert learned(touched, PROJECT) == [("/home/u/proj", "/home/u/proj", "rw")]


def test_reading_one_folder_and_writing_in_another_are_two_grants() -> None:
    touched = {"/home/u/proj/src/a.c": {"read"}, "/home/u/proj/out/log": {"write"}}
    grants = learned(touched, PROJECT)
    assert {(target, way) for _, target, way in grants} == {("/home/u/proj/src", "ro"), ("/home/u/proj/out", "rw")}


def test_a_thousand_folders_become_few() -> None:
    touched = {f"/home/u/proj/src/{number}/{name}.c": {"read"} for number in range(100) for name in "ab"}
    touched["/home/u/proj/doc/x"] = {"read"}
    grants = learned(touched, PROJECT)
    assert len(grants) <= folders.MOST
    assert ("/home/u/proj", "/home/u/proj", "ro") not in grants


def test_a_write_in_a_folder_that_the_bound_only_shows_is_not_granted() -> None:
    assert learned({"/data/x": {"write"}}, DATA) == [("/srv/data", "/data", "ro")]


def test_kept_names_stay_kept_when_a_folder_inside_the_bound_s_is_granted() -> None:
    held = [
        mount("/home/u/proj/.git", "/home/u/proj/.git", "rw"),
        mount("/home/u/proj/.npmrc", "/home/u/proj/.npmrc"),
    ]
    held.append(mount("/home/u/proj/.git/hooks", "/home/u/proj/.git/hooks"))
    found = folders.bounds((PROJECT, *held), KEEP)
    assert found == [PROJECT]
    needs = folders.needs({"/home/u/proj/.git/index": {"write"}}, found, lambda _: True)
    assert [each.target for each in needs] == ["/home/u/proj/.git"]
    assert folders.kept(needs, KEEP) == ["config", "hooks"]


def test_a_kept_name_that_the_operator_has_opened_is_a_mount_of_its_own() -> None:
    opened = mount("/home/u/proj/.git/config", "/home/u/proj/.git/config", "rw")
    assert folders.bounds((PROJECT, opened), KEEP) == [PROJECT, opened]


def test_what_the_bound_shows_narrower_inside_a_grant_stays_narrower() -> None:
    secret = mount("/home/u/proj/secret", "/home/u/proj/secret")
    grants = learned({"/home/u/proj/a": {"write"}}, PROJECT, secret)
    assert grants == [("/home/u/proj", "/home/u/proj", "rw"), ("/home/u/proj/secret", "/home/u/proj/secret", "ro")]


NAMES = st.sampled_from(["a", "b", "c", "build"])
PATHS = st.builds(
    lambda top, parts: "/".join([top, *parts]),
    st.sampled_from(["/data", "/home/u/proj", "/x"]),
    st.lists(NAMES, min_size=1, max_size=4),
)
KINDS = st.sets(st.sampled_from(["read", "write", "list", "look", "exec", "made"]), min_size=1)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(PATHS, KINDS, max_size=30))
def test_whatever_was_touched_is_covered_and_nothing_is_wider_than_the_bound(touched: dict[str, set[str]]) -> None:
    inner = mount("/home/u/proj/a", "/home/u/proj/a", "ro")
    mounts = [DATA, PROJECT, inner]
    found = folders.needs(touched, mounts, lambda _: True)
    for each in found:
        assert below(each.target, each.bound.target)
        assert each.bound.mode == "rw" or not each.write
        assert not each.execute
        if each.write and below(inner.target, each.target):
            assert any(other.target == inner.target and not other.write for other in found)
    for path, kinds in touched.items():
        bound = max(
            (each for each in mounts if below(path, each.target)), key=lambda each: each.target, default=None
        )
        if bound and "write" in kinds and bound.mode == "rw":
            assert any(each.write and below(path, each.target) for each in found)
        elif bound and kinds & {"read", "list"}:
            assert any(below(path, each.target) for each in found)
