"""Where a meeting is, as one line: scheme://host[:port]/room?option=value. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from signaling.call import SignalingError

SCHEMES = {
    "janus": ("janus", False, 8088),
    "januss": ("janus", True, 8089),
    "livekit": ("livekit", False, 7880),
    "livekits": ("livekit", True, 443),
    "ws": ("livekit", False, 7880),
    "wss": ("livekit", True, 443),
}
"""What speaks which protocol, whether encrypted, and at which port unless the URL says so."""

OPTIONS = {"janus": ("pin", "name", "token", "secret", "base"), "livekit": ("name", "token", "key", "secret", "base")}
"""`secret` is Janus's api_secret, or LiveKit's with which tokens are made; `base` is the path of the API."""

MAX_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """A room on a server. `name` is what we are called there; what opens the door is never shown."""

    protocol: str
    host: str
    port: int
    room: str
    encrypted: bool = False
    name: str = "agent"
    base: str = ""
    pin: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Place:
        """Read a URL. Raises SignalingError, which says what would be right."""
        try:
            parts = urlsplit(url.strip()[:MAX_LENGTH])
            port, host = parts.port, parts.hostname
        except ValueError as error:
            raise SignalingError(f"the meeting's URL cannot be read: {error}") from None
        if parts.scheme not in SCHEMES:
            raise SignalingError(
                f"a meeting is janus://host/room, januss:// for https, livekit://host/room or livekits:// for wss, "
                f"not {parts.scheme or url[:40]!r}"
            )
        protocol, encrypted, usual = SCHEMES[parts.scheme]
        room = unquote(parts.path.strip("/"))
        if not host:
            raise SignalingError(f"the meeting's URL names no host, as {parts.scheme}://meet.example.com/room does")
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        if wrong := [name for name in given if name not in OPTIONS[protocol]]:
            known = ", ".join(OPTIONS[protocol])
            raise SignalingError(f"{parts.scheme}:// knows no option {wrong[0]!r}; there are {known}")
        return cls(protocol, host, port or usual, room, encrypted, **given).checked()

    def checked(self) -> Place:
        """The same. Raises SignalingError where it lacks what it takes to go there."""
        if not self.room and not (self.protocol == "livekit" and self.token):  # a token has the room in it
            raise SignalingError(f"the meeting's URL names no room, as {self.server}/room does")
        return self

    def opened_by(self, pin: str = "", token: str = "", key: str = "", secret: str = "") -> Place:
        """The same with what is given in the place of what is missing."""
        pin, token = self.pin or pin, self.token or token
        return replace(self, pin=pin, token=token, key=self.key or key, secret=self.secret or secret)

    @property
    def server(self) -> str:
        """scheme://host:port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}{'s' if self.encrypted else ''}://{host}:{self.port}"

    def web(self, scheme: str) -> str:
        """The server by another scheme, and the encrypted form of that where it is encrypted."""
        return f"{scheme}{'s' if self.encrypted else ''}{self.server[self.server.index(':') :]}"

    def __str__(self) -> str:
        """For people: nothing that opens a door."""
        return f"{self.server}/{quote(self.room)}"
