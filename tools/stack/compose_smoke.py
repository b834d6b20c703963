"""``make compose-smoke``: docker-compose.yml run for real, killed, taken down and up again, both tiers; then all gone.

It uses the Docker engine that runs. Where none does, and VIBEVOICE_OTEL_CI_DOCKER=1 or CI=true as root, it starts
Debian's docker.io apart from everything and ends it. Where no registry answers it makes the images
(tools/containers/images.py) and names what it leaves out.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from tools.containers import engine, images
from tools.containers.compose import Compose, stand_in, supply
from tools.stack.process import NotReadyError
from tools.stack.prometheus import RULES, Api
from tools.stack.service import speak
from tools.toolchain.recipes import ROOT

T = TypeVar("T")
FILE: Final = ROOT / "docker-compose.yml"
RSLAVE: Final = ROOT / "deploy" / "compose-rslave.yml"
GATEWAY: Final = ROOT / "deploy" / "gateway.env"
FIRST_AUDIO: Final = "vibevoice_first_audio_latency_seconds"
SERVICE: Final = "127.0.0.1:8000"
PROMETHEUS: Final = Api("http://127.0.0.1:9090")
#: Its last 16 digits lie below every share, so the gateways keep it.
KEPT: Final = "5ee7000000000000000000000000beef"


class SmokeError(RuntimeError):
    """Something that should have come did not."""


def main() -> int:
    """0 when all of it works, 1 when something does not, 2 where there is no Docker and none may be started."""
    started = time.monotonic()
    with contextlib.ExitStack() as running:
        host: str | None = None
        if not engine.running():
            if not engine.may_start():
                print(
                    "make compose-smoke needs a running Docker; as root VIBEVOICE_OTEL_CI_DOCKER=1 starts one of its "
                    "own"
                )
                return 2
            try:
                host = running.enter_context(engine.Engine("private")).host
            except (FileNotFoundError, NotReadyError) as error:
                print(f"FAILED: {error}", file=sys.stderr)
                return 1
            print("ok  an engine of our own, on a root that is not shared", flush=True)
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="vibevoice-otel-smoke-")))
        smoke = Smoke(host, folder)
        try:
            smoke.run()
        except (SmokeError, RuntimeError, subprocess.CalledProcessError, OSError) as error:
            print(f"FAILED: {error}", file=sys.stderr)
            print(smoke.gateway.run("logs", "--tail", "30", check=False).stdout, file=sys.stderr)
            return 1
        finally:
            smoke.end()
    print(f"ok  all of it in {time.monotonic() - started:.0f} s", flush=True)
    return 0


class Smoke:
    """The checks in their order, on one engine."""

    def __init__(self, host: str | None, folder: Path) -> None:
        self.host = host
        plain = Compose(host, [FILE], GATEWAY)
        self.without = supply(plain)
        self._files, services = [FILE], plain.config()
        if images.PACKAGES in json.dumps(
            json.loads(plain.docker("inspect", services["service"]["image"], check=False) or "[]")
        ):
            self._files.append(stand_in(folder, services, self.without))
        self.compose, self.gateway = Compose(host, self._files), Compose(host, self._files, GATEWAY)
        for name in self.without:
            print(f"left out: {name}: no image of it here, and none can be made" + STANDS_IN.get(name, ""), flush=True)

    def run(self) -> None:
        """Raise SmokeError, or what docker raises, at the first check that fails."""
        self._up(self.compose)
        self._speaks("the service spoke")
        self._series_and_trace()
        self._alerts()
        self._killed("collector", lambda: PROMETHEUS.query('up{job="otel-agent"} == 1'))
        self._killed("service", lambda: self._status("service") == "healthy")
        self._down_and_up()
        self._gateways()
        if self.host is not None:
            self._mounts()

    def end(self) -> None:
        """Take everything down, volumes too."""
        self.gateway.run("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)

    def _up(self, compose: Compose) -> None:
        names = [name for name in compose.config() if name not in self.without or name == "tempo"]
        if "tempo" in self.without and len(self._files) == 1:
            raise SmokeError("no image of Tempo here, and none of the service from which its stand-in is made")
        started = time.monotonic()
        compose.run("up", "--detach", "--wait", "--wait-timeout", "900", *names)
        print(f"ok  up and healthy in {time.monotonic() - started:.0f} s: {', '.join(names)}", flush=True)

    def _status(self, service: str) -> str:
        state = self.compose.container(service)["State"]
        return str(state.get("Health", {}).get("Status", state["Status"]))

    def _speaks(self, what: str, **arguments: Any) -> None:
        chunks = speak(SERVICE, **arguments)
        if not chunks:
            raise SmokeError("the service sent no audio")
        print(f"ok  {what}: {chunks} chunks", flush=True)

    def _series_and_trace(self) -> None:
        _wait("its series in Prometheus", lambda: PROMETHEUS.query(f"{FIRST_AUDIO}_count"))
        _wait("host metrics", lambda: PROMETHEUS.query("system_memory_usage_bytes"))
        _wait("the host's filesystems", lambda: PROMETHEUS.query("system_filesystem_usage_bytes"))
        exemplars = _wait("an exemplar", lambda: PROMETHEUS.exemplars(f"{FIRST_AUDIO}_bucket"))
        _trace(exemplars[-1]["labels"]["trace_id"])
        _wait("the probe's series", lambda: PROMETHEUS.query("vibevoice_probe_requests_total"))
        wrong = [labels for labels, value in PROMETHEUS.query("up") if value != 1 and not self._absent(labels["job"])]
        if wrong:
            raise SmokeError(f"targets that Prometheus cannot scrape: {wrong}")
        print("ok  every target is up", flush=True)
        if "grafana" not in self.without:
            found = _wait("Grafana's data sources", lambda: _json("http://127.0.0.1:3000/api/datasources"))
            if {each["uid"] for each in found} != {"prometheus", "tempo", "alertmanager"}:
                raise SmokeError(f"Grafana's data sources are {found}")
            _wait("dashboards in Grafana", lambda: _json("http://127.0.0.1:3000/api/search?type=dash-db"))

    def _absent(self, job: str) -> bool:
        return job in self.without  # the stand-in of Tempo has no metrics

    def _alerts(self) -> None:
        files = [yaml.safe_load(file.read_text()) for file in sorted(RULES.glob("*.yml"))]
        wanted = {group["name"]: len(group["rules"]) for file in files for group in file["groups"]}

        def loaded() -> bool:
            groups = PROMETHEUS.get("rules")["groups"]
            healthy = all(rule["health"] != "err" for group in groups for rule in group["rules"])
            return healthy and {group["name"]: len(group["rules"]) for group in groups} == wanted

        _wait(f"{sum(wanted.values())} rules in {len(wanted)} groups, none in error", loaded)
        _wait("an Alertmanager that takes alerts", lambda: PROMETHEUS.get("alertmanagers")["activeAlertmanagers"])

    def _killed(self, service: str, back: Callable[[], object]) -> None:
        before = self.compose.container(service)
        requests = _total()
        self.compose.kill(service)

        def restarted() -> bool:
            now = self.compose.container(service)
            return bool(now["State"]["Running"] and now["State"]["Pid"] != before["State"]["Pid"])

        _wait(f"{service}, killed by kill -9, runs again", restarted)
        _wait(f"{service} works again", back)
        self._speaks(f"after the {service}'s end the service spoke")
        # A service that was killed counts from zero again, so its new process is what must show.
        _wait("and its series went on", lambda: _total() > (requests if service == "collector" else 0))

    def _down_and_up(self) -> None:
        moment = str(time.time())
        traced = PROMETHEUS.exemplars(f"{FIRST_AUDIO}_bucket")[-1]["labels"]["trace_id"]
        self.compose.run("down", "--timeout", "20")
        self._up(self.compose)
        kept = PROMETHEUS.get("query", query=f"{FIRST_AUDIO}_count", time=moment)["result"]
        if not kept:
            raise SmokeError("the series of before are gone: Prometheus' volume was not used again")
        print("ok  down and up again: the series of before are there", flush=True)
        if "tempo" not in self.without:
            _trace(traced)

    def _gateways(self) -> None:
        self.compose.run("down", "--timeout", "20")
        self._up(self.gateway)
        parent = {"traceparent": f"00-{KEPT}-00f067aa0ba902b7-01"}
        self._speaks("through two tiers the service spoke", headers=parent)
        _trace(KEPT)
        jobs = 'count(up{job="otel-collector"} == 1)'
        _wait("every Collector of both tiers is scraped", lambda: PROMETHEUS.query(jobs)[0][1] == 4)

    def _mounts(self) -> None:
        """The overlay with rslave is refused on this private root, and accepted on a shared one."""
        self.gateway.run("down", "--volumes", "--timeout", "5")
        overlaid = Compose(self.host, [*self._files, RSLAVE])
        refused = overlaid.run("up", "--detach", "--no-deps", "collector", check=False).returncode
        if not refused:
            raise SmokeError("this root was to be private, but the overlay's rslave was accepted")
        overlaid.run("down", "--volumes", "--timeout", "5", check=False)
        print("ok  deploy/compose-rslave.yml is refused where the root is not shared, and nothing else is", flush=True)
        with engine.Engine("shared") as shared:
            services = overlaid.config()
            compose = Compose(shared.host, [*self._files, RSLAVE])
            for name in ("volumes", "collector"):
                images.load(services[name]["image"], images.MAKERS[name], compose.environment)
            compose.run("up", "--detach", "--no-deps", "volumes", "collector")
            time.sleep(3)
            running = compose.container("collector")["State"]["Running"]
            compose.run("down", "--volumes", "--timeout", "5")
        if not running:
            raise SmokeError("the Collector did not start with the overlay on a shared root")
        print("ok  deploy/compose-rslave.yml works where the root is shared", flush=True)


STANDS_IN: Final = {"tempo": "; the small trace store answers in its place"}


def _trace(trace_id: str) -> None:
    _wait(f"trace {trace_id}", lambda: _json(f"http://127.0.0.1:3200/api/traces/{trace_id}"))


def _total() -> float:
    return sum(value for _, value in PROMETHEUS.query(f"{FIRST_AUDIO}_count"))


def _wait(what: str, look: Callable[[], T], seconds: float = 180) -> T:
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        with contextlib.suppress(OSError, IndexError):
            answer = look()
            if answer:
                print(f"ok  {what} ({time.monotonic() - started:.0f} s)", flush=True)
                return answer
        time.sleep(1)
    raise SmokeError(f"{what} did not come within {seconds:.0f} s")


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


if __name__ == "__main__":
    sys.exit(main())
