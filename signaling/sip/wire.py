"""Bytes <-> SIP messages (RFC 3261, sections 7 and 18.3), for bytes that anybody may have sent.

The grammar of URIs is `sipmessage`'s, and this is the only file that calls it: here every message is first measured,
unfolded and checked, because that library takes a well-formed message for granted. Every pattern here takes time linear
in its input. Nothing here does I/O.

`parse` raises WireError and nothing else; `bytes(message)` is its inverse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from sipmessage import URI, Address, Parameters, Via
from sipmessage.message import COMPACT_FORMS

MAX_DATAGRAM = 65_535
MIN_DATAGRAM = 20
MAX_HEAD = 16 * 1024
MAX_LINES = 128
MAX_LINE = 4 * 1024
MAX_BODY = 32 * 1024
MAX_VALUES = {"via": 40, "route": 20, "record-route": 20, "contact": 10}  # the torture test has 34 Via values
MAX_CSEQ = 2**31

COOKIE = "z9hG4bK"
"""A branch that begins with it is unique to its transaction (RFC 3261, section 8.1.1.7)."""

PING, PONG = b"\r\n\r\n", b"\r\n"
"""Keep-alives on a stream (RFC 5626, section 4.4.1)."""

PHRASES = {
    100: "Trying",
    180: "Ringing",
    183: "Session Progress",
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    422: "Session Interval Too Small",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    491: "Request Pending",
    500: "Server Internal Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "Version Not Supported",
    513: "Message Too Large",
    603: "Decline",
}

_REQUIRED = ("via", "from", "to", "call-id", "cseq")
_SINGLE = (*_REQUIRED[1:], "max-forwards", "content-length", "content-type", "expires", "min-se", "session-expires")
_TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")
_CONTROL = re.compile(r"[\r\n]|(?<!\\)[\x00-\x08\x0b-\x1f\x7f]")  # behind a backslash it may be a quoted-pair
_VERSION = re.compile(r"SIP/[0-9]+\.[0-9]+")
_HOST = r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+"
_VIA = re.compile(rf"SIP ?/ ?([0-9]+\.[0-9]+) ?/ ?({_TOKEN.pattern}) ({_HOST}) ?(?:: ?([0-9]{{1,5}}))? ?")
_PLACE = re.compile(rf"({_HOST})(?::([0-9]{{1,5}}))?")
_OPAQUE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):([^\s<>\"]+)")


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


class WireError(Exception):
    """Not a message we can serve. `response` is the answer it gets; None: it is dropped in silence."""

    def __init__(self, why: str, response: Response | None = None) -> None:
        super().__init__(why)
        self.response = response


def clean(text: str, limit: int = 200) -> str:
    """Text of a peer, fit to be shown: printable, and not longer than `limit`."""
    return "".join(char for char in text[: 2 * limit] if char.isprintable())[:limit]


# --- building ------------------------------------------------------------------------------------------------------


def _build(start: str, headers: Headers, body: bytes) -> bytes:
    """The only place where a message becomes bytes. Raises ValueError for text that would break out of its line."""
    lines = [start, *(f"{name}: {value}" for name, value in headers.fields), f"Content-Length: {len(body)}"]
    for line in lines:
        if _CONTROL.search(line):
            raise ValueError(f"control character in {line!r}")
    return "\r\n".join([*lines, "", ""]).encode(errors="surrogateescape") + body


def respond(
    request: Request, code: int, *extra: tuple[str, str], to_tag: str = "", body: bytes = b"", phrase: str = ""
) -> Response:
    """A response to `request` (RFC 3261, section 8.2.6): Via, From, Call-ID and CSeq as they came, To with our tag."""
    copied = [(name, value) for name, value in request.headers.fields if name.lower() in _REQUIRED]
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


# --- parsing -------------------------------------------------------------------------------------------------------


def parse(data: bytes) -> Request | Response:
    """One whole message. Raises WireError."""
    head, blank, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    oversize = len(head) > MAX_HEAD
    # bytes that are no UTF-8 survive as they came: what we echo must be what the peer sent
    lines = _unfold(head[:MAX_HEAD].decode(errors="surrogateescape"))
    start, fields, flaw = lines[0], *_fields(lines[1 : MAX_LINES + 1])
    try:
        if oversize or len(lines) > MAX_LINES or any(len(line) > MAX_LINE for line in lines):
            raise _Refused(513, "head too large")
        if flaw or not blank:
            raise _Refused(400, flaw or "no blank line after the header")
        _check_fields(Headers(fields))
        content = _body(Headers(fields), body)
        rest = Headers(tuple((name, value) for name, value in fields if name.lower() != "content-length"))
        message = _start(start, rest, content)
        _check(message)
    except _Refused as refused:
        raise _error(refused, start, fields) from None
    return message


class _Refused(Exception):
    """Unwinds to where the answer is built."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def _unfold(head: str) -> list[str]:
    """Logical lines: one that begins with white space continues the one before (RFC 3261, section 7.3.1)."""
    lines: list[list[str]] = []
    for line in head.split("\r\n"):
        if line[:1] in (" ", "\t") and lines:
            lines[-1].append(line.strip(" \t"))
        else:
            lines.append([line.rstrip(" \t")])
    return [" ".join(part for part in parts if part) for parts in lines]


