"""`ps`: whoever looks at a gateway without a session is told what waits in it."""

from __future__ import annotations

from argparse import Namespace

import pytest

from supervisor.cli import watch

COLD = {"name": "a", "state": "COLD", "error": "", "changed": []}
WAITING = "nothing of yours runs; each is started by its first call: a\n"


@pytest.mark.parametrize(
    ("idle", "out", "err"),
    [
        ([], "", "nothing of yours runs\n"),
        ([COLD], "", WAITING),
        ([COLD, COLD | {"name": "b", "state": "STOPPED"}], "b: STOPPED\n", ""),
        ([COLD | {"state": "FAILED", "error": "exit\x1b 4"}], "a: FAILED: exit\\x1b 4\n", ""),
        ([COLD | {"changed": ["tool x was added", "y"]}], "a: COLD: tool x was added; y\n", ""),
    ],
)
def test_a_gateway_without_a_session_is_told_of(
    idle: list[dict[str, object]],
    out: str,
    err: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(watch, "rows", lambda _: ([], idle))
    assert watch.ps(Namespace(json=False), []) == 0
    assert capsys.readouterr() == (out, err)
