"""Speak, hear and see, in a real browser against the real service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import websockets

from tests.browser.conftest import CORRUPT, SLOW
from tests.browser.running import Running, drawn, opened, serving, speak, until
from vibevoice_otel import semconv

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
SERVER, CLIENT = 2, 3
SHORT = "Good day to you."
#: With the slow voice it takes ten seconds and more to make: what is done meanwhile is done in time.
LONG = "A sentence that is long enough to be looked at, or to be left, while it is being spoken, on a busy machine too."


def session(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        "(({trace, span, outcome, chunks, played, underruns, firstSound, started, reported, curve}) => ({trace, span, "
        "outcome, chunks, "
        "played, underruns, reported, points: curve.length, heard: firstSound && firstSound - "
        "started}))(window.vibevoice.session)"
    )
    return found


def shown(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("window.vibevoice.trace.summary")
    return found


def badges(page: Page) -> list[str]:
    return [text.partition(":")[0] for text in page.locator("#requests tbody tr .badge").all_inner_texts()]


def in_a_thread(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function beside playwright, which has a loop of its own on this thread."""
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    thread.join(120)
    assert not thread.is_alive()


@contextmanager
def occupied(service: Running) -> Iterator[None]:
    """Another client holds the service's only place."""
    holding, leave = threading.Event(), threading.Event()

    async def hold() -> None:
        address = f"ws://127.0.0.1:{service.port}/stream?text={'another+listener+' * 100}&voice={SLOW}"
        while not leave.is_set():
            # The one before may have just left: then the place is not free yet, and this one is turned away.
            with contextlib.suppress(websockets.ConnectionClosed):
                async with websockets.connect(address, open_timeout=60) as socket:
                    while not isinstance(await socket.recv(), bytes):
                        pass
                    holding.set()
                    while not leave.is_set():
                        await socket.recv()

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    try:
        assert holding.wait(120)
        yield
    finally:
        leave.set()
        thread.join(120)


def test_one_speaks_and_hears(page: Page, service: Running) -> None:
    """Every sample that the service made really reaches Web Audio and is played, and it is no silence."""
    speak(page, SHORT)
    heard, summary = session(page), shown(page)
    assert heard["outcome"] == "complete"
    assert heard["chunks"] == summary["frames"] > 3
    assert heard["played"] == pytest.approx(summary["audio"], abs=0.01)
    assert float(page.get_attribute("#meter", "data-peak") or 0) > 0.05
    assert heard["points"] > 3
    assert 0 < summary["first_audio"] < heard["heard"] < 30
    assert "You heard the first sound" in page.inner_text("#speak-state")
    assert "First audio after" in page.inner_text("#story")
    until(
        page,
        r"/Longest gap\s+(none|[\d.]+ \S+)\s+(none|[\d.]+ \S+)/.test(document.querySelector('#sides').innerText)",
    )


def test_the_waterfall_is_the_exported_trace(page: Page, service: Running) -> None:
    """Row by row, what is drawn is what the OTLP exporter sent: names, ids, parents,
    starts and ends to the nanosecond.
    """
    speak(page, SHORT)
    trace = session(page)["trace"]

    def exported() -> set[tuple[str, str, str, int, int]]:
        sent = service.sink.spans(trace)
        begin = next((each.start for each in sent if each.name == semconv.SYNTHESIZE.name), 0)
        return {
            (each.name, each.span_id, each.parent_id, each.start - begin, each.end - begin)
            for each in sent
            if each.name.startswith("vibevoice.") and each.kind != CLIENT
        }

    kinds = {word: kind["name"] for word, kind in service.ask("/api/meta")["kinds"].items()}
    drawn = page.evaluate(
        "window.vibevoice.waterfall.drawn.map(({kind, id, parent, start, end}) => [kind, id, parent, start, end])"
    )
    rows = {(kinds[kind], own, parent, start, end) for kind, own, parent, start, end in drawn if kind != "listen"}
    with contextlib.suppress(TimeoutError):
        service.sink.wait(lambda: exported() == rows)
    assert rows == exported()
    assert len(rows) > 50


