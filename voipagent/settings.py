"""The environment, read once, as typed settings.

Every setting is `VOIPAGENT_<SECTION>__<NAME>`; `environment` says how names and values are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from signaling.sip.trunk import Srtp, Trunk
from voipagent.calls import CallsSettings
from voipagent.environment import FILE, Setting, SettingsError, effective, fault_line, nest, schema, text_of
from voipagent.http import HttpSettings
from voipagent.kinds import Network, Port, PortRange, Section, version_of
from voipagent.meetingsettings import MeetingSettings, check_meetings
from voipagent.memory import ContextSettings, SummarySettings
from voipagent.persona import NamedPersona, Persona, Personas, name_each, those_there
from voipagent.roomsettings import RoomSettings, check_rooms
from voipagent.telemetry import MetricsSettings
from voipagent.trunks import Codec, OutboundSettings, TrunkSettings, check_names
from voipagent.watchdog import WatchdogSettings
from voipagent.webrtc import WebRtcSettings

# --- sections ------------------------------------------------------------------------------------------------------


class UserSettings(Section):
    """A phone of our own; its name is that of the section, in lower case."""

    password: SecretStr = Field(
        description="lets a phone register as NAME (in lower case), and call from the networks in SIP__CHALLENGE"
    )

    @field_validator("password")
    @classmethod
    def _not_empty(cls, password: SecretStr) -> SecretStr:
        if not password.get_secret_value():
            raise ValueError("the password is empty")
        return password


Digest: TypeAlias = Literal["sha-256", "md5"]


class SipSettings(Section):
    """Where phones reach us."""

    host: str = Field(default="0.0.0.0", description="address to listen on for SIP over UDP and TCP")
    port: Port = Field(default=5060, description="port for SIP over UDP and TCP")
    v6_only: bool = Field(default=False, description="no IPv4 where HOST is :: (all addresses of both kinds)")
    advertised: tuple[str, ...] = Field(
        default=(),
        description="address that Contact and SDP carry, if we are behind NAT: one for IPv4, one for IPv6, or a name",
    )
    tls_port: Port = Field(default=5061, description="port for SIP over TLS, if there is a certificate")
    tls_cert: Path | None = Field(
        default=None, description="PEM file with our certificate and those it is signed by; read anew on SIGHUP"
    )
    tls_key: Path | None = Field(default=None, description="PEM file with its key, unless that is in TLS_CERT")
    tls_ca: Path | None = Field(
        default=None, description="PEM file of authorities that sign peers' certificates; empty: the system's"
    )
    tls_verify: Literal["off", "demand"] = Field(
        default="off", description="demand: who connects must have a certificate by TLS_CA; whom we call always must"
    )
    allow: tuple[Network, ...] = Field(
        default=(ip_network("127.0.0.0/8"), ip_network("::1/128")),
        description="networks that may call; all others hear silence",
    )
    users: dict[str, UserSettings] = {}
    challenge: tuple[Network, ...] = Field(
        default=(), description="networks beside those that may call where a user and a password are asked for"
    )
    digests: tuple[Digest, ...] = Field(
        default=("md5",),
        min_length=1,
        description="how passwords are asked for, best first, of sha-256, md5; some phones give up at what is not md5",
    )
    srtp: Srtp = Field(
        default="accept",
        description="encrypted audio (SRTP, by SDES or DTLS): off, accept where it is offered, demand, "
        "or dtls: as demand, and our own offers are by DTLS instead of SDES",
    )
    codecs: tuple[Codec, ...] = Field(
        default=(),
        description="what we speak, best first, of opus, g722, pcmu, pcma; empty: all, and in a caller's order",
    )

    @field_validator("advertised")
    @classmethod
    def _reachable(cls, advertised: tuple[str, ...]) -> tuple[str, ...]:
        versions = [version_of(text) for text in advertised]
        if len(set(versions)) < len(versions):
            raise ValueError(f"{', '.join(advertised)}: there can be one IPv4 address, one IPv6 address and one name")
        return advertised

    @field_validator("tls_key")
    @classmethod
    def _of_a_certificate(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if key is not None and info.data.get("tls_cert", key) is None:
            raise ValueError("there is a key, but no certificate; VOIPAGENT_SIP__TLS_CERT names one")
        return key

    @field_validator("tls_verify")
    @classmethod
    def _verifiable(cls, verify: str, info: ValidationInfo) -> str:
        if verify == "demand" and info.data.get("tls_ca", verify) is None:
            raise ValueError("demand takes VOIPAGENT_SIP__TLS_CA, or every certificate on earth would do")
        return verify

    @field_validator("users")
    @classmethod
    def _sayable(cls, users: dict[str, UserSettings]) -> dict[str, UserSettings]:
        if wrong := [name for name in users if not re.fullmatch(r"[a-z0-9._+-]+", name)]:
            raise ValueError(f"{wrong[0]!r} is no user name: letters, digits and . _ + - are")
        return users

    @field_validator("challenge")
    @classmethod
    def _answerable(cls, challenge: tuple[Network, ...], info: ValidationInfo) -> tuple[Network, ...]:
        if challenge and not info.data.get("users", True):
            raise ValueError("nobody could answer; name a user by VOIPAGENT_SIP__USERS__<NAME>__PASSWORD")
        return challenge


class RtpSettings(Section):
    """Where audio flows."""

    ports: Annotated[PortRange, BeforeValidator(PortRange.parse)] = Field(
        default=PortRange(first=16384, last=17383), description="UDP ports for RTP and RTCP, two to a call"
    )


class EngineSettings(Section):
    """The model."""

    model: str = Field(
        default="pocket",
        description="pocket, nano, echo, a folder, or a Hub repository owner/name[@revision]",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="where the model runs; auto: cuda if there is one"
    )
    weights: Literal["auto", "bf16", "fp8", "int8", "int4"] = Field(
        default="auto",
        description="how the language model's weights lie in memory; auto: as stored, but int8 on a card under 1 TB/s",
    )
    kv: Literal["full", "int8"] = Field(
        default="full",
        description="how keys and values lie in memory, 1.57 GB a call of Moshi 7B when full; int8: half of that",
    )
    rows: int | None = Field(default=None, ge=1, le=1024, description="concurrent calls; empty: by device")
    seed: int | None = Field(
        default=None, ge=0, lt=2**31, description="sampling seed of every call; empty: a new one for each"
    )
    prompt_style: Literal["auto", "system", "text", "none"] = Field(
        default="auto", description="how a prompt is laid out where the checkpoint does not say"
    )
    ear: str = Field(
        default="auto",
        description="what writes down the caller's words: auto, the ear beside the weights; off; or a folder or Hub "
        "repository of streaming speech-to-text weights, such as kyutai/stt-1b-en_fr-candle",
    )
    longest_wait: float | None = Field(
        default=None,
        ge=0,
        description="milliseconds a frame may take to its reply; a call that would make it longer is busy; "
        "empty: 64 on a card, any time on a CPU; 0: any",
    )
    graphs: Literal["auto", "on", "off"] = Field(
        default="auto", description="steps of fixed widths, captured as CUDA graphs; auto: on a card"
    )
    prompt_memory: int = Field(
        default=256, ge=0, description="MiB that hold what the model remembers of prompts, for the next call; 0: none"
    )
    deterministic: bool = Field(
        default=False, description="the same call gives the same tokens whatever else is on; slower"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.deterministic and self.graphs == "on":
            raise ValueError("graphs and deterministic: steps of a deterministic engine are no graphs; choose one")
        return self


class LogSettings(Section):
    """What is told on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug shows SIP messages, keys masked"
    )


