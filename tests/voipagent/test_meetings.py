"""Meetings elsewhere: by which names and URLs they are joined, what opens them, and who is to be in them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from livekit.protocol.models import DisconnectReason
from pydantic import SecretStr

from engine.slot import EngineError
from signaling.call import CallEnded, NotAllowed, Outcome, OutgoingCall, SignalingError
from signaling.meetings.meeting import MeetingCall
from signaling.meetings.place import Place
from tests.signaling.meetings.livekit import KEY, SECRET, fake_livekit
from tests.voipagent.test_dial import ECHO
from voipagent.environment import SettingsError
from voipagent.meetings import Meetings, UnknownMeeting
from voipagent.meetingsettings import MeetingSettings
from voipagent.outbound import UnknownPersona, Wanted, explained
from voipagent.settings import Settings
from voipagent.web.api import create_api, serve_http
from voipagent.web.meetings import serve_meetings

URL = "livekit://meet.example.com/standup?name=Ada"


def settings(**more: str) -> Settings:
    return Settings.load(
        {"VOIPAGENT_MEETINGS__STANDUP__URL": URL, **{f"VOIPAGENT_{name}": text for name, text in more.items()}}
    )


class Meeting(MeetingCall):
    """One that is as the test says."""

    def __init__(self, ended: CallEnded) -> None:
        super().__init__(Place.parse(URL), ("192.0.2.7", 7880))
        self._end(ended)


class Agent:
    """Places calls: what each comes to is in `ends`, and once there is no more, they go on."""

    def __init__(self, *ends: CallEnded | Exception) -> None:
        self._ends = list(ends)
        self.wanted: list[Wanted] = []
        self.through = asyncio.Event()

    async def place(self, wanted: Wanted) -> OutgoingCall:
        self.wanted.append(wanted)
        if not self._ends:
            self.through.set()
            await asyncio.Event().wait()
        end = self._ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return Meeting(end)


def test_a_meeting_is_found_by_its_name_and_opened_by_its_secrets() -> None:
    known = settings(MEETINGS__STANDUP__KEY="k", MEETINGS__STANDUP__SECRET="hush", MEETINGS__STANDUP__PERSONA="")
    meetings = Meetings(known.meetings, Agent().place)
    place = meetings.find("Standup")
    assert (place.host, place.room, place.name, place.key, place.secret) == (
        *("meet.example.com", "standup", "Ada"),
        *("k", "hush"),
    )
    other = meetings.find("livekit://meet.example.com/retro?key=mine")
    assert (other.room, other.key, other.secret, other.name) == ("retro", "mine", "hush", "agent")
    assert meetings.find("livekit://elsewhere.example.com/retro").secret == ""


def test_a_token_opens_the_room_that_it_is_for_and_no_other() -> None:
    """LiveKit's name their room, so that one of another room would lead there."""
    known = settings(
        MEETINGS__STANDUP__TOKEN="for standup",
        MEETINGS__LOBBY__URL="livekit://meet.example.com/lobby",
        MEETINGS__LOBBY__KEY="k",
        MEETINGS__LOBBY__SECRET="hush",
        MEETINGS__STAGE__URL="janus://meet.example.com/1",
        MEETINGS__STAGE__TOKEN="for the server",
    )
    find = Meetings(known.meetings, Agent().place).find
    for target in ("lobby", "livekit://meet.example.com/lobby", "livekit://meet.example.com/retro"):
        assert (find(target).token, find(target).key, find(target).secret) == ("", "k", "hush")
    assert find("standup").token == find("livekit://meet.example.com/standup").token == "for standup"
    assert find("janus://meet.example.com/2").token == "for the server"


def test_a_pin_is_for_its_own_room_alone() -> None:
    known = {"a": MeetingSettings(url="janus://192.0.2.7/1", pin=SecretStr("4711"))}
    meetings = Meetings(known, Agent().place)
    assert (meetings.find("a").pin, meetings.find("janus://192.0.2.7/2").pin) == ("4711", "")


