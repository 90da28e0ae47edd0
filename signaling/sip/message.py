"""SIP messages as values (RFC 3261, section 7): what they say, and how a response is made from a request.

`bytes(message)` is the inverse of `wire.parse`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from sipmessage import Address, Via

from signaling.sip.grammar import CONTROL, parse_address, parse_via, split, split_address

REQUIRED = ("via", "from", "to", "call-id", "cseq")
"""What every message has, and a response copies from its request."""

SDP = "application/sdp"

PHRASES = {
    100: "Trying",
    180: "Ringing",
    183: "Session Progress",
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    500: "Server Internal Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    603: "Decline",
}


@dataclass(frozen=True)
class Headers:
    """Header fields in order, as (name, value); names compare without case, compact forms are long ones by now."""

    fields: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, value in self.fields:
            found.setdefault(name.lower(), []).append(value)
        return found

    def get(self, name: str, default: str = "") -> str:
        """The first value."""
        return next(iter(self.getlist(name)), default)

    def getlist(self, name: str) -> tuple[str, ...]:
        """All values of that name, one a field."""
        return tuple(self._by_name.get(name.lower(), ()))

    def values(self, name: str) -> tuple[str, ...]:
        """All values of a comma-separated field, each on its own."""
        return tuple(value for line in self.getlist(name) for value in split(line))

    def options(self, name: str) -> tuple[str, ...]:
        """The option tags of a field (Require, Supported), in lower case."""
        return tuple(value.lower() for value in self.values(name))


@dataclass(frozen=True)
class Message:
    """What requests and responses have in common. The properties hold for whatever `parse` returned."""

    headers: Headers = field(default_factory=Headers)
    body: bytes = b""

    @cached_property
    def via(self) -> Via:
        """The topmost Via."""
        return parse_via(self.headers.values("Via")[0])

    @cached_property
    def from_(self) -> Address:
        """Who asks."""
        return parse_address(self.headers.get("From"))

    @cached_property
    def to(self) -> Address:
        """Who is asked."""
        return parse_address(self.headers.get("To"))

    @property
    def from_tag(self) -> str:
        """The tag of From, "" where there is none (RFC 2543)."""
        return self.from_.parameters.get("tag") or ""

    @property
    def to_tag(self) -> str:
        """The tag of To: "" outside a dialog."""
        return self.to.parameters.get("tag") or ""

    @property
    def call_id(self) -> str:
        """Names the dialog, together with the two tags."""
        return self.headers.get("Call-ID")

    @cached_property
    def cseq(self) -> tuple[int, str]:
        """(number, method)."""
        number, method = self.headers.get("CSeq").split()
        return int(number), method

    @property
    def content_type(self) -> str:
        """The type of the body, in lower case and without parameters; "" where it has none."""
        return self.headers.get("Content-Type").partition(";")[0].strip(" ").lower()

    @property
    def media(self) -> str | None:
        """The session description in it, None where there is none."""
        return self.body.decode(errors="replace") if self.body else None

    @cached_property
    def contact(self) -> str:
        """The URI of the first Contact, as it was written; "" where there is none that can be read."""
        first = next(iter(self.headers.values("Contact")), "")
        try:
            parse_address(first)
        except ValueError:
            return ""
        return split_address(first)[1]


@dataclass(frozen=True)
class Request(Message):
    """A SIP request."""

    method: str = ""
    uri: str = ""

    def __bytes__(self) -> bytes:
        return _build(f"{self.method} {self.uri} SIP/2.0", self.headers, self.body)


@dataclass(frozen=True)
class Response(Message):
    """A SIP response."""

    code: int = 0
    phrase: str = ""

    def __bytes__(self) -> bytes:
        return _build(f"SIP/2.0 {self.code} {self.phrase}", self.headers, self.body)


def _build(start: str, headers: Headers, body: bytes) -> bytes:
    """The only place where a message becomes bytes. Raises ValueError for text that would break out of its line."""
    lines = [start, *(f"{name}: {value}" for name, value in headers.fields), f"Content-Length: {len(body)}"]
    for line in lines:
        if CONTROL.search(line):
            raise ValueError(f"control character in {line!r}")
    return "\r\n".join([*lines, "", ""]).encode(errors="surrogateescape") + body


def respond(
    request: Request, code: int, *extra: tuple[str, str], to_tag: str = "", body: bytes = b"", phrase: str = ""
) -> Response:
    """A response to `request` (RFC 3261, section 8.2.6): Via, From, Call-ID and CSeq as they came, To with our tag."""
    copied = [(name, value) for name, value in request.headers.fields if name.lower() in REQUIRED]
    if code == 100 and (stamp := request.headers.get("Timestamp")):
        copied.append(("Timestamp", stamp))
    if to_tag and not request.to_tag:
        copied = [(name, f"{value};tag={to_tag}" if name.lower() == "to" else value) for name, value in copied]
    return Response(Headers((*copied, *extra)), body, code, phrase or PHRASES[code])


def received_from(request: Request, host: str, port: int) -> Request:
    """The request with `received` and `rport` on its topmost Via (RFC 3261, section 18.2.1; RFC 3581).

    The rest of the Via is left as it was written: the peer must find its own branch in our response.
    """
    asks_port = "rport" in request.via.parameters
    if not asks_port and request.via.host.strip("[]").lower() == host:
        return request
    fields = list(request.headers.fields)
    at = next(i for i, (name, _) in enumerate(fields) if name.lower() == "via")
    top, *others = split(fields[at][1])
    stamps = {"rport": f"rport={port}", "received": ""}
    sent_by, *parameters = split(top, ";")
    parameters = [stamps.get(part.partition("=")[0].strip(" ").lower(), part) for part in parameters]
    top = ";".join([sent_by, *filter(None, parameters), f"received={host}"])
    fields[at] = (fields[at][0], ", ".join([top, *others]))
    return replace(request, headers=Headers(tuple(fields)))
