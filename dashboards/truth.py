"""What each panel shows beside what is true: a ledger that clients keep, and the panels' own queries on the real chain.

``python -m dashboards.truth`` plays light traffic, a burst, a restart and a voice never heard before, and writes the
table in docs/dashboards.md; tests/stack/test_truth.py holds it. Times are a fifteenth of the shipped ones: a scrape
each second, so one request in four seconds stands for one a minute.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Final

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from dashboards.boards import asked
from dashboards.dashboard import Query
from dashboards.queries import bound
from tools.stack.collector import Collector
from tools.stack.prometheus import RULES, Prometheus
from tools.stack.service import Service
from vibevoice_otel import semconv

SLOW, BROKEN, NEW, PLAIN = "fr-Spk0_man", "de-Spk0_man", "in-Samuel_man", "en-Carter_man"
SETTLE_S: Final = 4.0  # an export and two scrapes, and the rules that read them
FAULTS: Final = f'{{"slow_voices": {{"{SLOW}": 0.12}}, "corrupt_voices": ["{BROKEN}"]}}'
TEXTS: Final = {"short": "One two three.", "medium": "Nine short words are quite enough for this. " * 2}
SAID_S: Final = 0.02  # between a send's end and the service's word of it, in one coroutine; a word is in milliseconds
CLOSED: Final = {1000: "success", 1011: "error", 1013: "rejected", 1009: "rejected"}
DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- truth: written by `python -m dashboards.truth` -->", "<!-- end of truth -->"


@dataclass(frozen=True, slots=True)
class Entry:
    """One request as its client saw it; first audio came between ``least`` and ``most`` seconds after the request."""

    voice: str
    cfg: str
    length: str
    outcome: str
    least: float | None = None
    most: float | None = None


@dataclass(slots=True)
class Phase:
    """What clients did between two moments (Unix seconds), and whether what was true of the service then."""

    name: str
    start: float
    end: float = 0.0
    entries: list[Entry] = field(default_factory=list)
    cold_voices: int = 0

    @property
    def window(self) -> str:
        return f"{round((self.end - self.start) * 1000)}ms"

    @property
    def seconds(self) -> float:
        return float(self.window.removesuffix("ms")) / 1000


def ask(address: str, voice: str, cfg: float = 1.5, length: str = "short", *, leave: bool = False) -> Entry:
    """One request of a client, and what became of it."""
    text = TEXTS.get(length, " ")
    query = urllib.parse.urlencode({"text": text, "voice": voice, "cfg": f"{cfg:g}"})
    began, audio = time.time(), False
    least = most = None
    with connect(f"ws://{address}/stream?{query}", max_size=None, open_timeout=60) as socket:
        accepted = time.time()
        with contextlib.suppress(ConnectionClosed):
            for message in socket:
                audio |= isinstance(message, bytes)
                if audio and least is None and not isinstance(message, bytes):
                    # The service's next word is of after its send; when it was said does not depend on its reader.
                    least, most = max(0.0, said(message) - accepted - SAID_S), time.time() - began
                    if leave:
                        break
        code = None if leave else socket.protocol.close_code
    outcome = "cancelled" if leave else CLOSED.get(code or 0, "error")
    if not text.strip():
        outcome = "rejected"
    kind = semconv.text_length_range(len(text))
    return Entry(voice, f"{cfg:.1f}", kind, outcome, least, most)


def said(message: str) -> float:
    """When the service wrote this log message, Unix seconds."""
    stamp = datetime.strptime(json.loads(message)["timestamp"], "%Y-%m-%d %H:%M:%S.%f")
    return stamp.replace(tzinfo=timezone.utc).timestamp()


@dataclass
class Played:
    """The running parts and the phases so far."""

    prometheus: Prometheus
    agent: Collector
    service: Service
    folder: Path
    phases: list[Phase] = field(default_factory=list)
    spoken: set[str] = field(default_factory=set)  # voices that this process has loaded
    asked: int = 0  # requests of this process

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[Phase]:
        phase = Phase(name, time.time())
        yield phase
        self.settle()
        phase.end = time.time()
        heard = {entry.voice for entry in phase.entries if entry.least is not None}
        # A voice that does not load is tried each time.
        phase.cold_voices = len(heard - self.spoken) + sum(1 for entry in phase.entries if entry.outcome == "error")
        self.spoken |= heard
        self.phases.append(phase)

    def ask(self, voice: str, cfg: float = 1.5, length: str = "short", *, leave: bool = False) -> Entry:
        """One request of a client to the service of then."""
        self.asked += 1
        return ask(self.service.address, voice, cfg, length, leave=leave)

    def settle(self) -> None:
        """Wait until Prometheus has counted every request of this process, and no other's; then for the rules.

        Raises:
            TimeoutError: it has not within a minute.
        """
        counted = f"sum({semconv.REQUESTS.prometheus})"
        until = time.monotonic() + 60
        while [value for _, value in self.prometheus.query(counted)] != [self.asked]:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.asked} requests, of which Prometheus says {self.prometheus.query(counted)}")
            time.sleep(0.2)
        time.sleep(SETTLE_S)


def start(agent: Collector, folder: Path) -> Service:
    environment = {
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "OTEL_TRACES_EXPORTER": "none",
        "VIBEVOICE_SERVICE_FAULTS": FAULTS,
    }
    folder.mkdir(parents=True, exist_ok=True)
    return Service(folder, agent.grpc, environment)


@contextlib.contextmanager
def played(folder: Path) -> Iterator[Played]:
    """The chain, with every phase played."""
    rules = folder / "prometheus" / "rules"
    rules.mkdir(parents=True)
    for file in RULES.glob("*.yml"):
        (rules / file.name).write_text(re.sub(r'interval: "?1m"?', "interval: 1s", file.read_text()))
    with contextlib.ExitStack() as running:
        agent = running.enter_context(
            Collector("agent", folder / "agent", environment={"COLLECTOR_METRIC_EXPIRATION": "5s"})
        )
        targets = {"agent": [agent.metrics], "collector": [agent.telemetry]}
        prometheus = running.enter_context(Prometheus(folder / "prometheus", targets, interval="1s"))
        found = Played(prometheus, agent, start(agent, folder / "first"), folder)
        running.callback(lambda: found.service.stop())  # noqa: PLW0108 - the service of then: a restart puts another there
        time.sleep(SETTLE_S)
        _play(found)
        yield found


def _play(found: Played) -> None:
    mixed = (
        (PLAIN, 1.5, "short"),
        (SLOW, 1.5, "short"),
        (PLAIN, 2.0, "medium"),
        (BROKEN, 1.5, "short"),
        ("en-Emma_woman", 1.3, "short"),
    )
    with found.during("light") as phase:
        for voice, cfg, length in mixed:
            phase.entries.append(found.ask(voice, cfg, length))
            time.sleep(4)
        phase.entries.append(found.ask(PLAIN, length="blank"))
    with found.during("burst") as phase, ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(found.ask, voice, cfg, length, leave=index == 7)
            for index, (voice, cfg, length) in enumerate(mixed * 4)
        ]
        phase.entries += [each.result() for each in asked]
    with found.during("restart") as phase:
        phase.entries.append(found.ask(PLAIN))
        found.settle()  # exported: what a killed process had not yet exported is lost
        found.service.process.kill()
        found.spoken.clear()
        found.asked = 0
        found.service = start(found.agent, found.folder / "second")
        phase.entries += [found.ask(voice) for voice in (PLAIN, SLOW)]
        # Settled is it once the Collector has forgotten the killed one.
    with found.during("new voice") as phase:
        phase.entries += [found.ask(voice) for voice in (NEW, PLAIN)]


# -------------------------------------------------------------------------------------------------------------------
# truth
Labels = tuple[str, ...]
#: A value is between these; a count is both.
Bounds = tuple[float, float]
Truth = Callable[[Phase, list[Phase]], dict[Labels, Bounds]]


def exactly(number: float) -> Bounds:
    return (number, number)


def _counted(entries: Iterable[Entry]) -> list[Entry]:
    return [each for each in entries if each.outcome in {"success", "error", "timeout"}]


def _heard(entries: Iterable[Entry]) -> list[Entry]:
    return [each for each in entries if each.least is not None]


def by(key: Callable[[Entry], str], entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for each in entries:
        groups.setdefault(key(each), []).append(each)
    return groups


def bucket(seconds: float) -> Bounds:
    """The edges of the bucket that a latency falls into."""
    edges = [0.0, *semconv.FIRST_AUDIO_BUCKETS, semconv.FIRST_AUDIO_BUCKETS[-1]]
    return next((low, high) for low, high in pairwise(edges) if seconds <= high or high == edges[-1])


def quantile(q: float, entries: list[Entry]) -> Bounds:
    """From the lower edge of the least bucket to the upper edge of the greatest that the q-quantile may lie in."""
    place = max(1, math.ceil(q * len(entries) - 1e-9)) - 1
    least = sorted(each.least for each in entries if each.least is not None)[place]
    most = sorted(each.most for each in entries if each.most is not None)[place]
    return bucket(least)[0], bucket(most)[1]


def above(limit: float, entries: list[Entry]) -> Bounds:
    """Share of the entries above a limit."""
    low = sum(1 for each in entries if (each.least or 0) > limit) / len(entries)
    return low, sum(1 for each in entries if (each.most or 0) > limit) / len(entries)


def _success(phase: Phase, _all: list[Phase]) -> dict[Labels, Bounds]:
    counted = _counted(phase.entries)
    return {(): exactly(sum(1 for each in counted if each.outcome == "success") / len(counted))}


def _missed(phase: Phase) -> Bounds:
    """Late, or failed without audio; one who left after the first audio counts by it."""
    known = [each for each in phase.entries if each.outcome != "rejected"]
    failed = sum(1 for each in known if each.least is None)
    low, high = above(semconv.SLO_FIRST_AUDIO_SECONDS, known)
    return low + failed / len(known), high + failed / len(known)


def _together(phase: Phase, phases: list[Phase]) -> Phase:
    everything = Phase("all", phases[0].start, phase.end)
    for each in phases[: phases.index(phase) + 1]:
        everything.entries += each.entries
    return everything


def _budget(bad: Callable[[Phase], Bounds], budget: float) -> Truth:
    def truth(phase: Phase, phases: list[Phase]) -> dict[Labels, Bounds]:
        low, high = bad(_together(phase, phases))
        return {(): (1 - high / budget, 1 - low / budget)}

    return truth


def _failed(phase: Phase) -> Bounds:
    counted = _counted(phase.entries)
    return exactly(sum(1 for each in counted if each.outcome != "success") / len(counted))


def counts(key: Callable[[Entry], str], entries: Callable[[Phase], list[Entry]], *, rate: bool = False) -> Truth:
    """How many requests (or how many a second) by a label."""

    def truth(phase: Phase, _all: list[Phase]) -> dict[Labels, Bounds]:
        scale = phase.seconds if rate else 1
        return {(name,): exactly(len(each) / scale) for name, each in by(key, entries(phase)).items()}

    return truth


def latency(q: float, key: Callable[[Entry], str] | None = None) -> Truth:
    """A quantile of the first-audio latency, of all or by a label."""

    def truth(phase: Phase, _all: list[Phase]) -> dict[Labels, Bounds]:
        heard = _heard(phase.entries)
        if key is None:
            return {(): quantile(q, heard)}
        return {tuple(name.split("|")): quantile(q, each) for name, each in by(key, heard).items()}

    return truth


def _of(seconds: Callable[[Phase], Bounds]) -> Truth:
    return lambda phase, _all: {(): seconds(phase)}


def _mean(phase: Phase, _all: list[Phase]) -> dict[Labels, Bounds]:
    heard = _heard(phase.entries)
    return {(): (sum(e.least or 0 for e in heard) / len(heard), sum(e.most or 0 for e in heard) / len(heard))}


def _buckets(phase: Phase, _all: list[Phase]) -> dict[Labels, Bounds]:
    """Cumulative counts; where a latency's bounds lie on both sides of an edge, either is true."""
    heard = _heard(phase.entries)
    found: dict[Labels, Bounds] = {}
    for edge in (*semconv.FIRST_AUDIO_BUCKETS, math.inf):
        low = sum(1 for each in heard if (each.most or 0) <= edge)
        found[f"{edge:g}" if math.isfinite(edge) else "+Inf",] = (low, sum(1 for e in heard if (e.least or 0) <= edge))
    return found


