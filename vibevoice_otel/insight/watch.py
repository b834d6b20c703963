"""Whether what a policy applies does harm: requests that it changed against a share that it always leaves.

A coin decides for each request, before anything is known of it, whether it is left as the service has it. Where the
setting does no harm, what goes wrong does not ask for the coin: of the requests that loop, the share that was changed
is that of all. :class:`Evidence` bets against this, one event after another, and multiplies its stake by the likelihood
ratio. While the setting does no harm its capital exceeds ``1 / alpha`` in at most a share ``alpha`` of all runs,
whenever one looks (Ville's inequality), whatever the load, the mix of requests or an outage does, since these meet both
sides alike. docs/insight.md names the sources and has the measured rates.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from vibevoice_otel import semconv
from vibevoice_otel.recording.candidate import here
from vibevoice_otel.recording.records import Batch
from vibevoice_otel.semconv import FinishReason, Harm, Status, Suspect

_log = logging.getLogger(__name__)
#: Members of semconv.RECOMMENDATION_OUTCOME.
Outcome = Literal["applied", "left", "taken_back"]

#: Share of requests that a policy leaves as the service has them.
CONTROL = 0.05
#: Share of processes, at most, in which any setting that does no harm is ever taken back.
FALSE_ALARMS = 0.05
#: How many times as often an event may happen to changed requests: what is bet on, in equal parts.
RATIOS = (2.0, 4.0, 16.0)
#: Settings that are watched at most; any further one is not applied.
MAX_SETTINGS = 20
#: Suspicions that are neither a loop nor a cut.
_DEFECTS = frozenset(each.value for each in Suspect) - {Suspect.LOOP.value, Suspect.CUT.value}


class Evidence:
    """An e-process against "this happens to changed requests no more often than to those that were left".

    Args:
        control: share of requests that are left, 0 to 1.
    """

    __slots__ = ("_capital", "_gains", "changed", "left")

    def __init__(self, control: float) -> None:
        base = 1 - control
        shares = [ratio * base / (ratio * base + control) for ratio in RATIOS]
        self._gains = [(math.log(share / base), math.log((1 - share) / control)) for share in shares]
        self._capital = [0.0] * len(RATIOS)  # natural logarithms
        self.changed = self.left = 0  # requests to which it happened

    def happened(self, *, changed: bool) -> None:
        """To one more request."""
        self.changed, self.left = self.changed + changed, self.left + (not changed)
        for place, (gain, loss) in enumerate(self._gains):
            self._capital[place] += gain if changed else loss

    @property
    def value(self) -> float:
        """The capital; it began as 1."""
        return sum(math.exp(min(each, 500.0)) for each in self._capital) / len(self._capital)


class Trial:
    """One applied setting, and what happened to the requests with and without it.

    Args:
        control: share of requests that are left.
        alpha: share of trials of a harmless setting that may ever find harm.
    """

    def __init__(self, control: float, alpha: float) -> None:
        self._evidence = {harm: Evidence(control) for harm in Harm}
        self._enough = 1 / alpha
        self._requests = [0, 0]  # left, changed

    def saw(self, harms: Iterable[Harm], *, changed: bool) -> TakenBack | None:
        """A request has ended; why the setting is to be taken back, or None."""
        self._requests[changed] += 1
        for harm in harms:
            self._evidence[harm].happened(changed=changed)
        return self._verdict() if self.value >= self._enough else None

    @property
    def value(self) -> float:
        """The mean of all harms' capital, which is an e-process itself: several harms are watched at one rate."""
        return sum(each.value for each in self._evidence.values()) / len(self._evidence)

    def _verdict(self) -> TakenBack:
        """What speaks most against the setting."""
        harm, found = max(self._evidence.items(), key=lambda item: item[1].value)
        left, changed = self._requests
        return TakenBack(
            harm,
            f"{harm.words}: {found.changed} of {changed} requests that it changed, {found.left} of {left} that were "
            f"left (evidence {self.value:.0f}, enough is {self._enough:.0f})",
        )


@dataclass(frozen=True, slots=True)
class TakenBack:
    """Why a setting is applied no more."""

    harm: Harm
    why: str


