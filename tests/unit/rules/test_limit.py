"""Who is the limit: the rule says by PromQL what the product's own verdict says, case by case."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dashboards.recording import CODES, LIMIT
from tests.stack.fixtures import need
from tests.unit.gpu.simulated import Run
from tests.unit.gpu.test_limits import CASES as FAKE_CARD
from tests.unit.gpu.test_limits import limits
from tests.unit.rules import promtool
from tests.unit.rules.cases import OF, limited
from vibevoice_otel.recording.device.limits import verdict
from vibevoice_otel.semconv import Limit

#: Seconds a minute by limit, each near a line between two words.
CASES: list[dict[str, float]] = [
    {"card": 0.4, "core": 0.5},
    {"card": 26.0, "core": 24.0},
    {"card": 24.0, "core": 26.0},
    {"card": 25.005, "core": 25.0},
    {"card": 19.0, "other_process": 7.0, "core": 20.0},
    {"card": 20.0, "other_process": 6.0, "core": 20.0},
    {"card": 10.0, "core": 27.0, "lock": 13.0},
    {"card": 10.0, "core": 28.0, "lock": 12.0},
    {"unknown": 26.0, "card": 24.0},
    {"unknown": 24.0, "card": 2.0, "core": 24.0},
]


def code(rates: dict[str, float], folder: Path) -> dict[str, object]:
    """What promtool must find after half an hour at these seconds a minute, by the committed rule."""
    need("promtool")
    groups = yaml.safe_load(promtool.RULES[0].read_text())["groups"]
    rules = {"groups": [group for group in groups if group["name"] == "vibevoice-limit"]}
    word = verdict({name: 5 * each for name, each in rates.items()}, 5 * 0.01)
    samples = [{"labels": f"{LIMIT}{{{OF}}}", "value": CODES[word]}]
    check = {"expr": LIMIT, "eval_time": "30m", "exp_samples": samples}
    return {"word": word, "wrong": promtool.run(folder, rules, limited(**rates), {"promql_expr_test": [check]})}


@pytest.mark.parametrize("rates", CASES, ids=str)
def test_the_rule_says_what_the_product_says(rates: dict[str, float], tmp_path: Path) -> None:
    """Over five minutes at these rates."""
    assert not code(rates, tmp_path)["wrong"]


@pytest.mark.parametrize(("case", "word"), FAKE_CARD, ids=[case.__name__ for case, _ in FAKE_CARD])
def test_the_dashboard_tells_a_card_from_a_core(
    case: Callable[[random.Random], Run], word: Limit, tmp_path: Path
) -> None:
    """From a fake card's events to the word that the Root cause panel shows, whichever of the two is slow."""
    seconds = limits(case(random.Random(4)))
    del seconds["error"]
    found = code(seconds, tmp_path)
    assert not found["wrong"]
    assert found["word"] is word
