"""How often a policy takes a setting back: false alarms and power on a simulated truth.

``python -m tests.unit.insight.harm 500`` makes the table of docs/insight.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vibevoice_otel.insight.watch import FALSE_ALARMS, Trial
from vibevoice_otel.semconv import Harm

#: Shares of the requests that a setting leaves alone.
USUAL: Mapping[Harm, float] = {
    Harm.LOOP: 0.005, Harm.CUT: 0.005, Harm.DEFECT: 0.01, Harm.FAILED: 0.005, Harm.GAP: 0.01, Harm.LATE: 0.03,
}  # fmt: skip
#: What the first setting of a process may spend of the false alarms.
ALPHA = FALSE_ALARMS / 2


@dataclass(frozen=True)
class Truth:
    """What a setting does to the shares, and what else happens."""

    name: str
    harm: Mapping[Harm, float] = field(
        default_factory=dict
    )  # shares of the requests that it changes, where they differ
    outage: bool = (
        False  # for a tenth of the time half of all requests fail, are late and have gaps, whatever their setting
    )
    together: bool = False  # a request that meets the rarer harm meets all that are more frequent


TRUTHS = (
    Truth("no harm"),
    Truth("no harm, half of everything fails in an outage", outage=True),
    Truth("no harm, harms come together", together=True),
    Truth("everything half as often", {harm: share / 2 for harm, share in USUAL.items()}),
    Truth("loops in 5 % instead of 0.5 %", {Harm.LOOP: 0.05}),
    Truth("loops in 20 % instead of 0.5 %", {Harm.LOOP: 0.2}),
    Truth("cut in 10 % instead of 0.5 %", {Harm.CUT: 0.1}),
    Truth("gaps in 10 % instead of 1 %", {Harm.GAP: 0.1}),
    Truth("late in 15 % instead of 3 %", {Harm.LATE: 0.15}),
    Truth("late in 6 % instead of 3 %", {Harm.LATE: 0.06}),
)


def taken_back(truth: Truth, control: float, requests: int, seed: int) -> int | None:
    """After how many requests the setting is taken back; None when it is not within ``requests``."""
    rng = np.random.default_rng(seed)
    changed = rng.random(requests) >= control
    drawn = rng.random((requests, 1 if truth.together else len(USUAL)))
    time = np.arange(requests) / requests
    shares = np.empty((requests, len(USUAL)))
    for column, (harm, usual) in enumerate(USUAL.items()):
        shares[:, column] = np.where(changed, truth.harm.get(harm, usual), usual)
        if truth.outage and harm in {Harm.FAILED, Harm.GAP, Harm.LATE}:
            shares[(time > 0.45) & (time < 0.55), column] = 0.5
    met = drawn < shares
    trial, names = Trial(control, ALPHA), list(USUAL)
    for row in np.flatnonzero(met.any(axis=1)):
        if trial.saw([names[column] for column in np.flatnonzero(met[row])], changed=bool(changed[row])):
            return int(row) + 1
    return None


def main(seeds: int) -> None:
    """Print the table in Markdown."""
    sizes = (2_000, 10_000, 50_000)
    print("| the setting | left | taken back within " + " | ".join(f"{n:,}" for n in sizes) + " | median |")
    print("|---|---|" + "---|" * (len(sizes) + 1))
    for truth in TRUTHS:
        for control in (0.05, 0.2):
            found = [taken_back(truth, control, sizes[-1], seed) for seed in range(seeds)]
            times = np.array([np.inf if each is None else each for each in found])
            cells = [f"{(times <= n).mean():.1%}" for n in sizes]
            median = float(np.median(times))
            said = f"{median:,.0f} requests" if np.isfinite(median) else "never"
            print(f"| {truth.name} | {control:.0%} | " + " | ".join(cells) + f" | {said} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