def _fields(lines: Iterable[str]) -> tuple[tuple[tuple[str, str], ...], str]:
    """(name, value) of each line, and what was wrong with the first bad one."""
    fields: list[tuple[str, str]] = []
    flaw = ""
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.rstrip(" \t"), value.strip(" \t").replace("\t", " ")
        if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            flaw = flaw or f"bad header line {line[:40]!r}"
            continue
        fields.append((COMPACT_FORMS.get(name.lower(), name), value))
    return tuple(fields), flaw


def _number(text: str, limit: int) -> int | None:
    """A decimal number up to `limit`, None for anything else: `int` takes too many alphabets and refuses long zeros."""
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0")
    return int(digits or 0) if len(digits) <= len(str(limit)) and int(digits or 0) <= limit else None


def _check_fields(headers: Headers) -> None:
    """What must be there, and what must be there once."""
    for name in _REQUIRED:
        if not headers.get(name):
            raise _Refused(400, f"no {name}")
    for name in _SINGLE:
        if len(headers.getlist(name)) > 1:
            raise _Refused(400, f"{name} more than once")
    for name, limit in MAX_VALUES.items():
        if len(headers.values(name)) > limit:
            raise _Refused(400, f"more than {limit} {name} values")


def _body(headers: Headers, body: bytes) -> bytes:
    """The body, cut to Content-Length; bytes after it are no part of the message (RFC 3261, section 18.3)."""
    length = headers.get("Content-Length", str(len(body)))
    size = _number(length, 10**9)
    if size is None:
        raise _Refused(400, "bad Content-Length")
    if size > MAX_BODY:
        raise _Refused(513, "body too large")
    if size > len(body):
        raise _Refused(400, "body shorter than Content-Length")
    return body[:size]


def _start(start: str, headers: Headers, body: bytes) -> Request | Response:
    if _CONTROL.search(start):
        raise _Refused(400, "control character in the start line")
    first, _, rest = start.partition(" ")
    if _VERSION.fullmatch(first.upper()):
        code, _, phrase = rest.partition(" ")
        if not re.fullmatch("[1-6][0-9][0-9]", code):
            raise _Refused(400, "bad status line")
        return Response(headers, body, int(code), phrase)
    uri, _, version = rest.rpartition(" ")
    if not _VERSION.fullmatch(version.upper()):
        raise _Refused(400, "neither request nor status line")
    if version.upper() != "SIP/2.0":
        raise _Refused(505, f"version {version[:20]}")
    if not _TOKEN.fullmatch(first):
        raise _Refused(400, "bad method")
    return Request(headers, body, first, uri)


def _check(message: Request | Response) -> None:
    """Whatever the layers above take for granted."""
    headers = message.headers
    try:
        if not split(headers.get("Via")):
            raise ValueError("the first Via is empty")
        _ = message.via, message.from_, message.to
    except ValueError as error:
        raise _Refused(400, str(error)) from None
    _check_cseq(message)
    if isinstance(message, Request):
        _check_uri(message.uri)
    if _number(headers.get("Max-Forwards", "70"), 255) is None:
        raise _Refused(400, "bad Max-Forwards")
    if " " in message.call_id:
        raise _Refused(400, "bad Call-ID")


