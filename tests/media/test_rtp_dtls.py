"""Legs whose keys are made by DTLS, against a telephone of ours and against aiortc's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport
from aiortc.rtp import RtpPacket

from media.codec import OPUS, PCMU, Codec
from media.crypto import Crypto
from media.dtls import Dtls, Handshake, Identity, is_dtls
from media.leg import LegError
from media.receiver import UNCONFIRMED_S
from media.sdp import parse
from media.secure import MAX_FAILURES
from media.srtp import Protector, Unprotector
from tests.media.line import FORMAT, Line, Phone, drain, loudness
from tests.media.waiting import soon

PROFILE = "UDP/TLS/RTP/SAVPF"


class DtlsPhone(Phone):
    """A phone that offers DTLS; `setup` is what it says of who begins. It shakes hands where `answer` is called."""

    def __init__(self, codec: Codec = PCMU, setup: str = "actpass", mux: bool = True) -> None:
        super().__init__(codec)
        self.setup, self.mux, self.identity = setup, mux, Identity()
        self.shown = self.identity
        self.handshakes: dict[bool, Handshake] = {}
        self.protectors = {False: Protector(), True: Protector()}
        self.unprotectors = {False: Unprotector(), True: Unprotector()}

    def sdp(self, *lines: str, formats: str = "", port: int | None = None, address: str = "") -> str:
        keys = f"a=fingerprint:{self.shown.fingerprint}", f"a=setup:{self.setup}"
        mux = ("a=rtcp-mux",) if self.mux else ()
        plain = super().sdp(*keys, *mux, *lines, formats=formats, port=port, address=address)
        return plain.replace("RTP/AVP", PROFILE)

    def read(self, description: str) -> None:
        super().read(description)
        media = parse(description).media[0]
        prints = [value for name, value in media.attributes if name == "fingerprint"]
        dtls = Dtls.parse(prints, media.attribute("setup") or "", False)
        if not self.handshakes or self.handshakes[False].dtls != dtls:
            self.handshakes = {
                rtcp: Handshake(self.identity, dtls) for rtcp in ([False] if self.mux else [False, True])
            }

    def shake(self) -> None:
        """Answer what has come, and begin where it is ours to."""
        for rtcp, handshake in self.handshakes.items():
            udp, target = (self.rtcp, self.rtcp_target) if rtcp else (self.rtp, self.target)
            before = handshake.done
            out = [] if before else handshake.poll()
            for data in drain(udp):
                out += handshake.receive(data) if is_dtls(data) else []
            for data in out:
                udp.sendto(data, target)
            if handshake.done and not before:
                assert handshake.ours is not None
                self.protectors[rtcp].adopt(handshake.ours)
                self.unprotectors[rtcp].adopt(handshake.theirs, 0.0)

    def protect(self, packet: bytes) -> bytes:
        return self.protectors[False].rtp(packet)

    def packets(self, at_least: int = 0) -> list[RtpPacket]:
        rtp = [data for data in drain(self.rtp, at_least) if not is_dtls(data) and not 192 <= data[1] <= 223]
        return [RtpPacket.parse(self.unprotectors[False].rtp(data, 0.0)) for data in rtp]


def agree(line: Line, phone: DtlsPhone) -> None:
    """Tick until both sides have their keys."""
    line.hush()
    for _ in range(20):
        phone.shake()
        line.run(1)
    assert all(handshake.done for handshake in phone.handshakes.values())


async def start(line: Line, phone: DtlsPhone) -> str:
    """Offer and answer, and the handshake."""
    answer = await line.connect()
    pending = asyncio.ensure_future(line.leg.exchange())
    await asyncio.sleep(0)
    agree(line, phone)
    await pending
    return answer


@pytest.mark.parametrize("setup", ["actpass", "active", "passive"])
@pytest.mark.parametrize("mux", [True, False])
@pytest.mark.parametrize("codec", [PCMU, OPUS], ids=["PCMU", "opus"])
async def test_a_whole_call(setup: str, mux: bool, codec: Codec) -> None:
    phone = DtlsPhone(codec, setup, mux)
    async with Line(phone=phone) as line:
        answer = await start(line, phone)
        assert f"{PROFILE} {codec.payload_type} 101" in answer
        assert f"a=setup:{'passive' if setup == 'active' else 'active'}" in answer
        assert answer.count("a=fingerprint:sha-256 ") == 1 and "a=crypto" not in answer
        line.talk()
        exchanges = await line.frames(25, echo=True)
        assert loudness(exchanges[-1].heard) == pytest.approx(0.177, abs=0.02)
        assert loudness(phone.hear(phone.packets(40)[-40:])) == pytest.approx(0.177, abs=0.02)
        stats = line.leg.stats
        assert stats.encryption == ("DTLS AEAD_AES_256_GCM",)
        assert (stats.packets_lost, stats.packets_dropped) == (0, 0)


@pytest.mark.parametrize("setup", ["active", "passive"])
@pytest.mark.parametrize("mux", [True, False])
async def test_a_whole_call_that_we_offer(setup: str, mux: bool) -> None:
    phone = DtlsPhone(PCMU, setup, mux)
    async with Line(phone=phone, srtp="dtls") as line:
        offer = await line.leg.offer()
        assert "UDP/TLS/RTP/SAVP " in offer and "a=setup:actpass" in offer
        phone.read(offer.replace("actpass", "passive" if setup == "active" else "active"))
        await line.leg.accepted(phone.sdp())
        pending = asyncio.ensure_future(line.leg.exchange())
        await asyncio.sleep(0)
        agree(line, phone)
        await pending
        line.talk()
        exchanges = await line.frames(25, echo=True)
        assert loudness(exchanges[-1].heard) == pytest.approx(0.177, abs=0.02)
        assert loudness(phone.hear(phone.packets(40)[-40:])) == pytest.approx(0.177, abs=0.02)
        assert line.leg.stats.encryption == ("DTLS AEAD_AES_256_GCM",)


async def test_hellos_and_reports_to_an_address_that_never_answers_end() -> None:
    """It may be anybody's, and nothing is expected from it that could be missed."""
    phone = DtlsPhone(setup="passive", mux=False)
    async with Line(phone=phone) as line:
        await line.connect("a=recvonly")
        await line.frame()
        line.run(round(UNCONFIRMED_S * 50))
        assert len(drain(phone.rtp, 50)) < 12 * UNCONFIRMED_S
        drain(phone.rtcp)
        line.run(20 * 50)
        assert drain(phone.rtp) == drain(phone.rtcp) == []


