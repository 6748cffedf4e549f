"""A registry as a source: distribution's HTTP API version 2, read only.

Runs in the fetcher. Tokens are asked for where the registry says, but the operator's password goes to the
registry's own host alone, or to a login host that registries.toml names. A mirror that fails is passed over; one
that lies ends it all.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

from supervisor.errors import Refused, SupervisorError
from supervisor.oci.client import Answer, Client, Endpoint, Unreachable, split
from supervisor.oci.document import Reader, parse
from supervisor.oci.limits import Download
from supervisor.oci.manifest import INDEXES, MANIFESTS, MAX_MANIFEST, Descriptor, Index, read
from supervisor.oci.reference import Repository
from supervisor.oci.source import Found, checked, fallback_tag

_CHALLENGE = re.compile(r'([a-z]+)="([^"\\]*)"')
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(?:\d{1,15}|\*)")
_MAX_TOKEN = 1 << 20
_T = TypeVar("_T")
_TRIES = 3


class Registry:
    """One repository in one registry, by way of its mirrors."""

    def __init__(
        self, repository: Repository, endpoints: Sequence[Endpoint], client: Client, limits: Download
    ) -> None:
        self._repository = repository
        self._endpoints = endpoints
        self._client = client
        self._limits = limits
        self._authorization: dict[str, str] = {}

    def tagged(self, tag: str) -> Found | None:
        """The manifest that a tag points to now; the registry's own digest header must agree."""
        return self._manifest(quote(tag, safe=""))

    def manifest(self, digest: str) -> Found | None:
        """The manifest with this digest; Refused when the answer has another."""
        return checked(self._manifest(digest), digest, str(self._repository))

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """By the API, and where there is none by the fallback tag."""
        found = self._ask(f"referrers/{digest}", {"Accept": INDEXES[0]}, self._index)
        if found is None:
            found = self._ask(f"manifests/{fallback_tag(digest)}", {"Accept": INDEXES[0]}, self._index)
        return found.manifests if found else ()

    def blob(self, digest: str, size: int, out: int) -> None:
        """Stream a blob to `out`, going on where a broken connection left off."""
        what = f"{self._repository}: blob {digest}"
        transfer = _Transfer(what, size, out, time.monotonic() + self._limits.total_seconds)
        for attempt in range(1, _TRIES + 1):
            wanted = {"Range": f"bytes={transfer.at}-"} if transfer.at else {}
            try:
                if self._ask(f"blobs/{digest}", wanted, transfer.take) is None:
                    raise Refused(f"{what} is not there")
                break
            except Unreachable as error:
                if attempt == _TRIES:
                    raise Refused(f"{what}: {error}") if transfer.at else error from None
        if transfer.digest != digest:
            raise Refused(f"{what}: what came has the digest {transfer.digest}")

    def _manifest(self, name: str) -> Found | None:
        headers = {"Accept": ", ".join((*INDEXES, *MANIFESTS))}
        return self._ask(f"manifests/{name}", headers, _found)

    def _index(self, answer: Answer) -> Index:
        found = read(answer.body(MAX_MANIFEST), f"{self._repository}: referrers")
        if not isinstance(found, Index):
            raise Refused(f"{self._repository}: referrers are an index, not {found.media_type}")
        return found

    def _ask(self, path: str, headers: dict[str, str], take: Callable[[Answer], _T]) -> _T | None:
        """The first endpoint that has it; None when none has, Unreachable when none is left that might."""
        failure: Unreachable | None = None
        for endpoint in self._endpoints:
            try:
                answer = self._ask_one(endpoint, path, headers, take)
            except Unreachable as error:
                failure = error
            else:
                if answer is not None:
                    return answer
        if failure is not None:
            raise failure
        return None

    def _ask_one(
        self, endpoint: Endpoint, path: str, headers: dict[str, str], take: Callable[[Answer], _T]
    ) -> _T | None:
        url = f"{endpoint.url}/v2/{self._repository.path}/{path}"
        for attempt in (1, 2):
            known = self._authorization.get(endpoint.host, "")
            with self._client.get(endpoint, url, headers | ({"Authorization": known} if known else {})) as answer:
                if answer.status in (200, 206):
                    return take(answer)
                if answer.status == 404:
                    return None
                if answer.status != 401 or attempt == 2:
                    raise _unexpected(endpoint, answer)
                challenge = answer.headers.get("www-authenticate", "")
            self._authorization[endpoint.host] = self._login(endpoint, challenge)
        return None

    def _login(self, endpoint: Endpoint, challenge: str) -> str:
        """The Authorization header that answers a challenge."""
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            if not endpoint.basic:
                raise SupervisorError(f"{endpoint.host} asks for a name and a password: give --authfile")
            return endpoint.basic
        values = dict(_CHALLENGE.findall(rest))
        if scheme.lower() != "bearer" or "realm" not in values:
            raise Refused(f"{endpoint.host}: asks for {challenge!r:.80}, which is neither basic nor a token")
        asked = {"service": values.get("service", ""), "scope": f"repository:{self._repository.path}:pull"}
        realm = self._realm(endpoint, values["realm"])
        query = urlencode({key: value for key, value in asked.items() if value})
        headers = {"Authorization": endpoint.basic} if endpoint.basic else {}
        place = Endpoint(urlsplit(realm).netloc, plain=urlsplit(realm).scheme == "http")
        with self._client.get(place, f"{realm}?{query}", headers) as answer:
            if answer.status != 200:
                raise _unexpected(place, answer)
            said = Reader(parse(answer.body(_MAX_TOKEN), f"{realm}: token"), f"{realm}: token")
        token = said.text("token", "") or said.text("access_token", "")
        if not token or not token.isascii() or not token.isprintable():
            raise Refused(f"{realm}: no token in the answer")
        return f"Bearer {token}"

    @staticmethod
    def _realm(endpoint: Endpoint, realm: str) -> str:
        place = split(realm)
        stays = place.netloc == endpoint.host and place.scheme == ("http" if endpoint.plain else "https")
        if not stays and (place.scheme != "https" or "@" in place.netloc or not place.hostname):
            raise Refused(f"{endpoint.host}: sends for a token to {realm!r:.200}; only https is asked")
        if endpoint.basic and not stays and place.netloc not in endpoint.login:
            raise Refused(
                f"{endpoint.host}: wants the password sent to {place.netloc}; if that is right, write "
                f'login = ["{place.netloc}"] under [registry."{endpoint.host}"] in registries.toml'
            )
        return realm.partition("?")[0]


