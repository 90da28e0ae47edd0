"""trunks.py: three variables make a trunk, and one that could not work is refused in a sentence."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from signaling.sip.outbound import Denied, Limits, Outbound
from signaling.sip.trunk import Trunk
from voipagent.environment import SettingsError, effective, schema, variable
from voipagent.settings import Settings

ACME = {"HOST": "sip.acme.example", "USER": "1000", "PASSWORD": "wonderland"}


def load(values: dict[str, str], name: str = "ACME") -> Settings:
    return Settings.load({f"VOIPAGENT_TRUNKS__{name}__{key}": value for key, value in values.items()})


def fault(values: dict[str, str], name: str = "ACME") -> str:
    with pytest.raises(SettingsError) as error:
        load(values, name)
    return str(error.value)


def test_three_variables_are_enough() -> None:
    (trunk,) = load(ACME).signaling_trunks
    assert trunk == Trunk("acme", "sip.acme.example", user="1000", password="wonderland", register=True)


def test_one_is_enough_where_our_address_is_known() -> None:
    (trunk,) = load({"HOST": "192.0.2.7"}).signaling_trunks
    assert trunk == Trunk("acme", "192.0.2.7")


def test_everything_that_may_be_said_of_one(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("wonderland\n")
    said = {
        "HOST": "sip.acme.example",
        "PORT": "5061",
        "TRANSPORT": "tls",
        "PROXY": "edge.acme.example:5071",
        "USER": "+4930123",
        "PASSWORD_FILE": str(tmp_path / "secret"),
        "AUTH_USER": "device7",
        "REGISTER": "no",
        "EXPIRES": "3600",
        "PROBE": "30",
        "PEERS": "192.0.2.0/24, 198.51.100.7",
        "NUMBERS": "+4930123*",
        "CODECS": "pcma,pcmu",
        "SRTP": "demand",
        "MAX_CALLS": "10",
        "CPS": "2.5",
        "REFER_IN": "true",
        "REFER_OUT": "false",
        "OUTBOUND": "+49*, !+49900*",
        "CALLER_ID": "+49301230",
        "RING": "25",
    }
    (trunk,) = load(said).signaling_trunks
    assert trunk == Trunk(
        "acme",
        "sip.acme.example",
        5061,
        "tls",
        user="+4930123",
        password="wonderland",
        auth_user="device7",
        register=False,
        expires=3600,
        proxy="edge.acme.example:5071",
        probe_s=30,
        srtp="demand",
        codecs=("pcma", "pcmu"),
        peers=(ip_network("192.0.2.0/24"), ip_network("198.51.100.7")),
        numbers=("+4930123*",),
        max_calls=10,
        cps=2.5,
        refer_in=True,
        refer_out=False,
        outbound=("+49*", "!+49900*"),
        caller_id="+49301230",
        ring_s=25,
    )
    told = {setting.path[2] for setting in schema(Settings) if setting.path[0] == "trunks"}
    assert told == {key.removesuffix("_FILE").lower() for key in said}, "a setting that this test does not know"


def test_several_at_once() -> None:
    environ = {f"VOIPAGENT_TRUNKS__{name}__HOST": f"{name.lower()}.example" for name in ("B2", "MY_PBX")}
    assert [trunk.name for trunk in Settings.load(environ).signaling_trunks] == ["b2", "my_pbx"]


def test_encryption_is_as_elsewhere_unless_it_says_so() -> None:
    demand = {"VOIPAGENT_SIP__SRTP": "demand", "VOIPAGENT_TRUNKS__A__HOST": "a.example"}
    assert Settings.load(demand).signaling_trunks[0].srtp == "demand"
    assert Settings.load(demand | {"VOIPAGENT_TRUNKS__A__SRTP": "off"}).signaling_trunks[0].srtp == "off"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"USER": "1000"}, "VOIPAGENT_TRUNKS__ACME__HOST: Field required"),
        (ACME | {"HOST": "sip:acme.example"}, "VOIPAGENT_TRUNKS__ACME: host 'sip:acme.example' is neither a domain"),
        ({"HOST": "a.example", "PASSWORD": "x"}, "VOIPAGENT_TRUNKS__ACME: there is a password, but no user"),
        ({"HOST": "a.example", "REGISTER": "yes"}, "VOIPAGENT_TRUNKS__ACME: registering takes a user and a password"),
        (ACME | {"OUTBOUND": "+49 30"}, "VOIPAGENT_TRUNKS__ACME: '+49 30' is no pattern of numbers, such as +4930*"),
        (ACME | {"TRANSPORT": "ws"}, "VOIPAGENT_TRUNKS__ACME__TRANSPORT: Input should be 'auto', 'udp', 'tcp' or"),
        (ACME | {"CODECS": "g729"}, "VOIPAGENT_TRUNKS__ACME__CODECS: Input should be 'opus', 'g722', 'pcmu' or 'pcma'"),
        (ACME | {"REGISTER": "perhaps"}, "VOIPAGENT_TRUNKS__ACME__REGISTER: Input should be a valid boolean"),
        (ACME | {"PEERS": "acme.example"}, "'acme.example' is neither an address nor a network, such as 192.0.2.7"),
        (ACME | {"MAX_CALLS": "0"}, "VOIPAGENT_TRUNKS__ACME__MAX_CALLS: Input should be greater than or equal to 1"),
        (ACME | {"PASWORD": "x"}, "PASWORD is not a setting; did you mean VOIPAGENT_TRUNKS__<NAME>__PASSWORD?"),
    ],
)
def test_what_is_wrong_is_said(values: dict[str, str], told: str) -> None:
    assert told in fault(values)


def test_names_that_no_command_could_say() -> None:
    assert fault(ACME, name="A B") == ("VOIPAGENT_TRUNKS: 'a b' is no name of a trunk: letters, digits, _ and - are")


def test_the_password_is_told_nowhere() -> None:
    settings = load(ACME)
    told = dict(effective(settings))
    assert told["VOIPAGENT_TRUNKS__ACME__PASSWORD"] == "**********"
    assert told["VOIPAGENT_TRUNKS__ACME__REFER_OUT"] == "true"
    assert "wonderland" not in f"{settings!r} {told} {settings.signaling_trunks}"
    assert "wonderland" not in fault(ACME | {"HOST": "?"})


def test_caps_on_our_own_calls() -> None:
    assert Settings.load({}).outbound.limits == Limits()
    said = {"DIRECT": "*@a.example", "CALLS_A_DAY": "5", "MINUTES_A_DAY": "7.5", "MAX_CALL": "60"}
    settings = Settings.load({f"VOIPAGENT_OUTBOUND__{name}": value for name, value in said.items()})
    assert settings.outbound.limits == Limits(("*@a.example",), 5, 7.5, 60)
    with pytest.raises(SettingsError, match="VOIPAGENT_OUTBOUND__DIRECT: 'a b' is no pattern"):
        Settings.load({"VOIPAGENT_OUTBOUND__DIRECT": "a b"})


def test_how_long_calls_may_ring() -> None:
    assert (Settings.load({}).outbound.ring, load(ACME).signaling_trunks[0].ring_s) == (60, None)
    assert Settings.load({"VOIPAGENT_OUTBOUND__RING": "20"}).outbound.ring == 20
    assert "RING: Input should be less than or equal to 600" in fault(ACME | {"RING": "3600"})


@pytest.mark.parametrize(
    ("target", "setting"),
    [
        ("+49", "VOIPAGENT_TRUNKS__ACME__OUTBOUND"),
        ("sip:x@b.example", "VOIPAGENT_OUTBOUND__DIRECT"),
    ],
)
def test_a_denial_names_a_setting_that_there_is(target: str, setting: str) -> None:
    denied = Outbound(load(ACME).signaling_trunks).allows(target, 0.0)
    assert isinstance(denied, Denied)
    assert variable(denied.setting) == setting
    assert any(known.matches(denied.setting) for known in schema(Settings))
