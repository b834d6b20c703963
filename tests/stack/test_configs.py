"""Every configuration passes its own program, and what is written twice is written alike."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stack.fixtures import need
from tools import toolchain
from tools.stack.prometheus import FEATURES, RETENTION
from tools.toolchain.recipes import ROOT
from vibevoice_otel import semconv

COLLECTOR = ROOT / "collector"
OVERLAYS = {
    "agent": [
        "server-tls",
        "server-tls-http",
        "server-token",
        "server-token-http",
        "server-token-metrics",
        "traces-tls",
        "traces-token",
        "metrics-tls",
        "capture-text",
    ],
    "gateway-lb": [
        "server-tls",
        "server-tls-http",
        "server-token",
        "server-token-http",
        "server-token-metrics",
        "gateways-tls",
        "metrics-tls",
        "capture-text",
    ],
    "gateway": ["server-tls", "server-token", "traces-tls", "traces-token"],
}


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    need(program)
    return subprocess.run(
        [str(toolchain.require(program)), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def load(name: str) -> Any:
    return yaml.safe_load((COLLECTOR / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_collector_accepts_each_configuration(name: str, tmp_path: Path) -> None:
    """With no variable set: every address has a default."""
    done = run("otelcol-vibevoice", "validate", f"--config={COLLECTOR / name}.yaml", COLLECTOR_STORAGE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr


@pytest.mark.parametrize(
    ("name", "overlay"), [(name, overlay) for name, overlays in OVERLAYS.items() for overlay in [*overlays, "all"]]
)
def test_the_collector_accepts_each_overlay(
    name: str, overlay: str, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    """Alone (with the one that it stands beside) and all together."""
    chosen = OVERLAYS[name] if overlay == "all" else [each for each in OVERLAYS[name] if overlay.startswith(each)]
    files = [
        f"--config={COLLECTOR / name}.yaml",
        *(f"--config={COLLECTOR / 'overlays' / each}.yaml" for each in chosen),
    ]
    cert, key = map(str, certificate)
    variables = {
        "COLLECTOR_CERT": cert,
        "COLLECTOR_KEY": key,
        "COLLECTOR_TOKEN": "t",
        "TRACES_TOKEN": "t",
        "TRACES_CA": cert,
    }
    done = run("otelcol-vibevoice", "validate", *files, COLLECTOR_STORAGE=str(tmp_path), **variables)
    assert done.returncode == 0, done.stderr


def test_every_overlay_is_tried() -> None:
    """A new overlay cannot be forgotten here."""
    assert {path.stem for path in (COLLECTOR / "overlays").glob("*.yaml")} == {
        each for overlays in OVERLAYS.values() for each in overlays
    }


def test_an_empty_token_is_refused(tmp_path: Path) -> None:
    """Whoever asks for a token and forgets to set one gets an error, not an open door."""
    files = [f"--config={COLLECTOR / 'agent.yaml'}", f"--config={COLLECTOR / 'overlays' / 'server-token.yaml'}"]
    done = run("otelcol-vibevoice", "validate", *files, COLLECTOR_STORAGE=str(tmp_path), COLLECTOR_TOKEN="")
    assert done.returncode != 0
    assert "bearertokenauth" in done.stderr


def test_the_distribution_has_exactly_the_components_in_use() -> None:
    """builder.yaml carries what some configuration or overlay uses, and nothing else."""
    used: dict[str, set[str]] = {}
    for path in [*COLLECTOR.glob("g*.yaml"), COLLECTOR / "agent.yaml", *(COLLECTOR / "overlays").glob("*.yaml")]:
        for kind, components in yaml.safe_load(path.read_text()).items():
            if kind != "service":
                used.setdefault(kind, set()).update(name.partition("/")[0] for name in components)
    done = run("otelcol-vibevoice", "components")
    built = yaml.safe_load(done.stdout)
    for kind in ("receivers", "processors", "exporters", "connectors", "extensions"):
        assert {each["name"] for each in built[kind]} == used[kind], kind


def test_the_lock_is_the_manifest_s() -> None:
    """collector/go.mod pins exactly the modules and versions of builder.yaml (`make tools-lock` renews it)."""
    manifest = yaml.safe_load((COLLECTOR / "builder.yaml").read_text())
    wanted = {each["gomod"] for kind, entries in manifest.items() if kind != "dist" for each in entries}
    lock = (COLLECTOR / "go.mod").read_text()
    direct = {match[0].strip() for match in re.finditer(r"^\t\S+ v\S+$", lock.split(")")[0], re.MULTILINE)}
    assert wanted <= direct


def test_what_the_tiers_share_is_written_alike() -> None:
    """Agent and first tier redact alike; all three keep their queues and tell about themselves alike."""
    agent, first, second = load("agent"), load("gateway-lb"), load("gateway")
    for processor in ("redaction", "transform/status", "transform/environment"):
        assert agent["processors"][processor] == first["processors"][processor]
    assert agent["extensions"] == first["extensions"] == second["extensions"]
    assert agent["service"]["telemetry"] == first["service"]["telemetry"] == second["service"]["telemetry"]
    assert agent["exporters"]["otlp_grpc/traces"] == second["exporters"]["otlp_grpc/traces"]


def test_no_batch_processor_stands_before_a_queue() -> None:
    """What was acknowledged is on disk: between receiver and queue nothing holds data in memory but tail sampling,
    which must.
    """
    for name in OVERLAYS:
        config = load(name)
        for pipeline in config["service"]["pipelines"].values():
            assert not [each for each in pipeline["processors"] if each.startswith("batch")]
        queues = [each["sending_queue"] for key, each in config["exporters"].items() if key != "prometheus"]
        assert all(queue["storage"] == "file_storage" and "batch" in queue for queue in queues)


def test_the_gateway_s_threshold_is_the_objective_s() -> None:
    """Slow first audio means the same to the gateway and to the objective."""
    assert f"GATEWAY_SLOW_FIRST_AUDIO:-{semconv.SLO_FIRST_AUDIO_SECONDS:g}" in (COLLECTOR / "gateway.yaml").read_text()


@pytest.mark.parametrize("name", ["agent.yaml", "gateway-lb.yaml", "gateway.yaml"])
def test_nothing_listens_beyond_this_machine_by_default(name: str) -> None:
    """Every default address is loopback; what is wider is the operator's word."""
    for variable, default in re.findall(r"\$\{env:([A-Z_]+):-([^}]*)\}", (COLLECTOR / name).read_text()):
        if re.search(r":\d+$", default) or variable.endswith("HOST"):
            assert default.startswith("127.0.0.1"), variable


