"""A bearer token, as the live page and /metrics ask for it."""

from __future__ import annotations

import hmac


def admits(authorization: str, token: str) -> bool:
    """Whether an Authorization header has ``token``; compared in a time that does not tell how much of it was right."""
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