def _voice_failures(phase: Phase, _all: list[Phase]) -> dict[Labels, Bounds]:
    shares = {
        voice: sum(1 for each in entries if each.outcome != "success") / len(entries)
        for voice, entries in by(lambda e: e.voice, _counted(phase.entries)).items()
    }
    return {(voice,): exactly(share) for voice, share in shares.items()}


def _some(truth: Truth) -> Truth:
    """Without the zeros, which the panel leaves out."""
    return lambda phase, phases: {name: value for name, value in truth(phase, phases).items() if value[1] > 0}


def _voice(entry: Entry) -> str:
    return entry.voice


def _none(_phase: Phase, _all: list[Phase]) -> dict[Labels, Bounds]:
    return {}


P95 = latency(0.95)
_heard_of: Final = lambda phase: _heard(phase.entries)  # noqa: E731
#: (dashboard, panel, query) -> labels that tell its series apart, and what the clients know of it.
TRUTHS: Final[dict[tuple[str, int, int], tuple[Labels, Truth]]] = {
    ("vibevoice-health", 1, 0): ((), _success),
    ("vibevoice-health", 2, 0): ((), P95),
    ("vibevoice-health", 3, 0): ((), _of(lambda phase: above(semconv.SLOW_FIRST_AUDIO_SECONDS, _heard(phase.entries)))),
    ("vibevoice-health", 4, 0): ((), _budget(_failed, 1 - semconv.SLO_SUCCESS_RATIO)),
    ("vibevoice-health", 5, 0): ((), _budget(_missed, 1 - semconv.SLO_FIRST_AUDIO_RATIO)),
    ("vibevoice-health", 6, 0): ((), _of(lambda _: exactly(0))),
    ("vibevoice-health", 7, 0): ((), _of(lambda _: exactly(1))),
    ("vibevoice-health", 10, 0): ((), _success),
    ("vibevoice-health", 11, 0): ((), latency(0.5)),
    ("vibevoice-health", 11, 1): ((), P95),
    ("vibevoice-health", 11, 2): ((), latency(0.99)),
    ("vibevoice-health", 12, 0): (("status",), counts(lambda e: e.outcome, lambda phase: phase.entries, rate=True)),
    ("vibevoice-health", 13, 0): (
        (),
        _of(lambda phase: above(semconv.SLOW_FIRST_AUDIO_SECONDS, _heard(phase.entries))),
    ),
    ("vibevoice-health", 13, 1): ((), _of(_missed)),
    ("vibevoice-health", 20, 0): ((), _of(lambda _: exactly(0))),
    ("vibevoice-health", 20, 1): ((), _of(lambda _: exactly(0))),
    ("vibevoice-health", 22, 1): (
        ("status",),
        counts(lambda e: e.outcome, lambda phase: [e for e in phase.entries if e.outcome in {"cancelled", "rejected"}]),
    ),
    ("vibevoice-health", 32, 0): ((), _none),
    ("vibevoice-health", 33, 0): (("job",), lambda *_: {("otel-agent",): (1, 1), ("otel-collector",): (1, 1)}),
    ("vibevoice-voice", 1, 0): (("voice",), counts(_voice, lambda phase: phase.entries)),
    ("vibevoice-voice", 1, 1): (("voice",), _voice_failures),
    ("vibevoice-voice", 1, 2): (("voice",), latency(0.95, _voice)),
    ("vibevoice-voice", 10, 0): (("voice",), _some(_voice_failures)),
    ("vibevoice-voice", 11, 0): (
        (),
        lambda phase, _: {(): exactly(float(sum(1 for e in phase.entries if e.outcome in {"error", "rejected"})))},
    ),
    ("vibevoice-voice", 20, 0): (("le",), _buckets),
    ("vibevoice-voice", 21, 0): (("le",), _buckets),
    ("vibevoice-voice", 22, 0): (("voice",), latency(0.95, _voice)),
    ("vibevoice-voice", 40, 0): ((), _of(lambda _: exactly(0))),
    ("vibevoice-root-cause", 1, 0): ((), _mean),
    ("vibevoice-root-cause", 1, 1): ((), P95),
    ("vibevoice-root-cause", 10, 0): ((), P95),
    ("vibevoice-root-cause", 11, 1): ((), _of(lambda phase: exactly(phase.cold_voices))),
    ("vibevoice-root-cause", 12, 1): ((), _of(lambda _: exactly(0))),
    ("vibevoice-root-cause", 20, 0): (("cfg", "text_length_range"), latency(0.95, lambda e: f"{e.cfg}|{e.length}")),
    ("vibevoice-root-cause", 21, 0): (("steps", "text_length_range"), latency(0.95, lambda e: f"5|{e.length}")),
    ("vibevoice-root-cause", 23, 0): (("text_length_range",), counts(lambda e: e.length, _heard_of, rate=True)),
}
#: What no client sees, and so no ledger has.
UNSEEN: Final[dict[tuple[str, int, int], str]] = {
    ("vibevoice-health", 4, 1): "days that Prometheus knows",
    ("vibevoice-health", 5, 1): "days that Prometheus knows",
    ("vibevoice-health", 21, 0): "the model's own time",
    ("vibevoice-health", 21, 1): "the model's own time",
    ("vibevoice-health", 22, 0): "a listener who plays at once; the clients do not play",
    ("vibevoice-health", 30, 0): "a GPU",
    ("vibevoice-health", 30, 1): "a GPU",
    ("vibevoice-health", 30, 2): "a GPU",
    ("vibevoice-health", 31, 0): "a GPU",
    ("vibevoice-health", 33, 1): "the Collector's queue",
    ("vibevoice-voice", 1, 3): "the model's steps",
    ("vibevoice-voice", 1, 4): "a listener who plays at once; the clients do not play",
    ("vibevoice-voice", 1, 5): "the model's frames",
    ("vibevoice-voice", 30, 0): "the model's steps",
    ("vibevoice-voice", 31, 0): "the model's steps",
    ("vibevoice-voice", 41, 0): "the model's frames",
    ("vibevoice-voice", 42, 0): "the model's frames",
    ("vibevoice-root-cause", 10, 1): "a GPU",
    ("vibevoice-root-cause", 11, 0): "the model's load",
    ("vibevoice-root-cause", 12, 0): "the service's queue",
    ("vibevoice-root-cause", 13, 0): "a GPU",
    ("vibevoice-root-cause", 13, 1): "a GPU",
    ("vibevoice-root-cause", 14, 0): "a GPU",
    ("vibevoice-root-cause", 15, 0): "the model's steps",
    ("vibevoice-root-cause", 22, 0): "cfg of a request that never began",
    **{
        ("vibevoice-health", panel, query): "the moments of the service's sends"
        for panel in (40, 42, 43)
        for query in range(3)
    },
    ("vibevoice-health", 41, 0): "the moments of the service's sends",
    **{("vibevoice-voice", panel, 0): "the moments of the service's sends" for panel in (50, 51)},
    **{("vibevoice-voice", panel, 0): "how the model ended, and what it made of the text" for panel in (52, 53, 54)},
    ("vibevoice-root-cause", 40, 0): "when the service let go of a request",
    ("vibevoice-root-cause", 42, 0): "what the service warmed up",
    **{("vibevoice-root-cause", panel, 0): "the frames' time on host and card" for panel in range(60, 65)},
    **{("vibevoice-root-cause", 65, query): "a GPU" for query in range(5)},
    ("vibevoice-voice", 1, 6): "what the model made of the text",
    ("vibevoice-root-cause", 66, 0): "a GPU",
    ("vibevoice-root-cause", 41, 0): "the moments of the service's sends",
}


