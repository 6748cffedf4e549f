"""The Grafana dashboard asks for what there is, and for all of it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import supervisor
from supervisor.telemetry.look import Look
from supervisor.telemetry.metrics import STATES, Metrics

PATH = Path(supervisor.__file__).parent / "telemetry" / "grafana.json"
PANELS: list[dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))["panels"]
ASKED = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])


def samples() -> dict[str, set[str]]:
    """Every name on a page on which there is something of everything, with its labels."""
    metrics = Metrics(lambda: [Look("a", "READY", 1, 1, 1, 1, 1, 1, 1)], lambda: 1)
    metrics.called("a", "t", 0.1, outcome="ok")
    metrics.started("a", 0.1)
    metrics.refused("r")
    found: dict[str, set[str]] = {}
    for line in metrics.page().decode().splitlines():
        if not line.startswith("#"):
            name, _, labels = line.rpartition(" ")[0].partition("{")
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def test_every_metric_that_it_asks_for_is_there() -> None:
    assert set(re.findall(r"supervisor_\w+", ASKED)) <= set(samples())


def test_every_metric_that_is_there_is_on_it() -> None:
    assert set(samples()) == set(re.findall(r"supervisor_\w+", ASKED))


def test_every_label_that_it_uses_is_one_of_that_metric() -> None:
    known = samples()
    for name, selector in re.findall(r"(supervisor_\w+)\{([^}]*)\}", ASKED):
        assert set(re.findall(r"(\w+)[!=]~?", selector)) <= known[name], name
    for words in re.findall(r" by \(([^)]*)\)", ASKED):
        assert set(words.split(", ")) <= set().union(*known.values())
    assert set(re.findall(r'state="(\w+)"', ASKED)) == set(STATES)


def test_the_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in itertools.combinations([panel["gridPos"] for panel in PANELS], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y
        assert one["x"] + one["w"] <= 24
