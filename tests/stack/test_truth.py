"""Every panel shows what is true: what clients know of their requests,
beside the panel's own query on the real chain.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dashboards import truth
from dashboards.boards import asked
from dashboards.dashboard import Dashboard, Panel, Query
from tests.stack.fixtures import need
from tools.toolchain.recipes import ROOT

PHASES = ("light", "burst", "restart", "new voice")
#: Serial: a client's latencies bound the service's where neither waits for the machine. Phases play in the first test:
#: a minute and a half on an idle machine.
pytestmark = [pytest.mark.serial, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[truth.Played]:
    """The chain after light traffic, a burst, a restart and a new voice."""
    need("otelcol-vibevoice", "prometheus")
    with truth.played(tmp_path_factory.mktemp("truth")) as found:
        yield found


@pytest.mark.parametrize(
    ("board", "panel", "index", "query"),
    [
        pytest.param(*each, id=f"{each[0].uid}-{each[1].id_val}-{each[2]}")
        for each in asked()
        if (each[0].uid, each[1].id_val, each[2]) in truth.TRUTHS
    ],
)
@pytest.mark.parametrize("name", PHASES)
def test_a_panel_shows_what_is_true(
    name: str, board: Dashboard, panel: Panel, index: int, query: Query, played: truth.Played
) -> None:
    """Counts and shares to the last request, latencies within their buckets, in each phase."""
    (phase,) = (each for each in played.phases if each.name == name)
    labels, true = truth.TRUTHS[board.uid, panel.id_val, index]
    shown = truth.shown(played.prometheus, query, phase, labels)
    assert not truth.agrees(true(phase, played.phases), shown)


def test_every_query_is_held_to_the_ledger_or_says_why_not() -> None:
    """A panel that is added says what clients know of it, or that they cannot know."""
    known = truth.TRUTHS.keys() | truth.UNSEEN.keys()
    every = {(board.uid, panel.id_val, index) for board, panel, index, _ in asked()}
    assert every - known == set()
    assert truth.TRUTHS.keys() <= every


def test_the_table_stands_in_the_docs() -> None:
    """docs/dashboards.md shows each of them."""
    page = (ROOT / "docs" / "dashboards.md").read_text().partition(truth.BEGIN)[2].partition(truth.END)[0]
    for board, panel, index, _ in asked():
        if (board.uid, panel.id_val, index) in truth.TRUTHS:
            assert f"{board.title.removeprefix('VibeVoice / ')}: {panel.title}" in page
