"""Whose request it was: only by the operator's list or hook, in two counters and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from tests.support.metrics import by_name
from tests.support.pipeline import pipeline
from vibevoice_otel import semconv
from vibevoice_otel.settings import Settings, read
from vibevoice_otel.web.tenants import MAX_NAMES, Tenants

LISTED = Settings(tenant_baggage="customer", tenants=("acme", "a b"))


def scope(*baggage: bytes, **more: Any) -> dict[str, Any]:
    return {"headers": [(b"baggage", each) for each in baggage], **more}


@pytest.mark.parametrize(
    ("baggage", "tenant"),
    [
        (b"customer=acme", "acme"),
        (b"x=1, customer = acme ;p=1, y=2", "acme"),
        (b"customer=a%20b", "a b"),
        (b"customer=evil", "other"),
        (b"customer=Acme", "other"),
        (b"customer=" + b"x" * 5000, "other"),
        (b"customer=acme," + b"x" * 9000, "other"),
        (b"customer", "other"),
        (b"\xff\xfe=\xff", "other"),
        (b"", "other"),
    ],
)
def test_baggage_names_a_tenant_only_from_the_list(baggage: bytes, tenant: str) -> None:
    """What a client writes is no label by itself."""
    assert Tenants(LISTED).of(scope(baggage)) == tenant
    assert Tenants(LISTED).of(scope()) == "other"


@pytest.mark.parametrize("settings", [Settings(), Settings(tenant_baggage="customer"), Settings(tenants=("acme",))])
def test_without_key_and_list_there_are_no_tenants(settings: Settings) -> None:
    """A key alone would let the client make labels."""
    assert Tenants(settings).of(scope(b"customer=acme")) is None


@pytest.fixture
def module() -> Any:
    made = ModuleType("operators_own")
    sys.modules["operators_own"] = made
    yield made
    del sys.modules["operators_own"]


def test_a_hook_maps_the_authenticated_caller(module: Any) -> None:
    """It sees the scope as the service left it, and its names are bounded in number and length."""

    def tenant(scope: Mapping[str, Any]) -> Any:
        return scope.get("user")

    module.tenant = tenant
    module.fails = lambda scope: scope["no such key"]
    assert Tenants(Settings(tenant_hook="operators_own:fails")).of(scope()) == "other"
    tenants = Tenants(Settings(tenant_hook="operators_own:tenant", tenant_baggage="customer", tenants=("acme",)))
    assert tenants.of(scope(b"customer=acme", user="beta")) == "beta"
    assert [tenants.of(scope(b"customer=acme", user=user)) for user in (None, 7, "", "x" * 65)] == ["other"] * 4
    assert {tenants.of(scope(user=f"u{number}")) for number in range(2 * MAX_NAMES)} > {"other"}
    assert len(tenants._given) == MAX_NAMES


@pytest.mark.parametrize("path", ["operators_own:missing", "no_such_module:tenant"])
def test_a_hook_that_cannot_be_loaded_costs_its_names_alone(
    path: str, module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, and every tenant is 'other'."""
    tenants = Tenants(Settings(tenant_hook=path))
    assert [tenants.of(scope()) for _ in range(3)] == ["other"] * 3
    assert caplog.text.count("VIBEVOICE_OTEL_TENANT_HOOK") == 1


@pytest.mark.parametrize(
    ("name", "text"), [("TENANT_HOOK", "os.system"), ("TENANTS", ",".join("x" * 1001)), ("TENANTS", "x" * 65)]
)
def test_settings_that_are_wrong(name: str, text: str) -> None:
    """The message names the variable and what is allowed."""
    (problem,) = read({f"VIBEVOICE_OTEL_{name}": text}).problems
    assert f"VIBEVOICE_OTEL_{name}" in problem


def test_characters_by_tenant_and_in_no_other_series() -> None:
    """Three requests of two tenants: their characters, and the name on no span and no other metric."""
    with pipeline(settings=LISTED) as observed:
        observed.run(b"text=hello", b"text=hello+you", headers=[(b"baggage", b"customer=acme")])
        observed.run(b"text=hi", headers=[(b"baggage", b"customer=evil")])
        assert observed.counted(semconv.TENANT_CHARACTERS.name, "tenant") == {"acme": 14, "other": 2}
        for name, points in by_name(observed.metrics()).items():
            own = name in {semconv.TENANT_CHARACTERS.name, semconv.TENANT_AUDIO.name}
            assert own or "acme" not in str([point.attributes for point in points]), name
        assert not [span.name for span in observed.spans() if "acme" in str(dict(span.attributes or {}))]