def test_the_browser_is_part_of_the_trace(page: Page, service: Running) -> None:
    """Its CLIENT span, with the id that it chose, is the parent of the SERVER span, encloses it, and the URL shows no
    traceparent.
    """
    speak(page, SHORT)
    ours = session(page)
    service.sink.wait(lambda: any(each.kind == SERVER for each in service.sink.spans(ours["trace"])))
    service.sink.wait(lambda: any(each.kind == CLIENT for each in service.sink.spans(ours["trace"])))
    sent = service.sink.spans(ours["trace"])
    client = next(each for each in sent if each.kind == CLIENT)
    server = next(each for each in sent if each.kind == SERVER)
    assert (client.name, client.span_id, client.parent_id) == (semconv.LISTEN.name, ours["span"], "")
    assert server.parent_id == ours["span"]
    error = client.attributes[semconv.LISTENER_CLOCK_ERROR.key]
    assert client.start <= server.start + error * 1e9
    assert client.attributes[semconv.LISTENER_FIRST_AUDIO_LATENCY.key] == pytest.approx(ours["heard"], abs=1e-3)
    assert "traceparent" not in json.dumps(server.attributes)
    service.sink.wait(lambda: any(point.count for point in service.sink.metric(semconv.LISTENER_FIRST_AUDIO.name)))


def test_a_row_that_settles_is_drawn_once(page: Page) -> None:
    """Settled rows come before the message that takes them out of the open ones: a drawing between the two shows each
    once.
    """
    rows = "[{kind: ['frame'], id: ['1'], parent: ['0'], start: [0], end: [1], info: [{}], kept: [true]}]"
    assert page.evaluate(
        f"""async () => {{
            const trace = new (await import("/trace.js")).Trace("1");
            const shown = [];
            for (const [type, rows] of [["open", {rows}], ["settled", {rows}], ["open", []]]) {{
                trace.take({{type, rows, sends: [[0, 4800]], origin: 1}});
                shown.push([trace.tree(0).rows.length, trace.sends.length]);
            }}
            return shown;
        }}"""
    ) == [[1, 1], [1, 1], [1, 2]]


def test_the_trace_grows_while_it_is_made(page: Page) -> None:
    """Frames are drawn before the request has ended, more and more of them,
    and the first chunk as soon as it was sent.
    """
    speak(page, LONG, SLOW, wait=False)
    counts: list[int] = []
    until(page, "window.vibevoice.waterfall.drawn.filter((row) => row.kind === 'frame').length > 1")
    page.locator(".row", has_text="frame 0").click()
    assert "vibevoice.frame" in page.inner_text("#detail")
    while not page.evaluate("window.vibevoice.trace.done"):
        counts.append(page.evaluate("window.vibevoice.waterfall.drawn.filter((row) => row.kind === 'frame').length"))
        time.sleep(0.1)
    assert len({count for count in counts if count}) >= 3, counts
    assert counts == sorted(counts)
    until(page, "!window.vibevoice.session.running")
    drawn(page)
    assert (
        "frame 0" in page.locator(".row[aria-selected=true]").inner_text()
    )  # what was selected stays so while ids settle


def test_an_error_is_told(page: Page) -> None:
    """A voice that cannot be loaded: the page says that the request failed, and the list which error it was."""
    speak(page, SHORT, CORRUPT)
    assert session(page)["outcome"] == "error"
    assert "The request failed" in page.inner_text("#speak-state")
    assert shown(page)["status"] == "error"
    until(page, "document.querySelector('#story').innerText.includes('CorruptVoiceError')")
    until(page, "document.querySelector('#requests tbody tr.on .badge')?.innerText === 'error: CorruptVoiceError'")


def test_a_busy_service_is_told(page: Page, service: Running) -> None:
    """With every place taken the request is refused at once, and the page explains it."""
    with occupied(service):
        speak(page, SHORT)
        assert session(page)["outcome"] == "busy"
        assert "The service is busy" in page.inner_text("#speak-state")
        until(page, "document.querySelector('#story').innerText.includes('The service was busy')")
        until(
            page, "document.querySelector('#requests tbody').innerText.includes('speaking')"
        )  # the other listener's, open
    assert shown(page)["status"] == "rejected"


