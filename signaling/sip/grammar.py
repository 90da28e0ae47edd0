"""What stands in header fields: lists, parameters, URIs, addresses and Via (RFC 3261, section 25).

The grammar of URIs is `sipmessage`'s, and this is the only file that calls it. Every pattern here takes time linear in
its input. Whatever cannot be read raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from sipmessage import URI, Address, Parameters, Via

TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")
CONTROL = re.compile(r"[\r\n]|(?<!\\)[\x00-\x08\x0b-\x1f\x7f]")
"""What may stand in no line; behind a backslash it may be a quoted-pair."""

_HOST = r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+"
_VIA = re.compile(rf"SIP ?/ ?([0-9]+\.[0-9]+) ?/ ?({TOKEN.pattern}) ({_HOST}) ?(?:: ?([0-9]{{1,5}}))? ?")
_PLACE = re.compile(rf"({_HOST})(?::([0-9]{{1,5}}))?")
_OPAQUE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):([^\s<>\"]+)")


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


def readable(addresses: Iterable[str]) -> bool:
    """Whether each is an address that we could send a request to."""
    try:
        return all(parse_address(address) for address in addresses)
    except ValueError:
        return False


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
        if not TOKEN.fullmatch(name) or name.lower() in found or name == "self":  # which `Parameters` cannot hold
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


def part_fields(uri: str) -> tuple[str, str]:
    """A URI without its header fields, and these; a ? may stand in its user part, too (RFC 3261, section 19.1.1)."""
    user, at, rest = uri.partition("@")
    if not at:
        user, rest = "", uri
    bare, _, fields = rest.partition("?")
    return f"{user}{at}{bare}", fields


def is_via(value: str) -> bool:
    """Whether it begins like a Via, whatever its parameters are."""
    return bool(_VIA.match(re.sub(" +", " ", value)))


def host_port(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def seconds_of(text: str) -> int | None:
    """A number of seconds at the beginning of a field; None where there is none."""
    match = re.match("[0-9]{1,9}(?![0-9])", text)
    return int(match[0]) if match else None


def clean(text: str, limit: int = 200) -> str:
    """Text of a peer, fit to be shown: printable, and not longer than `limit`."""
    return "".join(char for char in text[: 2 * limit] if char.isprintable())[:limit]
