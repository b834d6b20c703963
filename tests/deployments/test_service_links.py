"""Kubernetes sets variables for every Service of a namespace in every pod: none of them is a setting of ours."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tests.reliability.harness import Service, Sink, wait_for
from vibevoice_otel import settings
from vibevoice_otel.service.settings import ServiceSettings

ADDRESS = "10.96.3.4"


def links(name: str, *ports: tuple[int, str, str]) -> dict[str, str]:
    """The variables of a Service: its ports as (number, name, protocol)."""
    upper = name.upper().replace("-", "_")
    first, _, protocol = ports[0]
    found = {
        f"{upper}_SERVICE_HOST": ADDRESS,
        f"{upper}_SERVICE_PORT": str(first),
        f"{upper}_PORT": f"{protocol}://{ADDRESS}:{first}",
    }
    for number, title, kind in ports:
        found[f"{upper}_SERVICE_PORT_{title.upper().replace('-', '_')}"] = str(number)
        link = f"{upper}_PORT_{number}_{kind.upper()}"
        found |= {link: f"{kind}://{ADDRESS}:{number}", f"{link}_PROTO": kind, f"{link}_PORT": str(number)}
        found[f"{link}_ADDR"] = ADDRESS
    return found


WEB, OTLP = (8000, "http", "tcp"), (4317, "otlp-grpc", "tcp")
SERVICES = {
    "vibevoice-otel": (WEB,),
    "vibevoice-otel-collector": (OTLP, (4318, "otlp-http", "tcp")),
    "vibevoice": (WEB,),
    "vibevoice-service": (WEB,),
    "vibevoice-otel-page": (WEB, (443, "https", "tcp")),
    "vibevoice-otel-metrics": ((9464, "metrics", "tcp"),),
    "vibevoice-otel-page-service": (WEB,),
    "vibevoice-otel-statsd": ((8125, "statsd", "udp"), (36412, "s1", "sctp")),
}


@pytest.mark.parametrize("name", SERVICES)
def test_a_services_links_change_nothing(name: str) -> None:
    """Whatever the Service is called: the settings are the defaults and nothing is said."""
    reading = settings.read(links(name, *SERVICES[name]))
    assert (reading.settings, reading.problems, reading.warnings) == (settings.Settings(), [], [])
    assert ServiceSettings.load(links(name, *SERVICES[name])) == ServiceSettings()


def test_no_setting_looks_like_a_link() -> None:
    """A setting with such a name could be set by a Service; none may ever get one."""
    names = [settings.variable(each.name) for each in fields(settings.Settings)]
    assert not [name for name in names if settings.is_service_link(name)]
    assert settings.is_service_link("VIBEVOICE_OTEL_PORT")
    assert not settings.is_service_link("VIBEVOICE_OTEL_PAGE_SERVICE")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("VIBEVOICE_OTEL_CAPTURE_TXT", "; the nearest is VIBEVOICE_OTEL_CAPTURE_TEXT"),
        ("VIBEVOICE_OTEL_METRIC_TOKEN", "; the nearest is VIBEVOICE_OTEL_METRICS_TOKEN"),
        ("VIBEVOICE_OTEL_EXPORT_PORTAL", "; the nearest is VIBEVOICE_OTEL_"),
        ("VIBEVOICE_OTEL_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ", ""),
    ],
)
def test_an_unknown_name_is_a_warning_with_the_nearest(name: str, says: str) -> None:
    """It names what was probably meant, and no setting suffers."""
    reading = settings.read({name: "secret-value", "VIBEVOICE_OTEL_MAX_STEPS": "7"})
    assert (reading.problems, reading.settings.max_steps) == ([], 7)
    assert reading.warnings[0].startswith(f"{name} is not a setting{says}")
    assert "secret-value" not in reading.warnings[0]


def test_a_pod_beside_such_services_is_observed(start: object, sink: Sink) -> None:
    """With a Service for each name, and one that takes the Prometheus exporter's own variable, requests arrive and
    /metrics is there.
    """
    variables = {k: v for name, ports in SERVICES.items() for k, v in links(name, *ports).items()}
    variables |= links("otel-exporter-prometheus", (9464, "metrics", "tcp"))
    service: Service = start(OTEL_METRICS_EXPORTER="otlp,prometheus", **variables)  # type: ignore[operator]
    service.speak(3)
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == 3), service.log
    assert "is not a setting" not in service.log
    assert service.log.count("OTEL_EXPORTER_PROMETHEUS_PORT=tcp://10.96.3.4:9464 is no port") == 1
