"""STUN and TURN servers by their URIs (RFC 7064, 7065), and passwords for them that last a while. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field

_URI = re.compile(r"(stuns?|turns?):(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?(?:\?transport=(udp|tcp))?")


@dataclass(frozen=True, slots=True)
class IceServer:
    """One server. TURN needs a user: with a `password`, or with a `secret` that both sides make passwords from."""

    scheme: str
    host: str
    port: int
    transport: str = "udp"
    username: str = ""
    password: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)

    @classmethod
    def parse(cls, uri: str, username: str = "", password: str = "", secret: str = "") -> IceServer:
        """Read `stun:host:port` or `turn:host:port?transport=udp`. Raises ValueError."""
        match = _URI.fullmatch(uri.strip())
        if match is None or match[1] == "stuns" or not 0 < int(match[3] or 1) <= 65_535:
            raise ValueError(f"{uri!r} is no STUN or TURN server, such as stun:192.0.2.7:3478 or turn:turn.example.com")
        scheme, host, secure = match[1], match[2].strip("[]"), match[1] == "turns"
        if scheme == "stun":
            return cls(scheme, host, int(match[3] or 3478))
        if not (username and password) and not secret:
            raise ValueError(f"{uri!r} needs a user and a password, or the secret that passwords are made from")
        port, transport = int(match[3] or (5349 if secure else 3478)), match[4] or ("tcp" if secure else "udp")
        return cls(scheme, host, port, transport, username, password, secret)

    @property
    def is_turn(self) -> bool:
        """Whether it relays."""
        return self.scheme != "stun"

    @property
    def uri(self) -> str:
        """As it is written."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}:{host}:{self.port}" + (f"?transport={self.transport}" if self.is_turn else "")

    def credentials(self, until: int) -> tuple[str, str]:
        """User and password, good until that time where they are made from a secret, as coturn wants them."""
        if not self.secret:
            return self.username, self.password
        user = f"{until}:{self.username or 'voipagent'}"
        made = hmac.new(self.secret.encode(), user.encode(), hashlib.sha1).digest()
        return user, base64.b64encode(made).decode()

    def link(self, until: int) -> str:
        """A Link header for the far end (RFC 9725, section 4.6)."""
        link = f'<{self.uri}>; rel="ice-server"'
        if not self.is_turn:
            return link
        user, password = self.credentials(until)
        return f'{link}; username="{_quoted(user)}"; credential="{_quoted(password)}"; credential-type="password"'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
