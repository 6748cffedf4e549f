"""Which addresses a name may lead to."""

from __future__ import annotations

import pytest

from supervisor.egress import policy


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.5", "100.64.0.1", "100.100.100.200", "127.0.0.1", "169.254.169.254", "172.16.0.1"),
        *("172.31.255.255", "192.168.1.1", "192.0.0.192", "192.88.99.1", "198.18.0.1", "198.19.255.255"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:10.0.0.5"),
        *("::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::a00:5", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1"),
        *("2002:7f00:1::1", "2002:a00:5::1", "2001:0:a00:5::1", "2001:0:808:808::f5ff:fffa"),
        *("2001:db8::5efe:10.0.0.5", "2001:db8::200:5efe:a00:5", "example.test", ""),
    ],
)
def test_bad_places_are_refused_with_a_reason(address: str) -> None:
    assert policy.refused(address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "8.8.8.8",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.7",
            "172.15.0.1",
            "172.32.0.1",
            "198.17.0.1",
            "1.1.1.1",
        ),
        *("2001:4860:4860::8888", "2001:db8::1", "64:ff9b::808:808", "2002:808:808::1", "2a00:1450::1"),
    ],
)
def test_public_and_documentation_addresses_are_not(address: str) -> None:
    assert not policy.refused(address)
