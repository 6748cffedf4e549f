"""More attempts of test_egress_bypass: plain HTTP, other protocols, names that lead to bad places, the proxy.

They travel into the sandbox behind egress_attempts, without the imports.
"""

from __future__ import annotations

import os
import socket
import struct

from tests.escape.egress_attempts import (
    GOOD,
    OTHER,
    WEB,
    Held,
    greeted,
    hello,
    place,
    plain,
    served,
    sni,
    take,
    talk,
)

# what travels begins here


def try_another_host() -> str:
    return served(talk(place(), 80, plain("GET / HTTP/1.1", f"Host: {OTHER}")))


def try_another_host_in_a_pipelined_request() -> str:
    first = plain("GET / HTTP/1.1", f"Host: {GOOD}")
    return served(talk(place(), 80, first + plain("GET /smuggled HTTP/1.1", f"Host: {OTHER}")), b"/smuggled")


def try_another_host_after_a_body() -> str:
    first = plain("POST / HTTP/1.1", f"Host: {GOOD}", "Content-Length: 3", then=b"abc")
    second = plain("GET /smuggled HTTP/1.1", f"Host: {OTHER}")
    return served(talk(place(), 80, first + second, pause=0.2), b"/smuggled")


def try_another_host_after_chunks() -> str:
    first = plain("POST / HTTP/1.1", f"Host: {GOOD}", "Transfer-Encoding: chunked", then=b"3\r\nabc\r\n0\r\n\r\n")
    second = plain("GET /smuggled HTTP/1.1", f"Host: {OTHER}")
    return served(talk(place(), 80, first + second, pause=0.2), b"/smuggled")


def try_another_host_later_on() -> str:
    with socket.create_connection((place(), 80), 3) as sock:
        sock.settimeout(2)
        sock.sendall(plain("GET / HTTP/1.1", f"Host: {GOOD}"))
        take(sock)
        sock.sendall(plain("GET /smuggled HTTP/1.1", f"Host: {OTHER}"))
        return served(take(sock), b"/smuggled")


def try_an_absolute_target() -> str:
    return served(talk(place(), 80, plain(f"GET http://{OTHER}/ HTTP/1.1", f"Host: {GOOD}")))


def try_connect() -> str:
    return served(talk(place(), 80, plain(f"CONNECT {OTHER}:443 HTTP/1.1", f"Host: {GOOD}")))


def try_h2c() -> str:
    lines = (
        "GET / HTTP/1.1",
        f"Host: {GOOD}",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: x",
    )
    return served(talk(place(), 80, plain(*lines)))


def try_two_hosts() -> str:
    return served(talk(place(), 80, plain("GET / HTTP/1.1", f"Host: {GOOD}", f"Host: {OTHER}")))


def try_a_folded_host() -> str:
    return served(talk(place(), 80, plain("GET / HTTP/1.1", f"Host: {GOOD}", f" {OTHER}")))


def try_bare_line_feeds() -> str:
    said = f"GET / HTTP/1.1\nHost: {GOOD}\n\nGET /smuggled HTTP/1.1\nHost: {OTHER}\n\n\r\n\r\n".encode()
    return served(talk(place(), 80, said), b"/smuggled")


def try_two_lengths() -> str:
    lines = ("POST / HTTP/1.1", f"Host: {GOOD}", "Content-Length: 0", "Content-Length: 60")
    return served(talk(place(), 80, plain(*lines, then=plain("GET /smuggled HTTP/1.1", f"Host: {OTHER}"))))


def try_no_host() -> str:
    return served(talk(place(), 80, plain("GET / HTTP/1.1", "X: y")))


def try_udp() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.sendto(b"quic", (WEB, 443))
        return served(take(sock))


def try_udp_at_an_allowed_name() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((place(), 443))
        sock.send(b"quic")
        return served(take(sock))


def try_mptcp() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as sock:
        sock.settimeout(3)
        sock.connect((WEB, 80))
        sock.sendall(plain("GET / HTTP/1.1", f"Host: {GOOD}"))
        return served(take(sock))


def try_fast_open() -> str:
    with socket.socket() as sock:
        sock.sendto(plain("GET / HTTP/1.1", f"Host: {OTHER}"), socket.MSG_FASTOPEN, (WEB, 80))
        sock.settimeout(3)
        return served(take(sock))