def _check_cseq(message: Request | Response) -> None:
    number, _, method = message.headers.get("CSeq").partition(" ")
    method = method.strip(" ")
    if _number(number, MAX_CSEQ - 1) is None:
        raise _Refused(400, "bad CSeq number")
    if not _TOKEN.fullmatch(method) or (isinstance(message, Request) and method != message.method):
        raise _Refused(400, "CSeq method differs from the request's")


def _check_uri(uri: str) -> None:
    scheme, colon, _ = uri.partition(":")
    if colon and re.fullmatch("[A-Za-z][A-Za-z0-9+.-]*", scheme) and scheme.lower() not in ("sip", "sips", "tel"):
        raise _Refused(416, f"URI scheme {scheme[:20]}")
    try:
        if "?" in uri.rpartition("@")[2]:  # RFC 3261, section 19.1.1: headers have no place in a Request-URI
            raise ValueError("headers in the Request-URI")
        parse_uri(uri)
    except ValueError:
        raise _Refused(400, "bad Request-URI") from None


def _error(refused: _Refused, start: str, fields: tuple[tuple[str, str], ...]) -> WireError:
    """The error, with a stateless answer where the request is one that can be answered."""
    why = str(refused)
    if start.upper().startswith("SIP/") or start.startswith("ACK "):
        return WireError(why)
    copied = [(name, value) for name, value in fields if name.lower() in _REQUIRED and len(value) <= MAX_LINE]
    if not _VIA.match(re.sub(" +", " ", Headers(tuple(copied)).get("Via"))):
        return WireError(why)  # it does not say where an answer should go
    # RFC 3261, section 8.2.6.2: a response has a tag; without state it must be the same each time
    copied = [
        (name, f"{value};tag=refused" if name.lower() == "to" and ";tag" not in value else value)
        for name, value in copied
    ]
    phrase = f"{PHRASES[refused.code]} ({why})" if refused.code == 400 and why.isprintable() else PHRASES[refused.code]
    return WireError(why, Response(Headers(tuple(copied)), b"", refused.code, phrase))


# --- grammar -------------------------------------------------------------------------------------------------------


def split(value: str, separator: str = ",") -> list[str]:
    """Split where the separator stands outside quotes and angle brackets; empty parts are left out."""
    if '"' not in value and "<" not in value:
        return [part.strip(" ") for part in value.split(separator) if part.strip(" ")]
    parts, begin, quoted, bracketed, escaped = [], 0, False, False, False
    for at, char in enumerate(value):
        if escaped:
            escaped = False
        elif char == "\\" and quoted:
            escaped = True
        elif char == '"' and not bracketed:
            quoted = not quoted
        elif char in "<>" and not quoted:
            bracketed = char == "<"
        elif char == separator and not quoted and not bracketed:
            parts.append(value[begin:at])
            begin = at + 1
    return [part.strip(" ") for part in (*parts, value[begin:]) if part.strip(" ")]


def parse_via(value: str) -> Via:
    """One Via value; names of parameters in lower case. Raises ValueError."""
    value = re.sub(" +", " ", value)  # white space around separators is legal
    match = _VIA.match(value)
    tail = value[match.end() :] if match else ""
    if match is None or tail[:1] not in ("", ";") or re.search("; ?(;|$)", tail):
        raise ValueError("Via is not valid")
    version, transport, host, port = match.groups()
    if version != "2.0":
        raise ValueError("Via is not of SIP/2.0")
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError("bad port in Via")
    return Via(transport.upper(), host, int(port) if port else None, _parameters(tail))


def parse_address(value: str) -> Address:
    """One name-addr or addr-spec; names of parameters in lower case. Raises ValueError."""
    name, uri, parameters = split_address(value)
    return Address(parse_uri(uri), name, _parameters(parameters))


def split_address(value: str) -> tuple[str, str, str]:
    """(display name, URI, parameters) as they were written. Raises ValueError."""
    start = _bracket(value)
    if start < 0:
        uri, semicolon, parameters = value.partition(";")
        return "", uri.strip(" "), semicolon + parameters
    uri, bracket, parameters = value[start + 1 :].partition(">")
    parameters = parameters.strip(" ")
    if not bracket or parameters[:1] not in ("", ";"):
        raise ValueError("address is not valid")
    name = value[:start].strip(" ")
    if name.startswith('"'):
        name = re.sub(r"\\(.)", r"\1", name[1:].removesuffix('"'))
    return name, uri.strip(" "), parameters


