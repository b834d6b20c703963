"""The service's side of the policy: off by default, and then not even imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vibevoice_otel.service.auto import chooser
from vibevoice_otel.service.settings import ServiceSettings, ServiceSettingsError


def test_off_is_not_even_imported() -> None:
    """Without the setting the service, whose one way to insight this is, loads nothing of it."""
    code = (
        "import sys\nfrom vibevoice_otel.service import auto, settings\nassert auto.chooser('') is None\n"
        "sys.exit(', '.join(m for m in sys.modules if m.startswith('vibevoice_otel.insight')) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wrong_address_stops_the_service_at_once() -> None:
    """The setting is validated by name, as all are; a password in an address is refused."""
    for wrong in ("yes", "localhost:9090", "ftp://x", "http://user:pw@host"):
        with pytest.raises(ServiceSettingsError, match="VIBEVOICE_SERVICE_AUTO_PARAMETERS"):
            ServiceSettings.load({"VIBEVOICE_SERVICE_AUTO_PARAMETERS": wrong})
    assert ServiceSettings.load(
        {"VIBEVOICE_SERVICE_AUTO_PARAMETERS": "http://127.0.0.1:9090/x"}
    ).auto_parameters.endswith("/x")


def test_a_store_that_is_down_never_holds_up_a_request() -> None:
    """With nothing at the address the policy has nothing to say; it starts, answers and stops all the same."""
    policy = chooser("http://127.0.0.1:1")
    assert policy is not None
    policy.start()
    decision = policy.decide("en-Carter_man", 100)
    assert decision.steps is None
    assert decision.cfg is None
    policy.stop()
