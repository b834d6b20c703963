"""Doctor says beforehand what would lose telemetry: here, one metrics page for several workers."""

from __future__ import annotations

import pytest

from vibevoice_otel.commands import doctor
from vibevoice_otel.sdk import spans
from vibevoice_otel.sdk.capability import Capability

PAGE = {
    "OTEL_METRICS_EXPORTER": "prometheus",
    "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}


@pytest.mark.parametrize(
    ("environment", "workers", "because"),
    [
        ({"WEB_CONCURRENCY": "4"}, None, "WEB_CONCURRENCY=4"),
        ({"UVICORN_WORKERS": " 2 "}, None, "UVICORN_WORKERS=2"),
        ({"GUNICORN_CMD_ARGS": "-w 1 -k uvicorn_worker.UvicornWorker"}, None, "GUNICORN_CMD_ARGS"),
        ({}, 4, "--workers=4"),
        ({"OTEL_METRICS_EXPORTER": "otlp,prometheus", "WEB_CONCURRENCY": "2"}, None, "WEB_CONCURRENCY=2"),
    ],
)
def test_one_page_for_several_workers_is_wrong(environment: dict[str, str], workers: int | None, because: str) -> None:
    """Wherever the number of workers can be known, the finding names setting, reason and remedy."""
    wrong = [
        each for each in doctor.exports({**PAGE, **environment}, workers) if each.subject == "OTEL_METRICS_EXPORTER"
    ]
    assert [each.level for each in wrong] == ["wrong"]
    assert because in wrong[0].says
    assert "Mend: OTEL_METRICS_EXPORTER=otlp" in wrong[0].says


@pytest.mark.parametrize(
    ("environment", "workers"),
    [
        ({}, None),
        ({}, 1),
        ({"WEB_CONCURRENCY": "1"}, None),
        ({"WEB_CONCURRENCY": "4"}, 1),
        ({"WEB_CONCURRENCY": "many"}, None),
    ],
)
def test_one_worker_has_its_page(environment: dict[str, str], workers: int | None) -> None:
    """With one process, or none known of, the page is there; what the operator says counts more than the
    environment.
    """
    assert [each.level for each in doctor.exports({**PAGE, **environment}, workers)] == ["note", "ok"]


@pytest.mark.parametrize("workers", ["1", "4"])
def test_it_exits_non_zero(workers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command itself: 1 for four workers and prometheus, 0 for one."""
    for name, value in {**PAGE, "OTEL_SERVICE_NAME": "x", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    assert doctor.main(["--quick", "--workers", workers]) == (workers == "4")
    assert ("does not work with several workers" in capsys.readouterr().out) == (workers == "4")


@pytest.mark.parametrize(
    ("environment", "workers", "levels"),
    [
        ({"WEB_CONCURRENCY": "2"}, None, ["note"]),
        ({}, 3, ["note"]),
        ({"VIBEVOICE_OTEL_WORKER_INSTANCE": "false"}, 3, ["wrong"]),
        ({"WEB_CONCURRENCY": "2", "OTEL_RESOURCE_ATTRIBUTES": "team=speech"}, None, []),
        ({}, 1, []),
    ],
)
def test_workers_that_are_given_one_identity_are_told(
    environment: dict[str, str], workers: int | None, levels: list[str]
) -> None:
    """A note says what they go by; with the setting off it is wrong, for their counts overwrite one another."""
    found = list(
        doctor.identity({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.instance.id=pod-7", **environment}, workers)
    )
    assert [each.level for each in found] == levels
    assert all("pod-7" in each.says for each in found)


@pytest.mark.swallows("unsupported opentelemetry-sdk internals")
def test_what_is_used_of_the_sdks_insides_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each capability is tried: supported here, and a note with the reason where a release has moved something."""
    assert [finding.level for finding in doctor.internals()] == ["ok"] * 4
    moved = Capability("spans with chosen ids", lambda: 1 / 0, "they get other ids")
    monkeypatch.setattr(spans, "CHOSEN_IDS", moved)
    first = next(iter(doctor.internals()))
    assert first.level == "note"
    assert "ZeroDivisionError" in first.says
    assert "they get other ids" in first.says