def test_what_opens_a_door_is_not_shown_by_config() -> None:
    from voipagent.environment import effective

    known = settings(MEETINGS__STANDUP__SECRET="hush", MEETINGS__STANDUP__TOKEN="tick", MEETINGS__STANDUP__PIN="4711")
    told = " ".join(f"{name}={value}" for name, value in effective(known))
    assert "MEETINGS__STANDUP__SECRET=**" in told and "hush" not in told and "tick" not in told and "4711" not in told


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("URL", "meet.example.com", "VOIPAGENT_MEETINGS__STANDUP__URL: a meeting is janus://host/room"),
        ("URL", "janus://meet.example.com/1?pin=4711", "a URL is shown; what opens the door is in PIN, TOKEN"),
        ("PERSONA", "zoe", "meeting 'standup': there is no persona 'zoe'; there is none but the default one"),
        ("AUTO_JOIN", "perhaps", "VOIPAGENT_MEETINGS__STANDUP__AUTO_JOIN: "),
    ],
)
def test_a_setting_that_cannot_be_is_told(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        settings(**{f"MEETINGS__STANDUP__{name}": value})
    assert said in str(raised.value)


async def test_its_persona_takes_part_or_another() -> None:
    agent = Agent(CallEnded("agent", ""), CallEnded("agent", ""), CallEnded("agent", ""))
    known = settings(MEETINGS__STANDUP__PERSONA="zoe", PERSONAS__ZOE__PROMPT="Zoe.", PERSONAS__ADA__PROMPT="Ada.")
    meetings = Meetings(known.meetings, agent.place)
    for target, persona in (("standup", ""), ("standup", "ada"), ("janus://192.0.2.7/1", "")):
        await meetings.join(target, persona)
    assert [wanted.persona for wanted in agent.wanted] == ["zoe", "ada", ""]
    with pytest.raises(UnknownMeeting, match="there is no meeting 'retro'; known: standup"):
        await meetings.join("retro")


async def test_we_are_in_a_meeting_again_whatever_keeps_us_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("voipagent.meetings.LONGEST_PAUSE_S", 0.004)
    ends = (
        *(EngineError("the engine is loading"), SignalingError("no way there"), UnknownPersona("who?")),
        *(
            CallEnded("callee", "full", Outcome.DECLINED),
            CallEnded("callee", "thrown out"),
            CallEnded("network", "gone"),
        ),
    )
    agent = Agent(*ends)
    both = {"standup": MeetingSettings(url=URL, auto_join=True), "idle": MeetingSettings(url=URL)}
    caplog.set_level("INFO", "voipagent.meetings")
    running = asyncio.create_task(Meetings(both, agent.place, 0.001).beside(asyncio.sleep(60)))
    await asyncio.wait_for(agent.through.wait(), 5)
    running.cancel()
    await asyncio.wait([running])
    assert {wanted.target for wanted in agent.wanted} == {"standup"}
    pauses = [
        record.args[1] for record in caplog.records if isinstance(record.args, tuple) and "again in" in record.msg
    ]
    assert pauses == [0.001, 0.002, 0.004, 0.004, 0.004, 0.001]
    assert [text for text in ("loading", "no way there", "who?", "full") if text not in caplog.text] == []


class Api:
    """Ours, over real HTTP."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/meetings"

    async def join(self, meeting: str, token: str = "s3cret", **more: str) -> tuple[int, dict[str, str]]:
        async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
            body, head = {"meeting": meeting, **more}, {"Authorization": f"Bearer {token}"}
            answer = await http.post(self._url, json=body, headers=head, timeout=10)
        return answer.status_code, answer.json()


@asynccontextmanager
async def serving(agent: Agent) -> AsyncIterator[Api]:
    api = create_api(lambda: True)
    serve_meetings(api, Meetings({"standup": MeetingSettings(url=URL)}, agent.place), "s3cret")
    async with serve_http(api, "127.0.0.1", 0) as port:
        yield Api(port)


async def test_a_meeting_is_joined_over_the_api() -> None:
    agent = Agent(CallEnded("agent", ""), CallEnded("agent", ""))
    async with serving(agent) as on:
        code, told = await on.join("standup", persona="zoe")
        assert code == 202
        assert told["url"] == "livekit://meet.example.com:7880/standup" and len(told["id"]) == 16
        assert (await on.join("livekit://meet.example.com/retro"))[0] == 202
    assert agent.wanted == [Wanted("standup", persona="zoe"), Wanted("livekit://meet.example.com/retro")]


async def test_what_is_wrong_with_a_request_is_said() -> None:
    agent = Agent(EngineError("no row is free"), SignalingError("no way there"), UnknownPersona("there is no zoe"))
    async with serving(agent) as on:
        assert (await on.join("standup", "wrong"))[0] == 401
        assert (await on.join("retro"))[0] == 404
        code, told = await on.join("janus://192.0.2.7/1")
        assert code == 403 and "VOIPAGENT_MEETINGS__<NAME>__URL says what may be called" in str(told)
        assert (await on.join("janus://"))[0] == 502
        assert (await on.join(""))[0] == 422
        assert agent.wanted == []
        assert [(await on.join("standup"))[0] for _ in range(3)] == [503, 502, 404]


def test_a_refusal_names_the_setting() -> None:
    with pytest.raises(NotAllowed) as raised:
        Meetings({}, Agent().place).check("janus://192.0.2.7/1")
    assert explained(raised.value).startswith("no meeting of ours is on janus://192.0.2.7:8088; VOIPAGENT_MEETINGS__")


async def join(*arguments: str, **more: str) -> tuple[int, str, str]:
    """Exit code, and what was printed, and the last line of the log."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "voipagent", "join", *arguments),
        env={**os.environ, **ECHO, "VOIPAGENT_SIP__HOST": "127.0.0.1", "VOIPAGENT_SIP__PORT": "0", **more},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, log = await asyncio.wait_for(process.communicate(), 180)
    return process.returncode or 0, printed.decode(), log.decode().splitlines()[-1]


async def test_the_command_line_says_in_one_line_why_there_is_no_meeting(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOIPAGENT_CALLS__DIR", str(tmp_path))
        gone, unknown = await asyncio.gather(join("janus://127.0.0.1:9/1"), join("standup"))
    why = "janus://127.0.0.1:9 cannot be reached: All connection attempts failed"
    assert gone[:2] == (1, f"unreachable: {why}\n")
    assert unknown == (1, "", "voipagent: there is no meeting 'standup'; VOIPAGENT_MEETINGS__<NAME>__URL is one")
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*/call.json"))
    assert (record["kind"], record["callee"], record["outcome"]) == ("meeting", "janus://127.0.0.1:9/1", "unreachable")


async def test_the_command_line_takes_part_until_it_is_let_go(tmp_path: Path) -> None:
    async with fake_livekit(440.0) as server:
        known = {"URL": server.url, "KEY": KEY, "SECRET": SECRET, "PERSONA": "zoe"}
        environ = {f"VOIPAGENT_MEETINGS__STANDUP__{name}": value for name, value in known.items()}
        environ |= {"VOIPAGENT_CALLS__DIR": str(tmp_path), "VOIPAGENT_PERSONAS__ZOE__PROMPT": "You are Zoe."}
        joining = asyncio.create_task(join("standup", **environ))
        await server.publisher.hears(440.0, within_s=120)  # the engine says back what it hears
        await server.leave(DisconnectReason.PARTICIPANT_REMOVED)
        assert (await joining)[:2] == (0, f"over: we were thrown out of {server.url}\n")
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*/call.json"))
    assert (record["kind"], record["callee"], record["persona"]) == ("meeting", server.url, "zoe")
    assert record["media"]["packets_received"] > 10 and record["media"]["packets_sent"] > 10
