"""load: finds at how many streams a service of known capacity breaks, judges no step that it drove late, drives nobody
else's.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from websockets.sync.server import ServerConnection, serve

from tests.support.http_speech import MP3, SECOND, WAV, http_service
from vibevoice_otel import semconv
from vibevoice_otel.commands import clients, load
from vibevoice_otel.commands.clients import Outcome
from vibevoice_otel.commands.load import Driver, Found, Heard, Step
from vibevoice_otel.insight import capacities
from vibevoice_otel.semconv import Status

#: Of the service below: slots, seconds that each needs for a request, and seconds of audio that it then has spoken.
SLOTS, WORK, AUDIO = 2, 0.25, 1.0


@contextmanager
def service(seen: list[str | None] | None = None) -> Iterator[str]:
    """Speaks a second of audio in a quarter of one, two requests at once: 8 streams are all that it can ever make."""
    slots = threading.Semaphore(SLOTS)

    def speak(socket: ServerConnection) -> None:
        if seen is not None:
            assert socket.request is not None
            seen.append(socket.request.headers.get("baggage"))
        with slots:
            socket.send(b"\1\0" * int(semconv.SAMPLE_RATE_HZ * AUDIO))
            time.sleep(WORK)

    with serve(speak, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/stream"
        finally:
            server.shutdown()
            thread.join()


def driving(address: str = "ws://127.0.0.1:1/stream", **others: Any) -> Driver:
    values: dict[str, Any] = {
        "voices": ("en-Ann",), "texts": ("Good morning.",), "seconds": 6.0, "slo": 0.45, "gap": 0.1,
        "timeout": 30.0, "headers": {}, "chance": random.Random(1),
    }  # fmt: skip
    return Driver(clients.client(address), **{**values, **others})


@pytest.mark.serial
def test_the_knee_lies_between_what_holds_and_what_breaks() -> None:
    """Half of what can be made holds, twice as much breaks, and one number between them is tried: the truth of 8 is not
    above it.
    """
    with service() as address:
        found = asyncio.run(load.climb(driving(address), (4, 16), refine=1))
    if any(step.verdict == "void" for step in found.steps):
        pytest.skip(f"needs a quiet machine; void, not failed: {[step.why for step in found.steps]}")
    assert [step.streams for step in found.steps] == [4, 16, 10]
    assert (found.holds, found.breaks) == (4, 10)
    assert "later than 0.45 s" in found.steps[1].why


def test_what_a_listener_lives_through_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """First audio and gaps by the objectives; few requests, and moments that were missed, judge nothing."""
    driver = driving()

    def heard(late: float, first: float, gap: float = 0.0) -> Heard:
        return late, Outcome(Status.SUCCESS, first, 1.0, worst_gap=gap)

    def judged(count: int, **bad: Heard) -> Step:
        good = heard(0.001, 0.2)
        return driver._judge(4, [*bad.values(), *[good] * (count - len(bad))], 0)

    assert judged(30).verdict == "holds"
    assert judged(30, a=heard(0, 0.5)).verdict == "holds"  # one in thirty is late
    slow = judged(30, a=heard(0, 0.5), b=(0, Outcome(Status.TIMEOUT)))
    assert (slow.verdict, slow.slow, slow.failed) == ("broken", 2, 1)
    assert judged(30, a=heard(0, 0.2, 0.3)).why == "3.3% with a gap above 0.1 s"
    assert judged(19).verdict == "void"
    late = judged(30, a=heard(0.021, 0.2))
    assert late.verdict == "void"
    assert "this machine, not the service" in late.why
    assert driver._judge(4, [heard(0.0, 0.2)] * 30, overrun=4).verdict == "broken"


def test_moments_are_fixed_beforehand() -> None:
    """The same seed drives the same moments, as many as the rate says, whatever the service does."""
    first, again = (driving(seconds=500.0)._moments(2.0) for _ in range(2))
    assert first == again
    assert len(first) == pytest.approx(1000, rel=0.15)
    assert len(driving(seconds=1e6)._moments(1000.0)) == load.MOST_REQUESTS


def test_requests_are_marked_unless_they_shall_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default they are synthetic, and in no objective of the service's; the answer comes as JSON, and a picture as
    well.
    """
    seen: list[str | None] = []
    with service(seen) as address:
        arguments = [address, "--streams", "4", "--seconds", "1", "--json", "--plot", str(tmp_path / "load.png")]
        assert load.main(arguments) == 1  # one second is too short to say anything
        told = json.loads(capsys.readouterr().out)
        assert told["steps"][0]["verdict"] == "void"
        assert set(seen) == {"vibevoice.synthetic=true"}
        assert (tmp_path / "load.png").stat().st_size > 1000
        seen.clear()
        load.main([address, "--streams", "4", "--seconds", "1", "--json", "--count-them"])
    assert set(seen) == {None}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ws://192.0.2.1/stream"], "--remote"),
        (["ws://no-such-host.invalid/stream"], "--remote"),
        (["ws://127.0.0.1:1/stream", "--seconds", "600", "--streams", "1,2,3,4,5"], "60 minutes"),
        (["ws://127.0.0.1:1/stream", "--prometheus", "http://127.0.0.1:9090"], "--count-them"),
    ],
)
def test_what_it_refuses(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Another machine's service without leave, more than an hour, and a comparison with what is in no metric."""
    assert load.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_service_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """No table of zeros: one line, and the code for nothing said."""
    assert load.main(["ws://127.0.0.1:9/stream", "--json"]) == 1
    assert "the service does not speak" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("low", "high", "agrees"), [(4, 7, True), (9, 9, True), (11, 14, False), (1, 2, False), (3, None, True)]
)
def test_insights_answer_is_held_against_it(
    low: int, high: int | None, agrees: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The knee was found between 4 and 10: an interval that reaches into that agrees."""
    card = SimpleNamespace(streams=low, low=low, high=high, binds_first="queue")
    monkeypatch.setattr(capacities, "capacity", lambda _source: SimpleNamespace(cards=[card]))
    found = Found(4.0, 10.0, [Step(4.0, 30, verdict="holds"), Step(10.0, 80, verdict="broken")])
    found.predicted = load.predict("http://127.0.0.1:1", 60.0, found)
    assert found.predicted["agrees"] is agrees
    load.show(found, Console(width=200))
    out = capsys.readouterr().out
    assert "It holds 4 streams and breaks at 10." in out
    assert ("it agrees." if agrees else "it does not agree.") in out


def test_a_format_without_a_length_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """How often requests must come follows from how long they are; MP3's bytes do not say it."""
    with http_service(200, "audio/mpeg", MP3, MP3) as (address, _):
        assert load.main([address, "--json", "--seconds", "1"]) == 1
    assert "--response-format wav" in capsys.readouterr().err


def test_http_is_driven_by_the_same_code() -> None:
    """A POST with the voice and the text of the plan, judged by what its body tells."""
    with http_service(200, "audio/wav", WAV, SECOND) as (address, asked):
        driver = driving(address, seconds=0.5)
        asyncio.run(driver.calibrate())
        late, heard = asyncio.run(driver._request("en-Ann", "Good morning.", 0.25))
    assert driver.audio == 1.0
    assert (late, heard.status, heard.audio_seconds, heard.worst_gap) == (0.25, Status.SUCCESS, 1.0, 0.0)
    assert json.loads(asked[-1][2])["voice"] == "en-Ann"