# -------------------------------------------------------------------------------------------------------------------
# shown
def shown(prometheus: Prometheus, query: Query, phase: Phase, labels: Labels) -> dict[Labels, float]:
    """What the panel shows at the end of the phase for a time shown that is the phase, summed to these labels."""
    text = bound(query.expr, interval=phase.window, window=phase.window)
    if "[1h] offset 1h" in text:  # failures over the last hour, which holds the earlier phases as well
        text = text.replace("offset 1h", f"offset {phase.window}").replace("[1h])", f"[{phase.window}])")
    found: dict[Labels, float] = {}
    for item in prometheus.get("query", query=text, time=f"{phase.end:.3f}")["result"]:
        value = float(item["value"][1])
        if math.isnan(value):
            continue
        key = tuple(_label(name, item["metric"].get(name, "")) for name in labels)
        found[key] = found.get(key, 0.0) + value
    return found


def _label(name: str, value: str) -> str:
    return f"{float(value):g}" if name == "le" and value != "+Inf" else value


def agrees(truth: Mapping[Labels, Bounds], panel: Mapping[Labels, float]) -> list[str]:
    """What does not agree; a series at zero may be there or not."""
    wrong = []
    for key in truth.keys() | panel.keys():
        low, high = truth.get(key, (0.0, 0.0))
        value = panel.get(key, 0.0)
        slack = 1e-9 + 1e-6 * abs(high)
        if not low - slack <= value <= high + slack:
            wrong.append(f"{', '.join(key) or 'value'}: shown {value:g}, true {_bounds((low, high))}")
    return wrong


