"""What becomes of a call, told to its page as it happens: server-sent events (WHATWG HTML, section 9.2).

Who knows the id of a call's session may listen: it is as hard to guess as a password, and only who made the call was
told it. Calls of telephones have ids that others know; of them nothing is told here. Whose call is in a room is told
of the room, for as long as it is there, and of what was said since it came.

A `Feed` is no queue: it holds each thing as it is now, with the number of its last change. A reader asks for what
changed since the number that it has, so a slow one misses statistics that are old, but no line, and one that lost its
connection goes on where it was. The number is the event's id.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, HTTPException, Request, status
from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from voipagent.events import Answered, Began, Ended, Event, Gathered, Measured, Spoke, Stepped, Trimmed, Troubled
from voipagent.web.origins import check_origin

logger = logging.getLogger(__name__)

MOST_LINES = 500
"""Lines of a call that are held; of a longer call the oldest are forgotten."""

MOST_NOTES = 50
MOST_READERS = 8
"""At once, of one call: the page, and its old connections that nobody has missed yet."""

SPOKEN = ("line", "note")
"""What is told of a room only to those who were there."""

GONE = {"state": "ended", "by": "agent", "reason": "you are no longer in the room"}

KEPT_S = 30.0
"""Seconds that the end of a call can still be asked for."""

SEND_S = 20.0
"""Seconds after which a reader who takes nothing is given up."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is now different: `kind` is the name of the event, `number` rises by one with each change."""

    number: int
    kind: str
    data: dict[str, Any]

    @property
    def began(self) -> float:
        """Seconds of the call: when a line was begun to be said, or something was noted."""
        return float(self.data["start"] if self.kind == "line" else self.data["at"])

    def __str__(self) -> str:
        return f"id: {self.number}\n{_event(self.kind, self.data)}"


