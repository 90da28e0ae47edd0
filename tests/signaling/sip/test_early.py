"""early.py: reliable provisional responses (RFC 3262), and what PRACK and UPDATE bring before the answer."""

from __future__ import annotations

import pytest

from signaling.sip.dialog import Dialog, Negotiation
from signaling.sip.dialog import State as CallState
from signaling.sip.message import Response
from signaling.sip.transaction import Flow
from tests.signaling.sip.bench import TCP, UDP, Bench, BenchPeer, is_empty
from tests.signaling.sip.peer import OFFER

REQUIRED, SUPPORTED = "Require: 100rel", "Supported: 100rel"


class Ringing:
    """A call that is not answered yet."""

    def __init__(self, *extra: str, body: str = OFFER, flow: Flow = UDP) -> None:
        self.bench = Bench()
        self.peer: BenchPeer = self.bench.peer(flow)
        self.peer.ask("INVITE", *extra, body=body)
        self.dialog: Dialog = self.bench.invited()
        self.peer.to_tag = self.dialog.id[1]
        self.invite_cseq = self.peer.cseq
        self.bench.heard()
        self.bench.told()

    def ring(self, media: str | None = None) -> Response:
        self.bench.ring(self.dialog, media)
        return self.bench.last()

    def prack(self, response: Response, *extra: str, body: str = "", rack: str = "") -> int:
        rack = rack or f"{response.headers.get('RSeq')} {response.cseq[0]} INVITE"
        self.peer.ask("PRACK", f"RAck: {rack}", *extra, body=body)
        return next(m.code for _, m, _ in reversed(self.bench.sent) if isinstance(m, Response) and m.cseq[1] == "PRACK")


@pytest.mark.parametrize(
    ("field", "media", "reliable"),
    [
        (REQUIRED, None, True),
        (REQUIRED, "early", True),
        (SUPPORTED, "early", True),
        (SUPPORTED, None, False),
        ("Subject: none", "early", False),
    ],
)
def test_when_it_is_reliable(field: str, media: str | None, reliable: bool) -> None:
    response = Ringing(field).ring(media)
    assert response.code == (183 if media else 180)
    assert bool(response.headers.get("RSeq")) is reliable
    assert ("100rel" in response.headers.options("Require")) is reliable


def test_it_is_repeated_until_its_prack() -> None:
    ringing = Ringing(REQUIRED)
    response = ringing.ring()
    ringing.bench.wait(3.6)
    assert ringing.bench.heard() == ["180"] * 4
    assert ringing.prack(response) == 200
    ringing.bench.wait(60)
    assert ringing.bench.heard() == ["200"]
    assert ringing.prack(response) == 481  # another PRACK of the same


@pytest.mark.parametrize(
    "rack", ["1 1 INVITE", "x", "1 2 3", "99 1 INVITE", "1 99 INVITE", "1 1 UPDATE", "²  1 INVITE"]
)
def test_only_its_own_prack(rack: str) -> None:
    ringing = Ringing(REQUIRED)
    response = ringing.ring()
    assert ringing.prack(response, rack=rack) == (200 if rack == "1 1 INVITE" else 481)


def test_a_prack_for_nothing() -> None:
    ringing = Ringing(REQUIRED)
    ringing.peer.ask("PRACK", "RAck: 1 1 INVITE")
    assert ringing.bench.last().code == 481
    ringing.peer.to_tag = ""
    ringing.peer.ask("PRACK", "RAck: 1 1 INVITE")
    assert ringing.bench.last().code == 481


@pytest.mark.parametrize("flow", [UDP, TCP])
def test_without_a_prack_the_call_is_refused(flow: Flow) -> None:
    """RFC 3262, section 3: 64 T1, then 5xx."""
    ringing = Ringing(REQUIRED, flow=flow)
    ringing.ring()
    ringing.bench.wait(32)
    assert ringing.bench.last().code == 504
    assert ringing.bench.told() == ["ended by network: our ringing was never acknowledged"]
    ringing.bench.wait(64)
    assert is_empty(ringing.bench)


def test_one_waits_for_the_other() -> None:
    ringing = Ringing(REQUIRED)
    first = ringing.ring()
    ringing.bench.ring(ringing.dialog, "early")
    ringing.bench.ring(ringing.dialog)
    assert ringing.bench.heard() == ["180"]
    ringing.prack(first)
    second = ringing.bench.last()
    assert (second.code, second.headers.get("RSeq")) == (183, str(int(first.headers.get("RSeq")) + 1))


def test_the_200_waits_for_ringing_that_is_reliable() -> None:
    ringing = Ringing(REQUIRED)
    response = ringing.ring()
    ringing.bench.accept(ringing.dialog, "answer")
    assert ringing.bench.heard() == ["180"]
    assert ringing.prack(response) == 200
    answer = ringing.bench.last()
    assert (answer.cseq[1], answer.code, answer.body) == ("INVITE", 200, b"answer")
    ringing.peer.ack(answer)
    ringing.bench.heard()
    ringing.bench.wait(60)
    assert ringing.bench.heard() == []