def _bounds(bounds: Bounds) -> str:
    low, high = bounds
    return f"{low:.4g}" if math.isclose(low, high, abs_tol=1e-9) else f"{low:.4g} to {high:.4g}"


def table(found: Played) -> str:
    """Markdown: panel, then true and shown in each phase; of several series the first."""
    phases = found.phases
    head = ["panel", "series", *(f"{phase.name}: true / shown" for phase in phases)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for board, panel, index, query in asked():
        key = (board.uid, panel.id_val, index)
        if key not in TRUTHS:
            continue
        labels, truth = TRUTHS[key]
        every = [(truth(phase, phases), shown(found.prometheus, query, phase, labels)) for phase in phases]
        names = dict.fromkeys(name for true, _ in every for name in true)
        chosen = max(names, key=lambda name: sum(true.get(name, (0, 0))[1] > 0 for true, _ in every), default=())
        cells = [f"{_bounds(true.get(chosen, (0, 0)))} / {panel_.get(chosen, 0.0):.4g}" for true, panel_ in every]
        title = f"{board.title.removeprefix('VibeVoice / ')}: {panel.title}"
        lines.append("| " + " | ".join([title, ", ".join(chosen) or query.legend_format, *cells]) + " |")
    return "\n".join(lines)


def main() -> int:
    """Play, and put the table into docs/dashboards.md; 1 where something does not agree."""
    with tempfile.TemporaryDirectory() as folder, played(Path(folder)) as found:
        wrong = [
            f"{board.title}: {panel.title}, {phase.name}: {each}"
            for board, panel, index, query in asked()
            if (board.uid, panel.id_val, index) in TRUTHS
            for labels, truth in [TRUTHS[board.uid, panel.id, index]]
            for phase in found.phases
            for each in agrees(truth(phase, found.phases), shown(found.prometheus, query, phase, labels))
        ]
        page = DOCS / "dashboards.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{rest.partition(END)[2]}")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
