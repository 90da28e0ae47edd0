"""DTLS: two handshakes against each other, on a path that loses, and the keys that come of it."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from media.crypto import SUITES
from media.dtls import MTU, Dtls, DtlsError, Handshake, Identity, is_dtls
from media.leg import LegError


def agreed(identity: Identity, client: bool) -> Dtls:
    """What a description of that party says; `client` is for the one that reads it."""
    return Dtls.parse([identity.fingerprint], "passive" if client else "active", client)


def pair() -> tuple[Handshake, Handshake]:
    """A client and a server that know each other."""
    one, other = Identity(), Identity()
    return Handshake(one, agreed(other, True)), Handshake(other, agreed(one, False))


def shake(client: Handshake, server: Handshake) -> None:
    """Until both are done."""
    to_server = client.poll()
    for _ in range(4):
        back = [answer for data in to_server for answer in server.receive(data)]
        to_server = [answer for data in back for answer in client.receive(data)]
    assert client.done and server.done


def test_both_have_the_same_keys() -> None:
    client, server = pair()
    assert not client.done and server.poll() == []
    shake(client, server)
    assert client.ours == server.theirs and client.theirs == server.ours
    assert client.ours is not None and client.theirs is not None and client.ours.key != client.theirs.key
    assert client.ours.suite == "AEAD_AES_256_GCM"
    assert len(client.ours.key) == SUITES[client.ours.suite]


def test_no_two_calls_have_a_key_or_a_certificate_in_common() -> None:
    found = set()
    for _ in range(2):
        client, server = pair()
        shake(client, server)
        assert client.ours is not None
        found |= {client.ours.key, *client.dtls.fingerprints, *server.dtls.fingerprints}
    assert len(found) == 6


def test_datagrams_are_dtls_and_fit_everywhere() -> None:
    client, server = pair()
    (hello,) = client.poll()
    answers = server.receive(hello)
    assert answers and all(is_dtls(data) and len(data) <= MTU for data in [hello, *answers])


@pytest.mark.parametrize("data", [b"", b"\x80\x00", b"\x00\x01\x00\x00", b"\xff"])
def test_rtp_and_stun_are_not(data: bytes) -> None:
    assert not is_dtls(data)


def test_another_certificate_than_the_one_that_was_described_is_refused_by_either_side() -> None:
    one, other, stranger = Identity(), Identity(), Identity()
    with pytest.raises(DtlsError, match="is not the one whose fingerprint its SDP has"):
        shake(Handshake(one, agreed(stranger, True)), Handshake(other, agreed(one, False)))
    with pytest.raises(DtlsError, match="is not the one whose fingerprint its SDP has"):
        shake(Handshake(one, agreed(other, True)), Handshake(other, agreed(stranger, False)))


@pytest.mark.parametrize("lost", ["hello", "last"])
async def test_a_flight_that_was_lost_is_sent_again(lost: str) -> None:
    """OpenSSL has a clock of its own, and waits for a second."""
    client, server = pair()
    flight = client.poll()
    if lost == "last":
        flight = [data for answer in server.receive(flight[0]) for data in client.receive(answer)]
        for data in flight:
            server.receive(data)
        assert server.done and not client.done
    again: list[bytes] = []
    async with asyncio.timeout(10):
        while not (again := client.poll()):
            await asyncio.sleep(0.02)
    answers = [answer for data in again for answer in server.receive(data)]
    flight = [answer for data in answers for answer in client.receive(data)]
    for data in flight:
        for answer in server.receive(data):
            client.receive(answer)
    assert client.done and server.done


def test_a_far_end_that_never_answers_is_an_error_in_the_end() -> None:
    """OpenSSL gives up at the 13th time-out, eight minutes on."""
    client, _ = pair()
    client.poll()
    failure = SSL.Error([("SSL routines", "", "read timeout expired")])
    with (
        patch.object(SSL.Connection, "DTLSv1_handle_timeout", side_effect=failure),
        pytest.raises(DtlsError, match="handshake failed: read timeout expired"),
    ):
        client.poll()


def test_the_far_end_is_told_that_it_is_over() -> None:
    client, server = pair()
    assert client.close() == []  # there is nobody to tell yet
    shake(client, server)
    (alert,) = client.close()
    assert alert[0] == 21 and is_dtls(alert)  # RFC 6347, section 4.1: an alert
    assert server.receive(alert) == [] and server._connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN
    assert client.close() == []


@settings(max_examples=30)
@given(st.lists(st.binary(min_size=1, max_size=60), max_size=5))
def test_what_is_no_dtls_is_an_error_or_nothing(datagrams: list[bytes]) -> None:
    _, server = pair()
    for data in datagrams:
        try:
            assert all(map(is_dtls, server.receive(data)))
        except DtlsError as error:
            assert "handshake failed" in str(error)
    assert not server.done


# --- descriptions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setup", "prefer", "client"),
    [("actpass", True, True), ("actpass", False, False), ("active", True, False), ("passive", False, True)],
)
def test_who_begins(setup: str, prefer: bool, client: bool) -> None:
    dtls = Dtls.parse([Identity().fingerprint], setup, prefer)
    assert dtls.client is client
    assert dtls.setup == ("active" if client else "passive")


def test_fingerprints_of_several_hashes_are_all_read_and_weak_ones_passed_over() -> None:
    strong = Identity().fingerprint
    dtls = Dtls.parse(["sha-1 AA:BB", "sha-384 " + ":".join(["0a"] * 48), strong.lower(), "sha-256 AA"], "active", True)
    assert {name for name, _ in dtls.fingerprints} == {"sha-384", "sha-256"}


@pytest.mark.parametrize(
    ("fingerprints", "setup", "said"),
    [
        ([], "actpass", "without an a=fingerprint of sha-256, sha-384, sha-512"),
        (["sha-256 zz"], "actpass", "without an a=fingerprint"),
        (["md5 " + ":".join(["0a"] * 16)], "actpass", "without an a=fingerprint"),
        (["sha-256 " + ":".join(["0a"] * 32)], "holdconn", "without an a=setup of actpass, active or passive"),
    ],
)
def test_what_is_missing_is_said(fingerprints: list[str], setup: str, said: str) -> None:
    with pytest.raises(LegError, match=said):
        Dtls.parse(fingerprints, setup, True)


def test_data_is_read_out_and_thrown_away() -> None:
    """It is for nobody; and whatever is left unread, OpenSSL keeps for as long as the call lasts."""
    client, server = pair()
    shake(client, server)
    for _ in range(50):
        client._connection.send(b"x" * 1000)
        for data in client._datagrams():
            assert server.receive(data) == []
    with pytest.raises(SSL.WantReadError):
        server._connection.recv(1)
