"""The registry and the reference page say what semconv.py says, in the form that Weaver reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import schema
from tools.schema import series
from tools.schema.registry import metric_attributes, span_attributes
from vibevoice_otel import semconv

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "registry").glob("*.yaml"))
READ: dict[str, Any] = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
STABILITY = {"stable", "development", "alpha", "beta", "release_candidate"}


def of_type(kind: str) -> list[dict[str, Any]]:
    definitions: list[dict[str, Any]] = READ[kind][kind]
    return definitions


@pytest.mark.parametrize("name", schema.files())
def test_the_committed_file_is_the_generated_one(name: str) -> None:
    """A name changed in semconv.py alone fails here: `make schema` writes the files again."""
    assert (ROOT / name).read_text() == schema.files()[name]


def test_nothing_else_lies_in_the_registry() -> None:
    """A file that is no longer generated would go on being read."""
    assert {f"registry/{path.name}" for path in (ROOT / "registry").iterdir()} == {
        name for name in schema.files() if name.startswith("registry/")
    }


def test_every_metric_is_there_with_its_kind_unit_and_attributes() -> None:
    """Who generates code from the registry gets exactly our instruments."""
    found = {
        group["name"]: (group["instrument"], group["unit"], tuple(a["ref"] for a in group["attributes"]))
        for group in of_type("metrics")
    }
    assert found == {m.name: (m.instrument, m.unit, tuple(a.key for a in m.attributes)) for m in semconv.METRICS}


def test_every_span_is_there_with_its_attributes() -> None:
    """Who live-checks a service against the registry misses no span."""
    found = {group["type"]: [a["ref"] for a in group["attributes"]] for group in of_type("spans")}
    assert found == {span.name: [a.key for a in span.attributes] for span in semconv.SPANS}


def test_official_attributes_are_referred_to_and_never_redefined() -> None:
    """A second definition of error.type would clash with OpenTelemetry's own; ours are all defined here, once."""
    official = {a.key for a in (*span_attributes(), *metric_attributes()) if a.official}
    assert official
    signals = (*of_type("metrics"), *of_type("spans"))
    references = {a["ref"] for each in signals for a in each["attributes"]}
    (worker,) = of_type("entities")
    references |= {a["ref"] for a in worker["description"]}
    ids = [entry["key"] for entry in of_type("attributes")]
    assert len(ids) == len(set(ids))
    assert references - set(ids) == official
    assert set(ids) <= references


def test_the_form_is_weaver_s() -> None:
    """Required fields, closed lists and typed examples, as the published syntax of definitions (version 2) demands."""
    for name in ("attributes", "spans", "metrics", "entities"):
        assert READ[name].keys() == {"file_format", name}
        assert READ[name]["file_format"] == "definition/2"
        for entry in of_type(name):
            assert entry["brief"]
            assert entry["stability"] in STABILITY
    for metric in of_type("metrics"):
        assert metric["instrument"] in {"counter", "histogram", "gauge", "updowncounter"}
    for span in of_type("spans"):
        assert span["kind"] in {"client", "server", "producer", "consumer", "internal"}
        assert span["name"]["note"] == span["type"]
    for entity in of_type("entities"):
        assert entity["identity"]
    python = {"string": str, "int": int, "double": float, "boolean": bool}
    for entry in of_type("attributes"):
        if isinstance(entry["type"], dict):
            assert all({"id", "value", "brief", "stability"} == member.keys() for member in entry["type"]["members"])
        elif entry["type"] != "boolean":
            assert entry["examples"], entry["key"]
            assert {type(example) for example in entry["examples"]} == {python[entry["type"]]}, entry["key"]


def test_the_manifest_names_what_is_referred_to_and_its_revision() -> None:
    """The conventions of generative AI are a registry of their own; both are pinned."""
    core, gen_ai = READ["manifest"]["dependencies"]
    assert core["registry_path"].endswith("semantic-conventions.git@v1.44.0[model]")
    assert gen_ai["registry_path"].endswith(f"semantic-conventions-genai.git@{semconv.GEN_AI_REVISION}[model]")
    assert all(each["schema_url"].startswith("https://opentelemetry.io/schemas/") for each in (core, gen_ai))


def test_the_page_names_every_metric_span_and_attribute() -> None:
    """docs/telemetry.md is a whole reference."""
    page = (ROOT / "docs" / "telemetry.md").read_text()
    names = (
        [m.prometheus for m in semconv.METRICS] + [m.name for m in semconv.METRICS] + [s.name for s in semconv.SPANS]
    )
    for name in [*names, *(a.key for a in (*span_attributes(), *metric_attributes()))]:
        assert f"`{name}`" in page


def test_series_stay_below_their_bound() -> None:
    """25 voices and 3 settings on a GPU make fewer than 30,000 series; a label or a bucket too many fails here."""
    counted = series.table()
    assert sum(counted.values()) < series.BOUND == 30_000
    # By hand: 25 voices x 3 settings x 5 steps, 14 edges and the last bucket, _sum and _count.
    assert counted[semconv.INFERENCE] == 25 * 3 * 5 * (len(semconv.STEP_BUCKETS) + 3)
    assert counted[semconv.GAP] == 25 * (7 + 3)


def test_the_command_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m tools.schema` writes where it is told; --check names what differs, and only that."""
    assert schema.main(["--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert schema.main(["--out", str(tmp_path), "--check"]) == 0
    (tmp_path / "registry" / "spans.yaml").write_text("groups: []\n")
    assert schema.main(["--out", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().out.split() == ["registry/spans.yaml"]
    assert (tmp_path / "registry" / "spans.yaml").read_text() == "groups: []\n"


@pytest.mark.parametrize(
    "value",
    [
        {"text": ["plain", "- dash", "a: b", "#", "", "yes", "1.0", "ünï", "tab\t", '"quoted"']},
        {"numbers": [1, 1.5, -2, 1e-9], "flags": [True, False], "empty": [], "none": {}},
        {"lines": "one\ntwo\n", "stripped": "one\n two", "nested": [{"a": {"b": [{"c": 1}, {"d": "x"}]}}]},
    ],
    ids=["text", "numbers", "structure"],
)
def test_what_is_written_is_read_back(value: object) -> None:
    """The writer's YAML means what was given, whatever characters it holds."""
    assert yaml.safe_load(schema.registry.dump(value, "a comment")) == value
