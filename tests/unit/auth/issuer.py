"""An OpenID Connect issuer on loopback for tests: keys of its own, metadata, and tokens as they are asked for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
RESOURCE = "https://mcp.example.com"


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def jwk(key: Key, kid: str, algorithm: str, use: str = "sig") -> dict[str, object]:
    """The public half, as a JWK."""
    if isinstance(key, rsa.RSAPrivateKey):
        made = json.loads(RSAAlgorithm.to_jwk(key.public_key()))
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        made = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    else:
        made = json.loads(OKPAlgorithm.to_jwk(key.public_key()))
    return {**made, "kid": kid, "alg": algorithm, "use": use}


class Issuer:
    """Answers by path; `hits` is what was asked. `url` is its name."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: dict[str, tuple[Key, str]] = {"k1": (rsa_key(), "RS256")}
        self.pages: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.hits: list[str] = []
        self.publish()

    def publish(self) -> None:
        """Put the metadata and the present keys on the pages."""
        about = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "registration_endpoint": f"{self.url}/register",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
        }
        self.pages["/.well-known/openid-configuration"] = 200, json.dumps(about).encode(), {}
        listed = [jwk(key, kid, algorithm) for kid, (key, algorithm) in self.keys.items()]
        self.pages["/keys"] = 200, json.dumps({"keys": listed}).encode(), {}

    def claims(self, **changes: object) -> dict[str, object]:
        """Those of a good token; None takes one away."""
        made: dict[str, object] = {
            "iss": self.url,
            "sub": "alice",
            "aud": RESOURCE,
            "exp": int(time.time()) + 600,
            "groups": ["dev"],
            "scope": "mcp other",
        } | changes
        return {name: value for name, value in made.items() if value is not None}

    def posted(self, path: str, body: bytes) -> object:
        """What a client gets that registers, or comes for its token: one for the resource that it names."""
        if path == "/register":
            return json.loads(body) | {"client_id": "app"}
        [resource] = parse_qs(body.decode())["resource"]
        token = self.token(aud=resource, client_id="app")
        return {"access_token": token, "token_type": "Bearer", "expires_in": 600, "scope": "mcp"}

    def token(self, kid: str = "k1", headers: dict[str, object] | None = None, **changes: object) -> str:
        """A token signed with one of the keys."""
        key, algorithm = self.keys[kid]
        return jwt.encode(self.claims(**changes), key, algorithm, headers={"kid": kid} | (headers or {}))


@contextmanager
def running() -> Iterator[Issuer]:
    """One, on a port of its own."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.hits.append(self.path)
            self._answer(*made.pages.get(self.path, (404, b"", {})))

        def do_POST(self) -> None:
            made.hits.append(self.path)
            found = made.posted(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(201 if self.path == "/register" else 200, json.dumps(found).encode(), {})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not a word."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        made = Issuer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