@pytest.mark.parametrize("name", ["prometheus.yml", "direct.yml", "otlp.yml"])
def test_prometheus_accepts_its_configuration(name: str) -> None:
    """Through its own checker, with the repository's rules beside it as they are mounted."""
    done = run("promtool", "check", "config", str(ROOT / "deploy" / "prometheus" / name))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr


def test_prometheus_scrapes_as_exemplars_and_start_times_need_it() -> None:
    """Protobuf first, which alone carries a series' start, then OpenMetrics; every 15 s, the services' own job and
    instance kept.
    """
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert config["global"]["scrape_interval"] == "15s"
    first, second, *_ = config["global"]["scrape_protocols"]
    assert first == "PrometheusProto"
    assert second.startswith("OpenMetrics")
    (agent,) = (job for job in config["scrape_configs"] if job["job_name"] == "otel-agent")
    assert agent["honor_labels"] is True


def days(duration: str) -> float:
    """Raises AttributeError for what is no duration of Prometheus."""
    number, unit = re.fullmatch(r"([0-9]+)([hdwy])", duration).groups()  # type: ignore[union-attr]
    return float(number) * {"h": 1 / 24, "d": 1, "w": 7, "y": 365}[unit]


def retentions() -> dict[str, str]:
    """Where a Prometheus is started or told how -> how long it keeps its series there."""
    found = {"make stack": RETENTION}
    for path in (
        ROOT / "docker-compose.yml",
        *(ROOT / "deploy" / "prometheus").glob("*.yml"),
        *(ROOT / "docs").glob("*.md"),
    ):
        for index, each in enumerate(re.findall(r"storage\.tsdb\.retention\.time[= ](\w+)", path.read_text())):
            found[f"{path.name}-{index}"] = each
    return found


def test_prometheus_keeps_what_the_objectives_look_back_on() -> None:
    """Every shipped retention is the objectives' window and two days more, or a budget would be reckoned from a part of
    its time.
    """
    assert {"make stack", "docker-compose.yml-0", "otlp.yml-0", "pipeline.md-0"} <= retentions().keys()
    assert {where: kept for where, kept in retentions().items() if days(kept) < semconv.SLO_WINDOW_DAYS + 2} == {}


def test_compose_and_make_stack_start_prometheus_alike() -> None:
    """The same features: one that is missing gives no error, only panels that are wrong."""
    command = compose()["services"]["prometheus"]["command"]
    assert f"--enable-feature={','.join(FEATURES)}" in command


@pytest.mark.parametrize("folder", ["targets", "targets-gateway"])
def test_every_target_file_exists(folder: str) -> None:
    """Each job finds its targets in either setup, and none is left over."""
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    wanted = set(re.findall(r"targets/([a-z-]+\.yml)", text))
    assert {path.name for path in (ROOT / "deploy" / "prometheus" / folder).iterdir()} == wanted


