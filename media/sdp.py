"""Session descriptions (RFC 8866), as far as one audio stream needs them. Pure.

`parse` reads a text into a `Description` or says which line is wrong. What two of them agree on is `negotiation`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from media.leg import LegError

MAX_LINES = 4000
MAX_MEDIA = 64
MAX_ATTRIBUTES = 256
"""More than anybody needs: a browser's camera has a hundred lines of attributes, and a conference server a section for
each who is there. Who gives a text to be read bounds its size.
"""

STATIC = {0: "PCMU/8000", 8: "PCMA/8000", 9: "G722/8000", 13: "CN/8000"}
"""RFC 3551, section 6: these need no rtpmap. G.722's clock is 8000 by an old mistake, its samples are 16 kHz."""

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")

_KEY = re.compile(r"(inline:).*", re.IGNORECASE | re.DOTALL)
_TOKEN = re.compile(r"[!-~]+")
_RTPMAP = re.compile(r"(\d{1,3}) +([A-Za-z0-9._-]{1,64})/(\d{1,7})(?:/(\d{1,3}))?")


class SdpError(LegError):
    """The text is no session description that we can read; the message says which line and what would be right."""


@dataclass(frozen=True, slots=True)
class Media:
    """One m= section. `host` is its own c= address or the session's; `attributes` holds the session's ones last.

    They are in no repr: a=crypto has a key in it.
    """

    kind: str
    port: int
    profile: str
    formats: tuple[str, ...]
    host: str
    attributes: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def attribute(self, name: str) -> str | None:
        """The value of the first attribute of that name: "" for a bare flag, None where there is none."""
        return next((value for key, value in self.attributes if key == name), None)

    def fmtp(self, kind: int) -> str:
        """The parameters of a payload type."""
        values = (value.partition(" ") for name, value in self.attributes if name == "fmtp")
        return next((rest.strip() for number, _, rest in values if number == str(kind)), "")

    @property
    def direction(self) -> str:
        """As its writer sees it."""
        return next((key for key, _ in self.attributes if key in DIRECTIONS), "sendrecv")

    def codecs(self) -> dict[int, str]:
        """Payload type -> codec, such as PCMU/8000 or OPUS/48000/2, in the order of the m= line."""
        named: dict[int, str] = {}
        for key, value in self.attributes:
            match = _RTPMAP.match(value) if key == "rtpmap" else None
            if match:
                channels = f"/{match[4]}" if match[4] not in (None, "1") else ""
                named.setdefault(int(match[1]), f"{match[2].upper()}/{match[3]}{channels}")
        types = [int(text) for text in self.formats if text.isascii() and text.isdecimal() and int(text) < 128]
        # Some equipment writes G.722's sample rate where its clock belongs; the number says what it is.
        named.update({number: STATIC[number] for number in types if number in STATIC and number not in named})
        if named.get(9) == "G722/16000":
            named[9] = STATIC[9]
        return {number: named[number] for number in types if number in named}


@dataclass(frozen=True, slots=True)
class Description:
    """A session description, as far as we read it. `times` is its t= line, which an answer repeats."""

    media: tuple[Media, ...]
    times: str = "0 0"


def parse(text: str) -> Description:
    """Read a description. Raises SdpError."""
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    if len(lines) > MAX_LINES:
        raise SdpError(f"a session description of {len(lines)} lines; at most {MAX_LINES} are read")
    session, *sections = _sections(lines)
    if session[:1] != [("v", "0")]:
        raise SdpError("a session description begins with v=0")
    if len(sections) > MAX_MEDIA:
        raise SdpError(f"{len(sections)} m= lines; at most {MAX_MEDIA} are read")
    host = _host(session) or ""
    attributes = _attributes(session)
    times = next((value for key, value in session if key == "t"), "")
    return Description(
        tuple(_media(section, host, attributes) for section in sections),
        times if re.fullmatch(r"\d{1,20} \d{1,20}", times, re.ASCII) else "0 0",
    )


def _sections(lines: list[str]) -> list[list[tuple[str, str]]]:
    """The session's lines, then each m= line with what follows it, as (letter, value)."""
    sections: list[list[tuple[str, str]]] = [[]]
    for number, line in enumerate(lines, 1):
        if len(line) < 2 or line[1] != "=" or not line[0].isalpha():
            raise SdpError(f"line {number} of the session description is {shown(line)}, not of the form x=value")
        if line[0] == "m":
            sections.append([])
        sections[-1].append((line[0], line[2:].strip()))
    return sections


def _media(section: list[tuple[str, str]], host: str, attributes: tuple[tuple[str, str], ...]) -> Media:
    line = section[0][1]
    words = line.split()
    if len(words) < 4 or not all(_TOKEN.fullmatch(word) for word in words):
        raise SdpError(f"m={shown(line)} is not media, port, profile and formats, such as audio 4000 RTP/AVP 0")
    port = words[1].partition("/")[0]
    if not (port.isdecimal() and len(port) <= 5 and int(port) <= 65_535):
        raise SdpError(f"m={shown(line)} has no port of 0-65535")
    own = _attributes(section)
    return Media(words[0], int(port), words[2], tuple(words[3:]), _host(section) or host, own + attributes)


def _host(section: list[tuple[str, str]]) -> str | None:
    """The address of the first c= line, written as Python writes it. Raises SdpError."""
    line = next((value for key, value in section if key == "c"), None)
    if line is None:
        return None
    words = line.split()
    try:
        if len(words) != 3 or words[0] != "IN":
            raise ValueError
        address = ip_address(words[2].partition("/")[0])
    except ValueError:
        raise SdpError(f"c={shown(line)} is not an IP address, such as IN IP4 192.0.2.7") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address)


def _attributes(section: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    pairs = [value.partition(":") for key, value in section if key == "a"]
    if len(pairs) > MAX_ATTRIBUTES:
        raise SdpError(f"{len(pairs)} a= lines in one section; at most {MAX_ATTRIBUTES} are read")
    return tuple((name.strip(), value.strip()) for name, _, value in pairs)


def shown(text: str) -> str:
    """A peer's text, fit for a message: cut, and with no key in it."""
    text = _KEY.sub(r"\1***", text)
    return repr(text if len(text) <= 60 else text[:60] + "…")
