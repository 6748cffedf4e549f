"""Yet more attempts of test_egress_bypass: two readings of one request, of one hello, of one name, of one address.

They travel into the sandbox behind egress_attempts_beyond, without the imports.
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
    ask,
    extension,
    greeted,
    hello,
    passed,
    place,
    plain,
    resolver,
    served,
    sni,
    talk,
)
from tests.escape.egress_attempts_beyond import proxied, rebound, rebound6

# what travels begins here

END = b"\r\n\r\n"


def requested(*lines: str, then: bytes = b"") -> str:
    return served(talk(place(), 80, plain(*lines, then=then)))


def smuggled(*lines: str, then: bytes = b"") -> str:
    """Whether the server saw a second request, for another host."""
    second = plain("GET /smuggled HTTP/1.1", f"Host: {OTHER}")
    return served(talk(place(), 80, plain(*lines, then=then + second), pause=0.1), b"/smuggled")


def try_a_length_and_another_coding() -> str:
    return smuggled("POST / HTTP/1.1", f"Host: {GOOD}", "Transfer-Encoding: identity", "Content-Length: 0")


def try_a_length_with_a_sign() -> str:
    return smuggled("POST / HTTP/1.1", f"Host: {GOOD}", "Content-Length: +3", then=b"abc")


def try_a_chunk_size_with_a_prefix() -> str:
    lines = ("POST / HTTP/1.1", f"Host: {GOOD}", "Transfer-Encoding: chunked")
    return smuggled(*lines, then=b"0x3\r\nabc\r\n0\r\n\r\n")


def try_a_chunk_size_with_spaces() -> str:
    lines = ("POST / HTTP/1.1", f"Host: {GOOD}", "Transfer-Encoding: chunked")
    return smuggled(*lines, then=b" 3 \r\nabc\r\n0\r\n\r\n")


def try_chunks_with_bare_line_feeds() -> str:
    lines = ("POST / HTTP/1.1", f"Host: {GOOD}", "Transfer-Encoding: chunked")
    return smuggled(*lines, then=b"3\nabc\n\n0\n\n")


def try_two_codings() -> str:
    lines = ("POST / HTTP/1.1", f"Host: {GOOD}", "Transfer-Encoding: chunked", "Transfer-Encoding: identity")
    return smuggled(*lines, then=b"0\r\n\r\n")


def try_chunks_in_http_1_0() -> str:
    """A server that knows of none there takes the body for the next request."""
    lines = ("POST / HTTP/1.0", f"Host: {GOOD}", "Connection: keep-alive", "Transfer-Encoding: chunked")
    return requested(*lines, then=b"3\r\nabc\r\n0\r\n\r\n")


def try_a_length_for_this_connection_only() -> str:
    """A proxy before the server takes the length out, and the server takes the body for the next request."""
    lines = ("POST / HTTP/1.1", f"Host: {GOOD}", "Connection: x, Content-Length", "Content-Length: 3")
    return requested(*lines, then=b"abc")


def try_a_host_for_this_connection_only() -> str:
    return requested("GET / HTTP/1.1", f"Host: {GOOD}", "Connection: x", "Connection: Host", f"X-Host: {OTHER}")


def try_a_space_before_the_colon() -> str:
    return requested("GET / HTTP/1.1", f"Host : {OTHER}")


def try_a_host_with_a_user() -> str:
    return requested("GET / HTTP/1.1", f"Host: {GOOD}@{OTHER}")


def try_a_host_with_two_ports() -> str:
    return requested("GET / HTTP/1.1", f"Host: {GOOD}:80:443")


def try_a_host_with_another_port() -> str:
    return requested("GET / HTTP/1.1", f"Host: {GOOD}:8080")


def try_a_list_of_hosts() -> str:
    return requested("GET / HTTP/1.1", f"Host: {GOOD}, {OTHER}")


def try_a_path_behind_the_host() -> str:
    return requested("GET / HTTP/1.1", f"Host: {GOOD}/{OTHER}")


def try_a_wide_dot_in_the_host() -> str:
    said = "GET / HTTP/1.1\r\nHost: forbidden\uff0etest\r\n\r\n".encode()
    return served(talk(place(), 80, said))


def try_a_request_line_with_tabs() -> str:
    return requested("GET\t/\tHTTP/1.1", f"Host: {GOOD}")


def try_a_request_without_a_version() -> str:
    return served(talk(place(), 80, b"GET /\r\n\r\n"))


def try_a_carriage_return_in_a_field() -> str:
    return requested("GET / HTTP/1.1", f"Host: {GOOD}", f"X: y\rHost: {OTHER}")


def try_http2_in_clear() -> str:
    got = talk(place(), 80, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
    return served(got.lower(), b"html")


def try_a_websocket_to_another_host() -> str:
    lines = ("GET / HTTP/1.1", f"Host: {OTHER}", "Connection: Upgrade", "Upgrade: websocket")
    return served(talk(place(), 80, plain(*lines, then=b"hello")), b" 101 ")


def try_another_sni_in_capitals() -> str:
    return greeted(talk(place(), 443, hello(sni(OTHER.upper().encode()))))


def try_another_sni_with_a_dot() -> str:
    return greeted(talk(place(), 443, hello(sni(OTHER.encode() + b"."))))


def try_another_sni_with_early_data() -> str:
    early = extension(42, b"")
    data = b"\x17\3\3" + struct.pack("!H", 64) + os.urandom(64)
    return greeted(talk(place(), 443, hello(sni(OTHER.encode()), early) + data)[:1])


def try_a_wide_sni() -> str:
    return passed(hello(sni("\uff45xample.test".encode())) + END)


def try_a_pattern_as_sni() -> str:
    return passed(hello(sni(b"*.test")) + END)


def try_an_address_as_sni() -> str:
    return passed(hello(sni(WEB.encode())) + END)


def try_a_sni_that_goes_on() -> str:
    return passed(hello(sni(f"{GOOD}.{OTHER}".encode())) + END)


def try_a_sni_of_another_kind() -> str:
    name = GOOD.encode()
    listed = b"\1" + struct.pack("!H", len(name)) + name
    return passed(hello(extension(0, struct.pack("!H", len(listed)) + listed)) + END)


def try_an_empty_list_of_names() -> str:
    return passed(hello(extension(0, b"\0\0")) + END)


def try_data_before_the_hello() -> str:
    return passed(b"\x17\3\3\0\1x" + hello(sni(OTHER.encode())) + END)


def try_an_alert_before_the_hello() -> str:
    return passed(b"\x15\3\3\0\2\1\0" + hello(sni(OTHER.encode())) + END)


def try_a_hello_of_ssl_2() -> str:
    return passed(b"\x80\x2e\1\3\1\0\x15\0\0\0\x10" + os.urandom(37) + END)


def try_a_decimal_address() -> str:
    return served(talk("3405803786", 80, plain("GET / HTTP/1.1", f"Host: {GOOD}")))


def try_an_octal_address() -> str:
    return served(talk("0313.0.0161.012", 80, plain("GET / HTTP/1.1", f"Host: {GOOD}")))


def try_a_hexadecimal_address() -> str:
    return served(talk("0xcb.0.28938", 80, plain("GET / HTTP/1.1", f"Host: {GOOD}")))


def try_a_mapped_address() -> str:
    return served(talk(f"::ffff:{WEB}", 80, plain("GET / HTTP/1.1", f"Host: {GOOD}")))


def try_a_tunnelled_address() -> str:
    return served(talk("2002:a00:5::1", 80, plain("GET / HTTP/1.1", "Host: x")))


def flags(*answers: bytes) -> str:
    """The name server outside says that it may recurse; the broker says that it knows."""
    got = b" ".join(each[2:4] for each in answers)
    if b"\x81\x80" not in got and b"\x81\x83" not in got:
        raise Held(got.hex())
    return got.hex()


def question(
    name: bytes, kind: int = 1, group: int = 1, *, head: bytes = b"\1\0\0\1\0\0\0\0\0\0", then: bytes = b""
) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.sendto(b"\x12\x34" + head + name + b"\0" + struct.pack("!HH", kind, group) + then, (resolver(), 53))
        return sock.recv(4096)


ALLOWED, REFUSED = b"\7example\4test", b"\x09forbidden\4test"


def try_questions_for_other_records() -> str:
    """ANY, TXT, NULL, SVCB, HTTPS, SRV, a zone's transfer."""
    return flags(*(ask(GOOD, kind, resolver()) for kind in (255, 16, 10, 64, 65, 33, 252)))