class Watch:
    """Draws which requests are changed, is told how they ended, and takes a setting back.

    ``draw`` is for the thread that serves; the ends come on the recorder's thread. A request keeps its trial by itself,
    so nothing grows with requests.

    Args:
        control: share of requests that are left, 0.01 to 0.5.
        slo_seconds: first audio after it is late.
        alpha: share of processes in which harmless settings may be taken back. The k-th setting spends
            ``alpha / (k (k + 1))`` of it.
        chance: draws a number from 0 to 1.
    """

    def __init__(
        self,
        control: float = CONTROL,
        slo_seconds: float = semconv.SLO_FIRST_AUDIO_SECONDS,
        alpha: float = FALSE_ALARMS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not 0.01 <= control <= 0.5:
            raise ValueError(f"control={control}: allowed is the share of requests that is left, 0.01 to 0.5")
        self._control, self._slo, self._alpha, self._chance = control, slo_seconds, alpha, chance
        self._trials: dict[tuple[int, float], Trial] = {}
        self._lock = threading.Lock()
        self._blind = False
        self.taken_back: dict[tuple[int, float], TakenBack] = {}

    def draw(self, steps: int, cfg: float) -> tuple[Outcome, str]:
        """Whether the request that is being served gets the setting: "applied", or another outcome and why not. Never
        waits for the store or a lock that is held for long.
        """
        setting = steps, cfg
        back = self.taken_back.get(setting)
        if back is not None:
            return "taken_back", f"steps {steps} with cfg {cfg:g} was taken back: {back.why}"
        trial = self._trials.get(setting) or self._begin(setting)
        if trial is None:
            return "left", f"more than {MAX_SETTINGS} settings were tried in this process"
        changed = self._chance() >= self._control
        request = here()
        if request is not None:
            request.used.on_end = partial(self._ended, setting, changed)
        elif not self._blind:
            self._blind = True
            _log.warning(
                "recommended settings are applied unwatched, for requests are not observed: harm would go unnoticed. "
                "Start the service with opentelemetry-instrument"
            )
        if changed:
            return "applied", ""
        return "left", f"left as it was: {self._control:.0%} of requests are, to hold the others against"

    def _begin(self, setting: tuple[int, float]) -> Trial | None:
        with self._lock:
            k = len(self._trials) + 1
            if setting not in self._trials and k <= MAX_SETTINGS:
                self._trials[setting] = Trial(self._control, self._alpha / (k * (k + 1)))
            return self._trials.get(setting)

    def _ended(self, setting: tuple[int, float], changed: bool, batch: Batch) -> None:
        if batch.synthetic or batch.warm_up or batch.profiled or setting in self.taken_back:
            return
        back = self._trials[setting].saw(harms(batch, self._slo), changed=changed)
        if back is not None:
            self.taken_back = {**self.taken_back, setting: back}
            _log.warning(
                "the recommended setting steps=%d cfg=%g is taken back: %s. Requests get the service's own setting "
                "until this process restarts. Look at traces with vibevoice.recommendation.outcome=applied, and stop "
                "sending requests that ask for this setting, so that it leaves the data that recommendations rest on",
                *setting,
                back.why,
            )


def harms(batch: Batch, slo_seconds: float) -> list[Harm]:
    """What went wrong with a request, from its final records."""
    root = batch.operation(semconv.SYNTHESIZE)
    if root is None:
        return []
    of = root.attributes
    suspects = set(root.listed(semconv.SUSPECT))
    failed = batch.status in {Status.ERROR, Status.TIMEOUT}
    first = of.get(semconv.FIRST_AUDIO_LATENCY.key)
    found = {
        Harm.LOOP: Suspect.LOOP.value in suspects,
        Harm.CUT: Suspect.CUT.value in suspects or of.get(semconv.FINISH_REASON.key) == FinishReason.LENGTH.value,
        Harm.DEFECT: bool(suspects & _DEFECTS) or _above(of.get(semconv.FRAMES_NAN.key), 0)
        or _above(of.get(semconv.FRAMES_CLIPPED.key), 0),
        Harm.FAILED: failed,
        Harm.GAP: _above(of.get(semconv.WORST_GAP.key), semconv.SLO_GAP_SECONDS),
        Harm.LATE: failed if first is None else _above(first, slo_seconds),
    }  # fmt: skip
    return [harm for harm, there in found.items() if there]


def _above(value: object, limit: float) -> bool:
    return isinstance(value, int | float) and value > limit
