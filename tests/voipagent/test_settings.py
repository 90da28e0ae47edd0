"""The environment: every name is checked, every fault is named."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import SecretStr

from voipagent.environment import SettingsError, effective, nest, schema
from voipagent.kinds import PortRange, Section
from voipagent.settings import Settings, example


class Trunk(Section):
    """A map's value, as trunks and personas will be."""

    host: str = ""
    password: SecretStr = SecretStr("")
    codecs: tuple[str, ...] = ()


class WithMap(Section):
    trunks: dict[str, Trunk] = {}


def fault(**environ: str) -> str:
    with pytest.raises(SettingsError) as error:
        Settings.load({f"VOIPAGENT_{name}": value for name, value in environ.items()})
    return str(error.value)


def test_defaults_are_the_documented_ones() -> None:
    settings = Settings.load({})
    assert (settings.sip.host, settings.sip.port, settings.sip.advertised) == ("0.0.0.0", 5060, ())
    assert settings.sip.allow == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert settings.sip.srtp == "accept"
    assert str(settings.rtp.ports) == "16384-17383"
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8998)
    assert (settings.calls.dir, settings.calls.record, settings.calls.max_hold) == (Path("calls"), "both", 600)


def test_values_are_read() -> None:
    settings = Settings.load(
        {
            "VOIPAGENT_SIP__PORT": "5070",
            "VOIPAGENT_SIP__ALLOW": "10.0.0.0/8, 192.0.2.7",
            "VOIPAGENT_RTP__PORTS": "20000-20009",
            "VOIPAGENT_PERSONA__GREETING": "Hello.",
            "PATH": "/bin",
        }
    )
    assert settings.sip.port == 5070
    assert settings.sip.allow == (ip_network("10.0.0.0/8"), ip_network("192.0.2.7/32"))
    assert settings.rtp.ports == PortRange(first=20000, last=20009)
    assert settings.persona.greeting == "Hello."


def test_a_list_may_be_json() -> None:
    assert Settings.load({"VOIPAGENT_SIP__ALLOW": '["::1"]'}).sip.allow == (ip_network("::1/128"),)


def test_empty_means_unset() -> None:
    assert Settings.load({"VOIPAGENT_SIP__PORT": ""}).sip.port == 5060


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SIP__PRT", "VOIPAGENT_SIP__PORT"),
        ("SIP_PORT", "VOIPAGENT_SIP__PORT"),
        ("CALL__DIR", "VOIPAGENT_CALLS__DIR"),
        ("ENGINE__MODLE", "VOIPAGENT_ENGINE__MODEL"),
        ("PERSONA__GREETINGS", "VOIPAGENT_PERSONA__GREETING"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    assert fault(**{name: "1"}) == f"VOIPAGENT_{name} is not a setting; did you mean {nearest}?"


def test_every_fault_is_told_at_once() -> None:
    told = fault(SIP__PORT="99999", RTP__PORTS="5", ENGINE__DEVICE="tpu").splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "VOIPAGENT_SIP__PORT",
        "VOIPAGENT_RTP__PORTS",
        "VOIPAGENT_ENGINE__DEVICE",
    ]


@pytest.mark.parametrize("ports", ["17383-16384", "1-1", "0-10", "100-70000", "a-b", "100"])
def test_port_ranges_that_hold_no_pair_are_refused(ports: str) -> None:
    assert fault(RTP__PORTS=ports).startswith(f"VOIPAGENT_RTP__PORTS: '{ports}'")


def test_a_text_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("You are Ada.\n")
    settings = Settings.load({"VOIPAGENT_PERSONA__PROMPT_FILE": str(tmp_path / "prompt.txt")})
    assert settings.persona.prompt == "You are Ada."


def test_a_file_that_cannot_be_read_is_a_fault() -> None:
    assert "cannot read '/nowhere'" in fault(PERSONA__PROMPT_FILE="/nowhere")


def test_a_text_and_its_file_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    assert "keep one of the two" in fault(PERSONA__PROMPT="y", PERSONA__PROMPT_FILE=str(tmp_path / "f"))


def test_only_texts_come_from_files() -> None:
    assert fault(SIP__PORT_FILE="x").endswith("set VOIPAGENT_SIP__PORT itself")


def test_names_in_maps_are_lower_cased_and_lists_in_them_parted() -> None:
    environ = {"VOIPAGENT_TRUNKS__ACME__HOST": "Example.ORG", "VOIPAGENT_TRUNKS__ACME__CODECS": "g722,pcmu"}
    assert nest(environ, WithMap) == {"trunks": {"acme": {"host": "Example.ORG", "codecs": ["g722", "pcmu"]}}}


def test_a_misspelt_name_in_a_map_is_refused() -> None:
    with pytest.raises(SettingsError, match="VOIPAGENT_TRUNKS__ACME__HOTS is not a setting"):
        nest({"VOIPAGENT_TRUNKS__ACME__HOTS": "x"}, WithMap)


