"""The three dashboards, in the order in which an operator looks."""

from __future__ import annotations

from dashboards.boards.health import HEALTH
from dashboards.boards.root_cause import ROOT_CAUSE
from dashboards.boards.voice import VOICE
from dashboards.grafana import dashboard

BOARDS = (HEALTH, VOICE, ROOT_CAUSE)

#: File in dashboards/generated -> its text.
FILES = {f"{board.uid}.json": dashboard(board, BOARDS) for board in BOARDS}
