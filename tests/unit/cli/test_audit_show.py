"""The table of calls says who called, and who says so."""

from __future__ import annotations

import pytest

from supervisor.audit import chain, view
from supervisor.audit.chain import Line
from supervisor.audit.confine import LEDGER
from supervisor.cli import audit_show

PROXY = LEDGER + 100


@pytest.mark.parametrize(
    ("speaker", "user", "shown"),
    [
        (0, "uid:1000", "uid:1000"),
        (PROXY, "alice", "alice"),
        (54321, "uid:54321", "uid:54321"),
        (54321, "alice", "uid:54321 for alice"),
        (54321, "oidc:root", "uid:54321 for oidc:root"),
        (54321, "\x1b[2Juid:0", r"uid:54321 for \x1b[2Juid:0"),
        (54321, "", "uid:54321 for nobody"),
    ],
)
def test_a_name_that_no_process_of_ours_wrote_stands_behind_the_kernel_s_word(
    speaker: int, user: str, shown: str
) -> None:
    body = chain.canonical({"actor": {"user": {"uid": user}}})
    assert audit_show.row(view.entry(Line("", "", 1, 1, "intent", speaker, 1, body)))[1] == shown
