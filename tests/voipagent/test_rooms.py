"""rooms.py and what is in one: callers with fake legs, the agent with an echo for a model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from engine.echo import EchoEngine, EchoSlot
from engine.slot import Frame, Reply, Sampling, Tokens
from media.leg import Digit, LegError, NoPort, Pcm
from signaling.call import CallEnded, Rejection
from tests.fakes import FakeLeg
from tests.peers.folders import read
from tests.voipagent.meetings import House, block, meeting_house, settle
from voipagent.consent import Announcement
from voipagent.persona import NamedPersona
from voipagent.pin import MAX_WRONG
from voipagent.recording import Recorder
from voipagent.rooms import RoomError, UnknownRoom
from voipagent.roomsettings import RoomSettings

NEVER = 10_000
"""Frames after which the echo would say something."""


def pinned(pin: str, number: str = "+4930", most: int = 16) -> RoomSettings:
    return RoomSettings(number=number, pin=SecretStr(pin), max=most)


# --- coming and going ----------------------------------------------------------------------------------------------


async def test_three_and_the_agent_hear_each_other_and_nobody_himself(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, delay_frames=NEVER) as house:
        ada, bob, cid = [await house.call(caller=name) for name in ("ada", "bob", "cid")]
        assert house.present() == ("ada", "bob", "cid")
        await house.say(0.1, 0.02, 0.003, ticks=4)
        assert [ada.hears, bob.hears, cid.hears] == pytest.approx([0.023, 0.103, 0.12])
        assert ada.call.log == [("ring", None), ("accept", "answer to offer")]
        assert house.engine.free == 1  # one row for all


async def test_the_agent_speaks_to_all(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        ada, bob = [await house.call(caller=name) for name in ("ada", "bob")]
        await house.say(0.1, 0.02, ticks=12)
        assert ada.hears == pytest.approx(0.02 + 0.12) and bob.hears == pytest.approx(0.1 + 0.12)


async def test_what_a_room_leaves(recorder: Recorder, tmp_path: Path) -> None:
    """Left is the mix of the people, right the agent; who was there, and when."""
    async with meeting_house(recorder, tmp_path) as house:
        ada = await house.call(caller="ada")
        await house.say(0.1, ticks=40)
        bob = await house.call(caller="bob", kind="webrtc")
        await house.say(0.1, 0.2, ticks=40)
        ada.call.end()
        await settle()
        await house.say(0.2, ticks=8)
        bob.call.end()
        await house.rows_are_free(2)
        assert ada.leg.closed and bob.leg.closed
    (left,) = read(tmp_path)
    record = left.record
    assert (record["kind"], record["caller"], record["callee"]) == ("room", "standup", "standup")
    assert (record["ended_by"], record["reason"]) == ("caller", "everybody has left")
    ours = [{name: each[name] for name in ("name", "kind", "id", "reason")} for each in record["participants"]]
    assert ours == [
        {"name": "ada", "kind": "sip", "id": "call-0", "reason": "left"},
        {"name": "bob", "kind": "webrtc", "id": "call-1", "reason": "left"},
    ]
    times = [(each["joined"], each["left"]) for each in record["participants"]]
    assert times == [pytest.approx((0.0, 1.6), abs=0.05), pytest.approx((0.8, 1.76), abs=0.05)]
    assert record["participants"][0]["media"]["codec"] == "fake" and record["media"]["codec"] == "room"
    assert len(left.caller) == len(left.agent) == round(24_000 * record["duration_s"])
    assert record["duration_s"] == pytest.approx(1.76, abs=0.09)
    middle = round(1.2 * 24_000)
    assert left.caller[middle] == pytest.approx(0.3, abs=0.01)
    assert left.agent[middle] == pytest.approx(0.3, abs=0.01)


async def test_each_hears_of_the_recording_before_the_room_hears_a_word(recorder: Recorder, tmp_path: Path) -> None:
    """Whoever opened it, and who comes later; a tick is 20 ms."""
    async with meeting_house(recorder, tmp_path) as house:
        house.agent.announcement = house.rooms.announcement = Announcement("tone", (np.full(1_920, 0.3, np.float32),))
        ada = await house.call(caller="ada")
        assert house.present() == ()
        await house.say(0.1, ticks=4)
        assert house.present() == ("ada",)
        bob = await house.call(caller="bob")
        await house.say(0.1, 0.2, ticks=2)
        assert house.present() == ("ada",)
        await house.say(0.1, 0.2, ticks=2)
        assert house.present() == ("ada", "bob")
        for caller in (ada, bob):
            assert [float(pcm.max()) for pcm in caller.leg.played[:4]] == pytest.approx([0.3] * 4)
            caller.call.end()
            await settle()
        await house.rows_are_free(2)
    (record,) = house.records()
    heard = {"heard": "tone", "duration_s": 0.08, "whole": True}
    assert [each["consent"] for each in record["participants"]] == [heard, heard]
    assert record["consent"] == {}


async def test_who_comes_and_goes_for_ever_does_not_fill_the_record(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written anew each second."""
    monkeypatch.setattr("voipagent.meeting.MOST_ON_ROLL", 3)
    async with meeting_house(recorder, tmp_path) as house:
        ada = await house.call(caller="ada")
        for number in range(5):
            other = await house.call(caller=f"bob {number}")
            other.call.end()
            await settle()
        ada.call.end()
        await house.rows_are_free(2)
    (record,) = house.records()
    assert [each["name"] for each in record["participants"]] == ["ada", "bob 3", "bob 4"]


