"""What the operator says of registries: strict, with file and line, and passwords for nobody else to read."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.oci import settings

HOST = "registry.example.org:5000"


def registries(tmp_path: Path, text: str) -> str:
    path = tmp_path / "registries.toml"
    path.write_text(text)
    return str(path)


def test_a_registry_that_nobody_described_is_asked_itself_over_tls(tmp_path: Path) -> None:
    (found,) = settings.endpoints(HOST, str(tmp_path / "missing.toml"), "")
    assert (found.host, found.plain, found.private, found.basic) == (HOST, False, False, "")
    assert found.url == f"https://{HOST}"
    assert found.place == ("registry.example.org", 5000)


def test_mirrors_come_first_and_each_is_described_for_itself(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("pem")
    path = registries(
        tmp_path,
        f'[registry."{HOST}"]\nmirrors = ["mirror.local"]\nlogin = ["auth.example.org"]\n'
        '[registry."mirror.local"]\nca = "ca.pem"\nprivate = true\n',
    )
    mirror, itself = settings.endpoints(HOST, path, "")
    assert (mirror.host, mirror.ca, mirror.private) == ("mirror.local", "pem", True)
    assert (itself.host, itself.ca, itself.private, itself.login) == (HOST, "", False, ("auth.example.org",))


def test_plain_http_is_for_loopback_alone(tmp_path: Path) -> None:
    path = registries(tmp_path, '[registry."127.0.0.1:5000"]\nplain_http = true\n')
    (found,) = settings.endpoints("127.0.0.1:5000", path, "")
    assert (found.plain, found.private, found.url) == (True, True, "http://127.0.0.1:5000")
    with pytest.raises(ConfigError, match=r"registries.toml:1: registry.local: plain_http is for loopback alone"):
        settings.endpoints(HOST, registries(tmp_path, '[registry."registry.local"]\nplain_http = true\n'), "")


def test_what_is_written_wrong_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        settings.endpoints(HOST, registries(tmp_path, f'[registry."{HOST}"]\ninsecure = true\n'), "")
    with pytest.raises(ConfigError, match=r"nowhere.pem: No such file"):
        settings.endpoints(HOST, registries(tmp_path, f'[registry."{HOST}"]\nca = "nowhere.pem"\n'), "")
    path = registries(tmp_path, "")
    Path(path).chmod(0o666)
    with pytest.raises(Refused, match="others can write it"):
        settings.endpoints(HOST, path, "")


def test_passwords_are_read_from_docker_s_file_if_nobody_else_can(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    auth = base64.b64encode(b"me:pass:word").decode()
    path.write_text(json.dumps({"auths": {f"https://{HOST}/v2/": {"auth": auth}}, "credsStore": "x"}))
    path.chmod(0o600)
    (found,) = settings.endpoints(HOST, str(tmp_path / "none"), str(path))
    assert (found.username, found.password) == ("me", "pass:word")
    assert "pass:word" not in repr(found)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read the passwords"):
        settings.endpoints(HOST, str(tmp_path / "none"), str(path))
    path.chmod(0o600)
    path.write_text(json.dumps({"auths": {HOST: {"auth": "!"}}}))
    with pytest.raises(ConfigError, match="is not base64"):
        settings.endpoints(HOST, str(tmp_path / "none"), str(path))
