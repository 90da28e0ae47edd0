"""The token that opens what is not for everybody (RFC 6750, section 2.1)."""

from __future__ import annotations

import hmac


def shows(authorization: str, token: str) -> bool:
    """Whether that header shows that token. "" opens nothing."""
    scheme, _, told = authorization.partition(" ")
    return bool(token) and scheme.lower() == "bearer" and hmac.compare_digest(told.strip().encode(), token.encode())
