"""deploy/trunks: each example is read by the real settings, and is what it says."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from signaling.sip.trunk import Trunk
from voipagent.settings import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "trunks"
EXAMPLES = sorted(FOLDER.glob("*.env"))


def read(path: Path, commented: bool = False) -> dict[str, str]:
    """The variables of an env file; with `commented`, those that are commented out as well."""
    lines = path.read_text().splitlines()
    lines = [line.removeprefix("#") if commented and line.startswith("#VOIPAGENT_") else line for line in lines]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def trunk(name: str, commented: bool = False) -> Trunk:
    (found,) = Settings.load(read(FOLDER / f"{name}.env", commented)).signaling_trunks
    return found


def test_there_is_one_for_each_that_we_promise() -> None:
    assert [path.stem for path in EXAMPLES] == ["3cx", "asterisk", "freeswitch", "kamailio", "telnyx", "twilio"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_read_as_it_stands_and_with_what_is_commented_out(path: Path) -> None:
    bare, whole = trunk(path.stem), trunk(path.stem, commented=True)
    assert bare.name == whole.name == path.stem
    assert bare.outbound == () and whole.outbound, "outbound calls are for whoever wants them"
    assert bare.login is not None and bare.password == "change-me"
    assert not whole.refer_in


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_explained_in_ten_lines_that_say_what_was_tested(path: Path) -> None:
    words = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    assert len(words) == 10
    assert ("Untested" in words[0]) != ("Tested with" in words[0])
    assert all(len(line) <= 125 for line in words)


def test_what_sets_each_apart() -> None:
    twilio = trunk("twilio")
    assert not twilio.register and twilio.codecs == ("pcmu", "pcma")
    assert any(ip_address("54.172.60.2") in network for network in twilio.peers)
    assert trunk("telnyx").register and trunk("telnyx").probe_s == 30
    assert trunk("3cx").login_user != trunk("3cx").user
    assert trunk("3cx").next_hop.endswith(":5060;transport=tcp")
    assert [trunk(name).register for name in ("asterisk", "freeswitch", "kamailio")] == [True] * 3