def try_a_question_of_another_class() -> str:
    return flags(question(b"\7version\4bind", 16, 3), question(ALLOWED, 1, 255))


def try_a_question_with_a_client_s_network() -> str:
    subnet = struct.pack("!HHHBB", 8, 7, 1, 24, 0) + b"\xcb\0\x71"
    option = b"\0" + struct.pack("!HHIH", 41, 4096, 0, len(subnet)) + subnet
    return flags(question(REFUSED, head=b"\1\0\0\1\0\0\0\0\0\1", then=option))


def try_two_questions_in_one() -> str:
    return flags(question(ALLOWED, head=b"\1\0\0\2\0\0\0\0\0\0", then=REFUSED + b"\0\0\1\0\1"))


def try_a_dot_within_a_label() -> str:
    return served(question(b"\x0eforbidden.test"), socket.inet_aton(WEB))


def try_a_nul_within_a_label() -> str:
    return flags(question(b"\x0cexample.test\0"[:-1] + b"\4\0bad"))


def try_an_update_of_the_zone() -> str:
    return flags(question(ALLOWED, 6, head=b"\x28\0\0\1\0\0\0\0\0\0"))


def try_a_question_in_pieces_over_tcp() -> str:
    said = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + REFUSED + b"\0\0\1\0\1"
    with socket.create_connection((resolver(), 53), 3) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for each in struct.pack("!H", len(said)) + said:
            sock.sendall(bytes([each]))
        sock.settimeout(2)
        return served(sock.recv(4096), socket.inet_aton(WEB))