async def test_nothing_leaves_and_nothing_is_believed_before_the_keys() -> None:
    phone = DtlsPhone()
    async with Line(phone=phone) as line:
        await line.connect()
        line.talk()
        exchanges = await line.frames(5, echo=True)
        assert all(map(is_dtls, drain(phone.rtp, 1)))
        assert not np.concatenate([exchange.heard for exchange in exchanges]).any()
        assert not np.concatenate([exchange.played for exchange in exchanges]).any()
        assert line.leg.stats.encryption == ()
        assert line.leg.stats.dropped_by_reason == {"SRTP before its key": 20}


async def test_keys_are_pressed_once_there_is_a_key_for_them() -> None:
    """As where a call of ours is answered, and a switchboard wants digits at once."""
    phone = DtlsPhone()
    async with Line(phone=phone) as line:
        await line.connect()
        pressing = asyncio.ensure_future(line.leg.send_digits("5555555"))
        pending = asyncio.ensure_future(line.leg.exchange())
        await asyncio.sleep(0)
        line.run(25)
        assert all(map(is_dtls, drain(phone.rtp, 1))), "nothing but the handshake"
        agree(line, phone)
        await pending
        line.run(100)
        await soon(pressing)
        keys = [packet.payload[0] for packet in phone.packets(1) if packet.payload_type == 101]
        assert len(keys) >= 5 and set(keys) == {5}


@pytest.mark.parametrize("mux", [True, False])
async def test_reports_are_encrypted_and_arrive_both_ways(mux: bool) -> None:
    phone = DtlsPhone(mux=mux)
    async with Line(phone=phone) as line:
        await start(line, phone)
        line.talk()
        for _ in range(10):
            phone.shake()  # drops what is read
            await line.frames(5, echo=True)
            if line.leg.stats.reports_sent:
                break
        udp, unprotector = (phone.rtp, phone.unprotectors[False]) if mux else (phone.rtcp, phone.unprotectors[True])
        found = [data for data in drain(udp, 1) if 192 <= data[1] <= 223]
        report = unprotector.rtcp(found[0], 0.0)
        assert report != found[0] and report[1] == 200
        protector = phone.protectors[not mux]
        target = phone.target if mux else phone.rtcp_target
        udp.sendto(protector.rtcp(report), target)
        line.run(2)
        assert line.leg.stats.reports_received == 1


