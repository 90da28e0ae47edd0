"""Settings of trunks, and of the calls that we make: of which `signaling.sip.trunk` and `outbound` are built."""

from __future__ import annotations

import re
from typing import Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from signaling.sip.outbound import Limits
from signaling.sip.trunk import Srtp, Transport, Trunk, check_pattern
from voipagent.kinds import Network, Port, Section

Codec: TypeAlias = Literal["opus", "g722", "pcmu", "pcma"]


class TrunkSettings(Section):
    """A provider, a PBX or a proxy; its name is that of the section, in lower case."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    host: str = Field(
        description="domain or address of a provider, PBX or proxy; with USER and PASSWORD that is enough"
    )
    port: Port = Field(default=0, description="its port; 0: what DNS says, else 5060, or 5061 for tls")
    transport: Transport = Field(
        default="auto", description="how it is reached: udp, tcp or tls; auto: as DNS says, else udp"
    )
    proxy: str = Field(default="", description="host or host:port that requests are sent to instead of HOST")
    user: str = Field(default="", description="our number or name there")
    password: SecretStr = Field(default=SecretStr(""), description="what goes with it; empty: it knows our address")
    auth_user: str = Field(default="", description="name to log in by, where that is another than USER")
    registers: bool | None = Field(
        default=None,
        alias="register",  # a field of that name would hide a method of pydantic's
        description="keep registered there; empty: if there is a password",
    )
    expires: int = Field(default=600, ge=60, le=86_400, description="seconds that a registration is asked for")
    probe: float = Field(default=0, ge=0, description="seconds between OPTIONS that ask if it lives; 0: none are sent")
    peers: tuple[Network, ...] = Field(
        default=(), description="networks that its calls come from, beside the addresses of HOST and PROXY"
    )
    numbers: tuple[str, ...] = Field(
        default=(),
        description="numbers of ours that it may call, as it writes them, such as +4930123*, !+4930123999; empty: any",
    )
    codecs: tuple[Codec, ...] = Field(default=(), description="codecs that it may use, best first; empty: all of ours")
    srtp: Srtp | None = Field(
        default=None, description="encrypted audio: off, accept, demand or dtls; empty: as SIP__SRTP"
    )
    max_calls: int | None = Field(default=None, ge=1, description="calls at once, in and out together; empty: any")
    cps: float | None = Field(default=None, gt=0, description="new calls a second, in and out each; empty: any")
    refer_in: bool = Field(default=False, description="whether it may tell us to call somebody else (REFER)")
    refer_out: bool = Field(default=True, description="whether calls are transferred by asking it to (REFER)")
    outbound: tuple[str, ...] = Field(
        default=(), description="numbers that may be called through it, such as +49*, !+49900*; empty: none"
    )
    caller_id: str = Field(default="", description="number that our calls show; empty: USER")
    ring: float | None = Field(
        default=None, ge=1, le=600, description="seconds that our calls may ring there; empty: as OUTBOUND__RING"
    )

    @model_validator(mode="after")
    def _could_work(self) -> Self:
        self.trunk("")
        return self

    def trunk(self, name: str, srtp: Srtp = "accept") -> Trunk:
        """What signaling knows of it; `srtp` where it says nothing of its own. Raises ValueError."""
        return Trunk(
            name=name,
            host=self.host,
            port=self.port,
            transport=self.transport,
            user=self.user,
            password=self.password.get_secret_value(),
            auth_user=self.auth_user,
            register=bool(self.password.get_secret_value()) if self.registers is None else self.registers,
            expires=self.expires,
            proxy=self.proxy,
            probe_s=self.probe,
            srtp=self.srtp or srtp,
            codecs=self.codecs,
            peers=self.peers,
            numbers=self.numbers,
            max_calls=self.max_calls,
            cps=self.cps,
            refer_in=self.refer_in,
            refer_out=self.refer_out,
            outbound=self.outbound,
            caller_id=self.caller_id,
            ring_s=self.ring,
        )


class OutboundSettings(Section):
    """Caps on the calls that we make."""

    direct: tuple[str, ...] = Field(
        default=(), description="what may be called through no trunk, as user@host, such as *@example.com; empty: none"
    )
    calls_a_day: int = Field(
        default=500, ge=0, description="calls that we make in a day (UTC) at most, counted since the start"
    )
    minutes_a_day: float = Field(
        default=6000, ge=0, description="minutes of them in a day at most; a call reserves MAX_CALL until it is over"
    )
    ring: float = Field(default=60, ge=1, le=600, description="seconds that a call of ours may ring unanswered")
    max_call: float = Field(default=3600, ge=1, description="seconds after which a call that we made is hung up")

    @field_validator("direct")
    @classmethod
    def _patterns(cls, direct: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in direct:
            check_pattern(pattern)
        return direct

    @property
    def limits(self) -> Limits:
        """What signaling knows of it."""
        return Limits(self.direct, self.calls_a_day, self.minutes_a_day, self.max_call)


def check_names(trunks: dict[str, TrunkSettings]) -> dict[str, TrunkSettings]:
    """Raises ValueError for a trunk that could not be told of in logs and commands."""
    if wrong := [name for name in trunks if not re.fullmatch(r"[a-z0-9_-]+", name)]:
        raise ValueError(f"{wrong[0]!r} is no name of a trunk: letters, digits, _ and - are")
    return trunks