class Settings(Section):
    """All of them. `load` reads an environment; tests pass sections by hand."""

    sip: SipSettings = SipSettings()
    trunks: Annotated[dict[str, TrunkSettings], AfterValidator(check_names)] = {}
    outbound: OutboundSettings = OutboundSettings()
    rtp: RtpSettings = RtpSettings()
    http: HttpSettings = HttpSettings()
    metrics: MetricsSettings = MetricsSettings()
    engine: EngineSettings = EngineSettings()
    persona: Persona = Persona()
    personas: Annotated[dict[str, NamedPersona], AfterValidator(name_each)] = {}
    webrtc: WebRtcSettings = WebRtcSettings()
    rooms: dict[str, RoomSettings] = {}
    meetings: dict[str, MeetingSettings] = {}
    context: ContextSettings = ContextSettings()
    summary: SummarySettings = SummarySettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    calls: CallsSettings = CallsSettings()
    log: LogSettings = LogSettings()

    @field_validator("personas")
    @classmethod
    def _on_trunks(cls, personas: dict[str, NamedPersona], info: ValidationInfo) -> dict[str, NamedPersona]:
        trunks = info.data.get("trunks")
        for name, persona in personas.items():
            if trunks is not None and (wrong := [trunk for trunk in persona.trunks if trunk not in trunks]):
                there = f"there is {', '.join(trunks)}" if trunks else "there is none"
                raise ValueError(f"persona {name!r}: there is no trunk {wrong[0]!r}; {there}")
        return personas

    @field_validator("webrtc")
    @classmethod
    def _askable(cls, webrtc: WebRtcSettings, info: ValidationInfo) -> WebRtcSettings:
        if (personas := info.data.get("personas")) is not None:
            if wrong := [name for name in webrtc.personas if name not in ("*", *personas)]:
                raise ValueError(f"personas: there is no persona {wrong[0]!r}; {those_there(personas)}")
        return webrtc

    @field_validator("summary")
    @classmethod
    def _asked_for(cls, summary: SummarySettings, info: ValidationInfo) -> SummarySettings:
        context = info.data.get("context")
        if summary.url and context is not None and context.policy != "reprime":
            raise ValueError(f"with VOIPAGENT_CONTEXT__POLICY={context.policy} nobody is asked for one; leave out url")
        return summary

    @field_validator("rooms")
    @classmethod
    def _reachable_rooms(cls, rooms: dict[str, RoomSettings], info: ValidationInfo) -> dict[str, RoomSettings]:
        if (personas := info.data.get("personas")) is not None:
            check_rooms(rooms, personas)
        return rooms

    @field_validator("meetings")
    @classmethod
    def _attended(cls, meetings: dict[str, MeetingSettings], info: ValidationInfo) -> dict[str, MeetingSettings]:
        if (personas := info.data.get("personas")) is not None:
            check_meetings(meetings, personas)
        return meetings

    @property
    def signaling_trunks(self) -> tuple[Trunk, ...]:
        """What signaling knows of the trunks."""
        return tuple(trunk.trunk(name, self.sip.srtp) for name, trunk in self.trunks.items())

    @property
    def who_answers(self) -> Personas:
        """Which call gets which persona."""
        return Personas(self.persona, self.personas)

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Settings from an environment. Raises SettingsError."""
        values = nest(environ, cls)
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError("\n".join(fault_line(fault) for fault in error.errors())) from None


# --- telling them -----------------------------------------------------------------------------------------------------


def _unset(setting: Setting) -> str:
    """What a setting in a map is where it is not set."""
    return "" if setting.field.is_required() else text_of(setting.field.default)


def example() -> str:
    """`deploy/env.example`: every setting with its meaning and default, commented out."""
    lines = ["# Every setting of voipagent with its default. Uncomment what you change.", ""]
    values = dict(effective(Settings()))
    section = ""
    for setting in schema(Settings):
        if setting.path[0] != section:
            section = setting.path[0]
            lines += [f"# --- {section}", ""]
        either = f" (or {setting.name}{FILE})" if setting.is_text else ""
        value = values.get(setting.name, _unset(setting))
        lines += [f"# {setting.field.description}{either}", f"#{setting.name}={value}", ""]
    return "\n".join(lines)