def _bracket(value: str) -> int:
    """Where the `<` stands that opens the URI; -1 where there is none. A `<` within quotes is text."""
    quoted = escaped = False
    for at, char in enumerate(value):
        if escaped:
            escaped = False
        elif char == "\\" and quoted:
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == "<" and not quoted:
            return at
    if quoted:
        raise ValueError("unbalanced quotes")
    return -1


def _parameters(text: str) -> Parameters:
    """`;name=value` and `;name`. Raises ValueError for a name that comes twice (RFC 3261, section 7.3.1)."""
    found: dict[str, str | None] = {}
    for part in split(text, ";"):
        name, equals, value = (piece.strip(" ") for piece in part.partition("="))
        if not _TOKEN.fullmatch(name) or name.lower() in found or name == "self":  # which `Parameters` cannot hold
            raise ValueError("parameters are not valid")
        if not value.startswith('"') and re.search(r"[\s<>\"]", value):
            raise ValueError("parameters are not valid")
        found[name.lower()] = value if equals else None
    return Parameters(**found)


def parse_uri(uri: str) -> URI:
    """A URI as we read it, which is never what we echo. Raises ValueError.

    What the grammar library refuses although phones send it is kept from it: capital schemes, ?headers, `#` in the user
    part, hosts of one label with a digit or `_` in it. A scheme that is neither sip nor sips has its text as `user`;
    the library's pattern for telephone numbers would take quadratic time.
    """
    match = _OPAQUE.fullmatch(uri)
    if match is None:
        raise ValueError("URI is not valid")
    scheme, rest = match[1].lower(), match[2]
    if scheme not in ("sip", "sips"):
        return URI(scheme, "", rest.partition(";")[0])
    user, at, host = rest.rpartition("@")
    bare, semicolon, parameters = host.partition("?")[0].partition(";")
    place = _PLACE.fullmatch(bare)
    port = int(place[2]) if place and place[2] else None
    if place is None or port == 0 or (port or 0) > 65535:
        raise ValueError("bad host or port in URI")
    try:
        parsed = URI.parse(f"{scheme}:{user.replace('#', '%23')}{at}host{semicolon}{parameters}")
    except TypeError as error:  # a parameter named "self"
        raise ValueError("URI is not valid") from error
    return replace(parsed, host=place[1], port=port)


# --- framing on streams --------------------------------------------------------------------------------------------


class StreamError(Exception):
    """The stream cannot be read any further; close it."""


class Framer:
    """Cuts a byte stream into messages by Content-Length (RFC 3261, section 18.3)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._size = 0  # of the message at the front, once its header is complete

    @property
    def partial(self) -> bool:
        """Whether a message has begun that is not complete."""
        return len(self._buffer) > len(PING) or bool(self._buffer.strip(b"\r\n"))

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Complete messages and PINGs, in order. Raises StreamError once the rest cannot be framed."""
        self._buffer += data
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> bytes | None:
        buffer = self._buffer
        if buffer.startswith(PING):
            return self._take(len(PING))
        if buffer.startswith(PONG) and len(buffer) > 2 and buffer[2:3] != b"\r":
            self._take(len(PONG))  # a lone CRLF is the answer to a ping, or padding before a start line
        if not self._size:
            self._size = self._measure()
        return self._take(self._size) if 0 < self._size <= len(buffer) else None

    def _measure(self) -> int:
        """The size of the message at the front; 0 while its header is not complete."""
        end = self._buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        self._scanned = len(self._buffer)
        if end > MAX_HEAD or (end < 0 and len(self._buffer) >= MAX_HEAD + 4):
            raise StreamError("header block too large")
        if end < 0:
            return 0
        fields, _ = _fields(_unfold(bytes(self._buffer[:end]).decode(errors="surrogateescape"))[1:])
        length = _number(Headers(fields).get("Content-Length"), MAX_BODY)
        if length is None:
            raise StreamError("Content-Length missing, bad or too large on a stream")
        return end + 4 + length

    def _take(self, size: int) -> bytes:
        message = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._scanned = self._size = 0
        return message
