"""A browser calls by `/duplex` and hears itself: HTTP, ICE, DTLS, Opus, the session and the echo engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.media.browser import Browser
from tests.voipagent.webhouse import house


async def test_a_browser_hears_its_own_tone_and_hangs_up(tmp_path: Path) -> None:
    async with asyncio.timeout(60), house(tmp_path) as there, Browser(440) as browser:
        answer = await there.call(browser)
        assert answer.status_code == 201 and answer.headers["content-type"].startswith("application/sdp")
        await browser.hears(440)
        url = answer.headers["location"]
        assert url.startswith("/duplex/") and there.whip.call_of(url.rpartition("/")[2]) in there.agent.sessions
        assert (await there.http.delete(url)).status_code == 200
        await there.empty()
        assert (await there.http.delete(url)).status_code == 404
    (record,) = tmp_path.glob("*/call.json")
    written = json.loads(record.read_text())
    assert (written["kind"], written["ended_by"], written["reason"]) == ("webrtc", "caller", "hung up")
    assert written["media"]["codec"] == "opus" and written["media"]["encryption"] == ["DTLS AEAD_AES_256_GCM"]
    assert written["frames_stepped"] > 2


async def test_what_a_publisher_says_is_echoed_to_who_listens(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(60),
        house(tmp_path) as there,
        Browser(600, "sendonly") as publisher,
        Browser(direction="recvonly") as player,
    ):
        published = await there.call(publisher, "/whip")
        assert published.status_code == 201 and "a=recvonly" in published.text
        session = published.headers["location"].rpartition("/")[2]
        listening = await there.call(player, f"/whep/{session}")
        assert listening.status_code == 201 and "a=sendonly" in listening.text
        await player.hears(600)
        assert (await there.http.delete(listening.headers["location"])).status_code == 200
        assert (await there.http.delete(listening.headers["location"])).status_code == 404
        assert (await there.http.delete(published.headers["location"])).status_code == 200
        await there.empty()
        again = await there.post(f"/whep/{session}", await player.offer())
        assert again.status_code == 404
    assert not publisher.heard