async def test_a_certificate_that_was_not_described_ends_the_call() -> None:
    phone = DtlsPhone(setup="passive")
    phone.shown = Identity()
    async with Line(phone=phone) as line:
        await line.connect()
        pending = asyncio.ensure_future(line.leg.exchange())
        await asyncio.sleep(0)
        line.run(1)
        for _ in range(MAX_FAILURES):  # somebody else's datagrams may end one or the other
            phone.handshakes = {False: Handshake(phone.identity, phone.handshakes[False].dtls)}
            for _ in range(2):
                phone.shake()
                line.run(1)
        line.run(3)
        reason = await soon(asyncio.ensure_future(line.leg.lost()))
        assert reason == (
            "no encrypted audio: the certificate in the DTLS handshake is not the one whose fingerprint its SDP has"
        )
        assert line.leg.stats.encryption == () and line.leg.stats.packets_sent == 0
        await pending


async def test_a_hold_and_our_own_offer_keep_the_keys() -> None:
    phone = DtlsPhone()
    async with Line(phone=phone) as line:
        await start(line, phone)
        for direction in ("sendonly", "sendrecv"):
            phone.read(await line.leg.answer(phone.sdp(f"a={direction}")))
        offer = await line.leg.offer()
        assert f"m=audio {phone.target[1]} {PROFILE}" in offer
        assert "a=setup:actpass" in offer and "a=crypto" not in offer
        phone.setup = "passive"
        await line.leg.accepted(phone.sdp())
        line.talk()
        exchanges = await line.frames(8, echo=True)
        assert loudness(exchanges[-1].heard) == pytest.approx(0.177, abs=0.01)
        assert line.leg.stats.encryption == ("DTLS AEAD_AES_256_GCM",)


async def test_another_party_shakes_hands_anew() -> None:
    first, other = DtlsPhone(), DtlsPhone()
    async with Line(phone=first) as line:
        await start(line, first)
        line.phone = other
        other.read(await line.leg.answer(other.sdp()))
        agree(line, other)
        line.talk()
        await line.frames(12, echo=True)
        assert loudness(other.hear(other.packets(8)[-8:])) == pytest.approx(0.177, abs=0.01)
        first.close()


@pytest.mark.parametrize("ticks", [5, 6])
async def test_nothing_of_before_leaves_in_plain_where_another_party_is_to_shake_hands(ticks: int) -> None:
    """What waits for the rest of its packet leaves with the key of before, or not at all."""
    first, other = DtlsPhone(), DtlsPhone()
    async with Line(phone=first, srtp="demand") as line:
        await line.connect("a=ptime:40")
        pending = asyncio.ensure_future(line.leg.exchange())
        await asyncio.sleep(0)
        agree(line, first)
        await pending
        line.leg.play(np.full(FORMAT.frame_samples, 0.3, np.float32))
        line.run(ticks)
        drain(first.rtp)
        await line.leg.answer(other.sdp("a=ptime:40"))
        line.run(3)
        left = drain(first.rtp) + drain(other.rtp, 1)
        for data in left:
            if not is_dtls(data):
                first.unprotectors[False].rtp(data, 0.0)
        assert any(map(is_dtls, left))
        other.close()


async def test_who_listens_only_after_our_answer_has_missed_nothing() -> None:
    phone = DtlsPhone()
    async with Line(phone=phone) as line:
        await line.connect()
        pending = asyncio.ensure_future(line.leg.exchange())
        await asyncio.sleep(0)
        line.run(50)
        hellos = drain(phone.rtp, 8)
        assert len(set(hellos)) == 1 and len(hellos) <= 11
        agree(line, phone)
        await pending
        assert [data for data in drain(phone.rtp) if data == hellos[0]] == []


