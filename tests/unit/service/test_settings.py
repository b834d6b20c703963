"""A wrong setting is told with its name and what is allowed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vibevoice_otel.service.faults import Faults
from vibevoice_otel.service.settings import ServiceSettings, ServiceSettingsError


def load(**variables: str) -> ServiceSettings:
    return ServiceSettings.load({f"VIBEVOICE_SERVICE_{name}": value for name, value in variables.items()})


def test_the_environment_sets_and_the_command_line_wins() -> None:
    """Every variable reaches its field; an option beats it; an option that was not given does not."""
    environ = {
        "VIBEVOICE_SERVICE_STEPS": "7",
        "VIBEVOICE_SERVICE_CFG": "2.5",
        "VIBEVOICE_SERVICE_VOICE": "fr-Spk1_woman",
    }
    settings = ServiceSettings.load(environ, steps=9, cfg=None)
    assert (settings.steps, settings.cfg, settings.voice) == (9, 2.5, "fr-Spk1_woman")


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("LISTEN", "0.0.0.0:70000", "host:port"),
        ("LISTEN", "http", "host:port"),
        ("LISTEN", "tcp://10.96.3.4:8000", "host:port"),
        ("CFG", "nan", "a number above 0, at most 10"),
        ("CFG", "0", "a number above 0, at most 10"),
        ("STEPS", "0", "1 to 100"),
        ("CONCURRENCY", "0", "1 to 1024"),
        ("QUEUE", "-1", "0 to 100000"),
        ("TIMEOUT", "inf", "seconds above 0, at most 3600"),
        ("MAX_TEXT", "0", "1 to 1000000 characters"),
        ("DEVICE", "tpu", "cpu, cuda, cuda:N or mps"),
        ("VOICE", "nobody", "one of de-Spk0_man"),
        ("MODEL", " ", "a checkpoint's path"),
        ("FAULTS", "{", "not valid"),
        ("FAULTS", "[]", "a JSON object is needed"),
        ("FAULTS", '{"speed": 1}', "unknown: speed; known are"),
        ("FAULTS", '{"step_delay": "slow"}', "step_delay is 'slow'; allowed is seconds"),
        ("FAULTS", '{"step_delay": -1}', "seconds, 0 or more"),
        ("FAULTS", '{"nan_frames": ["one"]}', "a list of frames' numbers"),
        ("FAULTS", '{"fail_at_frame": 1.5}', "a frame's number"),
        ("FAULTS", '{"silent": 1}', "true or false"),
        ("FAULTS", '{"voice_delay": 0.3}', "an object, voice to seconds"),
        ("FAULTS", '{"corrupt_voices": [1]}', "a list of voices"),
    ],
)
def test_what_is_wrong_is_named(variable: str, value: str, allowed: str) -> None:
    """The message names the variable and what it takes."""
    with pytest.raises(ServiceSettingsError) as caught:
        load(**{variable: value})
    assert f"VIBEVOICE_SERVICE_{variable}" in str(caught.value)
    assert allowed in str(caught.value)


def test_faults_are_read() -> None:
    """JSON lists and objects become the faults' own types."""
    settings = load(
        FAULTS='{"step_delay": 0.02, "nan_frames": [1], "voice_delay": {"en-Carter_man": 0.3}, "fail_at_frame": 3}'
    )
    assert settings.faults == Faults(
        step_delay=0.02, nan_frames=(1,), voice_delay={"en-Carter_man": 0.3}, fail_at_frame=3
    )


def test_the_command_says_so_too() -> None:
    """``python -m vibevoice_otel.service`` ends with 2 and one line, without a traceback, before it imports a model."""
    done = subprocess.run(
        [sys.executable, "-m", "vibevoice_otel.service", "--port", "-1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: --port=-1 is not valid: allowed is 0 to 65535\n"
