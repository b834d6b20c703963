"""The command: what people see, what machines read, what wrong use says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.insight.simulator import MemorySource, Service, Setting, observe
from vibevoice_otel import settings
from vibevoice_otel.insight import cli, plots, tables
from vibevoice_otel.insight.capacities import capacity
from vibevoice_otel.insight.profiles import voices
from vibevoice_otel.insight.recommendation import recommend

VOICES = tuple(
    Setting(voice=v, steps=s, text="long", failing=0.1 if v == "bad" else 0.0)
    for v in ("en-Carter_man", "fr-Spk1_woman", "bad")
    for s in ("5", "10")
)
ROOMY = MemorySource(observe(Service(rate=0.3, slots=64, limit=None, settings=VOICES), 1))
SOURCE = MemorySource(observe(Service(rate=0.3, slots=4, memory_stream=0.9, settings=VOICES), 1))


def shown(report: object) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115, PTH123
    with console.file:
        tables.show(report, console)  # type: ignore[arg-type]
    return console.export_text()


def test_capacity_for_people() -> None:
    """Verdict, number, interval, what binds first, what it rests on, and what the naive rule would have said."""
    text = " ".join(shown(capacity(SOURCE, streams=50, concurrency=4)).replace("│", "").split())
    assert "50 streams? No. It holds 2 streams (95% interval 2 to 2); queue binds first" in text
    assert "Rests on" in text
    assert "4 slot(s): given" in text
    assert "Peak memory divided by streams would have said" in text
    assert "no GPU memory was reported" in shown(capacity(MemorySource(observe(Service(limit=None), 1))))


def test_voices_for_people() -> None:
    """Ranked rows, bounds under each figure, the outlier and the most stable voice in words."""
    text = shown(voices(SOURCE))
    assert "Most stable: " in text
    assert "Outlier: bad in errors" in text
    assert "sensitivity" in text
    assert "a step more" in text
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("3 ")).split()[1] == "bad"


def test_recommendation_for_people() -> None:
    """The setting first, then every candidate with its reason."""
    text = shown(recommend(ROOMY, text_length=800, voice="en-Carter_man"))
    assert "Use steps 10, cfg 1.5:" in text
    assert "keeps up" in text


def test_json_is_strict_and_whole() -> None:
    """No NaN, no infinity, every field by name, the plot's points left out."""
    for report in (capacity(SOURCE), voices(SOURCE), recommend(SOURCE, text_length=800)):
        text = json.dumps(cli.plain(report), allow_nan=False)
        assert json.loads(text)["origin"]["kind"] == "memory"
        assert '"curve"' not in text


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plots_are_pictures(tmp_path: Path, ending: str) -> None:
    """Each answer draws; another ending, or nothing to draw, is refused."""
    for name, report in (
        ("c", capacity(SOURCE, streams=5)),
        ("v", voices(SOURCE)),
        ("r", recommend(SOURCE, text_length=800)),
    ):
        path = tmp_path / f"{name}.{ending}"
        plots.save(report, str(path))
        assert path.stat().st_size > 5000
    with pytest.raises(ValueError, match=r"\.png, \.svg or \.pdf"):
        plots.save(capacity(SOURCE), str(tmp_path / "x.txt"))
    with pytest.raises(ValueError, match="too little data"):
        plots.save(voices(MemorySource(observe(Service(rate=1e-9, hours=0.1), 1))), str(tmp_path / "x.png"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["capacity", "--streams", "0"], "a whole number from 1"),
        (["capacity", "--gpu-memory", "lots"], "such as 24GiB"),
        (["voices", "--window", "5x"], "such as 6h"),
        (["voices", "--at", "noon"], "2026-11-24T12:00:00Z"),
        (["voices", "--header", "x"], "NAME=VALUE"),
        (["voices", "--slo", "nan"], "seconds above 0"),
        (["recommend"], "--text-length"),
        (["recommend", "--text-length", "-5"], "--text-length"),
        (["voices", "--prometheus", "http://x", "--scrape"], "not allowed with"),
        ([], "required"),
    ],
)
def test_wrong_use_is_explained(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors name the option and what is allowed, with argparse's exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_its_variables_are_known_to_the_settings() -> None:
    """An operator who exports the command's variables for the service too is not told that they are misspelt."""
    assert not settings.read({cli.URL_VARIABLE: "http://127.0.0.1:9090", cli.TOKEN_VARIABLE: "x"}).warnings


def test_no_store_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is down is one line and exit code 1, never a traceback;
    the address may come from the environment.
    """
    monkeypatch.setenv(cli.URL_VARIABLE, "http://127.0.0.1:1")
    assert cli.main(["voices"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vibevoice-otel insight: http://127.0.0.1:1/")
    assert error.count("\n") == 1
    assert "--scrape" not in error
    monkeypatch.delenv(cli.URL_VARIABLE)
    monkeypatch.setattr(cli, "PROMETHEUS", "http://127.0.0.1:1")
    assert cli.main(["voices"]) == 1
    assert "--scrape looks at the demo's metrics page" in capsys.readouterr().err
    assert cli.main(["voices", "--token-file", "/nowhere"]) == 1
    assert "/nowhere" in capsys.readouterr().err


def test_help_needs_no_statistics() -> None:
    """--help, and a refused argument, load neither numpy nor scipy nor rich: the command starts at once."""
    code = (
        "import sys\nfrom vibevoice_otel.insight import cli\n"
        "try: cli.main(['capacity', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(', '.join(sorted({'numpy', 'scipy', 'rich', 'matplotlib'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--gpu-memory" in done.stdout


def test_what_is_read_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the series that is read, and is wiped before anything else is said; a pipe gets none."""
    for watched in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda watched=watched: watched)
        assert cli.main(["voices", "--prometheus", "http://127.0.0.1:1"]) == 1
        said = capsys.readouterr().err
        assert ("\r\x1b[2Kreading vibevoice_streaming_requests_total (query 1, 0 s)\r\x1b[2K" in said) == watched
        assert "cannot be reached" in said
