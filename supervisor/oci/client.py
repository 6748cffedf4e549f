"""HTTP as far as registries need it, by httpcore2; every connection is made by us, to an address that was checked.

Runs in the fetcher. An address that is private, loopback, link-local or metadata is dialled only for an endpoint
that the operator named as such. A redirect goes to https alone, or within one plain endpoint; it takes no
credentials along.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore2

from supervisor.egress import policy
from supervisor.errors import Refused, SupervisorError
from supervisor.oci.limits import Download

_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
# linux: how an option of a socket is given; none is used here
_Option = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class Unreachable(SupervisorError):
    """Nobody answers, or not to the end; asking again may help."""


@dataclass(frozen=True)
class Endpoint:
    """What the operator says of one host: `private` and `plain` are true only where somebody wrote so."""

    host: str
    plain: bool = False
    private: bool = False
    ca: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    login: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"{'http' if self.plain else 'https'}://{self.host}"

    @property
    def place(self) -> tuple[str, int]:
        """Name and port that are dialled for it."""
        name, colon, port = self.host.rpartition(":")
        if not colon or port.endswith("]"):
            name, port = self.host, "80" if self.plain else "443"
        return name.strip("[]"), int(port)

    @property
    def basic(self) -> str:
        """The Authorization header's value, "" without credentials."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode() if self.username else ""


@dataclass(frozen=True)
class Answer:
    """A response whose body has not been read."""

    status: int
    headers: dict[str, str]
    url: str
    response: httpcore2.Response
    limits: Download

    def body(self, limit: int) -> bytes:
        """All of it; Refused when it is larger than `limit`."""
        data = b""
        for part in self.parts():
            data += part
            if len(data) > limit:
                raise Refused(f"{self.url}: more than {limit} bytes")
        return data

    def parts(self) -> Iterator[bytes]:
        """The body as it comes."""
        if self.headers.get("content-encoding", "identity") != "identity":
            raise Refused(f"{self.url}: sent {self.headers['content-encoding']:.20} where identity was asked for")
        with _translated(self.url):
            yield from self.response.iter_stream()


class Dialer(httpcore2.NetworkBackend):
    """Resolves once, checks every address, connects to what was checked."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self._endpoints = endpoints
        self._inner = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_Option] | None = None,
    ) -> httpcore2.NetworkStream:
        """As httpcore2 asks for it; Refused before anything is sent."""
        addresses = self._addresses(host, port)
        failure: Exception = httpcore2.ConnectError(f"{host} does not resolve")
        for address in addresses:
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"{host}: does not resolve ({error})") from None
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        private = any(each.private and each.place == (host.strip("[]"), port) for each in self._endpoints.values())
        for address in [] if private else addresses:
            if reason := policy.refused(address.partition("%")[0]):
                raise Refused(
                    f"{host} leads to {address}: {reason}; only a registry that registries.toml names with "
                    "private = true, or an image name that is such an address itself, is dialled there"
                )
        return addresses


class Client:
    """Requests to the endpoints of one image."""

    def __init__(self, endpoints: dict[str, Endpoint], limits: Download) -> None:
        self._endpoints = endpoints
        self._limits = limits
        self._dialer = Dialer(endpoints)
        self._pools: dict[str, httpcore2.ConnectionPool] = {}
        # read now, because later no file can be
        self._contexts = {host: _context(each.ca) for host, each in endpoints.items() if each.ca}
        self._system = _context("")

    def close(self) -> None:
        """Hang up."""
        for pool in self._pools.values():
            pool.close()

    @contextlib.contextmanager
    def get(self, endpoint: Endpoint, url: str, headers: dict[str, str]) -> Iterator[Answer]:
        """One GET with its redirects; the caller reads the body inside the block."""
        first = urlsplit(endpoint.url)
        for _ in range(_MAX_REDIRECTS + 1):
            place = urlsplit(url)
            same = (place.scheme, place.netloc) == (first.scheme, first.netloc)
            sent = {key: value for key, value in headers.items() if same or key != "Authorization"}
            with self._once(url, sent) as answer:
                if answer.status not in _REDIRECTS:
                    yield answer
                    return
                url = self._follow(url, answer.headers.get("location", ""), endpoint)
        raise Refused(f"{endpoint.host}: more than {_MAX_REDIRECTS} redirects")

    def _follow(self, url: str, location: str, endpoint: Endpoint) -> str:
        try:
            target = urljoin(url, location)
        except ValueError:
            raise Refused(f"{url}: a redirect to {location!r:.200}, which is no address") from None
        place = split(target)
        stays = endpoint.plain and place.scheme == "http" and place.netloc == endpoint.host
        if (place.scheme != "https" and not stays) or not place.hostname or "@" in place.netloc:
            raise Refused(f"{url}: a redirect to {target!r:.200}; only https is followed")
        return target

    @contextlib.contextmanager
    def _once(self, url: str, headers: dict[str, str]) -> Iterator[Answer]:
        seconds = self._limits.seconds
        timeout = {"connect": seconds, "read": seconds, "write": seconds, "pool": seconds}
        sent: dict[bytes | str, bytes | str] = {"Host": urlsplit(url).netloc, "User-Agent": "supervisor"}
        sent["Accept-Encoding"] = "identity"
        sent.update(headers.items())
        pool = self._pool(urlsplit(url).netloc)
        with contextlib.ExitStack() as stack:
            with _translated(url):
                response = stack.enter_context(
                    pool.stream("GET", url, headers=sent, extensions={"timeout": timeout})
                )
            received = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in response.headers}
            yield Answer(response.status, received, url, response, self._limits)

    def _pool(self, host: str) -> httpcore2.ConnectionPool:
        """One for each host, because each may have a certificate authority of its own."""
        if host not in self._pools:
            context = self._contexts.get(host, self._system)
            self._pools[host] = httpcore2.ConnectionPool(context, max_connections=1, network_backend=self._dialer)
        return self._pools[host]


def split(url: str) -> SplitResult:
    """The parts of an address that somebody else wrote; Refused when it is none."""
    try:
        place = urlsplit(url)
        place.port  # noqa: B018 - raises for a port that is none
    except ValueError:
        raise Refused(f"{url!r:.200} is no address") from None
    return place


def names_private(host: str) -> bool:
    """Whether an operator who writes this host name says with it that it is no public place."""
    name = Endpoint(host).place[0]
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return name == "localhost"


def _context(ca: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    short = url.partition("?")[0]
    try:
        yield
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
        cause: BaseException = error
        while (inner := cause.__cause__ or cause.__context__) is not None:
            cause = inner
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = f"its certificate: {cause.verify_message}; registries.toml can name a ca"
        else:
            reason = str(error) or type(error).__name__
        raise Unreachable(f"{short}: {reason}") from None
    except httpcore2.UnsupportedProtocol:
        raise Refused(f"{short}: not a kind of address that is fetched") from None
