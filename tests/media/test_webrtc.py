"""The WebRTC leg: agreed on, changed, replaced, and closed; with itself at the other end, under a made-up clock."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import replace

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from media.answer import Legs
from media.clock import TICK_S
from media.codec import PCMU
from media.dtls import Dtls, Identity
from media.icesdp import WAY, Remote
from media.leg import LegError, NoPort, Pcm
from media.ports import Ports
from media.published import MAX_LISTENERS, PublishedLeg
from media.rtp import RtpLeg
from media.stream import Stream
from media.webrtc import OtherIce, WebRtcLeg, _same_peer
from tests.media.browser import Browser
from tests.media.line import FORMAT, loudness
from tests.media.test_ice import stun_server, until
from tests.media.webline import HERE, WebLine, heard

RATE = FORMAT.sample_rate


def sine(seconds: float, hertz: float = 440.0) -> Pcm:
    at = np.arange(round(seconds * RATE)) / RATE
    return (0.25 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


async def test_what_is_said_is_heard_both_ways_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        answer = await line.connect()
        assert re.search(r"m=audio \d+ UDP/TLS/RTP/SAVPF 96 ", answer) and "a=mid:0\r\n" in answer
        got = await line.talk(sine(8.0), echo=True)
        assert loudness(heard(got[5:])) == pytest.approx(0.177, abs=0.02)
        assert loudness((await line.caller.exchange()).heard) == pytest.approx(0.177, abs=0.02)
        # a report leaves at most 7.5 s after the last (RFC 3550, section 6.3.1): theirs on ours is there by then
        await line.talk(sine(8.0))
        stats = line.agent.stats
        assert (stats.codec, stats.encryption) == ("opus", ("DTLS AEAD_AES_256_GCM",))
        assert stats.remote == f"{HERE}:{line.caller._way.default[1]}" and stats.packets_dropped == 0
        assert stats.packets_received > 380 and stats.reports_received > 0 and stats.round_trip_s is not None


def behind_a_picture(offer: str) -> str:
    """The same from who wants to be seen, too, and by one way that its picture's line tells of (RFC 8843)."""
    head, audio = offer.split("m=audio ")
    way = [line for line in audio.splitlines() if line[2:].partition(":")[0] in WAY]
    rest = [line for line in audio.splitlines()[1:] if line not in way]
    port, _, line = audio.splitlines()[0].partition(" ")
    picture = [f"m=video {port} {line}", "c=IN IP4 0.0.0.0", "a=mid:picture", *way]
    behind = [f"m=audio 0 {line}", *rest, "a=bundle-only", ""]
    return head.replace("a=group:BUNDLE ", "a=group:BUNDLE picture ") + "\r\n".join([*picture, *behind])


async def test_who_wants_to_be_seen_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        offer = behind_a_picture(await line.caller.offer())
        assert "m=audio 0 " in offer and offer.index("a=ice-ufrag") < offer.index("m=audio")
        head, picture, audio = re.split("(?=m=)", await line.agent.answer(offer))
        assert picture.startswith("m=video 0 ") and "a=mid:picture\r\n" in picture
        assert "a=group:BUNDLE 0\r\n" in head and "a=mid:0\r\n" in audio and "a=ice-ufrag" in audio
        await line.caller.accepted(head + audio)
        await line.meet()
        assert loudness(heard((await line.talk(sine(2.0)))[5:])) == pytest.approx(0.177, abs=0.02)


async def test_what_is_played_reaches_nobody_before_there_are_a_way_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        assert not line.agent.ready
        answer = await line.agent.answer(await line.caller.offer())
        line.agent.begin()
        line.agent.play(sine(0.08))
        line.tick(8)
        first = [await line.agent.exchange() for _ in range(2)]
        assert not line.agent.ready and not any(exchange.played.any() for exchange in first)
        await line.caller.accepted(answer)
        await line.meet()
        line.agent.play(sine(0.32))
        line.tick(8)
        assert line.agent.ready and (await line.agent.exchange()).played.any()


async def soon(lost: Coroutine[None, None, str]) -> str:
    return await asyncio.wait_for(lost, 5)


