"""What the page of a participant sees of its room: by real HTTP, and who else does not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.voipagent.meetings import House, meeting_house, settle
from tests.voipagent.test_live import OVER, Reader, listening, serving, spoke
from voipagent.context import Line
from voipagent.events import Answered, Began, Ended, Event, Gathered, Spoke, Troubled
from voipagent.recording import Recorder
from voipagent.web.live import GONE, Live

BEGAN = Began("room", "in", "", "agent")
ROOM = "room-standup-1"


def gathered(*speaking: str, at: float = 0.0, **people: str) -> Gathered:
    return Gathered(at, {call_id.replace("_", "-"): name for call_id, name in people.items()}, frozenset(speaking))


async def events(reader: Reader, count: int) -> list[tuple[str, dict[str, Any]]]:
    return [await reader.event() for _ in range(count)]


async def test_a_participant_is_told_who_it_is_who_is_there_and_who_speaks() -> None:
    live = Live()
    for event in (BEGAN, Answered(0.1), gathered(call_1="ada")):
        live(ROOM, event)
    async with serving(live) as port, listening(port, "/live/secret") as page:
        assert await events(page, 3) == [
            ("you", {"name": "ada"}),
            ("state", {"state": "live", "prime_s": 0.1}),
            ("people", {"names": ["ada"], "speaking": []}),
        ]
        live(ROOM, gathered("", "bob", call_1="ada", call_2="bob"))
        assert await page.event() == ("people", {"names": ["ada", "bob"], "speaking": ["", "bob"]})


async def test_who_comes_later_is_not_told_what_was_said_before() -> None:
    """Nor what was begun before, though it ends, and is told of, only then."""
    live = Live()
    for event in (BEGAN, Answered(0.1), gathered(call_2="bob"), spoke("a secret", 1.0, final=True)):
        live(ROOM, event)
    live(ROOM, spoke("the safe", 1.5))
    live(ROOM, gathered(at=2.0, call_1="ada", call_2="bob"))
    live(ROOM, spoke("the safe code is", 1.5, final=True))
    live(ROOM, Troubled(1.9, "before her time"))
    async with serving(live) as port, listening(port, "/live/secret") as page:
        assert [kind for kind, _ in await events(page, 3)] == ["you", "state", "people"]
        live(ROOM, spoke("Hello, Ada.", 3.0))
        assert (await page.event())[1]["text"] == "Hello, Ada."


async def test_who_has_left_hears_no_more_though_the_room_goes_on() -> None:
    live = Live()
    for event in (BEGAN, gathered(call_1="ada", call_2="bob")):
        live(ROOM, event)
    async with serving(live) as port:
        async with listening(port, "/live/secret") as page:
            await events(page, 3)
            live(ROOM, gathered(call_2="bob"))
            live(ROOM, spoke("now that she has gone", 2.0))
            assert await page.event() == ("state", GONE)
            assert b"gone" not in await page.rest()
        async with listening(port, "/live/secret") as again:
            assert (await again.head())[0] == 404


async def test_all_are_told_why_the_room_was_closed() -> None:
    live = Live()
    for event in (BEGAN, gathered(call_1="ada")):
        live(ROOM, event)
    async with serving(live) as port, listening(port, "/live/secret") as page:
        await events(page, 3)
        live(ROOM, OVER)
        assert (await page.event())[1]["state"] == "ended"


async def test_who_says_a_line_is_told_with_it() -> None:
    live = Live()
    for event in (BEGAN, gathered(call_1="ada"), Spoke(Line("caller", "hi", 1.0, 2.0, speaker="bob"), True)):
        live(ROOM, event)
    async with serving(live) as port, listening(port, "/live/secret") as page:
        assert (await events(page, 4))[-1][1]["speaker"] == "bob"


class Told:
    """An observer that keeps what a room tells."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []

    def __call__(self, call_id: str, event: Event, /) -> None:
        self.events.append((call_id, event))

    @property
    def gathered(self) -> list[tuple[list[str], set[str]]]:
        return [
            (list(event.people.values()), set(event.speaking))
            for _, event in self.events
            if isinstance(event, Gathered)
        ]


async def come_and_go(house: House) -> None:
    """Ada comes, then Bob; she speaks, and so, as an echo, does the agent; she goes, then he."""
    ada = await house.call(caller="ada")
    bob = await house.call(caller="bob")
    await house.say(0.3, 0.0, ticks=12)
    await house.say(0.0, 0.0, ticks=40)
    ada.call.end()
    await settle()
    await house.say(0.0)
    bob.call.end()
    await house.rows_are_free(2)


async def test_a_room_tells_who_comes_speaks_and_goes(recorder: Recorder, tmp_path: Path) -> None:
    told = Told()
    async with asyncio.timeout(20), meeting_house(recorder, tmp_path) as house:
        house.agent.observers.append(told)
        await come_and_go(house)
    assert told.gathered == [
        (["ada"], set()),
        (["ada", "bob"], set()),
        (["ada", "bob"], {"ada"}),
        (["ada", "bob"], {"ada", ""}),
        (["ada", "bob"], {""}),
        (["ada", "bob"], set()),
        (["bob"], set()),
        ([], set()),
    ]
    ids = {call_id for call_id, _ in told.events}
    assert len(ids) == 1 and ids.pop().startswith("room-standup-"), "a participant's call is none of a session's"
    kinds = [type(event) for _, event in told.events]
    assert kinds[0] is Began and kinds[-1] is Ended
