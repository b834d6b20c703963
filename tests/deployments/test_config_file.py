"""The SDK is configured by OTEL_CONFIG_FILE: our settings and our sampler may stand in it, and what is wrong in it
opens no door.
"""

from __future__ import annotations

import json
import logging
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk import environment_variables

pytest.importorskip("opentelemetry.configuration", reason="needs the extra [config]", exc_type=ImportError)

from tests.reliability.harness import PATIENCE, Service, Sink, free_port, wait_for
from vibevoice_otel import config_file, settings
from vibevoice_otel.instrumentor import VibeVoiceInstrumentor
from vibevoice_otel.sampling.sampler import TailSampler

Start = Callable[..., Service]
if not hasattr(environment_variables, "OTEL_CONFIG_FILE"):
    pytest.skip("this SDK reads no configuration file", allow_module_level=True)
EXAMPLE = Path(__file__).parents[2] / "deploy" / "config-file" / "vibevoice.yaml"
METRICS = "vibevoice.streaming.requests"


def document(endpoint: str, *readers: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A configuration that exports to ``endpoint``, with ``options`` of ours and more readers."""
    push = {"periodic": {"interval": 300, "exporter": {"otlp_http": {"endpoint": f"{endpoint}/v1/metrics"}}}}
    span = {"batch": {"schedule_delay": 200, "exporter": {"otlp_http": {"endpoint": f"{endpoint}/v1/traces"}}}}
    return {
        "file_format": "1.0",
        "resource": {"attributes": [{"name": "service.name", "value": "by-file"}],
                     "detection/development": {"detectors": [{"service": {}}]}},
        "propagator": {"composite": [{"tracecontext": {}}]},
        "tracer_provider": {"processors": [span]},
        "meter_provider": {"readers": [push, *readers]},
        **({"instrumentation/development": {"python": {"vibevoice": options}}} if options else {}),
    }  # fmt: skip


def written(where: Path, content: dict[str, Any]) -> str:
    path = where / "otel.yaml"
    path.write_text(json.dumps(content))
    return str(path)


def pull(port: int) -> dict[str, Any]:
    return {"pull": {"exporter": {"prometheus/development": {"host": "127.0.0.1", "port": port}}}}


def fetched(port: int, token: str = "") -> tuple[int, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {token}"} if token else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, ""
    except OSError:
        return 0, ""


def test_the_file_wins_over_the_environment_and_that_over_the_default(tmp_path: Path) -> None:
    """Each kind of value that YAML has reaches its setting."""
    path = written(
        tmp_path, document("http://x", routes=["/a", "/b"], slo_first_audio=0.3, max_steps=9, page_token=None)
    )
    environ = {"OTEL_CONFIG_FILE": path, "VIBEVOICE_OTEL_MAX_STEPS": "7", "VIBEVOICE_OTEL_PAGE_TOKEN": "t"}
    reading = settings.read(environ)
    chosen = reading.settings
    assert (chosen.routes, chosen.slo_first_audio, chosen.max_steps) == (("/a", "/b"), 0.3, 9)
    assert (chosen.page_token, chosen.max_cfg, reading.refused) == ("t", 10.0, [])
    assert settings.read(environ, {"max_steps": 4}).settings.max_steps == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metrics_tokn": "t"}, "metrics_tokn is not a setting; the nearest is metrics_token"),
        ({"trace_share": 7}, "trace_share=7 is not valid: allowed is a number from 0 to 1"),
        ({"capture_text": "perhaps"}, "capture_text='perhaps' is not valid: allowed is true or false"),
        ({"routes": ["stream"]}, "routes=['stream'] is not valid: allowed is comma-separated URL paths"),
        ({"page": "127.0.0.1:1", "unheard_of_setting": 1}, "unheard_of_setting is not a setting"),
    ],
)
def test_what_is_wrong_in_it_shuts_the_doors(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    """The sentence names file and key; the page is off and no text captured; the other settings hold."""
    path = written(tmp_path, document("http://x", max_steps=9, **options))
    environ = {"VIBEVOICE_OTEL_PAGE": "127.0.0.1:9465", "VIBEVOICE_OTEL_CAPTURE_TEXT": "true", "OTEL_CONFIG_FILE": path}
    reading = settings.read(environ)
    assert reading.refused[0].startswith(f"{path} instrumentation/development.python.vibevoice: {says}")
    assert (reading.settings.page, reading.settings.capture_text, reading.settings.max_steps) == ("", False, 9)


def test_options_that_arrive_as_keywords_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    """A program that calls configure_sdk itself: the dataclass takes any key,
    and a misspelt one is told in one line.
    """
    from opentelemetry.configuration._conversion import _dict_to_dataclass

    given = _dict_to_dataclass({"max_steps": 9, "capture_txt": True}, VibeVoiceInstrumentor.configuration)
    options = {name: value for name, value in vars(given).items() if value is not None}
    with caplog.at_level(logging.WARNING):
        reading = VibeVoiceInstrumentor()._read(options)
    assert reading.settings.max_steps == 9
    assert [each for each in caplog.messages if "capture_txt is not a setting; the nearest is capture_text" in each]
    assert len(caplog.messages) == 1


def test_its_sampler_reads_its_share_at_its_first_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK makes it without arguments, before our settings are known."""
    from opentelemetry.configuration._tracer_provider import create_tracer_provider

    quiet = {"processors": [{"simple": {"exporter": {"console": {}}}}], "sampler": {"vibevoice_tail": None}}
    content = document("http://x", tail_share=1.0) | {"tracer_provider": quiet}
    path = written(tmp_path, content)
    provider = create_tracer_provider(config_file.load(path).tracer_provider)  # type: ignore[union-attr]
    assert isinstance(provider.sampler, TailSampler)
    assert provider.sampler.get_description() == "VibeVoiceTail{share=settings,override=False}"
    monkeypatch.setenv("OTEL_CONFIG_FILE", path)
    assert provider.get_tracer("t").start_span("s").get_span_context().trace_flags.sampled
    assert provider.sampler.get_description() == "VibeVoiceTail{share=1,override=False}"


def test_the_copy_for_workers_has_no_page_and_keeps_its_references(tmp_path: Path) -> None:
    """A header with ${TOKEN} is not written out, a quoted value stays quoted,
    and a file without a page is not copied.
    """
    content = document("${HOST_OF_OTLP}", pull(9464))
    copy = config_file.without_pages(written(tmp_path, content))
    assert copy is not None
    text = Path(copy).read_text()
    assert "prometheus" not in text
    assert '"${HOST_OF_OTLP}/v1/metrics"' in text
    assert Path(copy).stat().st_mode & 0o077 == 0
    assert config_file.without_pages(copy) is None
    only = document("http://x") | {"meter_provider": {"readers": [pull(9464)]}}
    copy = config_file.without_pages(written(tmp_path, only))
    assert copy is not None
    assert "meter_provider" not in Path(copy).read_text()


def test_the_example_is_valid_and_observes(start: Start, sink: Sink) -> None:
    """The shipped file, as its first line says: traces by its sampler, metrics by its reader,
    the name by its variable.
    """
    service = start(
        OTEL_CONFIG_FILE=str(EXAMPLE), OTEL_EXPORTER_OTLP_ENDPOINT=sink.endpoint, VIBEVOICE_OTEL_TAIL_SHARE="0"
    )
    service.speak(2, fail="1")
    assert wait_for(lambda: sink.roots()["error/ValueError"] == 2), service.log
    service.stop()
    assert sink.total(METRICS, status="error") == 2
    assert settings.read({"OTEL_CONFIG_FILE": str(EXAMPLE)}).settings.tail_share == 0.1


def test_a_page_of_the_file_asks_for_the_token(start: Start, sink: Sink, tmp_path: Path) -> None:
    """The token may stand in the file, where the reader is."""
    port = free_port()
    service = start(
        OTEL_CONFIG_FILE=written(tmp_path, document(sink.endpoint, pull(port), metrics_token="${TOKEN}")), TOKEN="t0"
    )
    service.speak(2)
    assert wait_for(lambda: sink.total(METRICS, status="success") == 2), service.log
    assert fetched(port)[0] == fetched(port, "wrong")[0] == 401
    status, text = fetched(port, "t0")
    assert (status, "vibevoice_streaming_requests_total" in text) == (200, True)


def test_a_misspelt_token_closes_the_page_and_not_the_service(start: Start, sink: Sink, tmp_path: Path) -> None:
    """One line names file and key; /metrics and the live page are shut; requests are counted."""
    port, page = free_port(), free_port()
    path = written(tmp_path, document(sink.endpoint, pull(port), metrics_tokn="t", page=f"127.0.0.1:{page}"))
    service = start(OTEL_CONFIG_FILE=path)
    service.speak(2)
    assert wait_for(lambda: sink.total(METRICS, status="success") == 2), service.log
    assert fetched(port)[0] == fetched(port, "t")[0] == 403
    assert fetched(page)[0] == 0
    told = [line for line in service.log.splitlines() if "metrics_tokn" in line]
    assert len(told) == 1
    assert path in told[0]


def test_enabled_false_holds_under_the_launcher(start: Start, sink: Sink, tmp_path: Path) -> None:
    """The launcher instruments whatever the file says; the section's own word is kept."""
    service = start(OTEL_CONFIG_FILE=written(tmp_path, document(sink.endpoint, enabled=False)))
    service.speak(2)
    assert wait_for(sink.spans), service.log  # FastAPI's own
    service.stop()
    assert not sink.roots()
    assert not sink.series(METRICS)


def test_workers_of_a_file_with_a_page_are_observed_without_it(start: Start, sink: Sink, tmp_path: Path) -> None:
    """Two workers of uvicorn: one line names OTEL_CONFIG_FILE, there is no /metrics,
    and traces and OTLP metrics go on.
    """
    port, web = free_port(), free_port()
    command = (sys.executable, "-m", "uvicorn", "speaker:app", "--port", str(web), "--workers", "2")
    path = written(tmp_path, document(sink.endpoint, pull(port)))
    service = start(command=command, port=web, OTEL_CONFIG_FILE=path)
    service.speak(6)
    assert wait_for(lambda: sink.roots()["success"] == 6), service.log
    assert wait_for(lambda: sink.total(METRICS, status="success") == 6), service.log
    assert fetched(port)[0] == 0
    assert service.log.count(f"OTEL_CONFIG_FILE={path} does not work with several worker processes") == 1, service.log
    assert "Failed to auto initialize" not in service.log