class _Transfer:
    """One blob on its way into a file."""

    def __init__(self, what: str, size: int, out: int, deadline: float) -> None:
        self.at = 0
        self._what = what
        self._size = size
        self._out = out
        self._deadline = deadline
        self._hasher = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Of what has come so far."""
        return f"sha256:{self._hasher.hexdigest()}"

    def take(self, answer: Answer) -> bool:
        """Write an answer's body where the last one ended."""
        if answer.status == 200:
            os.ftruncate(self._out, 0)
            os.lseek(self._out, 0, os.SEEK_SET)
            self.at, self._hasher = 0, hashlib.sha256()
        else:
            span = _RANGE.fullmatch(answer.headers.get("content-range", ""))
            if span is None or int(span.group(1)) != self.at:
                raise Refused(f"{self._what}: another part came than was asked for")
        said = answer.headers.get("content-length", "")
        if said and said != str(self._size - self.at):
            raise Refused(f"{self._what}: {said} bytes are offered, not {self._size - self.at}")
        for part in answer.parts():
            self.at += len(part)
            if self.at > self._size:
                raise Refused(f"{self._what}: more than {self._size} bytes come")
            if time.monotonic() > self._deadline:
                raise Refused(f"{self._what}: not here after the time a blob may take")
            self._hasher.update(part)
            _write(self._out, part)
        if self.at < self._size:
            raise Unreachable(f"{self._what}: ends after {self.at} of {self._size} bytes")
        return True


def _write(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


def _found(answer: Answer) -> Found:
    found = Found(answer.body(MAX_MANIFEST), answer.headers.get("content-type", "").partition(";")[0].strip())
    said = answer.headers.get("docker-content-digest", found.digest)
    if said != found.digest:
        raise Refused(f"{answer.url}: says its digest is {said!r:.80}, but it is {found.digest}")
    return found


def _unexpected(endpoint: Endpoint, answer: Answer) -> SupervisorError:
    where = answer.url.partition("?")[0]
    if answer.status in (401, 403):
        who = f'as "{endpoint.username}"' if endpoint.username else "without a name and password"
        return SupervisorError(f"{where}: not allowed {who} (status {answer.status}); see --authfile")
    return Unreachable(f"{where}: status {answer.status}")