async def test_the_next_one_after_the_last_opens_the_room_anew(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        for _ in range(2):
            caller = await house.call()
            await house.say(0.1, ticks=8)
            caller.call.end()
            await house.rows_are_free(2)
    assert len(read(tmp_path)) == 2


async def test_a_room_stays_open_for_who_is_just_being_answered(recorder: Recorder, tmp_path: Path) -> None:
    class Slow(FakeLeg):
        may_answer = asyncio.Event()

        async def answer(self, offer: str) -> str:
            await self.may_answer.wait()
            return await super().answer(offer)

    async with meeting_house(recorder, tmp_path) as house:
        ada = await house.call()
        bob = await house.call(caller="bob", leg=Slow())
        await house.say(0.1, 0.1, ticks=8)
        ada.call.end()
        await settle()
        Slow.may_answer.set()
        await bob.accepted()
        await settle()
        assert house.present() == ("bob",) and house.engine.free == 1
        bob.call.end()
        await house.rows_are_free(2)
    assert len(read(tmp_path)) == 1


async def test_two_rooms_are_two(recorder: Recorder, tmp_path: Path) -> None:
    rooms = {"a": RoomSettings(number="+4930"), "b": RoomSettings()}
    async with meeting_house(recorder, tmp_path, rooms, delay_frames=NEVER) as house:
        ada, bob = await house.call("0049 30"), await house.call("b")
        await house.say(0.1, 0.2, ticks=8)
        assert (ada.hears, bob.hears) == (0.0, 0.0)
        assert house.engine.free == 0
        assert (house.present("a"), house.present("b")) == (("ada",), ("ada",))


@pytest.mark.parametrize("name", ["standup", "team-7", "q3-2025", "v1.0", "0042"])
async def test_every_name_that_a_room_may_have_can_be_called(recorder: Recorder, tmp_path: Path, name: str) -> None:
    """Though digits are written in many ways, and numbers are compared without these."""
    async with meeting_house(recorder, tmp_path, {name: RoomSettings()}) as house:
        await house.call(name)
        assert house.present(name) == ("ada",)


async def test_other_calls_go_to_the_agent(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        caller = await house.call("agent")
        await caller.accepted()
        assert house.present() == ()
    assert [each["kind"] for each in house.records()] == ["sip"]


async def test_a_delayed_offer_is_ours_and_answer_and_re_invite_reach_the_leg(
    recorder: Recorder, tmp_path: Path
) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        ada = await house.call(media=None)
        await ada.accepted()
        assert ada.call.log[-1] == ("accept", "our offer")
        assert ada.call.answered is not None and ada.call.renegotiate is not None
        await ada.call.answered("their answer")
        assert ada.leg.answers == ["their answer"]
        assert await ada.call.renegotiate("hold") == "answer to hold"


async def test_names_are_told_apart_and_harmless(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        for caller in ("ada", "ada", '<b>"x\n', "", "y" * 99):
            await house.call(caller=caller)
        assert house.present() == ("ada", "ada 2", "bx", "somebody", "y" * 32)


async def test_a_room_that_is_full_is_busy(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, {"standup": RoomSettings(max=1)}) as house:
        ada, bob = await house.call(), await house.call(caller="bob")
        assert bob.call.log == [("reject", Rejection.BUSY)] and bob.leg.closed
        ada.call.end()
        await house.rows_are_free(2)
        await (await house.call(caller="cid")).accepted()


async def test_without_a_row_a_room_does_not_open(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, rows=1) as house:
        await (await house.call("agent")).accepted()
        refused = await house.call()
        assert (await refused.ended()).reason == "busy"
        assert house.present() == ()


async def test_digits_of_participants_are_in_the_record(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        ada = await house.call()
        await house.say(0.0, ticks=4)
        ada.leg.keys.put_nowait(Digit("7", 0.1))
        ada.call.keys.put_nowait("8")
        await settle()
        ada.call.end()
        await house.rows_are_free(2)
    assert read(tmp_path)[0].digits == "78"


async def test_the_rooms_persona_takes_part(recorder: Recorder, tmp_path: Path) -> None:
    personas = {"scribe": NamedPersona(name="Scribe"), "other": NamedPersona(name="Other", numbers=("*",))}
    rooms = {"a": RoomSettings(persona="scribe"), "b": RoomSettings()}
    async with meeting_house(recorder, tmp_path, rooms, personas=personas) as house:
        for name in ("a", "b"):
            caller = await house.call(name)
            await caller.accepted()
            caller.call.end()
            await house.rows_are_free(2)
    assert [each["persona"] for each in house.records()] == ["Scribe", "Other"]


class Ear(EchoSlot):
    """An echo that writes down a word for each frame with sound in it."""

    deaf = ""

    async def step(self, frame: Frame) -> Reply:
        return replace(await super().step(frame), heard=" word" if frame.any() else "")


class Hearing(EchoEngine):
    @asynccontextmanager
    async def open(self, sampling: Sampling, replay: Tokens | None = None) -> AsyncIterator[Ear]:
        async with super().open(sampling, replay):
            yield Ear(0, None)


async def test_who_spoke_is_in_the_transcript(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, engine=Hearing(2)) as house:
        for name in ("ada", "bob"):
            await house.call(caller=name)
        for levels in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.0), (0.0, 0.2), (0.0, 0.0)):
            await house.say(*levels, ticks=30)
        for caller in house.callers:
            caller.call.end()
        await house.rows_are_free(2)
    (left,) = read(tmp_path)
    assert [(line.role, line.speaker) for line in left.lines] == [("caller", "ada"), ("caller", "bob")]
    assert [line.start for line in left.lines] == pytest.approx([0.56, 1.76], abs=0.17)


# --- what goes wrong -----------------------------------------------------------------------------------------------


async def test_a_participant_that_fails_takes_nobody_along(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy(FakeLeg):
        def play(self, pcm: Pcm) -> None:
            raise ZeroDivisionError("a bug")

    async with meeting_house(recorder, tmp_path, delay_frames=NEVER) as house:
        ada, bob = await house.call(), await house.call(caller="bob")
        with caplog.at_level(logging.ERROR):
            eve = await house.call(caller="eve", leg=Buggy())
            await house.say(0.1, 0.2, 0.3)
            assert (await eve.ended()).reason == "the media path failed: ZeroDivisionError: a bug"
        assert house.present() == ("ada", "bob")
        await house.say(0.1, 0.2, ticks=2)
        assert ada.hears == pytest.approx(0.2) and bob.hears == pytest.approx(0.1)


async def test_a_lost_leg_ends_its_own_call_only(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        ada, bob = await house.call(), await house.call(caller="bob")
        bob.leg.broken.set_result("no media for 30 s")
        assert await bob.ended() == CallEnded("agent", "no media for 30 s")
        assert house.present() == ("ada",) and not ada.leg.closed


async def test_an_offer_that_cannot_be_served_is_refused(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        caller = await house.call(leg=FakeLeg("no codec in common"))
        assert ("reject", Rejection.NOT_ACCEPTABLE) in caller.call.log and caller.leg.closed
        await house.rows_are_free(2)
        await (await house.call()).accepted()


async def test_the_agents_end_is_everybodys(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        ada, bob = await house.call(), await house.call(caller="bob")
        await house.say(0.1, 0.2, ticks=8)
        (session,) = house.agent.sessions.values()
        await session.call.hang_up("the engine failed")
        assert [(await each.ended()).reason for each in (ada, bob)] == ["the engine failed"] * 2
        await house.rows_are_free(2)
    assert [each["reason"] for each in house.records()[0]["participants"]] == ["the engine failed"] * 2


async def test_stopping_hangs_everybody_up_and_closes_the_record(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        callers = [await house.call(), await house.call(caller="bob")]
        await house.say(0.1, 0.2, ticks=8)
    assert {(await each.ended()).reason for each in callers} == {"the agent is shutting down"}
    (record,) = house.records()
    assert all(each["left"] is not None for each in record["participants"])


async def test_who_gives_up_before_the_room_is_open_leaves_nothing(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        caller = await house.call()
        caller.call.end()
        await house.rows_are_free(2)
        assert house.present() == () and caller.leg.closed


# --- PINs ----------------------------------------------------------------------------------------------------------


async def ticks(house: House, count: int) -> None:
    """Time passes in silence, for whoever is still there."""
    for _ in range(count):
        await house.say(*[0.0] * sum(not each.leg.closed for each in house.callers))


async def press(house: House, caller_leg: FakeLeg, keys: str) -> None:
    for key in keys:
        caller_leg.keys.put_nowait(Digit(key))
    await ticks(house, 2)


async def test_the_pin_is_asked_for_and_opens_the_room(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        ada = await house.call("+4930")
        await ada.accepted()
        assert house.engine.free == 2  # strangers take no row
        await ticks(house, 60)
        assert np.abs(np.concatenate(ada.leg.played)).max() > 0.3  # the prompt
        await press(house, ada.leg, "4711")
        assert house.present() == ("ada",) and house.engine.free == 1


async def test_digits_by_signaling_are_as_good(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        ada = await house.call("+4930")
        for key in "4711#":
            ada.call.keys.put_nowait(key)
        await ticks(house, 2)
        assert house.present() == ("ada",)


async def test_a_number_of_two_rooms_leads_where_the_pin_does(recorder: Recorder, tmp_path: Path) -> None:
    rooms = {"standup": pinned("4711"), "sales": pinned("123456")}
    async with meeting_house(recorder, tmp_path, rooms) as house:
        ada, bob = await house.call("+4930"), await house.call("+4930", caller="bob")
        await press(house, ada.leg, "4711#")
        await press(house, bob.leg, "123456")
        assert (house.present("standup"), house.present("sales")) == (("ada",), ("bob",))


async def test_three_wrong_pins_and_we_hang_up(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        ada = await house.call("+4930")
        for _ in range(3):
            await press(house, ada.leg, "0000")
        await ticks(house, 150)
        assert await ada.ended() == CallEnded("agent", "no right PIN in 3 tries")
        assert ada.leg.closed and house.engine.free == 2
    assert house.records() == []


async def test_who_guesses_too_often_is_not_asked(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        for _ in range(MAX_WRONG):
            await house.call("duplex", kind="webrtc", room="standup", pin="0000")
        late = await house.call("+4930")
        assert late.call.log == [("reject", Rejection.BUSY)]
        knows = await house.call("duplex", kind="webrtc", room="standup", pin="4711")
        assert knows.call.log == [("reject", Rejection.BUSY)]


async def test_calls_side_by_side_are_no_way_around_that(recorder: Recorder, tmp_path: Path) -> None:
    """They are all asked before the first of them has guessed."""
    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        ada = await house.call("+4930")
        for _ in range(MAX_WRONG):
            await house.call("duplex", kind="webrtc", room="standup", pin="0000")
        await press(house, ada.leg, "4711")
        assert house.present() == () and house.engine.free == 2


async def test_so_many_are_asked_at_once_and_no_more(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no row, by which others are counted; each has its ports, and its share of the clock's time."""
    monkeypatch.setattr("voipagent.rooms.MOST_ASKED", 2)
    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        ada, bob, cid = [await house.call("+4930", caller=name) for name in ("ada", "bob", "cid")]
        assert cid.call.log == [("reject", Rejection.BUSY)]
        await press(house, ada.leg, "4711")
        dot = await house.call("+4930", caller="dot")  # who is in the room is asked no more
        bob.call.end()
        await settle()
        eve = await house.call("+4930", caller="eve")
        for asked in (dot, eve):
            await asked.accepted()
        assert house.present() == ("ada",)


async def test_who_hangs_up_while_asked_is_gone(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        ada = await house.call("+4930")
        ada.call.end()
        await settle()
        assert ada.leg.closed


async def test_a_leg_that_is_lost_while_asked_ends_it(recorder: Recorder, tmp_path: Path) -> None:
    class Closed(FakeLeg):
        async def exchange(self) -> None:  # type: ignore[override]  # it never gives one
            raise LegError("the leg is closed")

    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        ada = await house.call("+4930", leg=Closed())
        assert (await ada.ended()).reason == "the leg is closed"


async def test_a_leg_that_only_says_that_it_is_lost_while_asked_ends_it_too(recorder: Recorder, tmp_path: Path) -> None:
    """As after a tick of it has failed: no frame's time comes any more."""
    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        ada = await house.call("+4930")
        await ticks(house, 2)
        ada.leg.broken.set_result("it failed")
        assert (await ada.ended()).reason == "it failed"


@pytest.mark.parametrize(
    ("room", "pin", "enters"),
    [("standup", "4711", True), ("standup", "", False), ("standup", "1", False), ("x", "", False)],
)
async def test_a_browser_names_room_and_pin(
    room: str, pin: str, enters: bool, recorder: Recorder, tmp_path: Path
) -> None:
    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        caller = await house.call("duplex", kind="webrtc", room=room, pin=pin)
        assert (house.present() == ("ada",)) == enters
        assert (("reject", Rejection.NOT_FOUND) in caller.call.log) != enters


# --- rooms for a while ---------------------------------------------------------------------------------------------


async def test_a_room_is_made_and_taken_away(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        state = house.rooms.add("sales", pinned("4711", most=2))
        assert state.temporary and state.participants == ()
        ada = await house.call("duplex", room="sales", pin="4711")
        assert [each.name for each in house.rooms.states] == ["standup", "sales"]
        assert house.present("sales") == ("ada",)
        await house.rooms.remove("sales")
        assert (await ada.ended()).reason == "the room was closed"
        with pytest.raises(UnknownRoom):
            await house.rooms.remove("sales")


async def test_what_cannot_be_made_or_taken_away(recorder: Recorder, tmp_path: Path) -> None:
    personas = {"scribe": NamedPersona(numbers=("+4940",))}
    async with meeting_house(recorder, tmp_path, personas=personas) as house:
        for name, settings, why in (
            ("standup", RoomSettings(), "already"),
            ("a b", RoomSettings(), "no name"),
            ("a", RoomSettings(number="+4940"), "persona 'scribe'"),
            ("a", RoomSettings(persona="eve"), "no persona 'eve'"),
        ):
            with pytest.raises(RoomError, match=why):
                house.rooms.add(name, settings)
        with pytest.raises(RoomError, match="in the settings"):
            await house.rooms.remove("standup")


async def test_a_room_that_goes_while_its_pin_is_asked_for(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        house.rooms.add("sales", pinned("4711"))
        ada = await house.call("sales")
        await house.rooms.remove("sales")
        for _ in range(3):
            await press(house, ada.leg, "4711")
        await ticks(house, 150)
        assert (await ada.ended()).reason == "no right PIN in 3 tries"


async def test_a_room_that_is_made_again_has_heard_no_wrong_pins(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        house.rooms.add("sales", pinned("4711"))
        for _ in range(MAX_WRONG):
            await house.call("duplex", kind="webrtc", room="sales", pin="0000")
        await house.rooms.remove("sales")
        house.rooms.add("sales", pinned("4711"))
        await (await house.call("sales")).accepted()  # and asked for its PIN


async def test_there_is_a_limit_to_rooms(recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voipagent.rooms.MOST_TEMPORARY", 1)
    async with meeting_house(recorder, tmp_path) as house:
        house.rooms.add("a", RoomSettings())
        with pytest.raises(RoomError, match="delete one first"):
            house.rooms.add("b", RoomSettings())


def test_the_tests_own_block_is_20_ms() -> None:
    assert block(0.5).shape == (480,) and asyncio.iscoroutinefunction(settle)


class Portless(FakeLeg):
    async def answer(self, offer: str) -> str:
        raise NoPort("no UDP port pair is free")


class Faulty(FakeLeg):
    async def answer(self, offer: str) -> str:
        raise ZeroDivisionError("a bug")


async def test_who_finds_no_port_finds_the_room_busy(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        caller = await house.call(leg=Portless())
        assert ("reject", Rejection.BUSY) in caller.call.log and caller.leg.closed


async def test_a_fault_in_answering_ends_the_call(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path) as house:
        caller = await house.call(leg=Faulty())
        assert (await caller.ended()).reason == "the participant's part failed"
        assert caller.leg.closed
        await house.rows_are_free(2)


async def test_nobody_is_answered_before_the_agent_has_a_row(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, rows=1) as house:
        await (await house.call("agent")).accepted()
        refused = await house.call()
        await refused.ended()
        assert refused.call.log == [("reject", Rejection.BUSY)]


async def test_keys_by_signaling_are_the_rooms_once_the_pin_was_right(recorder: Recorder, tmp_path: Path) -> None:
    async with meeting_house(recorder, tmp_path, {"standup": pinned("4711")}) as house:
        ada = await house.call("+4930")
        for key in "4711#":
            ada.call.keys.put_nowait(key)
        await ticks(house, 4)
        ada.call.keys.put_nowait("8")
        await ticks(house, 4)
        ada.call.end()
        await house.rows_are_free(2)
    assert read(tmp_path)[0].digits == "8"
