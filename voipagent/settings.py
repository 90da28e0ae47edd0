"""The environment, read once, as typed settings.

Every setting is `VOIPAGENT_<SECTION>__<NAME>`. Lists are comma-separated or JSON; a text may be given as a file,
`…_FILE`; names in maps (`VOIPAGENT_<MAP>__<NAME>__…`) are lower-cased. A `VOIPAGENT_` name that is none is an error
that names the nearest one: a misspelt limit that silently does nothing is found out on the day it is needed.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from signaling.sip.trunk import Trunk
from voipagent.kinds import Network, Port, PortRange, Section, version_of
from voipagent.memory import ContextSettings, SummarySettings
from voipagent.persona import NamedPersona, Persona, Personas, name_each
from voipagent.trunks import Codec, OutboundSettings, TrunkSettings, check_names
from voipagent.watchdog import WatchdogSettings

PREFIX = "VOIPAGENT_"
NEST = "__"
FILE = "_FILE"


class SettingsError(Exception):
    """The environment cannot be used. One line for each fault: which name, what is wrong, what would be right."""


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
    srtp: Literal["off", "accept", "demand"] = Field(
        default="accept",
        description="encrypted audio (SRTP, by SDES or DTLS): off, accept where it is offered, or demand",
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


class HttpSettings(Section):
    """Health, and later the page and the API."""

    host: str = Field(default="127.0.0.1", description="address to listen on for HTTP")
    port: Port = Field(default=8998, description="port for HTTP: /healthz and /readyz")
    token: SecretStr = Field(
        default=SecretStr(""), description="bearer token for making calls by POST /api/v1/calls; empty: nobody can"
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
    ear: Literal["auto", "off"] = Field(
        default="auto", description="the caller's words in the transcript; auto: if the checkpoint has an ear"
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


class CallsSettings(Section):
    """What is kept of a call."""

    dir: Path = Field(default=Path("calls"), description="one folder a call is made here")
    record: Literal["both", "agent", "none"] = Field(default="both", description="whose voice is recorded")
    format: Literal["wav", "ogg"] = Field(default="wav", description="ogg is Opus, a tenth of the size")
    max_hold: float = Field(default=600, gt=0, description="seconds a caller may hold before we hang up")


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
    engine: EngineSettings = EngineSettings()
    persona: Persona = Persona()
    personas: Annotated[dict[str, NamedPersona], AfterValidator(name_each)] = {}
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
            raise SettingsError("\n".join(_fault(fault) for fault in error.errors())) from None


# --- names <-> fields ----------------------------------------------------------------------------------------------


def variable(path: Iterable[str]) -> str:
    """The environment variable of a setting, where "*" stands for any name in a map."""
    return PREFIX + NEST.join("<NAME>" if part == "*" else part.upper() for part in path)


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of the schema: its path, where "*" stands for a name in a map, and its field."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def name(self) -> str:
        """The environment variable."""
        return variable(self.path)

    @property
    def is_text(self) -> bool:
        """Whether it may be given as a file."""
        return bool({str, SecretStr} & {self.field.annotation, *get_args(self.field.annotation)})

    @property
    def is_list(self) -> bool:
        """Whether commas part it."""
        return get_origin(self.field.annotation) in (tuple, list, frozenset, set)

    def matches(self, path: tuple[str, ...]) -> bool:
        """Whether `path` names this setting."""
        return len(path) == len(self.path) and all(w in ("*", p) for w, p in zip(self.path, path, strict=True))


def schema(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every setting under `model`, depth first, in the order of declaration."""
    for name, field in model.model_fields.items():
        section, path = _section(field.annotation), (*prefix, field.alias or name)
        if section is None:
            yield Setting(path, field)
        else:
            yield from schema(section, (*path, "*") if get_origin(field.annotation) is dict else path)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model that a field nests: itself, or the values of a map."""
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    if get_origin(annotation) in (Union, types.UnionType) or not isinstance(annotation, type):
        return None
    return annotation if issubclass(annotation, BaseModel) and annotation is not PortRange else None


def nest(environ: Mapping[str, str], model: type[BaseModel]) -> dict[str, Any]:
    """The VOIPAGENT_ part of an environment as nested values for `model`. Raises SettingsError; empty means unset."""
    settings, faults = list(schema(model)), []
    values: dict[str, Any] = {}
    for name in sorted(n for n in environ if n.startswith(PREFIX) and environ[n] != ""):
        try:
            path, value = _read(name, environ, settings)
        except SettingsError as error:
            faults.append(str(error))
            continue
        target = values
        for part in path[:-1]:
            target = target.setdefault(part, {})
        target[path[-1]] = value
    if faults:
        raise SettingsError("\n".join(faults))
    return values


def _read(name: str, environ: Mapping[str, str], settings: list[Setting]) -> tuple[tuple[str, ...], object]:
    """One variable as (path, value)."""
    path, text = _path(name), environ[name]
    setting = _find(path, settings)
    if setting is None and name.endswith(FILE):
        path = _path(name.removesuffix(FILE))
        setting = _find(path, settings)
        if setting is not None and not setting.is_text:
            raise SettingsError(f"{name}: only texts can be read from a file; set {name.removesuffix(FILE)} itself")
        if setting is not None and environ.get(name.removesuffix(FILE)):
            raise SettingsError(f"{name}: {name.removesuffix(FILE)} is set as well; keep one of the two")
        text = _file(name, text) if setting is not None else text
    if setting is None:
        raise SettingsError(f"{name} is not a setting{_nearest(name, settings)}")
    return path, _list(name, text) if setting.is_list else text


def _path(name: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(PREFIX).lower().split(NEST))


def _find(path: tuple[str, ...], settings: list[Setting]) -> Setting | None:
    return next((setting for setting in settings if setting.matches(path)), None)


def _nearest(name: str, settings: list[Setting]) -> str:
    near = difflib.get_close_matches(name, [setting.name for setting in settings], n=1, cutoff=0.0)
    return f"; did you mean {near[0]}?" if near else ""


def _file(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: cannot read {path!r}: {error}") from None


def _list(name: str, text: str) -> list[Any]:
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{name}: neither a comma-separated list nor JSON: {error}") from None
    return list(value)


def _fault(fault: Any) -> str:
    """A validation error in one line, by the name of the variable."""
    parts = [part for part in fault["loc"] if isinstance(part, str)]
    return f"{variable(parts)}: {fault['msg'].removeprefix('Value error, ')}"


# --- telling them --------------------------------------------------------------------------------------------------


def effective(settings: BaseModel) -> Iterator[tuple[str, str]]:
    """Every setting as (variable, value), secrets masked."""
    return _told(settings.model_dump(mode="python", by_alias=True), ())


def _told(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _told(inner, (*path, key))
    else:
        yield variable(path), _text(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return ",".join(_text(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unset(setting: Setting) -> str:
    """What a setting in a map is where it is not set."""
    return "" if setting.field.is_required() else _text(setting.field.default)


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
