"""Every setting, wrong: a clear error that names it and what is allowed; telemetry off, the service untouched."""

from __future__ import annotations

import logging
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibevoice_otel import settings
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor

#: For each setting, values that must be refused. A setting that takes any text has none.
ANY_TEXT = {"page_token", "metrics_token", "tenant_baggage"}
WRONG_NUMBERS = ("", "-1", "nan", "inf", "1e999", "many", "0x10", "1,5", "9" * 40)
WRONG = {
    "routes": ("", "stream", ",", "/ok,bad"), "capture_text": ("maybe", "2"), "websocket_spans": ("y e s", "-1"),
    "page_listener": ("si",), "fast_path": ("fast",), "gpu_profile": ("sometimes", "0.5", "nan", "20000"),
    "tail_override_caller": ("perhaps",), "worker_instance": ("both",),
    "page": ("9465", "host:", "host:99999", "a b:1", "http://x:1"),
    "page_service": ("http://x", "x"), "page_hosts": ("a b", "x:80"), "page_grafana": ("ftp://x", "grafana"),
    "page_tempo": ("http://x/no-id", "{trace_id}"),
    **dict.fromkeys(("query_traceparent", "audio_checks", "audio_loudness", "response_headers"), ("maybe", "2")),
    "tenants": ("x" * 65, ",".join(map(str, range(1001)))), "tenant_hook": ("module", "a b:c", "m:f:g"),
    "model": ("module", "a b:C", "m:C:D", ":C"),
    **dict.fromkeys(("page_cert", "page_key", "metrics_cert", "metrics_key"), ("/no/such/file", "x.pem")),
}  # fmt: skip
FIELDS = [field.name for field in fields(settings.Settings)]


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ANY_TEXT])
def test_a_wrong_value_is_named_with_what_is_allowed(name: str) -> None:
    """The message holds the variable, the value as given, and what would do."""
    for value in WRONG.get(name, WRONG_NUMBERS):
        (problem,) = settings.read({settings.variable(name): value}).problems
        assert problem.startswith(f"{settings.variable(name)}={value!r} is not valid: allowed is ")
        assert len(problem) > len(f"{settings.variable(name)}={value!r} is not valid: allowed is ") + 5


def test_all_problems_are_told_at_once_and_a_misspelling_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instrumenting with two wrong settings logs two errors, raises nothing and hooks nothing but what hides
    the text.
    """
    monkeypatch.setenv("VIBEVOICE_OTEL_PAGE", "nonsense")
    monkeypatch.setenv("VIBEVOICE_OTEL_MAX_STEPS", "-4")
    monkeypatch.setenv("VIBEVOICE_OTEL_CAPTURE_TXT", "true")
    instrumentor = VibeVoiceInstrumentor()
    with caplog.at_level(logging.WARNING):
        instrumentor.instrument(skip_dep_check=True)
    try:
        told = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert [level for level, _ in told] == ["ERROR", "ERROR", "WARNING"]
        assert all("runs without VibeVoice telemetry" in each for level, each in told if level == "ERROR")
        assert told[2][1] == (
            "VIBEVOICE_OTEL_CAPTURE_TXT is not a setting; the nearest is VIBEVOICE_OTEL_CAPTURE_TEXT. It changes "
            "nothing."
        )
        assert instrumentor.recorder is None
        assert all("hiding" in point.part for point in instrumentor.hook_points)
    finally:
        instrumentor.uninstrument()


@given(st.dictionaries(st.sampled_from([settings.variable(name) for name in FIELDS]), st.text(max_size=40)))
def test_any_text_is_either_taken_or_told(environment: dict[str, str]) -> None:
    """No value raises; what is not taken is a problem, with which nothing is."""
    reading = settings.read(environment)
    assert not reading.problems or reading.settings == settings.Settings()
