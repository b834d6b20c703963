"""The tables of requests, by Grafana's own transformations, on frames as its Tempo data source makes them."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest

from dashboards.__main__ import HERE
from tools.grafana import data
from tools.toolchain.recipes import ROOT
from vibevoice_otel import semconv

RED, GREEN = "#F2495C", "#73BF69"


@pytest.fixture(autouse=True)
def _node() -> None:
    try:
        data.packages()
    except FileNotFoundError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def panel(board: str, number: int) -> dict[str, Any]:
    panels = json.loads((HERE / "generated" / f"{board}.json").read_text())["panels"]
    found: dict[str, Any] = next(each for each in panels if each["id"] == number)
    return found


def spans(attributes: dict[str, list[Any]], durations: list[int]) -> data.Frame:
    """Rows of spans: service, name, id and start of each, attributes as text in alphabetical order, duration in
    nanoseconds.
    """
    count = len(durations)

    def text(name: str, title: str, values: list[Any], **config: Any) -> dict[str, Any]:
        return {"name": name, "type": "string", "config": {"displayNameFromDS": title, **config}, "values": values}

    return {
        "refId": "traces",
        "fields": [
            {**text("traceIdHidden", "", [f"t{row}" for row in range(count)]), "config": {"custom": {"hidden": True}}},
            text("traceService", "Trace Service", ["vibevoice"] * count),
            text("traceName", "Trace Name", ["HTTP /stream"] * count),
            text("spanID", "Span ID", [f"s{row}" for row in range(count)], unit="string"),
            {
                "name": "time",
                "type": "time",
                "config": {"displayNameFromDS": "Start time"},
                "values": list(range(count)),
            },
            text("name", "Name", ["vibevoice.synthesize"] * count),
            *(text(key, key, values) for key, values in sorted(attributes.items())),
            {
                "name": "duration",
                "type": "number",
                "config": {"displayNameFromDS": "Duration", "unit": "ns"},
                "values": durations,
            },
        ],
    }


def test_late_requests_are_sorted_by_their_latency() -> None:
    """As numbers: 10.2 before 9.1. Each column in its place, the limit in red, text as it is."""
    rows = spans(
        {
            semconv.FIRST_AUDIO_LATENCY.key: ["9.1", "10.2", "0.44"],
            semconv.VOICE.key: ["a", "b.(c)+", "c"],
            semconv.CFG.key: ["1.5", "2", "10"],
            semconv.STEPS.key: ["5", "10", "20"],
            semconv.TEXT_LENGTH.key: ["12", "1200", "60"],
            semconv.STATUS.key: ["success", "error", "success"],
        },
        [9_200_000_000, 10_300_000_000, 2_000_000_000],
    )
    columns = data.shown(panel("vibevoice-root-cause", 30), [rows])
    names = [
        "Start time",
        "First audio",
        "Voice",
        "cfg",
        "Steps",
        "Characters",
        "Status",
        "Trace",
        "Service",
        "Duration",
    ]
    assert [column.name for column in columns] == names
    table = {column.name: column for column in columns}
    assert table["First audio"].text == ["10.2 s", "9.10 s", "440 ms"]
    assert table["First audio"].colour == [RED, RED, GREEN]
    assert table["Voice"].text == ["b.(c)+", "a", "c"]
    assert table["cfg"].text == ["2", "1.5", "10"]
    assert table["Steps"].text == ["10", "5", "20"]
    assert table["Characters"].text == ["1200", "12", "60"]
    assert table["Trace"].text == ["s1", "s0", "s2"]
    assert table["Duration"].text == ["10.3 s", "9.20 s", "2 s"]


def test_failed_requests_without_audio_have_their_row() -> None:
    """A rejected request has neither latency nor cfg: its cells are empty, and it stands where its start belongs."""
    rows = spans(
        {
            semconv.VOICE.key: ["en-Grace_woman", "de-Spk0_man"],
            semconv.STATUS.key: ["rejected", "error"],
            semconv.ERROR_TYPE.key: ["busy", "CorruptVoiceError"],
        },
        [2_000_000, 30_000_000],
    )
    table = {column.name: column for column in data.shown(panel("vibevoice-root-cause", 31), [rows])}
    assert table["Error"].text == ["CorruptVoiceError", "busy"]
    assert table["Voice"].text == ["de-Spk0_man", "en-Grace_woman"]
    assert "First audio" not in table


def test_steps_of_a_request_are_sorted_by_their_duration() -> None:
    """The slowest first, its place in the frame beside it."""
    rows = spans({semconv.STEP_INDEX.key: ["0", "1", "10"]}, [3_000_000, 9_000_000, 20_000_000])
    table = {column.name: column for column in data.shown(panel("vibevoice-root-cause", 33), [rows])}
    assert table["Step"].values == [10, 1, 0]
    assert table["Duration"].text == ["20 ms", "9 ms", "3 ms"]
    assert table["Trace"].text == ["s2", "s1", "s0"]


def test_an_empty_answer_is_an_empty_table() -> None:
    """No row, and no error on the way."""
    assert all(not column.values for column in data.shown(panel("vibevoice-root-cause", 30), [spans({}, [])]))


def test_the_package_is_compose_s_grafana() -> None:
    """The code that runs here is that of the Grafana that compose starts."""
    image = re.search(r"grafana/grafana:(\S+)", (ROOT / "docker-compose.yml").read_text())
    assert image
    manifest = json.loads((ROOT / "tools" / "grafana" / "package.json").read_text())
    assert manifest["dependencies"]["@grafana/data"] == image[1]
    lock = json.loads((ROOT / "tools" / "grafana" / "package-lock.json").read_text())
    assert lock["packages"]["node_modules/@grafana/data"]["version"] == image[1]