def test_a_lost_connection_is_told(tab: Page, tmp_path: Path) -> None:
    """The service dies in the middle of a sentence: the page says so and keeps what it had."""
    with serving(tmp_path, {"step_delay": 0.05}) as running:
        opened(tab, running)
        speak(tab, LONG, wait=False)
        until(tab, "window.vibevoice.session.played > 0.1")
        until(tab, "window.vibevoice.waterfall.drawn.some((row) => row.kind === 'frame')")
        running.process.kill()
        until(tab, "!window.vibevoice.session.running")
    assert session(tab)["outcome"] == "dropped"
    until(tab, "document.querySelector('#speak-state').innerText.includes('The connection was lost')")
    until(tab, "document.querySelector('#connection').innerText.includes('does not answer')")
    assert tab.evaluate("window.vibevoice.waterfall.drawn.filter((row) => row.kind === 'frame').length") > 0


def test_stopping_ends_the_request(page: Page, service: Running) -> None:
    """Stop hangs up: no more sound, and the server sees a listener who left."""
    speak(page, LONG, SLOW, wait=False)
    until(page, "window.vibevoice.session.played > 0.05")
    page.click("#stop")
    drawn(page)
    assert session(page)["outcome"] == "stopped"
    assert shown(page)["status"] == "cancelled"
    until(page, "document.querySelector('#meter i').style.transform === 'scaleX(0)'")


def test_markup_is_text(page: Page, service: Running) -> None:
    """Text with markup in it is spoken, runs nowhere, and is seen nowhere but in its own box; nor does the server keep
    it.
    """
    nasty = "<img src=x onerror=\"document.title='pwned'\"><b id=injected>bold</b>"
    speak(page, nasty)
    assert session(page)["outcome"] == "complete"
    assert page.title() != "pwned"
    assert page.locator("#injected, img[src=x]").count() == 0
    assert page.input_value("#text") == nasty
    assert "onerror" not in page.inner_text("body").replace(nasty, "")
    trace = session(page)["trace"]
    service.sink.wait(lambda: any(each.name == semconv.LISTEN.name for each in service.sink.spans(trace)))
    assert "onerror" not in "".join(json.dumps(each.attributes) for each in service.sink.spans())
    found = page.evaluate(f"fetch('/api/requests/{trace}').then((answer) => answer.text())")
    assert '"done"' in found
    assert "onerror" not in found


def test_markup_from_another_client_is_text(page: Page, service: Running) -> None:
    """What a stranger's request holds is shown to the operator as text, or not at all."""

    async def stranger() -> None:
        query = "text=hi&voice=%3Cimg%20src=x%3E&cfg=%3Cimg%20src=x%3E"
        async with websockets.connect(f"ws://127.0.0.1:{service.port}/stream?{query}") as socket:
            async for _ in socket:
                pass

    before = page.locator("#requests tbody tr").count()
    in_a_thread(stranger)
    until(page, f"document.querySelectorAll('#requests tbody tr').length > {before}")
    page.locator("#requests tbody tr button").first.click()
    drawn(page)
    page.locator(".row", has_text="synthesize").click()
    assert page.locator("#detail dl div").count() > 5
    assert page.locator("img[src=x]").count() == 0


def test_the_tiles_say_what_is_left_of_the_continuity_budget(page: Page) -> None:
    """The share of requests without a hole, its goal, and the part of the objective's budget that is left, beside the
    others.
    """
    speak(page, "Say this without a hole, please.")
    until(page, "document.querySelector('#tiles').innerText.includes('Without a hole')")
    (tile,) = page.locator("#tiles .tile", has_text="Without a hole").all()
    shown = re.sub(r"\s+", " ", tile.inner_text())
    whole, left = re.search(
        r"Without a hole (\S+) % no gap above 100 ms; the goal is 99 % of requests; (\S+) % of its", shown
    ).groups()
    assert float(left) == pytest.approx(100 - (100 - float(whole)) / 0.01, abs=60)  # percentages are shown whole


def test_the_list_is_filtered_and_opens_a_trace(page: Page, service: Running) -> None:
    """By voice, by status, both; a click on a request shows its waterfall."""
    speak(page, SHORT, "en-Emma_woman")
    speak(page, SHORT, CORRUPT)
    for status in ("success", "error: CorruptVoiceError"):  # the list follows the trace a moment later
        until(
            page,
            "[...document.querySelectorAll('#requests tbody tr .badge')].some((each) => each.innerText === "
            f"'{status}')",
        )
    rows = page.locator("#requests tbody tr")
    everything = rows.count()
    page.select_option("#filter-voice", "en-Emma_woman")
    assert 0 < rows.count() < everything
    assert set(rows.evaluate_all("(all) => all.map((row) => row.dataset.voice)")) == {"en-Emma_woman"}
    page.select_option("#filter-status", "error")
    assert rows.count() == 0
    assert page.locator("#no-requests").is_visible()
    page.select_option("#filter-voice", "")
    assert set(badges(page)) == {"error"}
    page.select_option("#filter-status", "success")
    assert set(badges(page)) == {"success"}
    rows.last.locator("button").click()
    drawn(page)
    assert str(shown(page)["number"]) == rows.last.get_attribute("data-key")
    assert page.locator("#waterfall .row").count() > 5


