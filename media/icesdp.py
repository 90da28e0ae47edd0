"""What a session description says of ICE and of a browser's ways (RFC 8829, 8839, 8840, 8843). Pure.

Addresses in the m= and c= lines mean nothing here: candidates do. Everything is bundled on one way, and there is one
audio stream on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from media.keying import DTLS_PROFILES
from media.leg import LegError
from media.sdp import Description, Media, SdpError, parse, shown

MAX_CANDIDATES = 64
"""Of the far end's that are looked at: each one makes us send to an address that anybody may have named."""

_ORIGIN = re.compile(r"^o=\S+ (\S{1,64}) ", re.MULTILINE)
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")


@dataclass(frozen=True, slots=True)
class Remote:
    """The far end's side of ICE. `session` is the id in its o= line: the same for as long as it is the same peer.

    `candidates` are the values of its a=candidate lines.
    """

    session: str
    ufrag: str
    password: str = field(repr=False)
    candidates: tuple[str, ...] = ()
    lite: bool = False

    @classmethod
    def read(cls, text: str, line: Media) -> Remote:
        """From the description and the line in it that is used. Raises LegError for what ICE cannot do without."""
        ufrag, password = line.attribute("ice-ufrag") or "", line.attribute("ice-pwd") or ""
        if not (_UFRAG.fullmatch(ufrag) and _PASSWORD.fullmatch(password)):
            raise LegError("the audio stream has no a=ice-ufrag of 4 and a=ice-pwd of 22 characters or more")
        if line.attribute("rtcp-mux") is None:
            raise LegError("the audio stream is without a=rtcp-mux, and this agent has one way for both")
        origin = _ORIGIN.search(text)
        candidates = tuple(value for name, value in line.attributes if name == "candidate")
        lite = line.attribute("ice-lite") is not None
        return cls(origin[1] if origin else "", ufrag, password, candidates[:MAX_CANDIDATES], lite)


@dataclass(frozen=True, slots=True)
class Fragment:
    """More of the far end's candidates (RFC 8840), and whose they are; nothing else in it is for us."""

    ufrag: str
    password: str = field(repr=False)
    candidates: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Fragment:
        """Read an application/trickle-ice-sdpfrag. Raises LegError."""
        pairs: list[tuple[str, str]] = []
        for number, line in enumerate(text.replace("\r\n", "\n").rstrip("\n").split("\n"), 1):
            if number > 4 * MAX_CANDIDATES or len(line) < 2 or line[1] != "=":
                raise SdpError(f"line {number} of the fragment is {shown(line)}, not of the form a=candidate:…")
            if line.startswith("a="):
                name, _, value = line[2:].partition(":")
                pairs.append((name.strip(), value.strip()))
        values = dict(reversed(pairs))
        if "ice-ufrag" not in values or "ice-pwd" not in values:
            raise SdpError("the fragment has no a=ice-ufrag and a=ice-pwd (RFC 8840, section 9)")
        candidates = tuple(value for name, value in pairs if name == "candidate")
        return cls(values["ice-ufrag"], values["ice-pwd"], candidates[:MAX_CANDIDATES])


@dataclass(frozen=True, slots=True)
class Local:
    """Our side of ICE, and the source of what we send: what our description has more than others. `cname` is what
    RTCP calls us, too (RFC 5576, section 6.1).
    """

    ufrag: str
    password: str = field(repr=False)
    candidates: tuple[str, ...]
    ssrc: int
    cname: str

    def session_lines(self, offer: Description | None, number: int) -> list[str]:
        """Our description's head: what is bundled, in the offer's own way if there is one."""
        mid = "0" if offer is None else offer.media[number].attribute("mid")
        grouped = offer is None or any(
            name == "group" and mid in value.split()[1:] and value.startswith("BUNDLE")
            for name, value in offer.media[number].attributes
        )
        group = [f"a=group:BUNDLE {mid}"] if grouped and mid is not None else []
        return [*group, "a=ice-options:trickle", "a=msid-semantic:WMS *"]

    def audio_lines(self, mid: str | None, sends: bool) -> list[str]:
        """What follows the audio's own lines."""
        return [
            *([f"a=mid:{mid}"] if mid is not None else []),
            *([f"a=msid:agent {self.ssrc:08x}", f"a=ssrc:{self.ssrc} cname:{self.cname}"] if sends else []),
            f"a=ice-ufrag:{self.ufrag}",
            f"a=ice-pwd:{self.password}",
            *(f"a=candidate:{candidate}" for candidate in self.candidates),
            "a=end-of-candidates",
        ]


def refused_lines(line: Media) -> list[str]:
    """What follows a line that is refused: its name, for who tells them apart by that (RFC 8829, section 5.3.1)."""
    mid = line.attribute("mid")
    return [f"a=mid:{mid}", "a=inactive"] if mid is not None else []


def wants_ice(text: str | None) -> bool:
    """Whether that is the description of somebody whose audio is encrypted by DTLS, on a way that ICE has to find."""
    try:
        media = bundled(parse(text or "")).media
    except LegError:
        return False
    audio = [line for line in media if line.kind == "audio" and line.profile in DTLS_PROFILES]
    return any(line.attribute("ice-ufrag") for line in audio)


PORT = 9
"""What stands for a port that is not known (RFC 8839, section 4.3.1)."""


WAY = frozenset(
    {"candidate", "end-of-candidates", "fingerprint", "ice-pwd", "ice-ufrag", "rtcp-mux", "rtcp-mux-only", "setup"}
)
"""What a description says of a way (RFC 8859, categories TRANSPORT and IDENTICAL)."""


def bundled(description: Description) -> Description:
    """The same with a way for lines that have none but their bundle's: they stand with port 0, which refuses nothing
    there, and what is missing is said in the bundle's first line (RFC 8843, sections 6 and 7.1.3).
    """
    named = {line.attribute("mid"): line for line in description.media}
    return replace(description, media=tuple(_on_the_way(line, named) for line in description.media))


def _on_the_way(line: Media, named: Mapping[str | None, Media]) -> Media:
    if line.port or line.attribute("bundle-only") is None:
        return line
    groups = [value.split()[1:] for name, value in line.attributes if name == "group" and value.startswith("BUNDLE")]
    first = next((named.get(group[0]) for group in groups if line.attribute("mid") in group), None)
    if first is None or not first.port:
        return line
    lent = () if line.attribute("ice-ufrag") else (pair for pair in first.attributes if pair[0] in WAY)
    return replace(line, port=PORT, attributes=(*line.attributes, *lent))


def at(description: Description, host: str) -> Description:
    """The same as if it came from `host`, where its signalling does: its addresses are mere placeholders."""
    media = (replace(line, host=host, port=PORT if line.port else 0) for line in bundled(description).media)
    return replace(description, media=tuple(media))
