"""Tokens of an issuer: the good one gets in, and each thing that can be wrong with one keeps it out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend
from mcp.shared.auth import ProtectedResourceMetadata
from starlette.requests import HTTPConnection

from supervisor.auth import oidc
from supervisor.auth.denial import Denial
from supervisor.auth.file import Oidc
from supervisor.errors import ConfigError
from tests.unit.auth.issuer import RESOURCE, Issuer, Key, jwk, rsa_key, running


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as made:
        yield made


def verifier(issuer: Issuer, resource: str = RESOURCE, **settings: object) -> oidc.Verifier:
    return oidc.Verifier(Oidc.model_validate({"issuer": issuer.url, **settings}), resource, None)


def denial(made: oidc.Verifier, token: str) -> Denial:
    with pytest.raises(Denial) as caught:
        made.check(token)
    return caught.value


def test_a_good_token_says_who_its_bearer_is(issuer: Issuer) -> None:
    found = verifier(issuer).check(issuer.token(client_id="app"))
    assert (found.subject, found.client_id, found.scopes) == ("alice", "app", ["mcp", "other"])
    assert found.claims == {"iss": issuer.url, "groups": ["dev"], "audience": [RESOURCE]}


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "ES512", "EdDSA"])
def test_every_kind_of_key_works(issuer: Issuer, algorithm: str) -> None:
    made: dict[str, Key] = {"RS256": rsa_key(), "PS384": rsa_key(), "EdDSA": ed25519.Ed25519PrivateKey.generate()}
    curves = {"ES256": ec.SECP256R1(), "ES512": ec.SECP521R1()}
    key = made[algorithm] if algorithm in made else ec.generate_private_key(curves[algorithm])
    issuer.keys["k2"] = key, algorithm
    issuer.publish()
    assert verifier(issuer, algorithms=[algorithm]).check(issuer.token("k2")).subject == "alice"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exp": 1}, "the token has expired"),
        ({"exp": None}, 'missing the "exp" claim'),
        ({"nbf": int(time.time()) + 3600}, "not yet valid"),
        ({"iss": "https://evil.example"}, "Invalid issuer"),
        ({"iss": None}, 'missing the "iss" claim'),
        ({"sub": None}, 'missing the "sub" claim'),
        ({"sub": ""}, "sub is not a name"),
        ({"sub": "a\nb"}, "sub is not a name"),
        ({"sub": "x" * 256}, "sub is not a name"),
        ({"aud": None}, 'missing the "aud" claim'),
        ({"aud": "https://other.example"}, "the token is for somebody else"),
        ({"aud": "https://mcp.example.com.evil.example"}, "the token is for somebody else"),
        ({"aud": ["https://mcp.example"]}, "the token is for somebody else"),
        ({"groups": {"dev": True}}, "the claim groups is neither"),
        ({"groups": ["dev", 5]}, "the claim groups is neither"),
    ],
)
def test_what_is_wrong_with_a_token_is_said(issuer: Issuer, changes: dict[str, object], said: str) -> None:
    found = denial(verifier(issuer), issuer.token("k1", None, **changes))
    assert said in found.said
    assert (found.status, found.code) == (401, "invalid_token")


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "a.b", "ey.ey.ey", "." * 1000, "\u00e9.b.c"])
def test_what_is_no_token_at_all_is_refused(issuer: Issuer, text: str) -> None:
    assert denial(verifier(issuer), text).status == 401


def test_a_token_without_a_signature_is_refused(issuer: Issuer) -> None:
    forged = jwt.encode(issuer.claims(), "", "none", headers={"kid": "k1"})
    assert "alg" in denial(verifier(issuer), forged).said


def test_a_public_key_is_never_taken_for_a_shared_secret(issuer: Issuer) -> None:
    public = issuer.keys["k1"][0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=")
        for each in ({"alg": "HS256", "kid": "k1"}, issuer.claims())
    ]
    signature = hmac.new(public, b".".join(parts), hashlib.sha256).digest()
    forged = b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()
    assert "alg" in denial(verifier(issuer), forged).said


def test_a_symmetric_key_among_the_issuer_s_keys_signs_nothing(issuer: Issuer) -> None:
    secret = base64.urlsafe_b64encode(b"s" * 32).rstrip(b"=").decode()
    listed = json.loads(issuer.pages["/keys"][1])
    listed["keys"].append({"kty": "oct", "kid": "hs", "k": secret, "alg": "HS256", "use": "sig"})
    issuer.pages["/keys"] = 200, json.dumps(listed).encode(), {}
    forged = jwt.encode(issuer.claims(), b"s" * 32, "HS256", headers={"kid": "hs"})
    assert "alg" in denial(verifier(issuer), forged).said


def test_another_key_under_the_same_name_is_refused(issuer: Issuer) -> None:
    made = verifier(issuer)
    made.check(issuer.token())
    forged = jwt.encode(issuer.claims(), rsa_key(), "RS256", headers={"kid": "k1"})
    assert "Signature verification failed" in denial(made, forged).said


def test_where_a_token_says_its_keys_are_is_never_asked(issuer: Issuer) -> None:
    own = rsa_key()
    for name in ("jku", "x5u"):
        forged = jwt.encode(issuer.claims(), own, "RS256", headers={"kid": "mine", name: f"{issuer.url}/evil"})
        assert denial(verifier(issuer), forged).said == "the issuer has no such key"
    embedded = jwt.encode(issuer.claims(), own, "RS256", headers={"kid": "k1", "jwk": jwk(own, "k1", "RS256")})
    assert "Signature verification failed" in denial(verifier(issuer), embedded).said
    assert "/evil" not in issuer.hits


def test_a_key_that_is_too_short_is_refused(issuer: Issuer) -> None:
    issuer.keys["weak"] = rsa_key(1024), "RS256"
    issuer.publish()
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = issuer.token("weak")
    assert denial(verifier(issuer), token).status == 401


def test_a_key_for_encryption_signs_nothing(issuer: Issuer) -> None:
    key = issuer.keys["k1"][0]
    listed = {"keys": [jwk(key, "k1", "RS256", use="enc"), jwk(rsa_key(), "k0", "RS256")]}
    issuer.pages["/keys"] = 200, json.dumps(listed).encode(), {}
    assert denial(verifier(issuer), issuer.token()).said == "the issuer has no such key"


def test_a_scope_that_is_missing_is_told_as_such(issuer: Issuer) -> None:
    made = verifier(issuer, scopes=["mcp", "admin"])
    found = denial(made, issuer.token())
    assert (found.status, found.code) == (403, "insufficient_scope")
    assert "admin" in found.said
    assert made.check(issuer.token(scope=None, scp=["admin", "mcp"])).scopes == ["admin", "mcp"]


def test_the_audience_may_be_an_endpoint_of_ours_or_one_that_is_configured(issuer: Issuer) -> None:
    made = verifier(issuer, audience=["api://gateway"])
    endpoint = f"{RESOURCE}/servers/files/mcp"
    cases: list[tuple[object, list[str]]] = [
        (f"{RESOURCE}/", [RESOURCE]),
        (["x", endpoint], [endpoint]),
        ("api://gateway", [RESOURCE]),
    ]
    for audience, expected in cases:
        claims = made.check(issuer.token(aud=audience)).claims
        assert claims is not None
        assert claims["audience"] == expected


def test_a_new_key_is_found_and_an_unknown_one_asked_for_only_once(issuer: Issuer) -> None:
    made = verifier(issuer)
    made.check(issuer.token())
    made._keys._last_successful_fetch = time.monotonic() - 60  # type: ignore[union-attr]
    issuer.keys["k2"] = rsa_key(), "RS256"
    issuer.publish()
    assert made.check(issuer.token("k2")).subject == "alice"
    asked = len(issuer.hits)
    for _ in range(20):
        denial(made, issuer.token(headers={"kid": "k3"}))
    assert len(issuer.hits) == asked


def test_an_issuer_that_is_down_is_asked_once_in_a_while_and_the_token_is_not_blamed(issuer: Issuer) -> None:
    issuer.pages.clear()
    made = verifier(issuer)
    found = denial(made, issuer.token())
    assert found.status == 503
    assert "openid-configuration" in found.log
    asked = len(issuer.hits)
    assert denial(made, issuer.token()).status == 503
    assert len(issuer.hits) == asked


@pytest.mark.parametrize(
    ("page", "status", "body", "headers"),
    [
        ("/keys", 302, b"", {"Location": "/elsewhere"}),
        ("/keys", 200, b"[]", {}),
        ("/keys", 200, b"not json", {}),
        ("/keys", 200, b'{"keys":[]}', {}),
        ("/keys", 200, b'{"keys":[' + b" " * (2 << 20) + b"]}", {}),
        (
            "/.well-known/openid-configuration",
            200,
            b'{"issuer":"https://other.example","jwks_uri":"https://x"}',
            {},
        ),
        ("/.well-known/openid-configuration", 200, b'{"issuer":"ISSUER","jwks_uri":"ftp://x/"}', {}),
        ("/.well-known/openid-configuration", 200, b'{"issuer":"ISSUER","jwks_uri":5}', {}),
    ],
)
def test_an_issuer_that_answers_nonsense_lets_nobody_in(
    issuer: Issuer, page: str, status: int, body: bytes, headers: dict[str, str]
) -> None:
    issuer.pages["/elsewhere"] = issuer.pages["/keys"]
    issuer.pages[page] = status, body.replace(b"ISSUER", issuer.url.encode()), headers
    assert denial(verifier(issuer), issuer.token()).status == 503
    assert "/elsewhere" not in issuer.hits


def test_the_metadata_of_an_authorization_server_will_do(issuer: Issuer) -> None:
    issuer.pages["/.well-known/oauth-authorization-server"] = issuer.pages.pop("/.well-known/openid-configuration")
    assert verifier(issuer).check(issuer.token()).subject == "alice"


def test_keys_may_lie_in_a_file(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(issuer.pages["/keys"][1])
    made = oidc.Verifier(Oidc(issuer=issuer.url, keys="keys.json"), RESOURCE, str(path))
    assert made.check(issuer.token()).subject == "alice"
    assert issuer.hits == []
    path.write_text("{}")
    with pytest.raises(ConfigError, match="not a JWK set"):
        oidc.Verifier(Oidc(issuer=issuer.url), RESOURCE, str(path))
    with pytest.raises(ConfigError, match="No such file"):
        oidc.Verifier(Oidc(issuer=issuer.url), RESOURCE, str(tmp_path / "gone.json"))


def test_the_sdk_takes_it_for_a_token_verifier(issuer: Issuer) -> None:
    async def user(token: str) -> object:
        scope = {"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())]}
        return await BearerAuthBackend(verifier(issuer)).authenticate(HTTPConnection(scope))

    assert asyncio.run(user(issuer.token())) is not None
    assert asyncio.run(user(issuer.token(exp=1))) is None


def test_the_metadata_is_as_the_sdk_reads_it(issuer: Issuer) -> None:
    made = oidc.metadata(Oidc(issuer="https://login.example.com/tenant", scopes=("mcp",)), RESOURCE)
    found = ProtectedResourceMetadata.model_validate(made)
    assert str(found.resource) == RESOURCE
    assert [str(each) for each in found.authorization_servers] == ["https://login.example.com/tenant"]
    assert found.scopes_supported == ["mcp"]