def test_phones_of_our_own(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("sponge\n")
    settings = Settings.load(
        {
            "VOIPAGENT_SIP__USERS__ALICE__PASSWORD": "wonderland",
            "VOIPAGENT_SIP__USERS__1000__PASSWORD_FILE": str(tmp_path / "password"),
            "VOIPAGENT_SIP__CHALLENGE": "192.0.2.0/24",
        }
    )
    passwords = {name: user.password.get_secret_value() for name, user in settings.sip.users.items()}
    assert passwords == {"alice": "wonderland", "1000": "sponge"}
    assert settings.sip.challenge == (ip_network("192.0.2.0/24"),)
    assert dict(effective(settings))["VOIPAGENT_SIP__USERS__1000__PASSWORD"] == "**********"


def test_tls(tmp_path: Path) -> None:
    settings = Settings.load({"VOIPAGENT_SIP__TLS_CERT": "/etc/c.pem", "VOIPAGENT_SIP__TLS_CA": "ca.pem"}).sip
    assert (settings.tls_cert, settings.tls_key, settings.tls_ca) == (Path("/etc/c.pem"), None, Path("ca.pem"))
    assert (settings.tls_port, settings.tls_verify) == (5061, "off")
    told = fault(SIP__TLS_KEY="k.pem")
    assert told == "VOIPAGENT_SIP__TLS_KEY: there is a key, but no certificate; VOIPAGENT_SIP__TLS_CERT names one"
    told = fault(SIP__TLS_VERIFY="demand")
    assert told.startswith("VOIPAGENT_SIP__TLS_VERIFY: demand takes VOIPAGENT_SIP__TLS_CA")
    assert fault(SIP__TLS_VERIFY="on").startswith("VOIPAGENT_SIP__TLS_VERIFY: Input should be 'off' or 'demand'")
    assert fault(SIP__TLS_PORT="70000").startswith("VOIPAGENT_SIP__TLS_PORT: ")


def test_what_is_advertised_is_one_address_of_each_kind() -> None:
    for text in ("", "203.0.113.7", "2001:db8::7", "203.0.113.7,2001:db8::7", "pbx-1.example.com, 2001:db8::7"):
        advertised = Settings.load({"VOIPAGENT_SIP__ADVERTISED": text}).sip.advertised
        assert advertised == tuple(part.strip() for part in text.split(",") if part)
    assert "there can be one IPv4 address" in fault(SIP__ADVERTISED="203.0.113.7,203.0.113.8")
    for wrong in ("203.0.113.300", "a b", "sip:a", "-x"):
        assert f"{wrong!r} is neither an address nor a name" in fault(SIP__ADVERTISED=wrong)


def test_a_challenge_that_nobody_could_answer_is_refused() -> None:
    told = fault(SIP__CHALLENGE="192.0.2.0/24")
    assert told.startswith("VOIPAGENT_SIP__CHALLENGE: nobody could answer; name a user by VOIPAGENT_SIP__USERS__<NAME>")


def test_users_that_no_phone_could_be(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert fault(SIP__USERS__ALICE__PASSWORD_FILE=str(tmp_path / "empty")).endswith("the password is empty")
    assert "'a b' is no user name" in fault(**{"SIP__USERS__A B__PASSWORD": "x"})
    assert "did you mean VOIPAGENT_SIP__USERS__<NAME>__PASSWORD?" in fault(SIP__USERS__ALICE__PASWORD="x")


def test_secrets_are_masked() -> None:
    told = dict(effective(WithMap(trunks={"acme": Trunk(host="h", password=SecretStr("hunter2"))})))
    assert told["VOIPAGENT_TRUNKS__ACME__HOST"] == "h"
    assert told["VOIPAGENT_TRUNKS__ACME__PASSWORD"] == "**********"


def test_what_is_told_can_be_read_again() -> None:
    environ = {"SIP__ALLOW": "10.0.0.0/8,::1", "ENGINE__SEED": "7", "OUTBOUND__MINUTES_A_DAY": "1234567.25"}
    settings = Settings.load({f"VOIPAGENT_{name}": text for name, text in environ.items()})
    assert Settings.load(dict(effective(settings))) == settings


def test_every_setting_says_what_it_means() -> None:
    assert all(setting.field.description for setting in schema(Settings))


def test_the_example_file_is_the_settings() -> None:
    assert Path("deploy/env.example").read_text() == example(), "run: voipagent config --example > deploy/env.example"


def test_what_would_do_nothing_is_refused() -> None:
    told = fault(WEBRTC__PERSONAS="eve", PERSONAS__ADA__PROMPT="x")
    assert told == "VOIPAGENT_WEBRTC: personas: there is no persona 'eve'; there is ada"
    assert Settings.load({"VOIPAGENT_WEBRTC__PERSONAS": "*"}).webrtc.personas == ("*",)
    told = fault(SUMMARY__URL="http://127.0.0.1/v1", SUMMARY__MODEL="m", CONTEXT__POLICY="off")
    assert told.startswith("VOIPAGENT_SUMMARY: with VOIPAGENT_CONTEXT__POLICY=off nobody is asked")
    assert "choose one" in fault(ENGINE__GRAPHS="on", ENGINE__DETERMINISTIC="true")
