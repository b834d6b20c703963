"""The doors of a service itself: /metrics and the live page, with a token and with TLS."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.stack.certificates import self_signed
from tools.ports import free_port

from .harness import PATIENCE, Service, wait_for

Start = Callable[..., Service]
TOKEN = "a-token-of-this-test"


def asked(address: str, token: str | None = None, context: ssl.SSLContext | None = None) -> int:
    try:
        with urlopen(
            Request(address, headers={"Authorization": f"Bearer {token}"} if token else {}),
            timeout=PATIENCE,
            context=context,
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_both_doors_with_token_and_tls(start: Start, tmp_path: Path) -> None:
    """Served to who has the token and knows the authority; refused to others; what is asked for in the clear is not
    answered.
    """
    cert, key = self_signed(tmp_path)
    page = free_port()
    doors = {f"VIBEVOICE_OTEL_{door}_{what}": value for door in ("PAGE", "METRICS")
             for what, value in (("TOKEN", TOKEN), ("CERT", str(cert)), ("KEY", str(key)))}  # fmt: skip
    service = start(OTEL_METRICS_EXPORTER="prometheus", VIBEVOICE_OTEL_PAGE=f"127.0.0.1:{page}", **doors)
    service.speak(2)
    context = ssl.create_default_context(cafile=cert)
    for address in (f"127.0.0.1:{service.metrics_port}/metrics", f"127.0.0.1:{page}/api/meta"):
        assert asked(f"https://{address}", TOKEN, context) == 200, service.log
        assert asked(f"https://{address}", "wrong", context) == asked(f"https://{address}", None, context) == 401
        with pytest.raises(urllib.error.URLError):
            asked(f"https://{address}", TOKEN)  # an unknown authority
        with pytest.raises((OSError, http.client.HTTPException)):
            asked(f"http://{address}", TOKEN)

    def requests() -> bool:
        request = Request(
            f"https://127.0.0.1:{service.metrics_port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urlopen(request, context=context) as answer:
            return 'status="success",steps="other",voice="other"} 2.0' in answer.read().decode()

    assert wait_for(requests)
    assert TOKEN not in service.log


def test_a_wrong_certificate_closes_the_door_and_not_the_service(start: Start, tmp_path: Path) -> None:
    """One error for each names the settings; nothing is served in the clear instead; the service speaks."""
    cert, _ = self_signed(tmp_path)
    page = free_port()
    doors = {f"VIBEVOICE_OTEL_{door}_{what}": str(cert) for door in ("PAGE", "METRICS") for what in ("CERT", "KEY")}
    service = start(OTEL_METRICS_EXPORTER="prometheus", VIBEVOICE_OTEL_PAGE=f"127.0.0.1:{page}", **doors)
    assert all(each.chunks == 3 for each in service.speak(2))
    assert service.log.count("VIBEVOICE_OTEL_PAGE_CERT") == service.log.count("VIBEVOICE_OTEL_METRICS_CERT") == 1
    for port in (page, service.metrics_port):
        with pytest.raises(urllib.error.URLError, match="refused"):
            asked(f"http://127.0.0.1:{port}/")
