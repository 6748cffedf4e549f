"""A registry that lies, breaks off, sends elsewhere or asks for passwords gets nothing, and gives nothing else."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from supervisor.errors import Refused, SupervisorError
from supervisor.oci import manifest
from supervisor.oci.client import Client, Dialer, Endpoint, Unreachable, names_private
from supervisor.oci.layout import canonical
from supervisor.oci.limits import Download
from supervisor.oci.reference import digest_of, repository
from supervisor.oci.registry import Registry as Source
from tests.unit.oci import lying_registry, making
from tests.unit.oci.lying_registry import Reply

LIMITS = Download(seconds=5)
MADE = making.image([making.files({"big": os.urandom(300_000)})])
BLOB = MADE.layers[0]
DIGEST = digest_of(BLOB)


@pytest.fixture
def registry() -> Iterator[lying_registry.Registry]:
    with lying_registry.serve(MADE) as served:
        yield served


def source(registry: lying_registry.Registry, *mirrors: lying_registry.Registry, **more: object) -> Source:
    hosts = [*(each.host for each in mirrors), registry.host]
    endpoints = [Endpoint(host, plain=True, private=True) for host in hosts]
    if more:
        endpoints[-1] = Endpoint(registry.host, **{"plain": True, "private": True, **more})  # type: ignore[arg-type]
    client = Client({each.host: each for each in endpoints}, LIMITS)
    registry.clients.append(client)
    return Source(repository(registry.name), endpoints, client, LIMITS)


def blob(found: Source, digest: str = DIGEST, size: int = len(BLOB)) -> bytes:
    fd = os.memfd_create("blob")
    try:
        found.blob(digest, size, fd)
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def always(reply: Reply) -> lying_registry.Answer:
    return lambda _request, _before: reply


def test_an_image_is_fetched_by_tag_and_by_digest(registry: lying_registry.Registry) -> None:
    found = source(registry)
    tagged = found.tagged("1.0")
    assert tagged is not None
    assert tagged.digest == MADE.digest
    assert found.manifest(MADE.digest) == tagged
    assert found.tagged("2.0") is None
    assert blob(found) == BLOB


@pytest.mark.parametrize(
    ("path", "reply", "said"),
    [
        (f"manifests/{MADE.digest}", Reply(body=MADE.data + b" "), "asked for .*, got"),
        ("manifests/1.0", Reply(body=MADE.data, headers={"Docker-Content-Digest": DIGEST}), "says its digest is"),
        ("manifests/1.0", Reply(body=b"x" * (5 << 20)), "more than 4194304 bytes"),
        (
            "manifests/1.0",
            Reply(body=MADE.data, headers={"Content-Encoding": "gzip"}),
            "where identity was asked for",
        ),
    ],
    ids=["other bytes", "other digest", "too large", "encoded"],
)
def test_a_manifest_that_is_not_what_was_asked_for_is_refused(
    registry: lying_registry.Registry, path: str, reply: Reply, said: str
) -> None:
    registry.lies[path] = always(reply)
    found = source(registry)
    with pytest.raises(Refused, match=said):
        (found.tagged("1.0"), found.manifest(MADE.digest))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(body=bytes(len(BLOB))), "what came has the digest"),
        (Reply(body=BLOB + b"x"), "bytes are offered, not"),
        (Reply(body=BLOB[:-1]), "bytes are offered, not"),
        (Reply(body=BLOB[:1000], cut=len(BLOB) - 1000), "ends after 1000 of|peer closed"),
        (Reply(404), "is not there"),
        (Reply(206, BLOB, {"Content-Range": "bytes 5-9/10"}), "another part came than was asked for"),
        (Reply(206, BLOB), "another part came than was asked for"),
    ],
)
def test_a_blob_that_is_not_what_was_promised_is_refused(
    registry: lying_registry.Registry, reply: Reply, said: str
) -> None:
    registry.lies[f"blobs/{DIGEST}"] = always(reply)
    with pytest.raises(SupervisorError, match=said):
        blob(source(registry))


def test_a_blob_without_a_length_is_refused_at_its_size(registry: lying_registry.Registry) -> None:
    chunk = b"%x\r\n%b\r\n" % (len(BLOB) + 1, BLOB + b"x")
    registry.lies[f"blobs/{DIGEST}"] = always(Reply(body=chunk, headers={"Transfer-Encoding": "chunked"}))
    with pytest.raises(Refused, match="bytes come"):
        blob(source(registry))


def test_a_broken_download_goes_on_where_it_ended(registry: lying_registry.Registry) -> None:
    def broken(request: object, before: int) -> Reply:
        if not before:
            return Reply(body=BLOB[:100_000], cut=len(BLOB) - 100_000)
        start = int(registry.asked[-1][1]["range"].removeprefix("bytes=").rstrip("-"))
        return Reply(206, BLOB[start:], {"Content-Range": f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"})

    registry.lies[f"blobs/{DIGEST}"] = broken
    assert blob(source(registry)) == BLOB
    assert len(registry.asked) == 2


def test_a_part_of_another_blob_is_noticed_at_the_end(registry: lying_registry.Registry) -> None:
    def broken(request: object, before: int) -> Reply:
        if not before:
            return Reply(body=BLOB[:100_000], cut=len(BLOB) - 100_000)
        rest = len(BLOB) - 100_000
        return Reply(206, bytes(rest), {"Content-Range": f"bytes 100000-{len(BLOB) - 1}/{len(BLOB)}"})

    registry.lies[f"blobs/{DIGEST}"] = broken
    with pytest.raises(Refused, match=r"what came has the digest|another part"):
        blob(source(registry))


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://other.example/blob", "only https is followed"),
        ("ftp://other.example/blob", "only https is followed"),
        ("file:///etc/passwd", "only https is followed"),
        ("https://user@other.example/blob", "only https is followed"),
        ("https:///blob", "only https is followed"),
        ("https://[::1/blob", "which is no address"),
        ("https://other.example:port/blob", "is no address"),
        ("https://127.0.0.1/blob", "127.0.0.1: loopback"),
        ("https://localhost:8443/blob", "loopback|not a global"),
        ("https://10.0.0.1/blob", "10.0.0.1: private"),
        ("https://169.254.169.254/latest/meta-data", "link-local, metadata"),
        ("https://[fe80::1]/blob", "not a global IPv6 address"),
        ("https://[::ffff:127.0.0.1]/blob", "not a global IPv6 address"),
        ("https://0x7f000001/blob", "loopback"),
        ("https://2130706433/blob", "loopback"),
    ],
)
def test_a_redirect_to_another_scheme_or_a_private_address_is_refused(
    registry: lying_registry.Registry, location: str, said: str
) -> None:
    registry.lies[f"blobs/{DIGEST}"] = always(Reply(307, headers={"Location": location}))
    with pytest.raises(Refused, match=said):
        blob(source(registry))


def test_a_redirect_within_the_plain_registry_is_followed_and_a_circle_is_not(
    registry: lying_registry.Registry,
) -> None:
    registry.lies[f"blobs/{DIGEST}"] = always(Reply(307, headers={"Location": "/elsewhere"}))
    registry.lies["/elsewhere"] = always(Reply(body=BLOB))
    assert blob(source(registry)) == BLOB
    registry.lies["/elsewhere"] = always(Reply(302, headers={"Location": f"http://{registry.host}/elsewhere"}))
    with pytest.raises(Refused, match="more than 5 redirects"):
        blob(source(registry))


def test_another_plain_port_of_this_host_is_not_the_registry(registry: lying_registry.Registry) -> None:
    with lying_registry.serve(MADE) as other:
        location = {"Location": f"http://{other.host}/v2/team/server/blobs/{DIGEST}"}
        registry.lies[f"blobs/{DIGEST}"] = always(Reply(307, headers=location))
        with pytest.raises(Refused, match="only https is followed"):
            blob(source(registry))
        assert other.asked == []


def test_a_name_that_leads_to_a_private_address_needs_the_operator_s_word() -> None:
    dialer = Dialer({"localhost:1": Endpoint("localhost:1", plain=True)})
    with pytest.raises(Refused, match=r"localhost leads to .*private = true"):
        dialer.connect_tcp("localhost", 1)
    allowed = Dialer({"localhost:1": Endpoint("localhost:1", private=True)})
    with pytest.raises(Refused, match="localhost leads to"):
        allowed.connect_tcp("localhost", 2)


def test_an_address_says_itself_that_it_is_private_and_a_name_does_not() -> None:
    assert all(
        names_private(each) for each in ("localhost", "localhost:5000", "10.0.0.1:5000", "[::1]:5000", "[::1]")
    )
    assert not any(names_private(each) for each in ("registry.example.org", "registry.example.org:5000"))


def test_a_mirror_that_fails_is_passed_over_and_one_that_lies_is_not(registry: lying_registry.Registry) -> None:
    with lying_registry.serve(MADE) as mirror:
        assert blob(source(registry, mirror)) == BLOB
        assert registry.asked == []
        for failure in (Reply(500), Reply(404)):
            mirror.lies[f"blobs/{DIGEST}"] = always(failure)
            assert blob(source(registry, mirror)) == BLOB
        mirror.lies[f"blobs/{DIGEST}"] = always(Reply(body=bytes(len(BLOB))))
        with pytest.raises(Refused, match="what came has the digest"):
            blob(source(registry, mirror))


def challenge(value: str, body: bytes = MADE.data) -> lying_registry.Answer:
    def answer(request: object, before: int) -> Reply:
        authorization = getattr(request, "headers", {}).get("Authorization")
        return Reply(body=body) if authorization else Reply(401, headers={"WWW-Authenticate": value})

    return answer


def test_a_name_and_a_password_are_sent_when_asked_for(registry: lying_registry.Registry) -> None:
    registry.lies["manifests/1.0"] = challenge('Basic realm="x"')
    assert source(registry, username="a", password="b").tagged("1.0") is not None
    sent = registry.asked[-1][1]["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"a:b"
    with pytest.raises(SupervisorError, match="asks for a name and a password: give --authfile"):
        source(registry).tagged("1.0")


def test_a_token_is_asked_for_where_the_registry_says(registry: lying_registry.Registry) -> None:
    realm = f"http://{registry.host}/token"
    registry.lies["manifests/1.0"] = challenge(f'Bearer realm="{realm}",service="s",scope="evil:*"')
    registry.lies["/token"] = always(Reply(body=b'{"token":"abc"}'))
    assert source(registry, username="a", password="b").tagged("1.0") is not None
    assert registry.asked[-1][1]["authorization"] == "Bearer abc"
    assert registry.asked[-2][1]["authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("value", "token", "said"),
    [
        ('Bearer realm="http://other.example/token"', b"", "only https is asked"),
        ('Bearer realm="https://other.example/token"', b"", 'login = \\["other.example"\\]'),
        ('Bearer realm="https://a@other.example/"', b"", "only https is asked"),
        ('Digest realm="x"', b"", "neither basic nor a token"),
        ("", b"", "neither basic nor a token"),
        ('Bearer realm="https://[::1"', b"", "is no address"),
        ("Bearer realm=HOST", b'{"token":""}', "no token in the answer"),
        ("Bearer realm=HOST", b'{"token":"a\\r\\nb"}', "no token in the answer"),
        ("Bearer realm=HOST", b'{"token":1}', '"token" must be a string'),
        ("Bearer realm=HOST", b'{"token":"a","Token":"b"}', "differ only in case"),
    ],
)
def test_a_challenge_that_would_give_the_password_away_is_refused(
    registry: lying_registry.Registry, value: str, token: bytes, said: str
) -> None:
    registry.lies["manifests/1.0"] = challenge(value.replace("HOST", f'"http://{registry.host}/token"'))
    registry.lies["/token"] = always(Reply(body=token))
    with pytest.raises(Refused, match=said):
        source(registry, username="a", password="b").tagged("1.0")


def test_a_password_does_not_follow_a_redirect(registry: lying_registry.Registry) -> None:
    registry.lies[f"blobs/{DIGEST}"] = always(Reply(307, headers={"Location": "https://127.0.0.1:1/x"}))
    with pytest.raises(Refused, match="loopback"):
        blob(source(registry, username="a", password="b"))


def test_a_refused_login_is_told_and_not_repeated(registry: lying_registry.Registry) -> None:
    registry.lies["manifests/1.0"] = always(Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    with pytest.raises(SupervisorError, match='not allowed as "a"'):
        source(registry, username="a", password="b").tagged("1.0")
    assert len(registry.asked) == 2


def test_referrers_come_from_the_api_and_else_from_the_fallback_tag(registry: lying_registry.Registry) -> None:
    child = {"mediaType": manifest.OCI_MANIFEST, "digest": DIGEST, "size": 3, "artifactType": "x"}
    index = canonical({"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": [child]})
    api, tag = f"referrers/{MADE.digest}", f"manifests/{MADE.digest.replace(':', '-')}"
    assert source(registry).referrers(MADE.digest) == ()
    for path in (tag, api):
        registry.lies[path] = always(Reply(body=index))
        assert [each.digest for each in source(registry).referrers(MADE.digest)] == [DIGEST]
    registry.lies[api] = always(Reply(body=MADE.data))
    with pytest.raises(Refused, match="referrers are an index"):
        source(registry).referrers(MADE.digest)


def test_nobody_there_is_told_with_the_address() -> None:
    with ExitStack() as stack:
        served = stack.enter_context(lying_registry.serve(MADE))
        host = served.host
    dead = lying_registry.Registry(MADE, port=served.port)
    with pytest.raises(Unreachable, match=f"http://{host}/v2/team/server/manifests/1.0: .*refused"):
        source(dead).tagged("1.0")
