"""The events of a call as its page gets them: a feed as a plain value, and over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message

from media.leg import LegStats
from signaling.call import CallEnded
from voipagent.context import Line
from voipagent.events import Answered, Began, Ended, Measured, Spoke, Stepped, Trimmed, Troubled
from voipagent.web import live as live_module
from voipagent.web.api import create_api, serve_http
from voipagent.web.live import MOST_LINES, MOST_READERS, Change, Feed, Live, View, _EventStream, serve_live

BEGAN = Began("webrtc", "in", "", "agent")
OVER = Ended(CallEnded("caller", "hung up"))


def spoke(text: str, start: float = 1.0, *, role: Any = "agent", final: bool = False) -> Spoke:
    return Spoke(Line(role, text, start, start + 0.5), final)


def texts(changes: list[Change]) -> list[str]:
    return [change.data["text"] for change in changes if change.kind == "line"]


# --- a feed -------------------------------------------------------------------------------------------------------


def test_a_reader_gets_each_thing_as_it_is_now_in_the_order_of_change() -> None:
    feed = Feed()
    for event in (BEGAN, Answered(0.1), spoke("Hel"), spoke("hi", role="caller"), spoke("Hello.", final=True)):
        feed.take(event)
    changes = feed.since(0)
    assert [change.kind for change in changes] == ["state", "line", "line"]
    assert changes[0].data == {"state": "live", "prime_s": 0.1}
    assert texts(changes) == ["hi", "Hello."], "the line that grew is one"
    assert changes[-1].data == {"role": "agent", "text": "Hello.", "start": 1.0, "end": 1.5, "final": True}
    assert feed.since(changes[-1].number) == []


def test_a_reader_that_was_away_goes_on_where_it_was() -> None:
    feed = Feed()
    feed.take(spoke("one", 1.0, final=True))
    seen = feed.since(0)[-1].number
    feed.take(spoke("two", 2.0))
    feed.take(spoke("two and", 2.0))
    assert texts(feed.since(seen)) == ["two and"]
    assert texts(feed.since(0)) == ["one", "two and"]


def test_statistics_are_only_the_last_and_lines_are_all_up_to_a_bound() -> None:
    feed = Feed()
    for number in range(MOST_LINES + 20):
        feed.take(spoke(f"line {number}", float(number), final=True))
        feed.take(Measured(float(number), LegStats()))
    changes = feed.since(0)
    assert texts(changes) == [f"line {number}" for number in range(20, MOST_LINES + 20)]
    assert [change.data["at"] for change in changes if change.kind == "statistics"] == [MOST_LINES + 19.0]


def test_statistics_tell_how_long_the_model_takes_since_the_last_time() -> None:
    feed = Feed()
    for step in (Stepped(0.01, 0.03, False), Stepped(0.02, 0.08, True)):
        feed.take(step)
    stats = LegStats(codec="opus", packets_lost=3, playout_delay_s=0.06, round_trip_s=0.02)
    feed.take(Measured(1.0, stats))
    (told,) = feed.since(0)
    assert (told.data["step_s"], told.data["frames_late"], told.data["codec"]) == (0.07, 1, "opus")
    assert (told.data["packets_lost"], told.data["playout_delay_s"], told.data["round_trip_s"]) == (3, 0.06, 0.02)
    feed.take(Stepped(0.0, 0.02, False))
    feed.take(Measured(2.0, stats))
    assert feed.since(0)[0].data["step_s"] == 0.02
    feed.take(Measured(3.0, stats))
    assert feed.since(0)[0].data["step_s"] is None, "on hold there are no steps"


def test_trims_and_troubles_are_notes_and_the_end_has_its_reason() -> None:
    feed = Feed()
    for event in (Trimmed(9.0, "pause", ""), Troubled(12.0, "dead air"), Trimmed(12.5, "dead air", ""), OVER):
        feed.take(event)
    *notes, end = [change.data for change in feed.since(0)]
    assert notes == [
        {"note": "trimmed", "at": 9.0, "why": "pause", "error": ""},
        {"note": "troubled", "at": 12.0, "why": "dead air", "error": ""},
    ]
    assert end == {"state": "ended", "by": "caller", "reason": "hung up"} and feed.is_over


def test_an_event_is_one_even_if_there_are_line_breaks_in_the_text() -> None:
    text = str(Change(7, "line", {"text": "one\n\ndata: two\r\nid: 9 – größer"}))
    assert text.startswith("id: 7\nevent: line\ndata: ") and text.endswith("\n\n")
    assert "\r" not in text and text.count("\n") == 4
    assert json.loads(text.splitlines()[2].removeprefix("data: ")) == {"text": "one\n\ndata: two\r\nid: 9 – größer"}


# --- over HTTP ----------------------------------------------------------------------------------------------------


class Reader:
    """One connection that listens to events."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def head(self) -> tuple[int, str]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        return int(head.split()[1]), head.lower()

    async def event(self) -> tuple[str, dict[str, Any]]:
        """The next event that is one: its kind and data."""
        while True:
            block = b""
            while not block.endswith(b"\n\n"):
                line = await self._reader.readline()
                assert line, "the stream ended"
                block += line if not line.strip().isalnum() or b":" in line else b""  # but the lengths of chunks
            fields = dict(line.split(": ", 1) for line in block.decode().replace("\r", "").split("\n") if ": " in line)
            if "data" in fields:
                return fields["event"], json.loads(fields["data"])

    async def rest(self) -> bytes:
        return await self._reader.read()