def try_a_new_route() -> str:
    if os.geteuid() != 0 and not os.path.exists("/ca.pem"):
        return "needs root"
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(struct.pack("=IHHIIBBBBBBBBI", 28, 26, 0x301, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0))
        return str(len(sock.recv(65536)))


def try_a_raw_socket() -> str:
    if os.geteuid() != 0 and not os.path.exists("/ca.pem"):
        return "needs root"
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        return str(sock)


def try_sctp_dccp_and_others() -> str:
    if os.geteuid() != 0 and not os.path.exists("/ca.pem"):
        return "needs root"
    made = []
    for family, kind, protocol in ((2, 3, 255), (17, 3, 768), (16, 3, 15), (1, 1, 0)):
        try:
            made.append(socket.socket(family, kind, protocol))
        except OSError:
            continue
    if not made:
        raise Held
    return str(made)


def rebound(name: str) -> str:
    return served(talk(place(name), 80, plain("GET / HTTP/1.1", f"Host: {name}")))


def rebound6(name: str) -> str:
    try:
        return rebound(name)
    except socket.gaierror:
        address = str(socket.getaddrinfo(name, 80, socket.AF_INET6)[0][4][0])
        return served(talk(address, 80, plain("GET / HTTP/1.1", f"Host: {name}")))


def try_rebinding_private() -> str:
    return rebound("private.test")


def try_rebinding_loopback() -> str:
    return rebound("loopback.test")


def try_rebinding_link() -> str:
    return rebound("link.test")


def try_rebinding_own() -> str:
    return rebound("own.test")


def try_rebinding_mixed() -> str:
    return rebound("mixed.test")


def try_rebinding_hidden() -> str:
    return rebound("hidden.test")


def try_rebinding_tosix() -> str:
    return rebound6("tosix.test")


def try_rebinding_infile() -> str:
    return rebound("infile.test")


def try_rebinding_nat64() -> str:
    return rebound6("nat64.test")


def try_rebinding_mapped() -> str:
    return rebound6("mapped.test")


def try_rebinding_zero() -> str:
    return rebound("zero.test")


def try_rebinding_inner() -> str:
    return rebound("inner.test")


def try_an_address_that_stands_for_nothing() -> str:
    return greeted(talk("198.18.200.200", 443, hello(sni(GOOD.encode()))))


def try_the_address_of_another_name() -> str:
    return greeted(talk(place("another.test"), 8443, hello(sni(GOOD.encode()))))


def try_the_pool_before_a_question() -> str:
    got = b""
    for last in range(60):
        try:
            got += talk(f"198.18.1.{last}", 443, hello(sni(b"one.wild.test")))
        except OSError:
            continue
    if b"\x16\3\3" in got:
        return "ServerHello"
    raise Held


def proxied(head: bytes) -> bytes:
    return talk("198.18.0.1", 3128, head)


def try_the_proxy_for_a_refused_name() -> str:
    return served(proxied(plain(f"CONNECT {OTHER}:443 HTTP/1.1", f"Host: {OTHER}:443")), b" 200 ")


def try_the_proxy_for_an_address() -> str:
    return served(proxied(plain(f"CONNECT {WEB}:443 HTTP/1.1", f"Host: {WEB}:443")), b" 200 ")


def try_the_proxy_for_its_own_network() -> str:
    return served(proxied(plain("CONNECT 198.18.0.1:53 HTTP/1.1", "Host: x:1")), b" 200 ")


def try_the_proxy_for_the_host_s_loopback() -> str:
    got = b"".join(
        proxied(plain(f"CONNECT {each}:80 HTTP/1.1", "Host: x"))
        for each in ("127.0.0.1", "localhost", "[::1]", "[::ffff:7f00:1]", "2130706433", "0x7f.1", "127.1", "0")
    )
    return served(got, b" 200 ")


def try_the_proxy_with_an_absolute_target() -> str:
    return served(proxied(plain(f"GET http://{OTHER}/ HTTP/1.1", f"Host: {OTHER}")))


def try_the_proxy_and_then_another_sni() -> str:
    with socket.create_connection(("198.18.0.1", 3128), 3) as sock:
        sock.settimeout(2)
        sock.sendall(plain(f"CONNECT {GOOD}:443 HTTP/1.1", f"Host: {GOOD}:443"))
        if b" 200 " not in sock.recv(999):
            return "CONNECT to an allowed host was refused"
        sock.sendall(hello(sni(OTHER.encode())))
        return greeted(sock.recv(999))