def test_the_200_waits_for_early_media_and_repeats_no_answer() -> None:
    ringing = Ringing(SUPPORTED)
    response = ringing.ring("early answer")
    ringing.bench.accept(ringing.dialog, "answer")
    assert ringing.bench.heard() == ["183"]
    assert ringing.prack(response) == 200
    answer = ringing.bench.last()
    assert (answer.cseq[1], answer.code, answer.body) == ("INVITE", 200, b"")
    ringing.peer.ack(answer)
    assert (ringing.dialog.state, ringing.dialog.local_media) == (CallState.CONFIRMED, "early answer")
    ringing.peer.ask("INVITE", body=OFFER)  # a refresh
    assert ringing.bench.last().body == b"early answer"


def test_our_offer_in_early_media() -> None:
    """RFC 3262, section 5: the PRACK brings the answer."""
    ringing = Ringing(SUPPORTED, body="")
    response = ringing.ring("our offer")
    assert ringing.prack(response, body="their answer") == 200
    assert ringing.bench.told() == ["answered: their answer"]
    ringing.bench.accept(ringing.dialog, "our offer")
    answer = ringing.bench.last()
    assert (answer.code, answer.body) == (200, b"")
    ringing.peer.ack(answer)
    assert ringing.bench.told() == []
    assert ringing.dialog.state is CallState.CONFIRMED


def test_our_offer_without_their_answer() -> None:
    ringing = Ringing(SUPPORTED, body="")
    assert ringing.prack(ringing.ring("our offer")) == 400
    assert ringing.bench.last().code == 488
    assert ringing.bench.told() == ["ended by agent: the PRACK brought no answer to our offer"]


def test_ringing_that_would_have_to_bring_an_offer_is_left_out() -> None:
    """It would be the first reliable response: the 200 is (RFC 3261, section 13.2.1)."""
    ringing = Ringing(REQUIRED, body="")
    ringing.bench.ring(ringing.dialog)
    assert ringing.bench.heard() == []
    ringing.bench.accept(ringing.dialog, "our offer")
    assert (ringing.bench.last().code, ringing.bench.last().body) == (200, b"our offer")


@pytest.mark.parametrize("method", ["PRACK", "UPDATE"])
def test_an_offer_before_the_call_is_answered(method: str) -> None:
    """RFC 3262, section 5, and RFC 3311, section 5.2."""
    ringing = Ringing(SUPPORTED)
    response = ringing.ring("early answer")
    if method == "PRACK":
        ringing.peer.ask("PRACK", f"RAck: 1 {response.cseq[0]} INVITE", body="another offer")
    else:
        ringing.prack(response)
        ringing.peer.ask("UPDATE", body="another offer")
    ringing.bench.change(ringing.bench.changed(), "another answer")
    assert (ringing.bench.last().code, ringing.bench.last().body) == (200, b"another answer")
    assert (ringing.dialog.negotiation, ringing.dialog.state) == (Negotiation.STABLE, CallState.EARLY)
    ringing.bench.accept(ringing.dialog, "too late an answer")
    assert ringing.bench.last().body == b""
    assert ringing.dialog.local_media == "another answer"


def test_an_offer_that_comes_too_early() -> None:
    ringing = Ringing(REQUIRED)
    response = ringing.ring()
    ringing.peer.ask("UPDATE", body="another offer")
    assert (ringing.bench.last().cseq[1], ringing.bench.last().code) == ("UPDATE", 500)
    assert ringing.prack(response, body="another offer") == 500
    assert ringing.bench.told() == []


def test_another_invite_before_the_first_is_answered() -> None:
    """RFC 3261, section 14.2; early media has settled what the first one offered."""
    ringing = Ringing(SUPPORTED)
    ringing.prack(ringing.ring("early answer"))
    assert ringing.dialog.negotiation is Negotiation.STABLE
    ringing.peer.ask("INVITE", body="another offer")
    refusal = ringing.bench.last()
    assert (refusal.cseq[1], refusal.code) == ("INVITE", 500) and refusal.headers.get("Retry-After")
    ringing.bench.accept(ringing.dialog, "answer")
    assert (ringing.bench.last().cseq, ringing.bench.last().code) == ((ringing.invite_cseq, "INVITE"), 200)


@pytest.mark.parametrize("ours", [True, False])
def test_the_call_ends_before_the_prack(ours: bool) -> None:
    ringing = Ringing(REQUIRED)
    response = ringing.ring()
    if ours:
        ringing.bench.hang_up(ringing.dialog)
    else:
        ringing.peer.cancel()
    refusal = ringing.bench.last()
    assert refusal.code == (480 if ours else 487)
    ringing.peer.ack(refusal)
    ringing.bench.heard()
    assert ringing.prack(response) == 481
    ringing.bench.wait(64)
    assert is_empty(ringing.bench)
