"""Names of images: full, by digest, and refused with what to write instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ConfigError
from supervisor.oci import reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "registry", "path"),
    [
        ("registry.example.org/server", "registry.example.org", "server"),
        ("registry.example.org:5000/a/b_c/d__e/f-g--h", "registry.example.org:5000", "a/b_c/d__e/f-g--h"),
        ("localhost/server", "localhost", "server"),
        ("localhost:5000/server", "localhost:5000", "server"),
        ("127.0.0.1:5000/a.b", "127.0.0.1:5000", "a.b"),
        ("[::1]:5000/server", "[::1]:5000", "server"),
    ],
)
def test_a_full_name_is_a_registry_and_a_path(text: str, registry: str, path: str) -> None:
    assert reference.repository(text) == reference.Repository(registry, path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server", "write the registry too, as in registry.example.org/server"),
        ("library/server", "write the registry too"),
        ("registry.example.org/Server", "lower-case"),
        ("Registry.example.org/server", "is no registry"),
        ("registry.example.org:0/server", "is no registry"),
        ("registry.example.org:70000/server", "is no registry"),
        ("registry..example.org/server", "is no registry"),
        ("registry.example.org/", "is no repository"),
        ("registry.example.org//server", "is no repository"),
        ("registry.example.org/../server", "is no repository"),
        ("registry.example.org/a/./b", "is no repository"),
        ("registry.example.org/a/", "is no repository"),
        ("registry.example.org/a\n", "is no repository"),
        ("registry.example.org/a b", "is no repository"),
        ("registry.example.org/sérver", "is no repository"),
        ("user@registry.example.org/server", "is no registry"),
        ("https://registry.example.org/server", "is no registry"),
        ("registry.example.org/" + "a" * 256, "longer than"),
    ],
)
def test_any_other_name_is_refused_with_a_reason(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        reference.repository(text)


def test_only_a_digest_names_an_image_outside_of_image_add() -> None:
    assert reference.pinned(f"a.example/b@{DIGEST}").digest == DIGEST
    for text in ("a.example/b:1.0", "a.example/b"):
        with pytest.raises(ConfigError, match=r"name it by digest.*supervisor image add"):
            reference.pinned(text)
    with pytest.raises(ConfigError, match="leave the tag out"):
        reference.pinned(f"a.example/b:1.0@{DIGEST}")


@pytest.mark.parametrize(
    "digest", [DIGEST[:-1], DIGEST.upper(), DIGEST + "0", "sha512:" + "0" * 128, "", DIGEST + "\n"]
)
def test_a_digest_is_sha256_in_lower_case(digest: str) -> None:
    with pytest.raises(ConfigError, match="no sha256 digest"):
        reference.pinned(f"a.example/b@{digest}")


def test_image_add_takes_a_tag_or_a_digest_and_no_default() -> None:
    assert reference.requested("a.example:5000/b:1.0").tag == "1.0"
    both = reference.requested(f"a.example/b:1.0@{DIGEST}")
    assert (both.tag, both.digest) == ("1.0", DIGEST)
    assert str(both) == f"a.example/b:1.0@{DIGEST}"
    with pytest.raises(ConfigError, match="no tag is taken for granted"):
        reference.requested("a.example:5000/b")
    with pytest.raises(ConfigError, match="is no tag"):
        reference.requested("a.example/b:-x")
    with pytest.raises(ConfigError, match="write the registry too"):
        reference.requested("b:1.0")


@given(st.text(max_size=80))
def test_whatever_is_typed_is_a_name_that_reads_back_or_a_configuration_error(text: str) -> None:
    for read in (reference.requested, reference.pinned):
        try:
            found = read(text)
        except ConfigError:
            continue
        assert reference.requested(str(found)) == found


@given(st.from_regex(r"[a-z0-9./:@_-]{1,60}", fullmatch=True))
def test_names_that_almost_look_right_are_read_one_way_or_not_at_all(text: str) -> None:
    try:
        found = reference.requested(text)
    except ConfigError:
        return
    assert str(found) == text
