"""Under the launcher and without it: what switches us off leaves everything untouched, what is observed is not slowed
at its start.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from .conftest import Running

LAUNCHER = str(Path(sys.executable).with_name("opentelemetry-instrument"))
EXPORT_NOTHING = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OMP_NUM_THREADS": "1",
}


def _run(code: str, **environment: str) -> str:
    """What a program prints under the launcher."""
    command = [LAUNCHER, sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(
        command,
        env={**os.environ, **EXPORT_NOTHING, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


HOOKED = """
    from transformers.models.vibevoice.modeling_vibevoice import VibeVoiceForConditionalGeneration as Model
    from vibevoice_otel.service.engine import StreamingTTSService
    from starlette.applications import Starlette
    import diffusers.schedulers.scheduling_dpmsolver_multistep as dpm
    functions = [Model.generate, Model.forward, StreamingTTSService.stream, Starlette.__call__]
    functions.append(dpm.DPMSolverMultistepScheduler.step)
    print([hasattr(f, "__vibevoice_otel__") for f in functions])
"""


def test_the_launcher_finds_us() -> None:
    """Every hook is in place in a program that only imports the model."""
    assert _run(HOOKED).strip() == str([True] * 5)


@pytest.mark.parametrize(
    "switch", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "vibevoice"}]
)
def test_switched_off_nothing_is_touched(switch: dict[str, str]) -> None:
    """Either standard switch leaves every function as it was."""
    assert _run(HOOKED, **switch).strip() == str([False] * 5)


def test_a_wrong_setting_is_named_and_costs_only_the_telemetry() -> None:
    """The program runs, nothing is hooked, and the log names the setting and what is allowed."""
    command = [LAUNCHER, sys.executable, "-c", textwrap.dedent(HOOKED)]
    environment = {**os.environ, **EXPORT_NOTHING, "VIBEVOICE_OTEL_DRAIN_INTERVAL": "soon"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == str([False] * 5)
    assert (
        "VIBEVOICE_OTEL_DRAIN_INTERVAL='soon' is not valid: allowed is a number from 0.05 to 600 seconds" in done.stderr
    )


def test_the_instrumentor_imports_nothing_heavy() -> None:
    """A program that never speaks gets neither torch nor a model, nor numpy, nor a thread, on our account."""
    code = """
        import sys, threading
        heavy = ("torch", "transformers", "diffusers", "numpy", "vibevoice", "fastapi")
        threads = [t.name for t in threading.enumerate() if "vibevoice" in t.name]
        print([name for name in heavy if name in sys.modules], threads, "vibevoice_otel.instrumentor" in sys.modules)
    """
    only_ours = "fastapi,asgi,logging,threading,system_metrics"
    assert _run(code, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=only_ours).strip() == "[] [] True"


def test_log_lines_carry_the_trace_in_the_generation_thread_too(start) -> None:
    """A log record of any thread that works for the request names its trace and span."""
    running: Running = start(
        OTEL_PYTHON_LOG_CORRELATION="true", VIBEVOICE_SERVICE_FAULTS=json.dumps({"fail_at_frame": 1})
    )
    _, trace = running.speak(text="Hello there.")
    lines = [line for line in running.output().splitlines() if f"trace_id={trace.root.trace_id}" in line]
    spans = {line.split("span_id=")[1].split(" ")[0] for line in lines}
    assert any("vibevoice-generation" in line for line in lines), running.output()[-3000:]
    assert any("a request failed" in line for line in lines)
    assert spans <= {trace.root.span_id, trace.server.span_id}


def test_no_sdk_is_said_by_doctor() -> None:
    """Doctor exits non-zero and names the switch and the remedy."""
    command = [sys.executable, "-m", "vibevoice_otel", "doctor", "--quick"]
    done = subprocess.run(
        command,
        env={**os.environ, "OTEL_SDK_DISABLED": "true", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "OTEL_SDK_DISABLED" in done.stdout
    assert "Mend: unset it" in done.stdout


def test_a_service_without_the_launcher_speaks_as_ever() -> None:
    """The service knows nothing of us: without the launcher none of our modules but its own is imported, and the names
    of what it measures of itself (semconv, which imports nothing).
    """
    code = """
        import sys, vibevoice_otel.service.main
        ours = {name for name in sys.modules if name.startswith("vibevoice_otel.")}
        print(sorted(name for name in ours if not name.startswith("vibevoice_otel.service")))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "['vibevoice_otel.semconv']"


def test_a_probe_is_in_no_objective(start) -> None:
    """A request that says in its baggage that it is synthetic is a trace, but no count and no latency."""
    running: Running = start(fresh=True)
    before = set(running.traces())
    asyncio.run(running.ask(headers={"baggage": "vibevoice.synthetic=true"}, text="Hello"))
    (trace,) = running.wait_for_traces(1, but=before)
    assert trace.root.attributes["vibevoice.synthetic"] is True
    assert running.total("vibevoice_streaming_requests_total") == 0
    assert running.total("vibevoice_first_audio_latency_seconds_count") == 0
