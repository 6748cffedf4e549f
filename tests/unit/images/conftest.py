"""Loads the filesystem server by its path, and calls its tools as the protocol does."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from images.filesystem import answer, roots, tools
else:
    _spec = importlib.util.spec_from_file_location(
        "filesystem_server_start", Path(__file__).parents[3] / "images" / "filesystem" / "server.py"
    )
    _start = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_start)
    # `load` makes the package "filesystem_server", from which the tests import the rest.
    answer, roots, tools = (_start.load(name) for name in ("answer", "roots", "tools"))


class Served:
    """The tools over some folders; every structured answer must keep the tool's own output schema."""

    def __init__(self, folders: list[str]) -> None:
        self.roots = roots.Roots(folders)

    def run(self, name: str, **arguments: object) -> answer.Answer:
        tool = tools.TOOLS[name]
        given = tool.run(self.roots, answer.Budget.of(), **tools.checked(tool, arguments))
        importlib.import_module("jsonschema").validate(given.structured(), tool.gives)
        json.dumps(given.structured(), ensure_ascii=False).encode()
        return given

    def refused(self, name: str, **arguments: object) -> str:
        with pytest.raises(answer.ToolError) as caught:
            self.run(name, **arguments)
        return str(caught.value)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def server(data: Path) -> Iterator[Served]:
    served = Served([str(data)])
    yield served
    served.roots.close()
