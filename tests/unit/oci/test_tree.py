"""Layers become one tree: whiteouts hide what is below them, nothing leads out, what is dropped is counted."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import Refused
from supervisor.oci import tar
from supervisor.oci.limits import Limits
from supervisor.oci.tree import File, Folder, Link, Tree
from tests.unit.oci import making

DIR, SYM, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def build(*layers: list[tarfile.TarInfo], limits: Limits = Limits()) -> Tree:  # noqa: B008 - frozen
    tree = Tree(limits)
    for layer in layers:
        tree.begin_layer()
        data = making.tar(*((member, b"x" * member.size) for member in layer))
        for entry in tar.Reader(io.BytesIO(data), "layer"):
            tree.add(entry)
    return tree


def names(tree: Tree) -> list[str]:
    return [b"/".join(parts).decode() + ("/" if isinstance(node, Folder) else "") for parts, node in tree.walk()]


def file(name: str, **values: object) -> tarfile.TarInfo:
    return making.info(name, tarfile.REGTYPE, size=1, **values)


def mark(name: str) -> tarfile.TarInfo:
    return making.info(name)


def test_an_upper_layer_adds_and_replaces() -> None:
    tree = build([file("a/b"), file("a/c"), making.info("d", SYM, linkname="a")], [file("a/b"), file("d")])
    assert names(tree) == ["a/", "a/b", "a/c", "d"]
    nodes = {b"/".join(parts): node for parts, node in tree.walk()}
    assert isinstance(nodes[b"a/b"], File)
    assert nodes[b"a/b"].layer == 1
    assert isinstance(nodes[b"d"], File)


def test_a_whiteout_hides_a_file_and_a_whole_folder_of_lower_layers() -> None:
    lower = [file("a/b"), file("a/c/d"), file("e")]
    assert names(build(lower, [mark(".wh.e"), mark("a/.wh.c")])) == ["a/", "a/b"]
    assert names(build(lower, [mark(".wh.a")])) == ["e"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_hides_nothing_of_its_own_layer_in_any_order(order: int) -> None:
    upper = [mark(".wh.a"), file("a/new")][::order]
    assert names(build([file("a/old"), file("a/deep/old")], upper)) == ["a/", "a/new"]
    upper = [mark("a/.wh..wh..opq"), file("a/deep/new")][::order]
    assert names(build([file("a/old"), file("a/deep/old")], upper)) == ["a/", "a/deep/", "a/deep/new"]


def test_an_opaque_folder_hides_all_below_it_and_nothing_beside_it() -> None:
    tree = build([file("a/old"), file("b")], [making.info("a", DIR), mark("a/.wh..wh..opq"), file("a/new")])
    assert names(tree) == ["a/", "a/new", "b"]


def test_a_whiteout_of_nothing_is_nothing() -> None:
    assert names(build([file("a")], [mark(".wh.b"), mark("c/.wh..wh..opq")])) == ["a", "c/"]


def test_a_folder_that_becomes_a_file_and_back_forgets_what_was_in_it() -> None:
    assert names(build([file("a/b")], [file("a")])) == ["a"]
    assert names(build([file("a/b")], [file("a")], [file("a/c")][:0], [making.info("a", DIR), file("a/c")])) == [
        "a/",
        "a/c",
    ]


def test_a_hard_link_is_another_name_of_a_file_of_any_layer() -> None:
    tree = build([file("a/b")], [making.info("c", HARD, linkname="a/b"), making.info("d", HARD, linkname="c")])
    found = {parts: node for parts, node in tree.walk() if not isinstance(node, Folder)}
    assert len({id(node) for node in found.values()}) == 1
    assert len(found) == 3


def test_absolute_and_relative_symbolic_links_within_the_root_are_kept_as_text() -> None:
    targets = {"usr/a": "/etc/a", "usr/b": "../etc/b", "usr/c/d": "../../../usr/c/../../x"[3:], "e": "."}
    tree = build([making.info(name, SYM, linkname=target) for name, target in targets.items()])
    found = {b"/".join(parts).decode(): node for parts, node in tree.walk() if isinstance(node, Link)}
    assert {name: node.target.decode() for name, node in found.items()} == targets


def test_what_a_sandbox_must_not_see_is_left_out_and_counted() -> None:
    tree = build(
        [
            making.info("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
            making.info("disk", tarfile.BLKTYPE),
            making.info("pipe", tarfile.FIFOTYPE),
            file("su", mode=0o4755),
            file("wall", mode=0o2755),
            file("ping", pax_headers={"SCHILY.xattr.security.capability": "x"}),
        ]
    )
    assert names(tree) == ["ping", "su", "wall"]
    assert tree.dropped == {"devices": 2, "pipes": 1, "set-id bits": 2, "extended attributes": 1}


def test_a_device_takes_the_place_of_what_was_there() -> None:
    assert names(build([file("a")], [making.info("a", tarfile.CHRTYPE)])) == []


def test_names_that_differ_only_in_case_are_counted() -> None:
    assert build([file("a/B"), file("a/b"), file("C"), file("d")]).case_variants() == 1


def test_limits_hold() -> None:
    with pytest.raises(Refused, match="more than 3 files and folders"):
        build([file("a"), file("b")], [file("c"), file("d")], limits=Limits(entries=3))
    with pytest.raises(Refused, match="more than 4 folders deep"):
        build([file("a/b/c/d/e")], limits=Limits(depth=4))
    with pytest.raises(Refused, match="a part of more than 255 bytes"):
        build([file("a" * 256)])
    with pytest.raises(Refused, match="longer than 4095 bytes"):
        build([file("/".join(["a" * 100] * 50))])


NAME = st.sampled_from("abc")
PATH = st.lists(NAME, min_size=1, max_size=3).map("/".join)
ENTRY = st.tuples(st.sampled_from(["file", "folder", "whiteout", "opaque"]), PATH)


def in_a_folder(layers: list[list[tuple[str, str]]]) -> set[str]:
    """The same by plain sets: a layer's whiteouts first, then what it brings."""
    files: set[str] = set()
    for layer in layers:
        for kind, path in layer:
            if kind == "whiteout":
                files = {each for each in files if each != path and not each.startswith(path + "/")}
            if kind == "opaque":
                files = {each for each in files if not each.startswith(path + "/")}
        for kind, path in layer:
            if kind == "file":
                files = {each for each in files if not each.startswith(path + "/")} | {path}
            if kind == "folder":
                files.discard(path)
    return files


@given(st.lists(st.lists(ENTRY, max_size=5), max_size=3))
def test_layers_are_applied_as_a_plain_model_does_or_refused(layers: list[list[tuple[str, str]]]) -> None:
    written = []
    for layer in layers:
        members = []
        for kind, path in layer:
            head, _, last = f"/{path}".rpartition("/")
            names = {"whiteout": f"{head}/.wh.{last}"[1:], "opaque": f"{path}/.wh..wh..opq"}
            members.append(file(path) if kind == "file" else making.info(names.get(kind, path)))
            members[-1].type = DIR if kind == "folder" else tarfile.REGTYPE
        written.append(members)
    try:
        tree = build(*written)
    except Refused:
        return
    found = {b"/".join(parts).decode() for parts, node in tree.walk() if isinstance(node, File)}
    assert found == in_a_folder(layers)
