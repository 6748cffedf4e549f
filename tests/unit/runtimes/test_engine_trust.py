"""Who an engine is, and what it is told where a controller is missing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from supervisor import wire
from supervisor.runtimes.api import Api, ApiError
from supervisor.runtimes.docker import Docker
from supervisor.runtimes.podman import Podman


def test_an_engine_of_another_user_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "engine.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        monkeypatch.setattr(wire, "peer", lambda _: (1, os.geteuid() + 4321, 1))
        with pytest.raises(ApiError, match="neither root nor this user"):
            Api(path).get("/info")


def test_podman_is_told_the_limits_that_there_are() -> None:
    engine = Podman("/nowhere/podman.sock", "supervisor-1-1")
    engine.known = {"rootless": False, "cgroup": "v1"}
    told = engine._limits({"cgroup": {"memory": 4096, "pids": 3}})
    assert told == {
        "resource_limits": {"memory": {"limit": 4096, "swap": 4096, "swappiness": 0}, "pids": {"limit": 3}}
    }


def test_docker_is_told_the_limits_that_there_are() -> None:
    engine = Docker("/nowhere/docker.sock", "supervisor-1-1")
    engine.known = {"cgroup": "2"}
    assert engine._limits({"memory": 4096, "pids": 3}) == {"Memory": 4096, "MemorySwap": 4096, "PidsLimit": 3}
    assert engine._limits({}) == {}