async def test_strangers_cannot_shake_hands() -> None:
    phone, stranger = DtlsPhone(), Phone(host="127.0.0.2")
    async with Line(phone=phone) as line:
        await start(line, phone)
        stranger.target = phone.target
        hello = Handshake(Identity(), Dtls(frozenset(), True)).poll()[0]
        stranger.raw(hello)
        line.run(3)
        assert drain(stranger.rtp) == []
        assert line.leg.stats.dropped_by_reason == {"SRTP not authentic": 1}
        stranger.close()


async def test_garbage_in_a_handshake_does_not_stop_it() -> None:
    phone = DtlsPhone(setup="active")
    async with Line(phone=phone) as line:
        await line.connect()
        pending = asyncio.ensure_future(line.leg.exchange())
        await asyncio.sleep(0)
        for garbage in (b"\x16\xfe\xfd" + bytes(40), b"\x14" * 30, b"\x3f"):
            phone.raw(garbage)
            line.run(1)
        agree(line, phone)
        await pending
        assert line.leg.stats.encryption == ("DTLS AEAD_AES_256_GCM",)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((), "UDP/TLS/RTP/SAVPF, without an a=fingerprint of sha-256"),
        ((f"a=fingerprint:{Identity().fingerprint}",), "UDP/TLS/RTP/SAVPF, without an a=setup"),
    ],
)
async def test_what_is_missing_is_said(lines: tuple[str, ...], said: str) -> None:
    async with Line() as line:
        with pytest.raises(LegError, match=said):
            await line.leg.answer(line.phone.sdp(*lines).replace("RTP/AVP", PROFILE))


# --- aiortc --------------------------------------------------------------------------------------------------------


class Path:
    """What aiortc's DTLS uses of an ICE transport, over a phone's socket."""

    state, role = "completed", "controlling"

    def __init__(self, phone: Phone) -> None:
        self._phone = phone
        phone.rtp.setblocking(False)

    async def _recv(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._phone.rtp, 4096)

    async def _send(self, data: bytes) -> None:
        self._phone.raw(data)


@pytest.mark.parametrize("role", ["client", "server"])
async def test_against_aiortc(role: str) -> None:
    """Keys that fit aiortc's, whichever of the two begins: what it encrypts is heard."""
    phone, certificate = Phone(), RTCCertificate.generateCertificate()
    prints = [f"a=fingerprint:{one.algorithm} {one.value}" for one in certificate.getFingerprints()]
    setup = {"client": "active", "server": "passive"}[role]
    async with Line(phone=phone) as line:
        offer = phone.sdp(*prints, f"a=setup:{setup}", "a=rtcp-mux").replace("RTP/AVP", PROFILE)
        answer = await line.leg.answer(offer)
        phone.read(answer)
        transport = RTCDtlsTransport(Path(phone), [certificate])  # type: ignore[arg-type]  # of ICE it takes no more
        transport._set_role(role)
        algorithm, _, value = (parse(answer).media[0].attribute("fingerprint") or "").partition(" ")
        pending = asyncio.ensure_future(line.leg.exchange())
        theirs = RTCDtlsParameters([RTCDtlsFingerprint(algorithm, value)])
        shaking = asyncio.ensure_future(transport.start(theirs))
        await turn(line, shaking.done)
        assert transport.state == "connected"
        phone.protect = transport._tx_srtp.protect  # type: ignore[method-assign]
        line.talk()
        await turn(line, pending.done)
        exchanges = await line.frames(8)
        assert loudness(exchanges[-1].heard) == pytest.approx(0.177, abs=0.005)
        assert line.leg.stats.encryption[0].startswith("DTLS ")
        await transport.stop()


async def turn(line: Line, done: Callable[[], bool]) -> None:
    """Tick, and let everybody read, until something has happened."""
    async with asyncio.timeout(10):
        while not done():
            line.run(1)
            await asyncio.sleep(0.001)


def test_keys_of_both_directions_differ() -> None:
    one, other = Identity(), Identity()
    keys: set[Crypto | None] = set()
    client = Handshake(one, Dtls.parse([other.fingerprint], "passive", True))
    server = Handshake(other, Dtls.parse([one.fingerprint], "active", False))
    to_server = client.poll()
    while to_server:
        to_server = [back for data in to_server for answer in server.receive(data) for back in client.receive(answer)]
    keys |= {client.ours, client.theirs}
    assert len(keys) == 2 and None not in keys
