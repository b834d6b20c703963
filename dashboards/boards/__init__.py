"""The three dashboards, in the order in which an operator looks."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel
from grafana_foundation_sdk.models.prometheus import Dataquery as Query

from dashboards.boards.health import HEALTH
from dashboards.boards.root_cause import ROOT_CAUSE
from dashboards.boards.voice import VOICE
from dashboards.dashboard import panels, queries, text

BOARDS = (HEALTH, VOICE, ROOT_CAUSE)

#: File in dashboards/generated -> its text.
FILES = {f"{board.uid}.json": text(board) for board in BOARDS}


def asked() -> Iterator[tuple[Dashboard, Panel, int, Query]]:
    """Every PromQL query of every panel: its dashboard, its panel, its place there."""
    for board in BOARDS:
        for panel in panels(board):
            for index, query in enumerate(queries(panel)):
                yield board, panel, index, query
