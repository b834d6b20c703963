"""Variables in a query's place, as Grafana puts them there."""

from __future__ import annotations

import re

import pytest

from tools.grafana.interpolate import as_regex, traceql

ODD = ["it's (1+1)/2", "[x|y].*", "{a}^$", "back\\slash", 'quo"te', "en-Ann"]


@pytest.mark.parametrize("value", ODD)
def test_a_value_matches_itself_and_nothing_else(value: str) -> None:
    """Alone and among others."""
    for regex in (as_regex([value]), as_regex([value, "another"])):
        assert re.fullmatch(regex, value)
        assert not re.fullmatch(regex, value + "x")
    assert as_regex(["a", "b.c"]) == r"(a|b\.c)"


def test_what_was_not_chosen_is_all() -> None:
    """A variable without a choice gives its ``allValue``; one without a format is put in as it is."""
    expression = '{ a =~ `${voice:regex}` && b =~ `${service:regex}` && c = "${trace}" }'
    chosen = {"voice": ["x.y"], "trace": ["ab"]}
    assert traceql(expression, chosen) == '{ a =~ `x\\.y` && b =~ `.*` && c = "ab" }'
