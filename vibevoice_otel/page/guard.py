"""Guards the page and limits what a browser may do with it: Host and Origin, bearer token, rates, and security
headers.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Collection, Mapping

from vibevoice_otel.web import bearer

#: host, [v6] or name, with an optional port.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@\s]+)(?::\d{1,5})?")
NAME = re.compile(r"[A-Za-z0-9._-]+")


def host_of(header: str) -> str | None:
    """The host without port and brackets, lower case; None when the header is not well formed."""
    match = _HOST.fullmatch(header)
    return match[1].strip("[]").lower() if match else None


def host_allowed(header: str, names: Collection[str]) -> bool:
    """Whether a Host header may be answered.

    DNS rebinding needs a name that the attacker controls: an address or ``localhost`` is none, any other name must be
    ours.
    """
    host = host_of(header)
    if host is None:
        return False
    if host == "localhost" or host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from the page itself (or from no page at all: a command line sends no Origin)."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return False
    return headers.get("sec-fetch-site", "none") in {"same-origin", "none"}


def token_allowed(headers: Mapping[str, str], token: str) -> bool:
    """Whether the bearer token is right; always when none is asked for."""
    return not token or bearer.admits(headers.get("authorization", ""), token)


def security_headers(host: str, service: str) -> list[tuple[bytes, bytes]]:
    """Headers of every answer. ``service`` is the configured WebSocket address, "" for one on the host that the browser
    names.
    """
    sockets = "ws: wss:"
    if service:
        sockets = service.partition("://")[0] + "://" + service.partition("://")[2].partition("/")[0]
    elif NAME.fullmatch(host):
        sockets = f"ws://{host}:* wss://{host}:*"
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' {sockets}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    fixed = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
    }
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in fixed.items()]


class Rate:
    """A token bucket: ``burst`` at once, then ``per_second``."""

    def __init__(self, burst: int, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._left, self._at = float(burst), time.monotonic()

    def take(self) -> bool:
        at = time.monotonic()
        self._left = min(self._burst, self._left + (at - self._at) * self._per_second)
        self._at = at
        if self._left < 1:
            return False
        self._left -= 1
        return True