def test_the_keyboard_does_it_all(page: Page) -> None:
    """Without a mouse: speak with Ctrl+Enter, walk the rows, open a frame, read what it is."""
    page.focus("#text")
    page.keyboard.press("Control+Enter")
    # What the listener reports is a row of the trace too: once it is there, no row comes any more.
    until(page, "window.vibevoice.session?.reported !== undefined && !window.vibevoice.session.running")
    until(page, "window.vibevoice.trace.summary?.listener")
    drawn(page)
    page.focus("#waterfall .rows")
    page.keyboard.press("Home")
    first = page.get_attribute("#waterfall .rows", "aria-activedescendant")
    page.keyboard.press("End")
    last = page.get_attribute("#waterfall .rows", "aria-activedescendant")
    assert first
    assert last
    assert first != last
    row = page.locator(f"[id='{last}']")
    assert row.get_attribute("aria-selected") == "true"
    assert row.get_attribute("aria-expanded") == "false"
    before = int(page.get_attribute("#waterfall .rows", "aria-rowcount") or 0)
    page.keyboard.press("ArrowRight")
    assert row.get_attribute("aria-expanded") == "true"
    assert int(page.get_attribute("#waterfall .rows", "aria-rowcount") or 0) > before + 5
    page.keyboard.press("ArrowDown")
    assert "ms" in page.inner_text("#detail") or "µs" in page.inner_text("#detail")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#waterfall .rows", "aria-activedescendant") == last


def test_everything_has_a_name(page: Page) -> None:
    """A screen reader can say what each control is."""
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea, [role=treegrid], [role=img]')].filter((each) "
        "=> each.offsetParent"
        " && !(each.labels?.length || each.getAttribute('aria-label') || each.textContent.trim() || each.title))"
        ".map((each) => each.outerHTML)"
    )
    assert nameless == []
    assert page.locator("h1").count() == 1
    assert page.get_attribute("html", "lang") == "en"


@pytest.mark.parametrize("width", [360, 390, 768])
def test_it_fits_a_narrow_screen(page: Page, width: int) -> None:
    """Nothing is cut off and nothing scrolls sideways."""
    page.set_viewport_size({"width": width, "height": 800})
    speak(page, SHORT)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_is_dark_where_the_reader_wants_it(page: Page) -> None:
    """Following the system, with text that stands out in both (contrast at least 4.5:1 for body and quiet text)."""
    contrast = (
        "(() => { const light = (text) => { const [r, g, b] = text.match(/[\\d.]+/g).map((each) => { const c = each / "
        "255;"
        " return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 "
        "* b; };"
        " const card = getComputedStyle(document.querySelector('.card')).backgroundColor;"
        " return ['.speak h2', '.speak label', '.small'].map((each) => { const text = "
        "getComputedStyle(document.querySelector(each)).color;"
        " const [a, b] = [light(text), light(card)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); }); })()"
    )
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert min(page.evaluate(contrast)) >= 4.5, scheme
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


def test_nothing_comes_from_outside(tab: Page, service: Running) -> None:
    """Every request of the page goes to the page's own server or to the service."""
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("websocket", lambda socket: asked.append(socket.url))
    opened(tab, service)
    speak(tab, SHORT)
    assert len(asked) > 10
    assert {url.split("/")[2] for url in asked} == {f"127.0.0.1:{service.page_port}", f"127.0.0.1:{service.port}"}


def test_a_locked_page_asks_for_its_token(tab: Page, service: Running) -> None:
    """Without the token nothing is shown but the box for it."""
    tab.route("**/api/meta", lambda route: route.fulfill(status=401, body="{}"))
    tab.goto(service.address)
    tab.wait_for_selector("#token-form:visible")
    until(tab, "document.querySelector('#connection').innerText === 'locked'")


