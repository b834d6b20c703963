"""Characters a second against the voice's own usual: rates of false alarms and hits on a simulated truth."""

from __future__ import annotations

import random

import pytest

from vibevoice_otel import semconv
from vibevoice_otel.recording.checks.judge import Judge
from vibevoice_otel.recording.checks.pace import ENOUGH, Paces
from vibevoice_otel.recording.records import Batch, Labels, Operation
from vibevoice_otel.semconv import Status, Suspect


def truth(chance: random.Random, rate: float, spread: float) -> tuple[int, float]:
    """A text and how long its right speech lasts: log-normal pace, half a second of pauses whatever the length."""
    characters = chance.randint(20, 400)
    return characters, 0.5 + characters / (rate * chance.lognormvariate(0, spread))


def learned(chance: random.Random, rate: float, spread: float) -> Paces:
    paces = Paces()
    for _ in range(200):
        paces.judge("v", "m", *truth(chance, rate, spread))
    return paces


#: Spread of a voice's pace -> most false alarms, fewest loops and cuts found, as shares.
RATES = {0.05: (0.005, 0.95), 0.1: (0.002, 0.75), 0.15: (0.002, 0.45)}


@pytest.mark.parametrize("spread", RATES)
def test_rates_on_a_simulated_truth(spread: float) -> None:
    """20 voices of 9 to 20 characters a second, 400 right requests each; loops last 1.6 to 4 times as long, cuts 0.25
    to 0.6 times.
    """
    chance = random.Random(21)
    alarms = loops = cuts = 0
    voices, each = 20, 400
    for number in range(voices):
        rate = 9 + 11 * number / voices
        paces = learned(chance, rate, spread)
        for _ in range(each):
            characters, seconds = truth(chance, rate, spread)
            alarms += paces.judge("v", "m", characters, seconds) is not None
            if chance.random() < 0.05:  # defects are rare, so that they do not become usual
                characters, seconds = truth(chance, rate, spread)
                loops += paces.judge("v", "m", characters, seconds * chance.uniform(1.6, 4)) in {
                    Suspect.LOOP,
                    Suspect.PACE,
                }
                characters, seconds = truth(chance, rate, spread)
                cuts += paces.judge("v", "m", characters, seconds * chance.uniform(0.25, 0.6)) in {
                    Suspect.CUT,
                    Suspect.PACE,
                }
    false, found = alarms / (voices * each), (loops + cuts) / (2 * 0.05 * voices * each)
    print(f"spread {spread:.0%}: false alarms {false:.3%}, found {found:.0%}")
    most, fewest = RATES[spread]
    assert false <= most
    assert found >= fewest


def test_no_verdict_before_fifty_requests_of_the_voice() -> None:
    """49 requests say too little; after the 50th an utterance of three times the usual length is a loop, one of a third
    a cut.
    """
    paces, chance = Paces(), random.Random(1)
    for _ in range(ENOUGH - 1):
        paces.judge("v", "m", *truth(chance, 15, 0.05))
    assert paces.judge("v", "m", 150, 30.0) is None
    assert paces.judge("v", "m", 150, 30.0) is Suspect.LOOP
    assert paces.judge("v", "m", 150, 3.3) is Suspect.CUT
    assert paces.judge("other", "m", 150, 30.0) is None


def test_a_new_model_begins_anew() -> None:
    """What was usual for another revision says nothing of this one."""
    paces, chance = Paces(), random.Random(1)
    for _ in range(60):
        paces.judge("v", "m@1", *truth(chance, 15, 0.05))
    assert paces.judge("v", "m@2", 150, 30.0) is None


def test_a_voice_whose_pace_moves_becomes_usual_again() -> None:
    """A deliberate change of the speaking rate is suspect at first and then the usual."""
    paces, chance = Paces(), random.Random(1)
    for _ in range(200):
        paces.judge("v", "m", *truth(chance, 15, 0.05))
    verdicts = [paces.judge("v", "m", *truth(chance, 9, 0.05)) for _ in range(300)]
    assert verdicts[0] is not None
    assert set(verdicts[-50:]) == {None}


@pytest.mark.parametrize(("characters", "seconds"), [(19, 10.0), (0, 1.0), (100, 0.0), (100, -1.0)])
def test_what_says_nothing_is_not_judged(characters: int, seconds: float) -> None:
    """Texts of less than 20 characters, and speech of no length."""
    paces = Paces()
    assert [paces.judge("v", "m", characters, seconds) for _ in range(60)] == [None] * 60


def test_a_new_revision_is_learned_anew() -> None:
    """After a change of the model's revision nothing is judged before 50 requests of the voice."""
    judge = Judge()

    def heard(revision: str, characters: int) -> object:
        attributes = {
            semconv.TEXT_LENGTH.key: characters,
            semconv.AUDIO_DURATION.key: 10.0,
            semconv.GEN_AI_MODEL.key: "m",
            semconv.MODEL_REVISION.key: revision,
        }
        root = Operation(semconv.SYNTHESIZE, 0, 1, 1, 0, attributes)
        judge.consume(
            Batch(1, 1, 1, 0, True, True, Labels("v", "1.5", "5", "short"), [root], [], True, status=Status.SUCCESS)
        )
        return root.attributes.get(semconv.SUSPECT.key)

    assert [heard("a", 150) for _ in range(ENOUGH)] == [None] * ENOUGH
    assert heard("a", 400) == "cut"
    assert [heard("b", 400) for _ in range(ENOUGH)] == [None] * ENOUGH
    assert heard("b", 150) == "loop"