def _event(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


class Feed:
    """One call as it is now."""

    def __init__(self) -> None:
        self.number = 0
        self.is_over = False
        self._things: dict[tuple[object, ...], Change] = {}
        self._changed = asyncio.Event()
        self._trouble = ""
        self._steps = self._late = 0
        self._step_s = 0.0

    def take(self, event: Event) -> None:
        """Take what the session tells."""
        match event:
            case Began():
                self._put(("state",), "state", {"state": "ringing", "persona": event.persona})
            case Answered():
                self._put(("state",), "state", {"state": "live", "prime_s": event.prime_s})
            case Spoke(line, final):
                data = {"role": line.role, "text": line.text, "start": line.start, "end": line.end, "final": final}
                speaker = {"speaker": line.speaker} if line.speaker else {}
                self._put(("line", line.role, line.start), "line", data | speaker)
                self._forget("line", MOST_LINES)
            case Stepped():
                self._count(event)
            case Measured():
                self._put(("statistics",), "statistics", self._statistics(event))
            case Trimmed(at, why, error) if why != self._trouble:  # that one is told of already
                self._note({"note": "trimmed", "at": at, "why": why, "error": error})
            case Troubled(at, trouble):
                self._trouble = trouble
                self._note({"note": "troubled", "at": at, "why": trouble, "error": ""})
            case Gathered(_, people, speaking):
                self._put(("people",), "people", {"names": list(people.values()), "speaking": sorted(speaking)})
            case Ended(ended):
                self.is_over = True
                self._put(("state",), "state", {"state": "ended", "by": ended.by, "reason": ended.reason})

    def since(self, number: int) -> list[Change]:
        """What changed after that number, in order."""
        return sorted(
            (change for change in self._things.values() if change.number > number), key=lambda change: change.number
        )

    async def changed(self, number: int) -> None:
        """Wait until there is something after that number."""
        while self.number <= number:
            await self._changed.wait()

    def _put(self, key: tuple[object, ...], kind: str, data: dict[str, Any]) -> None:
        self.number += 1
        self._things.pop(key, None)  # so that they lie in the order of their changes
        self._things[key] = Change(self.number, kind, data)
        self._changed.set()
        self._changed = asyncio.Event()

    def _note(self, data: dict[str, Any]) -> None:
        self._put(("note", self.number), "note", data)
        self._forget("note", MOST_NOTES)

    def _forget(self, kind: str, most: int) -> None:
        """Drop the longest unchanged beyond that many."""
        keys = [key for key in self._things if key[0] == kind]
        for key in keys[: max(0, len(keys) - most)]:
            del self._things[key]

    def _count(self, step: Stepped) -> None:
        self._steps += 1
        self._late += step.late
        self._step_s += step.waited_s + step.step_s

    def _statistics(self, measured: Measured) -> dict[str, Any]:
        """What the page shows; `step_s` is the mean from a frame to its reply since the last time."""
        stats, steps = measured.stats, self._steps
        step_s, self._steps, self._step_s = self._step_s / max(1, steps), 0, 0.0
        return {
            "at": measured.at,
            "codec": stats.codec,
            "step_s": round(step_s, 4) if steps else None,
            "frames_late": self._late,
            "playout_delay_s": stats.playout_delay_s,
            "jitter_s": stats.jitter_s,
            "round_trip_s": stats.round_trip_s,
            "packets_received": stats.packets_received,
            "packets_lost": stats.packets_lost,
            "frames_concealed": stats.frames_concealed,
        }


class View:
    """What one call's page may see of a feed. In a room it is called `name`, and came when that was `came` s old.

    A line is told as it grows, and last when it has ended: what began earlier stays untold.
    """

    def __init__(self, feed: Feed, name: str = "", came: float = 0.0) -> None:
        self.feed, self.name, self.came = feed, name, came
        self.readers = 0
        self.is_gone = False

    def told(self, changes: list[Change]) -> str:
        """As they are sent, but those that are none of its business."""
        return "".join(str(change) for change in changes if change.kind not in SPOKEN or change.began >= self.came)


class Live:
    """An observer of all calls, which keeps those of `kinds` for their pages, and a while longer."""

    def __init__(self, kinds: tuple[str, ...] = ("webrtc", "room")) -> None:
        self._kinds = kinds
        self._feeds: dict[str, Feed] = {}
        self._views: dict[str, View] = {}  # by the id of the call whose page it is

    def __call__(self, call_id: str, event: Event) -> None:
        if isinstance(event, Began) and event.kind in self._kinds:
            self._feeds[call_id] = Feed()
            self._views[call_id] = View(self._feeds[call_id])
        feed = self._feeds.get(call_id)
        if feed is None:
            return
        feed.take(event)
        if isinstance(event, Gathered):
            self._seat(feed, event)
        if feed.is_over:
            asyncio.get_running_loop().call_later(KEPT_S, self._drop, call_id, feed)

    def feed(self, call_id: str) -> Feed | None:
        """The call of that id, if it runs or has just ended."""
        return self._feeds.get(call_id)

    def view(self, call_id: str) -> View | None:
        """What the page of that call may see, if it runs, has just ended, or is in a room."""
        return self._views.get(call_id)

    def _seat(self, feed: Feed, gathered: Gathered) -> None:
        """Whoever is new in a room sees it from now on, and whoever has left does no longer."""
        for call_id, view in list(self._views.items()):
            if view.feed is feed and view.name and call_id not in gathered.people:
                view.is_gone = True
                del self._views[call_id]
        for call_id, name in gathered.people.items():
            if call_id not in self._views:
                self._views[call_id] = View(feed, name, gathered.at)

    def _drop(self, call_id: str, feed: Feed) -> None:
        if self._feeds.get(call_id) is feed:
            del self._feeds[call_id]
        self._views = {each: view for each, view in self._views.items() if view.feed is not feed}


def serve_live(api: FastAPI, live: Live, call_of: Callable[[str], str | None], origins: Collection[str] = ()) -> None:
    """`GET /live/{session}`: the events of the call that `call_of` a session names, until its end.

    404: there is no such call, or no more. 403: a page of another origin asks, and it is none of `origins`. 429: too
    many listen.
    """

    @api.get("/live/{session}", include_in_schema=False)
    async def events(session: str, request: Request) -> StreamingResponse:
        check_origin(request, origins)
        view = live.view(call_of(session) or "")
        if view is None:
            raise HTTPException(status.HTTP_404_NOT_FOUND, "there is no such call now")
        if view.readers >= MOST_READERS:
            raise HTTPException(status.HTTP_429_TOO_MANY_REQUESTS, f"{MOST_READERS} listen to this call already")
        told = request.headers.get("last-event-id", "")
        number = int(told) if told.isdecimal() and len(told) < 19 else 0
        return _EventStream(view, number if number <= view.feed.number else 0)


async def _tell(view: View, number: int) -> AsyncIterator[str]:
    """Each change after `number`, until the call is over or has left the room."""
    feed = view.feed
    yield "retry: 1000\n\n"
    if view.name:
        yield _event("you", {"name": view.name})
    while not (feed.is_over and feed.number <= number):
        await feed.changed(number)
        if view.is_gone:
            yield _event("state", GONE)
            return
        changes = feed.since(number)
        number = changes[-1].number
        if told := view.told(changes):
            yield told


class _EventStream(StreamingResponse):
    """A feed's changes, for as long as its reader takes them: nothing taken for SEND_S, and it is given up."""

    def __init__(self, view: View, number: int) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_tell(view, number), headers=headers, media_type="text/event-stream")
        self._view = view

    async def stream_response(self, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            async with asyncio.timeout(SEND_S):
                await send(message)

        self._view.readers += 1
        try:
            await super().stream_response(send_soon)
        except TimeoutError:
            logger.info("x a reader of a call's events took nothing for %g s", SEND_S)
        finally:
            self._view.readers -= 1
