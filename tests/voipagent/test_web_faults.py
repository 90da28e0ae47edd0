"""What goes wrong with calls by HTTP, through the whole agent: the right status, a problem body, and nothing left."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.media.browser import Browser
from tests.voipagent.webhouse import House, house
from voipagent.web.limits import MAX_BODY


async def refused(there: House, offer: str, status: int, why: str) -> None:
    """That offer is answered so, and costs nothing that is not given back."""
    answer = await there.post("/duplex", offer)
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert (answer.status_code, json.loads(answer.text)["status"]) == (status, status), answer.text
    assert re.search(why, json.loads(answer.text)["detail"]), answer.text
    await there.empty()


async def test_an_offer_that_cannot_be_taken_is_told_why_and_leaves_nothing(tmp_path: Path) -> None:
    async with asyncio.timeout(60), house(tmp_path, rows=1) as there, Browser() as browser:
        offer = await browser.offer()
        tasks = len(asyncio.all_tasks())
        await refused(there, "hello", 400, "line 1 of the session description")
        await refused(there, "", 400, "line 1 of the session description")
        await refused(there, re.sub("c=IN IP[46] ", "c=IN IP4 x", offer), 400, "is not an IP address")
        await refused(there, offer.replace("m=audio", "m=video"), 406, "no audio stream")
        await refused(there, re.sub(r"m=audio \d+", "m=audio 0", offer), 406, "no audio stream")
        await refused(there, offer.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP"), 406, "is 'RTP/AVP'; WebRTC's is")
        await refused(there, re.sub("a=fingerprint:.*\r\n", "", offer), 406, "without an a=fingerprint")
        await refused(there, re.sub("a=ice-pwd:.*\r\n", "", offer), 406, "no a=ice-ufrag of 4 and a=ice-pwd")
        await refused(there, offer.replace("a=rtcp-mux\r\n", ""), 406, "without a=rtcp-mux")
        await refused(there, re.sub("SAVPF .*\r\n", "SAVPF 126\r\n", offer), 406, "no common codec")
        await refused(there, offer + "x" * MAX_BODY, 413, "at most")
        assert len(there.legs._open) == 0 and there.engine.free == 1
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > tasks + 1:  # the server's own for our connection
                await asyncio.sleep(0.01)


async def test_video_and_data_are_refused_and_the_audio_taken(tmp_path: Path) -> None:
    async with asyncio.timeout(60), house(tmp_path) as there, Browser() as browser:
        offer = await browser.offer()
        more = (
            "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:v\r\na=rtpmap:96 VP8/90000\r\n"
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:d\r\na=sctp-port:5000\r\n"
        )
        answer = (await there.post("/duplex", offer.replace("BUNDLE 0", "BUNDLE 0 v d") + more)).text
        assert "a=group:BUNDLE 0\r\n" in answer
        assert "m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:v\r\na=inactive\r\n" in answer
        assert "m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:d\r\na=inactive\r\n" in answer
        assert answer.count("a=ice-ufrag") == answer.count("a=fingerprint") == 1


async def test_one_call_too_many_is_told_to_come_again_and_the_first_goes_on(tmp_path: Path) -> None:
    async with asyncio.timeout(60), house(tmp_path, rows=1) as there, Browser(440) as first, Browser(600) as second:
        taken = await there.call(first)
        await first.hears(440)
        busy = await there.post("/duplex", await second.offer())
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "10")
        first.heard.clear()
        await first.hears(440)
        await there.http.delete(taken.headers["location"])
        await there.empty()
        assert (await there.call(second)).status_code == 201
        await second.hears(600)


async def test_candidates_may_come_later_and_only_of_the_same_ice(tmp_path: Path) -> None:
    async with asyncio.timeout(60), house(tmp_path) as there, Browser(440) as browser:
        offer = await browser.offer()
        bare = re.sub("a=(candidate|end-of-candidates).*\r\n", "", offer)
        answer = await there.post("/duplex", bare)
        url, tag = answer.headers["location"], answer.headers["etag"]
        ours = re.sub("a=(candidate|end-of-candidates).*\r\n", "", answer.text)
        await browser.take(ours)  # it knows nothing of us, nor we of it
        credentials = "".join(re.findall("a=ice-(?:ufrag|pwd):.*\r\n", offer))
        candidates = "".join(re.findall("a=candidate:.*\r\n", offer))
        other = await there.patch(url, credentials.replace("ufrag:", "ufrag:x") + candidates, tag)
        assert other.status_code == 422
        torn = await there.patch(url, "candidates", tag)
        assert torn.status_code == 400 and "not of the form" in torn.text
        nobody = await there.patch(url, candidates, tag)
        assert nobody.status_code == 400 and "no a=ice-ufrag" in nobody.text
        fragment = f"{credentials}m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n{candidates}a=end-of-candidates\r\n"
        assert (await there.patch(url, fragment, tag)).status_code == 204
        await browser.hears(440)


@pytest.mark.parametrize("clean", [True, False], ids=["reloaded", "network gone"])
async def test_a_page_that_comes_back_goes_on_with_the_same_conversation(tmp_path: Path, clean: bool) -> None:
    """Its first connection is closed, or just falls silent; the second is another one in every way."""
    async with asyncio.timeout(60), house(tmp_path, rows=1) as there, Browser(440) as before, Browser(600) as after:
        created = await there.call(before)
        await before.hears(440)
        (session,) = there.agent.sessions.values()
        stepped = session.record.frames_stepped
        if clean:
            await before.peer.close()
        again = await there.call(after, created.headers["location"])
        assert again.status_code == 200 and again.headers["etag"] != created.headers["etag"]
        await after.hears(600)
        assert list(there.agent.sessions.values()) == [session] and session.record.frames_stepped > stepped
        assert (await there.http.delete(created.headers["location"])).status_code == 200
        await there.empty()
    (record,) = tmp_path.glob("*/call.json")
    assert json.loads(record.read_text())["media"]["encryption"] == ["DTLS AEAD_AES_256_GCM"]