@asynccontextmanager
async def listening(port: int, path: str, **headers: str) -> AsyncIterator[Reader]:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        host = f"Host: 127.0.0.1:{port}\r\n"
        writer.write(f"GET {path} HTTP/1.1\r\n{host}{lines}Connection: close\r\n\r\n".encode())
        try:
            yield Reader(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def serving(live: Live) -> AsyncIterator[int]:
    api = create_api(lambda: True)
    serve_live(api, live, {"secret": "call-1"}.get)
    async with serve_http(api, "127.0.0.1", 0) as port:
        yield port


async def test_a_page_hears_of_its_call_until_the_end() -> None:
    live = Live()
    live("call-1", BEGAN)
    async with serving(live) as port, listening(port, "/live/secret") as page:
        code, head = await page.head()
        assert code == 200
        assert "content-type: text/event-stream" in head and "cache-control: no-store" in head
        assert await page.event() == ("state", {"state": "ringing", "persona": "agent"})
        live("call-1", Answered(0.2))
        assert await page.event() == ("state", {"state": "live", "prime_s": 0.2})
        live("call-1", spoke("Grüß Gott.", final=True))
        assert (await page.event())[1]["text"] == "Grüß Gott."
        live("call-1", OVER)
        assert (await page.event())[1]["state"] == "ended"
        assert b"event" not in await page.rest(), "it ends with the call"


async def test_a_page_that_lost_its_connection_misses_nothing_not_even_the_end() -> None:
    live = Live()
    for event in (BEGAN, Answered(0.2), spoke("one", 1.0, final=True)):
        live("call-1", event)
    feed = live.feed("call-1")
    assert feed is not None
    seen = feed.number
    live("call-1", spoke("two", 2.0, final=True))
    live("call-1", OVER)
    async with serving(live) as port, listening(port, "/live/secret", Last_Event_ID=str(seen)) as page:
        assert (await page.head())[0] == 200
        assert (await page.event())[1]["text"] == "two"
        assert (await page.event())[1]["state"] == "ended"


async def test_a_number_that_nobody_was_told_is_none() -> None:
    """Who waited for what comes after it would wait for ever, and keep a connection."""
    live = Live()
    for event in (BEGAN, spoke("one", 1.0, final=True), OVER):
        live("call-1", event)
    async with serving(live) as port, listening(port, "/live/secret", Last_Event_ID="999999999") as page:
        assert (await page.head())[0] == 200
        assert (await page.event())[1]["text"] == "one"
        assert (await page.event())[1]["state"] == "ended"
        assert b"event" not in await page.rest()


@pytest.mark.parametrize(
    ("path", "headers", "code", "why"),
    [
        ("/live/unknown", {}, 404, "there is no such call now"),
        ("/live/call-1", {}, 404, "there is no such call now"),
        ("/live/secret", {"Origin": "https://evil.example"}, 403, "pages of other origins"),
    ],
)
async def test_others_hear_nothing(path: str, headers: dict[str, str], code: int, why: str) -> None:
    live = Live()
    live("call-1", BEGAN)
    async with serving(live) as port, listening(port, path, **headers) as stranger:
        assert (await stranger.head())[0] == code
        assert why in (await stranger.rest()).decode()


async def test_calls_of_telephones_are_not_told() -> None:
    live = Live()
    live("call-1", Began("sip", "in", "", "agent"))
    live("call-1", spoke("a secret"))
    assert live.feed("call-1") is None


async def test_so_many_listen_to_one_call_and_no_more_and_those_who_leave_make_room() -> None:
    live = Live()
    live("call-1", BEGAN)
    view = live.view("call-1")
    assert view is not None
    async with serving(live) as port:
        async with listening(port, "/live/secret") as first:
            await first.event()
            view.readers += MOST_READERS - 1
            async with listening(port, "/live/secret") as one_more:
                assert (await one_more.head())[0] == 429
            view.readers -= MOST_READERS - 1
        async with asyncio.timeout(5):
            while view.readers:
                await asyncio.sleep(0)
        live("call-1", OVER)


async def test_a_call_that_ended_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "KEPT_S", 0.0)
    live = Live()
    live("call-1", BEGAN)
    live("call-1", OVER)
    assert live.feed("call-1") is not None, "who asks at once still gets the end"
    async with asyncio.timeout(5):
        while live.feed("call-1") is not None or live.view("call-1") is not None:
            await asyncio.sleep(0)


async def test_a_reader_who_takes_nothing_is_given_up_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "SEND_S", 0.01)
    feed, stuck = Feed(), asyncio.Event()
    view = View(feed)
    feed.take(BEGAN)

    async def send(message: Message) -> None:
        stuck.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        streaming = asyncio.create_task(_EventStream(view, 0).stream_response(send))
        await stuck.wait()
        feed.take(spoke("meanwhile"))
        await streaming
    assert view.readers == 0 and texts(feed.since(0)) == ["meanwhile"]
