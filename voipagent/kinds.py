"""Kinds of value that settings have, beside those that Python has, and what a group of settings is."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_serializer


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(str(value).strip(), strict=False)
    except ValueError:
        raise ValueError(
            f"{str(value)!r} is neither an address nor a network, such as 192.0.2.7 or 10.0.0.0/8"
        ) from None


def _sendable(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("it is sent in a header: printable ASCII characters, in one line")
    return secret


Bearer: TypeAlias = Annotated[SecretStr, AfterValidator(_sendable)]
"""What opens a door to who shows it in a header; "" is none."""

Network: TypeAlias = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]


def version_of(text: str) -> int:
    """4 or 6 for an address, 0 for a name. Raises ValueError for what is neither."""
    try:
        return ip_address(text).version
    except ValueError:
        if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", text) and not re.search(r"(^|\.)[0-9]+$", text):
            return 0
        raise ValueError(f"{text!r} is neither an address nor a name, such as 192.0.2.7 or pbx.example.com") from None


class PortRange(BaseModel):
    """UDP ports from `first` to `last`, both included, written `16384-17383`."""

    model_config = ConfigDict(frozen=True)

    first: int
    last: int

    @classmethod
    def parse(cls, value: object) -> PortRange:
        """Read `first-last`. Raises ValueError where that is not a range that holds one RTP and RTCP pair."""
        if isinstance(value, PortRange):
            return value
        first, dash, last = str(value).partition("-")
        if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
            raise ValueError(f"{str(value)!r} is not a port range, such as 16384-17383")
        ports = cls(first=int(first), last=int(last))
        if not 1 <= ports.first < ports.last <= 65535:
            raise ValueError(f"{str(value)!r} must rise, hold at least two ports and lie within 1-65535")
        return ports

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    @model_serializer
    def _as_text(self) -> str:
        return str(self)


class Section(BaseModel):
    """A group of settings; frozen, because the environment is read once."""

    model_config = ConfigDict(frozen=True, extra="forbid")
