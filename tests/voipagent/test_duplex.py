"""A browser calls by `/duplex` and hears itself: HTTP, ICE, DTLS, Opus, the session and the echo engine."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from pathlib import Path

import pytest

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
    assert written["frames_stepped"] > 0  # from when there was a way on


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
        await player.is_over()
        async with Browser(direction="recvonly") as late:
            again = await there.post(f"/whep/{session}", await late.offer())
        assert again.status_code == 404
    assert not publisher.heard


async def test_who_is_answered_and_never_comes_gives_the_row_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sockets may answer our checks all the same, so that there is a way, by which nothing comes."""
    monkeypatch.setattr("media.ice.CONNECT_S", 0.5)
    monkeypatch.setattr("media.webrtc.FIRST_PACKET_S", 0.5)
    async with asyncio.timeout(30), house(tmp_path, rows=1) as there, Browser(440) as browser:
        created = await there.post("/duplex", await browser.offer())
        assert created.status_code == 201 and there.engine.free == 0
        await there.empty()
        assert there.legs._ports and not there.legs._ports._taken
        assert (await there.http.delete(created.headers["location"])).status_code == 404


@pytest.mark.parametrize("joins", [4, pytest.param(50, marks=pytest.mark.acceptance)])
async def test_joins_and_leaves_leave_nothing(joins: int, tmp_path: Path) -> None:
    """No thread, no task, no port, no row; and memory that does not grow, once caches are warm."""
    async with asyncio.timeout(30 * joins), house(tmp_path, rows=1) as there:
        sizes, left = [], []
        for number in range(joins):
            async with Browser(440) as browser:
                url = (await there.call(browser)).headers["location"]
                await browser.hears(440, within_s=30)
                if number % 2:
                    await browser.peer.close()
                assert (await there.http.delete(url)).status_code == 200
            await there.empty()
            gc.collect()
            sizes.append(resident_mib())
            left.append((ours(), len(there.legs._ports._taken) if there.legs._ports else -1))
        assert set(left) == {left[0]} and left[0][1] == 0
        assert not there.whip._candidates and not there.whip._offered.qsize()
        if joins > 20:
            print(f"MiB resident after each join: {sizes}")
            assert max(sizes[-10:]) - max(sizes[10:20]) < 4


def ours() -> tuple[int, int]:
    """Threads, and tasks that are none of the test's own HTTP; the browser encodes in the loop's own threads."""
    tasks = [task for task in asyncio.all_tasks() if "uvicorn" not in repr(task)]
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    return len(threads), len(tasks)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