def test_alertmanager_accepts_its_configuration() -> None:
    """Through its own checker."""
    done = run("amtool", "check-config", str(ROOT / "deploy" / "alertmanager" / "alertmanager.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def compose(*arguments: str) -> dict[str, Any]:
    done = run("docker-compose", *arguments, "config", "--format", "json", COMPOSE_PROFILES="")
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


ALL = ("--profile", "gpu", "--profile", "gateway")


def test_compose_accepts_its_file() -> None:
    """As it is and with every profile."""
    assert {"service", "collector", "prometheus", "tempo", "grafana", "alertmanager"} <= set(compose()["services"])
    assert {"service-gpu", "gateway-lb", "gateway-1", "gateway-2"} <= set(compose(*ALL)["services"])


def test_compose_opens_nothing_beyond_localhost() -> None:
    """Every published port is bound to 127.0.0.1."""
    for name, service in compose(*ALL)["services"].items():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ())), name


def test_compose_pins_every_image_and_bounds_every_container() -> None:
    """A version on each image that is not built here, a memory limit and a restart policy on each that stays."""
    for name, service in compose(*ALL)["services"].items():
        assert (
            "build" in service
            or service["image"].startswith("vibevoice-otel-")
            or re.search(r":v?\d+\.\d+", service["image"])
        ), name
        assert int(service["mem_limit"]) > 0, name
        assert name == "volumes" or service["restart"] == "unless-stopped", name


def test_compose_asks_no_image_without_a_shell_for_one() -> None:
    """Collector and Tempo have no shell: their health is asked from outside, and who needs them waits for that."""
    services = compose(*ALL)["services"]
    for name in ("collector", "tempo", "gateway-lb", "gateway-1", "gateway-2"):
        assert "healthcheck" not in services[name]
        assert services[name]["depends_on"]["volumes"]["condition"] == "service_completed_successfully"
        assert services[name]["user"] == "10001:10001"
    for name in ("service", "service-gpu", "grafana"):
        assert services[name]["depends_on"]["health"]["condition"] == "service_healthy"


def test_compose_mounts_what_exists_and_is_used_without_docker_too() -> None:
    """Every file and folder mounted from the repository is there."""
    for name, service in compose(*ALL)["services"].items():
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind" and volume["source"] != "/":
                assert Path(volume["source"]).exists(), (name, volume["source"])


def test_the_host_s_root_is_mounted_without_propagation_unless_asked_for() -> None:
    """Docker Desktop, WSL and many containers refuse propagation; deploy/compose-rslave.yml adds it,
    and nothing else.
    """
    files = ("-f", "docker-compose.yml", "-f", "deploy/compose-rslave.yml")
    plain, overlaid = compose()["services"], compose(*files)["services"]
    for services, wanted in ((plain, None), (overlaid, "rslave")):
        (root,) = (each for each in services["collector"]["volumes"] if each["target"] == "/hostfs")
        assert root["read_only"]
        assert root.get("bind", {}).get("propagation") == wanted
    assert len(plain["collector"]["volumes"]) == len(overlaid["collector"]["volumes"])


def test_the_two_tiers_are_one_command() -> None:
    """deploy/gateway.env sends the agent's traces through the tiers, scrapes them, and gives service and gateways the
    same share.
    """
    services = compose("--env-file", "deploy/gateway.env", "--profile", "gateway")["services"]
    assert services["collector"]["environment"]["TRACES_ENDPOINT"] == "gateway-lb:4317"
    share = services["service"]["environment"]["VIBEVOICE_OTEL_TRACE_SHARE"]
    assert (
        share
        == services["gateway-1"]["environment"]["GATEWAY_SHARE"]
        == services["gateway-2"]["environment"]["GATEWAY_SHARE"]
        == "0.1"
    )
    assert any(volume["source"].endswith("targets-gateway") for volume in services["prometheus"]["volumes"])


def test_grafana_links_exemplars_to_traces_and_traces_to_metrics() -> None:
    """The two data sources name each other, and every metric in a link is one that we emit."""
    path = ROOT / "dashboards" / "provisioning" / "datasources" / "vibevoice.yml"
    sources = {each["uid"]: each for each in yaml.safe_load(path.read_text())["datasources"]}
    (exemplar,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert (exemplar["name"], exemplar["datasourceUid"]) == ("trace_id", "tempo")
    links = sources["tempo"]["jsonData"]["tracesToMetrics"]
    assert links["datasourceUid"] == "prometheus"
    known = {metric.prometheus for metric in semconv.METRICS}
    for query in links["queries"]:
        names = set(re.findall(r"vibevoice_\w+?(?=_bucket|\{)", query["query"]))
        assert names
        assert names <= known
    assert {tag["key"] for tag in links["tags"]} == {semconv.VOICE.key, "service.name"}
