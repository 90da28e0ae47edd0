"""way.py: where requests of ours go, and where nobody can have us send them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from signaling.sip.transaction import Flow
from signaling.sip.way import way_to
from tests.signaling.sip.test_dialog import TCP, UDP, dialog


def nobody(host: str) -> bool:
    return False


def friend(host: str) -> bool:
    return host == "192.0.2.99"


def test_to_the_contact_at_the_peers_own_host() -> None:
    assert way_to(dialog(Contact="<sip:a@192.0.2.7:5099>"), nobody) == replace(UDP, remote=("192.0.2.7", 5099))
    assert way_to(dialog(Contact="<sip:a@192.0.2.7>"), nobody) == replace(UDP, remote=("192.0.2.7", 5060))


@pytest.mark.parametrize("place", ["192.0.2.99", "victim.example.com", "[2001:db8::9]"])
def test_to_no_other_host_but_one_that_is_trusted(place: str) -> None:
    call = dialog(Contact=f"<sip:a@{place}>")
    assert way_to(call, nobody) == UDP
    assert way_to(call, friend) == (replace(UDP, remote=(place, 5060)) if friend(place) else UDP)


def test_a_route_comes_before_the_contact() -> None:
    call = dialog("Record-Route: <sip:192.0.2.99:5090;lr>", Contact="<sip:a@192.0.2.7>")
    assert way_to(call, friend).remote == ("192.0.2.99", 5090)


def test_behind_a_nat_the_contact_names_no_place() -> None:
    call = dialog(Via="SIP/2.0/UDP 10.0.0.5;branch=z9hG4bK1", Contact="<sip:a@10.0.0.5:5070>")
    assert way_to(call, lambda host: True) == UDP


def test_a_connection_is_used_and_the_contact_is_for_another() -> None:
    call = dialog(flow=TCP, Contact="<sip:a@[2001:db8::7]:5090>")
    way = way_to(call, nobody)
    assert (way, way.spare) == (TCP, ("2001:db8::7", 5090))


def test_a_contact_that_cannot_be_read() -> None:
    call = dialog()
    call.target = "nonsense"
    assert way_to(call, lambda host: True) == Flow(*(UDP.protocol, UDP.remote, UDP.local))