async def test_keys_are_pressed_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        await line.connect()
        for one, other in ((line.agent, line.caller), (line.caller, line.agent)):
            pressing = asyncio.create_task(one.send_digits("4#"))
            await asyncio.sleep(0)
            line.tick(60)
            await asyncio.wait_for(pressing, 5)
            digits = other.digits()
            assert [(await asyncio.wait_for(anext(digits), 5)).key for _ in range(2)] == ["4", "#"]


async def test_an_offer_to_hold_holds_by_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        await line.connect()
        way = line.agent._way
        for held in (True, False):
            await line.caller.accepted(await line.agent.answer(await line.caller.offer(hold=held)))
            line.tick(10)
            line.skip()
            got = await line.talk(sine(1.0))
            assert line.agent.held is held and got[-1].held is held
            assert (loudness(heard(got[-3:])) > 0.1) is not held
        assert line.agent._way is way and line.agent.stats.encryption == ("DTLS AEAD_AES_256_GCM",)


async def test_another_peer_takes_the_place_of_the_first_and_time_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        await line.connect()
        await line.talk(sine(1.0))
        before, port = line.caller, line.agent._way.default[1]
        line.caller = line.leg()
        answer = await line.agent.answer(await line.caller.offer())
        assert line.agent._way.default[1] != port and port not in line.ports._taken
        await line.caller.accepted(answer)
        await line.meet()
        got = await line.talk(sine(2.0, 600.0))
        assert loudness(heard(got[-10:])) > 0.1 and not line.agent.is_lost
        ticks = line.agent._number
        await before.close()
        line.tick(5)
        assert line.agent._number is not None and ticks is not None and line.agent._number == ticks + 5


