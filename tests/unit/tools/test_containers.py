"""What runs docker-compose.yml for real: when an engine may be started, and images under compose's own names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tools.containers import compose, engine, images
from tools.toolchain.recipes import ROOT

SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@pytest.mark.parametrize(
    ("root", "asked", "ci", "may"),
    [
        (True, "1", "", True),
        (True, "", "true", True),
        (True, "0", "true", False),
        (True, "", "", False),
        (False, "1", "true", False),
    ],
)
def test_an_engine_is_started_only_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, root: bool, asked: str, ci: str, may: bool
) -> None:
    """As root, by VIBEVOICE_OTEL_CI_DOCKER=1 or in CI; 0 forbids it there too."""
    monkeypatch.setattr("os.geteuid", lambda: 0 if root else 1000)
    monkeypatch.setenv("VIBEVOICE_OTEL_CI_DOCKER", asked)
    monkeypatch.setenv("CI", ci)
    assert engine.may_start() is may


def test_the_packet_filter_is_compared_by_its_rules() -> None:
    """Counters, comments and empty tables decide nothing; a rule, a chain and a policy do."""
    empty = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
    busy = "# Generated\n*filter\n:FORWARD ACCEPT [12:720]\nCOMMIT\n"
    assert engine._rules({"iptables": empty}) == engine._rules({"iptables": busy}) == engine._rules({"iptables": ""})
    for changed in (":FORWARD DROP [0:0]", ":DOCKER - [0:0]", "-A FORWARD -j DROP"):
        assert engine._rules({"iptables": f"*filter\n{changed}\nCOMMIT\n"})


def test_images_are_made_for_services_that_exist() -> None:
    """Every maker's service stands in docker-compose.yml; what has none is exactly what no package registry holds."""
    assert set(images.MAKERS) <= set(SERVICES)
    made = {SERVICES[name]["image"] for name in images.MAKERS}
    plain = {name for name, each in SERVICES.items() if each.get("image") not in made}
    assert plain - {"gateway-lb", "gateway-1", "gateway-2"} == {"tempo", "grafana", "service-gpu"}


def test_the_service_s_image_starts_as_the_dockerfile_s() -> None:
    """The same command, by scripts that exist in both."""
    (line,) = (each for each in (ROOT / "Dockerfile").read_text().splitlines() if each.startswith("CMD "))
    assert json.loads(line.removeprefix("CMD ")) == images.COMMAND
    assert images.COMMAND[0] in images.SCRIPTS


def test_a_missing_tempo_has_a_stand_in(tmp_path: Path) -> None:
    """The small store answers in its place from the service's image; every container of that image gets packages and
    project.
    """
    services = {name: each for name, each in SERVICES.items() if name in {"service", "probe", "tempo", "prometheus"}}
    written = json.loads(compose.stand_in(tmp_path, services, ["tempo"]).read_text())["services"]
    assert set(written) == {"service", "probe", "tempo"}
    assert written["tempo"]["image"] == services["service"]["image"]
    assert all(any(f":{images.PACKAGES}:ro" in mount for mount in each["volumes"]) for each in written.values())
    assert set(json.loads(compose.stand_in(tmp_path, services, []).read_text())["services"]) == {"service", "probe"}
