"""Bytes <-> SIP messages (RFC 3261, sections 7 and 18.3), for bytes that anybody may have sent.

Here every message is measured, unfolded and checked; the layers above take for granted what `parse` let through. It
raises WireError and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sipmessage.message import COMPACT_FORMS

from signaling.sip.grammar import CONTROL, TOKEN, is_via, parse_uri, split
from signaling.sip.message import PHRASES, REQUIRED, Headers, Request, Response

MIN_DATAGRAM = 20
MAX_HEAD = 16 * 1024
MAX_LINES = 128
MAX_LINE = 4 * 1024
MAX_BODY = 32 * 1024
MAX_VALUES = {"via": 40, "route": 20, "record-route": 20}  # the torture test has 34 Via values
MAX_CONTACTS = 10
"""Of a request; a registrar tells of all that have registered with it."""

MAX_CSEQ = 2**31

PING, PONG = b"\r\n\r\n", b"\r\n"
"""Keep-alives on a stream (RFC 5626, section 4.4.1)."""

_SINGLE = (*REQUIRED[1:], "max-forwards", "content-length", "content-type", "expires", "min-se", "session-expires")
_VERSION = re.compile(r"SIP/[0-9]+\.[0-9]+")


class WireError(Exception):
    """Not a message we can serve. `response` is the answer it gets; None: it is dropped in silence."""

    def __init__(self, why: str, response: Response | None = None) -> None:
        super().__init__(why)
        self.response = response


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
        if not colon or not TOKEN.fullmatch(name) or CONTROL.search(value):
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
    for name in REQUIRED:
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
    if CONTROL.search(start):
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
    if not TOKEN.fullmatch(first):
        raise _Refused(400, "bad method")
    return Request(headers, body, first, uri)


def _check(message: Request | Response) -> None:
    """Whatever the layers above take for granted."""
    headers = message.headers
    if isinstance(message, Request) and len(headers.values("Contact")) > MAX_CONTACTS:
        raise _Refused(400, f"more than {MAX_CONTACTS} contact values")
    try:
        if not split(headers.get("Via")):
            raise ValueError("the first Via is empty")
        _ = message.via
        for address in (message.from_, message.to):
            if "tag" in address.parameters and not address.parameters["tag"]:
                raise ValueError("a tag is empty")  # ours would be a second one beside it
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
    if not TOKEN.fullmatch(method) or (isinstance(message, Request) and method != message.method):
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
    copied = [(name, value) for name, value in fields if name.lower() in REQUIRED and len(value) <= MAX_LINE]
    if not is_via(Headers(tuple(copied)).get("Via")):
        return WireError(why)  # it does not say where an answer should go
    # RFC 3261, section 8.2.6.2: a response has a tag; without state it must be the same each time
    copied = [
        (name, f"{value};tag=refused" if name.lower() == "to" and ";tag" not in value else value)
        for name, value in copied
    ]
    phrase = f"{PHRASES[refused.code]} ({why})" if refused.code == 400 and why.isprintable() else PHRASES[refused.code]
    return WireError(why, Response(Headers(tuple(copied)), b"", refused.code, phrase))


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

    def take_pong(self) -> bool:
        """Whether the answer to a ping of ours is all there is; it is taken. Two in a row would look like a ping."""
        if self._buffer != PONG:
            return False
        self._take(len(PONG))
        return True

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