def try_a_giant_question_over_tcp() -> str:
    """64 KiB of labels are 64 KiB that could leave."""
    said = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + REFUSED + b"\0\0\1\0\1"
    said += bytes(65535 - len(said))
    return served(talk(resolver(), 53, struct.pack("!H", len(said)) + said, pause=0.2), socket.inet_aton(WEB))


def try_rebinding_chain() -> str:
    return rebound("chain.test")


def try_rebinding_carrier() -> str:
    return rebound("carrier.test")


def try_rebinding_cloud() -> str:
    return rebound("cloud.test")


def try_rebinding_home() -> str:
    return rebound("home.test")


def try_rebinding_unique() -> str:
    return rebound6("unique.test")


def try_rebinding_compatible() -> str:
    return rebound6("compatible.test")


def try_rebinding_teredo() -> str:
    return rebound6("teredo.test")


def try_rebinding_flip() -> str:
    """Another answer each time it is asked for: what was checked must be what is dialled."""
    got = b""
    for _ in range(8):
        got += talk(place("flip.test"), 80, plain("GET /where HTTP/1.1", "Host: flip.test", "Connection: close"))
    return served(got, b"at 10.0.0.5")


def try_the_proxy_behind_a_proxy() -> str:
    with socket.create_connection(("198.18.0.1", 3128), 3) as sock:
        sock.settimeout(2)
        sock.sendall(plain(f"CONNECT {GOOD}:80 HTTP/1.1", f"Host: {GOOD}:80"))
        if b" 200 " not in sock.recv(999):
            return "CONNECT to an allowed host was refused"
        sock.sendall(plain(f"CONNECT {OTHER}:443 HTTP/1.1", f"Host: {OTHER}:443"))
        return served(sock.recv(999), b" 200 ")


def try_the_proxy_a_second_time() -> str:
    first = plain(f"GET http://{GOOD}/ HTTP/1.1", f"Host: {GOOD}")
    return served(proxied(first + plain(f"GET http://{OTHER}/smuggled HTTP/1.1", f"Host: {OTHER}")), b"/smuggled")


def try_the_proxy_with_other_spellings() -> str:
    names = (
        OTHER.upper(),
        f"{OTHER}.",
        f"{OTHER}%00.{GOOD}",
        f"{GOOD}@{OTHER}",
        f"[{OTHER}]",
        f"{OTHER}:443@{GOOD}",
    )
    got = b"".join(proxied(plain(f"CONNECT {each}:443 HTTP/1.1", "Host: x")) for each in names)
    return served(got, b" 200 ")


def try_the_proxy_for_another_port() -> str:
    return served(proxied(plain(f"CONNECT {GOOD}:25 HTTP/1.1", f"Host: {GOOD}:25")), b" 200 ")


def try_the_proxy_for_metadata() -> str:
    names = ("169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "2852039166")
    got = b"".join(proxied(plain(f"CONNECT {each}:80 HTTP/1.1", "Host: x")) for each in names)
    return served(got, b" 200 ")


def try_the_proxy_with_the_target_and_host_of_two() -> str:
    return served(proxied(plain(f"GET http://{GOOD}/ HTTP/1.1", f"Host: {OTHER}")))


def try_socks() -> str:
    name = OTHER.encode()
    five = proxied(b"\5\1\0\5\1\0\3" + bytes([len(name)]) + name + b"\1\xbb")
    four = proxied(b"\4\1\1\xbb\0\0\0\1\0" + name + b"\0")
    if five[:1] != b"\5" and four[:2] != b"\0\x5a":
        raise Held(repr(five[:20]))
    return "served by SOCKS"


def try_the_ends_of_the_network() -> str:
    got = b""
    for address in ("198.18.0.0", "198.19.255.255", "198.18.0.1", "198.18.0.2"):
        try:
            got += talk(address, 443, hello(sni(GOOD.encode())))
        except OSError:
            continue
    return greeted(got)