def ten_thousand(origin: float) -> str:
    """A finished request of 10,005 spans as the server would tell it: 1,000 frames with nine spans each, and five
    around them.
    """
    second = 1_000_000_000
    kinds = ["request", "queue", "first_chunk", "generate", "prefill"]
    ids = [f"{number:016x}" for number in range(1, 6)]
    parents = ["", ids[0], ids[0], ids[0], ids[3]]
    times = [(0, 100 * second), (0, 10_000), (0, second // 5), (20_000, 100 * second), (30_000, 900_000)]
    number = 10
    for frame in range(1000):
        start = frame * second // 10
        own = f"{number:016x}"
        inside = ["step"] * 5 + ["decode", "semantic", "lm"]
        for kind in ("frame", "connector", *inside):
            kinds.append(kind)
            ids.append(f"{number:016x}")
            parents.append(ids[3] if kind == "frame" else own)
            offset = 0 if kind == "frame" else (number % 10) * 9_000_000
            times.append((start + offset, start + (second // 10 if kind == "frame" else offset + 8_000_000)))
            number += 1
    info: list[dict[str, object]] = [{} for _ in ids]
    for index, kind in enumerate(kinds):
        if kind == "frame":
            info[index] = {semconv.FRAME_INDEX.key: (index - 5) // 10}
    rows = {
        "kind": kinds,
        "id": ids,
        "parent": parents,
        "start": [t[0] for t in times],
        "end": [t[1] for t in times],
        "info": info,
        "kept": [True] * len(ids),
    }
    summary = {
        "number": 1, "trace": "", "started": origin, "seconds": 100, "voice": "v", "status": "success", "error": None,
        "first_audio": 0.2,
        "parts": None, "audio": 133.0, "real_time_factor": 0.75, "frames": 1000, "underruns": 0, "cfg": "1.5",
        "steps": "5", "text": "long",
        "spans": len(ids), "in_time": True, "continuous": True, "sampled": True, "synthetic": False,
    }  # fmt: skip
    messages = [
        {"type": "settled", "rows": [rows], "sends": [], "origin": origin},
        {"type": "done", "summary": summary, "omitted": 0},
    ]
    return "".join(json.dumps(message) + "\n" for message in messages)


SCROLL = """async () => {
  const rows = document.querySelector("#waterfall .rows");
  const [gaps, work] = [[], []];
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  let last = performance.now();
  for (let i = 0; i < 200; i++) {
    const began = performance.now();
    rows.scrollTop += 300;
    rows.dispatchEvent(new Event("scroll"));
    rows.getBoundingClientRect();
    work.push(performance.now() - began); // what the page itself does for a frame: rows, bars, layout
    await frame();
    const at = performance.now();
    gaps.push(at - last);
    last = at;
  }
  for (const each of [gaps, work]) each.sort((a, b) => a - b);
  return { median: gaps[100], p95: gaps[190], work: work[190], elements: rows.querySelectorAll(".row").length,
           at: rows.scrollTop, rows: Number(rows.getAttribute("aria-rowcount")) };
}"""


@pytest.mark.serial
def test_ten_thousand_spans_scroll_smoothly(page: Page, service: Running, record_property: Any) -> None:
    """With every frame of a 10,005-span trace open, a fast scroll shows a frame every 20 ms, and the page's own work
    fits in 16 of them.

    The work is judged by 95 of 100 frames; the time between frames by the median, for the machine may be busy with
    others.
    """
    speak(page, SHORT)
    page.route(
        "**/api/requests/*",
        lambda route: route.fulfill(body=ten_thousand(time.time() * 1000), content_type="application/x-ndjson"),
    )
    page.locator("#requests tbody tr button").first.click()
    until(page, "window.vibevoice.waterfall.drawn.length > 10000")
    page.click("#expand")
    best: dict[str, float] = {}
    for _ in range(3):  # the machine may be busy with others
        page.evaluate("document.querySelector('#waterfall .rows').scrollTop = 0")
        found = page.evaluate(SCROLL)
        best = min(best or found, found, key=lambda each: max(each["median"], each["work"]))
        if best["median"] <= 20 and best["work"] <= 16:
            break
    record_property("scrolling", best)
    print("scrolling, in ms between frames and of own work:", best)
    assert best["rows"] > 10_000
    assert best["at"] > 50_000
    assert best["elements"] < 150
    assert best["median"] <= 20
    assert best["work"] <= 16