async def test_the_same_page_may_come_back_with_the_same_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another peer connection by its o= line, and shakes hands anew."""
    async with WebLine(monkeypatch) as line:
        await line.connect()
        before, line.caller = line.caller, line.leg()
        line.caller._describer.identity = before._describer.identity
        await line.caller.accepted(await line.agent.answer(await line.caller.offer()))
        await line.meet()
        assert loudness(heard((await line.talk(sine(1.0)))[-5:])) > 0.1
        await before.close()


def stream(fingerprint: str = "aa", client: bool = True) -> Stream:
    nothing = frozenset[int]()
    agreed = Stream(
        *(0, "UDP/TLS/RTP/SAVPF", PCMU, 0, frozenset({0}), None, nothing, 8000, nothing),
        *((HERE, 9), (HERE, 9), True, 20, True, True),
    )
    return replace(agreed, dtls=Dtls(frozenset({("sha-256", bytes.fromhex(fingerprint))}), client))


def test_keys_go_on_where_the_same_peer_restarts_ice() -> None:
    """RFC 8842, section 4: a restart of ICE is no reason to shake hands anew; another peer connection is."""
    one, other = Remote("7", "abcd", "p" * 22), Remote("7", "efgh", "q" * 22)
    assert _same_peer(one, stream(), other, stream())
    assert not _same_peer(one, stream(), replace(other, session="8"), stream())
    assert not _same_peer(one, stream(), other, stream("bb"))
    assert not _same_peer(replace(one, session=""), stream(), replace(other, session=""), stream())
    assert not _same_peer(None, None, other, stream())


class RsaIdentity(Identity):
    """With a certificate of the kind that aiortc, as a client, would refuse."""

    def __init__(self) -> None:
        super().__init__()
        key = rsa.generate_private_key(65_537, 2048)
        cert = self.certificate
        builder = x509.CertificateBuilder(cert.issuer, cert.subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(cert.not_valid_before_utc).not_valid_after(cert.not_valid_after_utc)
        self.certificate = builder.sign(key, hashes.SHA256())
        self.key = key  # type: ignore[assignment]  # what Identity makes is always of a curve


async def test_a_peer_with_an_rsa_certificate_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        line.caller._describer.identity = RsaIdentity()
        await line.connect()
        assert line.agent._stream is not None and line.agent._stream.dtls is not None and line.agent._stream.dtls.client
        assert loudness(heard((await line.talk(sine(1.0)))[-5:])) > 0.1


async def test_another_certificate_than_the_descriptions_is_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media.webrtc.FIRST_PACKET_S", 3.0)
    async with WebLine(monkeypatch) as line:
        offer = await line.caller.offer()
        line.caller._describer.identity = Identity()
        await line.caller.accepted(await line.agent.answer(offer))
        with pytest.raises(AssertionError):
            await line.meet()
        line.tick(round(3.1 / TICK_S))
        assert re.search("no audio came by it in 3 s; [1-5] handshakes by DTLS failed", await soon(line.agent.lost()))


async def test_where_no_audio_comes_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media.webrtc.FIRST_PACKET_S", 3.0)
    async with WebLine(monkeypatch) as line:
        monkeypatch.setattr(line.caller._sender, "audio", lambda pcm: [])
        monkeypatch.setattr(line.caller._sender, "pause", lambda: [])
        await line.connect()
        line.tick(round(3.1 / TICK_S))
        assert "no audio came by it in 3 s" in await soon(line.agent.lost())


async def test_where_ice_finds_no_way_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media.ice.CONNECT_S", 0.2)
    async with WebLine(monkeypatch) as line:
        await line.agent.answer(re.sub("a=candidate.*\r\n", "", await line.caller.offer()))
        line.agent.begin()
        async with asyncio.timeout(5):
            while not line.agent.is_lost:
                line.tick()
                await asyncio.sleep(0.01)
        assert "ICE found no way to the far end" in await soon(line.agent.lost())


# --- what is refused


async def test_a_bad_offer_leaves_what_was_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        await line.connect()
        way, taken = line.agent._way, set(line.ports._taken)
        other = line.leg()
        offer = await other.offer()
        for bad, why in (
            (offer.replace("a=rtcp-mux\r\n", ""), "without a=rtcp-mux"),
            (re.sub("a=ice-ufrag.*\r\n", "", offer), "no a=ice-ufrag"),
            (re.sub("a=setup.*\r\n", "", offer), "without an a=setup"),
            ("v=1", "begins with v=0"),
        ):
            with pytest.raises(LegError, match=why):
                await line.agent.answer(bad)
        await other.close()
        assert line.agent._way is way and line.ports._taken == taken
        assert loudness(heard((await line.talk(sine(1.0)))[-5:])) > 0.1


async def test_without_a_port_the_call_of_before_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        await line.connect()
        other = line.leg()
        offer = await other.offer()
        line.agent._ports = Ports(32_800, 32_800, line.timers.time)
        with pytest.raises(NoPort):
            await line.agent.answer(offer)
        assert loudness(heard((await line.talk(sine(1.0)))[-5:])) > 0.1
        await other.close()


async def test_candidates_are_of_the_session_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        fragment = "a=ice-ufrag:abcd\r\na=ice-pwd:" + "p" * 22
        with pytest.raises(LegError, match="before a description"):
            await line.agent.add_candidates(fragment)
        with pytest.raises(LegError, match="nothing was offered"):
            await line.agent.accepted("v=0")
        await line.agent.answer(await line.caller.offer())
        with pytest.raises(OtherIce, match="another ICE session"):
            await line.agent.add_candidates(fragment)


async def test_a_leg_that_is_closed_while_its_way_is_gathered_has_given_all_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with WebLine(monkeypatch) as line:
        offer, before = await line.caller.offer(), set(line.ports._taken)
        with stun_server(answers=False) as server:
            leg = WebRtcLeg(FORMAT, line.clock, line.ports, HERE, servers=(server,))
            answering = asyncio.create_task(leg.answer(offer))
            await until(lambda: line.ports._taken != before)
            await leg.close()
            with pytest.raises(LegError, match="the leg was closed"):
                await answering
        assert line.ports._taken == before


async def test_a_closed_leg_has_given_all_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        offer = await line.caller.offer()
        await line.agent.close()
        with pytest.raises(LegError, match="closed"):
            await line.agent.answer(offer)
        await line.caller.close()
        await line.caller.close()
        assert not line.ports._taken and len(line.clock) == 0 and len(asyncio.all_tasks()) == 1


# --- legs of others


async def test_legs_are_chosen_by_what_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Legs(FORMAT, ports=(34_000, 34_099)) as legs, WebLine(monkeypatch) as line:
        offer = await line.caller.offer()
        assert type(legs.open_leg(offer, HERE)) is WebRtcLeg
        assert type(legs.open_leg(re.sub("a=ice-ufrag.*\r\n", "", offer), HERE)) is RtpLeg
        assert type(legs.open_leg(offer, HERE, srtp="off")) is RtpLeg
        assert type(legs.open_leg(None, HERE)) is RtpLeg


async def test_a_publisher_does_not_hold_and_is_heard_and_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch, ways="in") as line:
        published, listener, player = PublishedLeg(line.agent), line.leg("out"), line.leg()
        assert not published.ready  # nobody listens
        answer = await published.answer(await line.caller.offer())
        assert "a=recvonly" in answer and "a=ssrc" not in answer
        await line.caller.accepted(answer)
        await player.accepted(await published.listen(listener, await player.offer()))
        player.begin()
        await line.meet()
        async with asyncio.timeout(5):
            while not player._way.connected:
                await asyncio.sleep(0.005)
        for frame in sine(2.8).reshape(-1, FORMAT.frame_samples):
            line.caller.play(frame)
            line.tick(4)
            exchange = await published.exchange()
            published.play(frame)
            assert not exchange.held
        assert loudness(exchange.played) > 0.1  # by which it is recorded
        assert loudness(exchange.heard) > 0.1 and line.caller.stats.packets_received == 0
        assert player.stats.packets_received > 50 and listener.stats.packets_received == 0 and published.ready
        published.listeners += [listener] * (MAX_LISTENERS - 1)
        with pytest.raises(NoPort, match="16 listen already"):
            await published.listen(line.leg("out"), "v=0")
        del published.listeners[1:]
        listener._lose("gone")
        line.tick(4)
        assert not (await published.exchange()).played.any()  # nobody hears it any more
        assert published.listeners == []
        async with asyncio.timeout(5):
            while not listener._closed:
                await asyncio.sleep(0.005)
        with pytest.raises(LegError, match="a publisher cannot be offered"):
            await published.offer()
        await published.close()
        with pytest.raises(LegError, match="nothing to listen to"):
            await published.listen(line.leg("out"), "v=0")
        await player.close()


async def test_halves_of_a_call_are_only_for_those_who_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch, ways="in") as line:
        offer = await line.caller.offer()
        for ways, direction, why in (("in", "recvonly", "where it is published"), ("out", "sendonly", "listened to")):
            leg = line.leg("in" if ways == "in" else "out")
            with pytest.raises(LegError, match=why):
                await leg.answer(offer.replace("a=sendrecv", f"a={direction}"))
            await leg.close()


async def test_our_part_in_the_handshake_stays_though_it_is_left_to_us_again() -> None:
    """A description of later says actpass (RFC 8842, section 5.5); who is asked anew to begin would begin alone."""
    prints = Identity().fingerprint

    def described(setup: str, version: int, session: int = 1, ufrag: str = "abcd") -> str:
        lines = [f"o=- {session} {version} IN IP4 {HERE}", "s=-", "t=0 0", "m=audio 9 UDP/TLS/RTP/SAVPF 96"]
        lines += [f"c=IN IP4 {HERE}", "a=rtpmap:96 opus/48000/2", "a=rtcp-mux", f"a=ice-ufrag:{ufrag}"]
        return "\r\n".join(["v=0", *lines, "a=ice-pwd:" + "p" * 24, f"a=fingerprint:{prints}", f"a=setup:{setup}", ""])

    async with Legs(FORMAT, ports=(34_000, 34_019)) as legs:
        leg = legs.open_web_leg(HERE)
        assert isinstance(leg, WebRtcLeg)
        await leg.offer()
        await leg.accepted(described("active", 1))
        handshake = leg._security._handshakes[False]
        assert "a=setup:passive" in await leg.answer(described("actpass", 2))
        assert leg._security._handshakes[False] is handshake
        assert "a=setup:active" in await leg.answer(described("actpass", 1, session=2, ufrag="efgh"))  # somebody else
        assert leg._security._handshakes[False] is not handshake
        await leg.close()


async def test_we_call_a_browser() -> None:
    """Our offer, its answer: as a meeting elsewhere has it."""
    async with asyncio.timeout(30), Legs(FORMAT, ports=(34_100, 34_199)) as legs, Browser(600.0) as browser:
        leg = legs.open_web_leg(HERE)
        await leg.accepted(await browser.answer(await leg.offer()))
        for _ in range(60):
            leg.play((await leg.exchange()).heard)
        await browser.hears(600.0)
        await leg.close()
        await browser.is_over()
