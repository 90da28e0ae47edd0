"""Each form that a persona has in the environment, and what a call then used; and prompts that are read anew."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine.echo import EchoEngine, EchoSlot
from engine.slot import Pause, Prompt, PromptError, PromptSize, Sampling, Tokens
from tests.fakes import SILENCE, FakeCall, FakeLeg, FakeSource, offer
from voipagent.agent import Agent
from voipagent.calls import CallsSettings
from voipagent.environment import SettingsError
from voipagent.persona import Personas
from voipagent.prompts import check_persona, check_size, has_files, read_anew, read_personas
from voipagent.recording import Recorder
from voipagent.settings import Settings
from voipagent.trim import Memory
from voipagent.window import Shares


@dataclass
class Used:
    """What reached the engine."""

    prompts: list[Prompt] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    sampling: list[Sampling] = field(default_factory=list)


class WatchedEngine(EchoEngine):
    """An echo with the voices ada and eve, that notes what its rows are told."""

    def __init__(self, used: Used) -> None:
        super().__init__(rows=4)
        self.used = used

    def measure(self, prompt: Prompt) -> PromptSize:
        if prompt.voice not in ("", "ada", "eve"):
            raise PromptError(f"no voice {prompt.voice!r} lies beside the weights; there are: ada, eve")
        return super().measure(prompt)

    @asynccontextmanager
    async def open(self, sampling: Sampling, replay: Tokens | None = None) -> AsyncIterator[EchoSlot]:
        self.used.sampling.append(sampling)
        async with super().open(sampling, replay) as slot:
            yield slot


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Used:
    used = Used()

    class Watched(EchoSlot):
        async def prime(self, prompt: Prompt, keep_frames: int = 0, pause: Pause | None = None) -> None:
            used.prompts.append(prompt)

        def say(self, text: str) -> None:
            used.said.append(text)
            super().say(text)

    monkeypatch.setattr("engine.echo.EchoSlot", Watched)
    return used


@asynccontextmanager
async def answering(
    recorder: Recorder, tmp_path: Path, personas: Personas, engine: EchoEngine
) -> AsyncIterator[tuple[Agent, Callable[..., Any]]]:
    """An agent, and how to call it: gives call.json."""
    source = FakeSource()

    async def call(**how: str) -> dict[str, Any]:
        made = FakeCall(replace(offer(call_id=f"call-{len(list(tmp_path.iterdir()))}"), **how))  # type: ignore[arg-type]
        source.queue.put_nowait(made)
        async with asyncio.timeout(5):
            await made.accepted.wait()
            made.end()
            while not (records := list(tmp_path.glob(f"*{made.offer.id}/call.json"))):
                await asyncio.sleep(0.001)
        told: dict[str, Any] = json.loads(records[0].read_text())
        return told

    def open_leg(_: object) -> FakeLeg:
        leg = FakeLeg()
        leg.hear(SILENCE)
        return leg

    async with engine:
        agent = Agent(engine, open_leg, personas, recorder, CallsSettings(dir=tmp_path))
        task = asyncio.create_task(agent.run(source))
        try:
            yield agent, call
        finally:
            task.cancel()
            await asyncio.wait([task])


SALES = {
    "PERSONA__PROMPT": "You are nobody.",
    "PERSONA__LANGUAGE": "en",
    "PERSONAS__SALES__PROMPT": "You sell to {caller}.",
    "PERSONAS__SALES__VOICE": "eve",
    "PERSONAS__SALES__GREETING": "Sales, you called {called}.",
    "PERSONAS__SALES__NUMBERS": "100",
    "PERSONAS__SALES__LANGUAGE": "de-AT",
    "PERSONAS__SALES__TEMPERATURE": "0.25",
}
BOSS = {**SALES, "PERSONAS__BOSS__NAME": "Eve", "PERSONAS__BOSS__CALLERS": "+49 30 77*, chief"}
NIGHT = {**SALES, "TRUNKS__NIGHT__HOST": "192.0.2.9", "PERSONAS__LATE__TRUNKS": "night"}


@pytest.mark.parametrize(
    ("environ", "how", "expected"),
    [
        ({}, {}, {"persona": "agent", "prompt": "", "voice": "", "said": [], "language": ""}),
        ({"PERSONA__NAME": "Ada"}, {}, {"persona": "Ada"}),
        ({"PERSONA__PROMPT": "Say {called}, {caller}."}, {}, {"prompt": "Say agent, alice."}),
        ({"PERSONA__VOICE": "ada"}, {}, {"voice": "ada"}),
        ({"PERSONA__GREETING": "Hello {caller}."}, {}, {"said": ["Hello alice."]}),
        ({"PERSONA__TEMPERATURE": "0.5"}, {}, {"temperature": 0.5}),
        ({"PERSONA__LANGUAGE": "fr"}, {}, {"language": "fr", "prompt": ""}),
        (SALES, {"callee": "200"}, {"persona": "agent", "prompt": "You are nobody.", "language": "en"}),
        (
            SALES,
            {"callee": "100", "caller": "+4915"},
            {
                **{"persona": "sales", "prompt": "You sell to +4915.", "voice": "eve", "language": "de-AT"},
                **{"said": ["Sales, you called 100."], "temperature": 0.25},
            },
        ),
        (SALES, {"callee": "200", "wanted": "sales"}, {"persona": "sales", "prompt": "You sell to alice."}),
        (BOSS, {"callee": "100", "caller": "00493077-12"}, {"persona": "Eve", "prompt": ""}),
        (BOSS, {"callee": "100", "caller": "chief"}, {"persona": "Eve"}),
        (BOSS, {"callee": "100", "caller": "+493088"}, {"persona": "sales"}),
        (NIGHT, {"callee": "100", "trunk": "night"}, {"persona": "sales"}),
        (NIGHT, {"callee": "7", "trunk": "night"}, {"persona": "late"}),
        (
            {**BOSS, "PERSONAS__BOTH__CALLERS": "chief", "PERSONAS__BOTH__NUMBERS": "100"},
            {"callee": "100", "caller": "chief"},
            {"persona": "both"},
        ),
    ],
)
async def test_a_call_uses_what_the_environment_says(
    recorder: Recorder,
    tmp_path: Path,
    used: Used,
    environ: dict[str, str],
    how: dict[str, str],
    expected: dict[str, Any],
) -> None:
    settings = Settings.load({f"VOIPAGENT_{name}": value for name, value in environ.items()})
    async with answering(recorder, tmp_path, settings.who_answers, WatchedEngine(used)) as (_, call):
        record = await call(**how)
    told = {"persona": record["persona"], "language": record["language"], "said": used.said}
    told |= {"prompt": used.prompts[0].text, "voice": used.prompts[0].voice}
    told |= {"temperature": used.sampling[0].text_temperature}
    assert {name: told[name] for name in expected} == expected


async def test_the_date_is_that_of_the_call(recorder: Recorder, tmp_path: Path, used: Used) -> None:
    settings = Settings.load({"VOIPAGENT_PERSONA__PROMPT": "It is {date}. {{x}}"})
    days = [datetime.now()]
    async with answering(recorder, tmp_path, settings.who_answers, WatchedEngine(used)) as (_, call):
        await call()
    days.append(datetime.now())  # it may have been midnight
    assert used.prompts[0].text in {f"It is {day:%A, %d %B %Y}. {{x}}" for day in days}


async def test_a_text_may_lie_in_a_file(recorder: Recorder, tmp_path: Path, used: Used) -> None:
    (tmp_path / "prompt.txt").write_text("You are Ada.\nYou sell.\n")
    personas = read_personas({"VOIPAGENT_PERSONAS__ADA__PROMPT_FILE": str(tmp_path / "prompt.txt")})
    async with answering(recorder, tmp_path / "calls", personas, WatchedEngine(used)) as (_, call):
        (tmp_path / "calls").mkdir()
        await call(wanted="ada")
    assert used.prompts[0].text == "You are Ada.\nYou sell."


# --- what no call could have ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        (
            {"PERSONAS__A__CALLERS": "+4930", "PERSONAS__B__CALLERS": "004930"},
            "VOIPAGENT_PERSONAS: 004930 is answered by both 'a' and 'b'; leave it to one of them",
        ),
        (
            {
                **{"PERSONAS__A__CALLERS": "boss", "PERSONAS__A__NUMBERS": "1", "PERSONAS__B__CALLERS": "x,boss"},
                **{"PERSONAS__B__NUMBERS": "2,1"},
            },
            "1 from boss is answered by both 'a' and 'b'",
        ),
        ({"PERSONAS__A__CALLERS": "12*34"}, "VOIPAGENT_PERSONAS__A: '12\\*34' is no number or user"),
        ({"PERSONA__LANGUAGE": "English please"}, "VOIPAGENT_PERSONA__LANGUAGE: 'English please' is no language tag"),
        ({"PERSONA__PROMPT_FILE": "/nowhere"}, "VOIPAGENT_PERSONA__PROMPT_FILE: cannot read '/nowhere'"),
    ],
)
def test_what_cannot_be_meant_stops_the_start(environ: dict[str, str], complaint: str) -> None:
    names = {f"VOIPAGENT_{name}": value for name, value in environ.items()}
    for load in (Settings.load, read_personas):
        with pytest.raises(SettingsError, match=complaint):
            load(names)


def test_the_same_caller_may_have_a_persona_for_every_number() -> None:
    own = {"PERSONAS__A__CALLERS": "boss", "PERSONAS__A__NUMBERS": "1"}
    own |= {"PERSONAS__B__CALLERS": "boss", "PERSONAS__B__NUMBERS": "2"}
    answers = read_personas({f"VOIPAGENT_{name}": value for name, value in own.items()})
    calls = [replace(offer(), caller="boss", callee=callee) for callee in ("1", "2", "3")]
    assert [answers.of(call).name for call in calls] == ["a", "b", "agent"]


@pytest.mark.parametrize(
    ("environ", "memory", "complaint"),
    [
        ({"VOICE": "bob"}, None, "no voice 'bob' lies beside the weights; there are: ada, eve"),
        (
            {"PROMPT": "word " * 3000},
            None,
            "'agent' takes 3000 frames, and the model's window holds 3000: shorten VOIPAGENT_PERSONA__PROMPT",
        ),
        ({"PROMPT": "word " * 301}, Memory(Shares(prompt=0.1)), "takes 301 frames, and may take 300 of the model's"),
    ],
)
async def test_what_the_weights_cannot_be_told_stops_the_start(
    used: Used, environ: dict[str, str], memory: Memory | None, complaint: str
) -> None:
    personas = read_personas({f"VOIPAGENT_PERSONA__{name}": value for name, value in environ.items()})
    async with WatchedEngine(used) as engine:
        with pytest.raises(PromptError, match=complaint):
            await check_persona(engine, personas.default, memory)
        assert engine.free == 4
    assert used.prompts == []


async def test_what_it_costs_is_known_without_a_row(used: Used) -> None:
    async with WatchedEngine(used) as engine:
        engine.free = 0
        persona = read_personas({"VOIPAGENT_PERSONA__PROMPT": "You speak to {caller}."}).default
        assert check_size(engine, persona, Memory()) == PromptSize(4, 4)


# --- read anew -----------------------------------------------------------------------------------------------------


def files(folder: Path, **texts: str) -> Mapping[str, str]:
    """An environment with these prompts in files, `agent` being the default's."""
    environ = {"VOIPAGENT_SIP__TLS_CERT_FILE": "/gone", "VOIPAGENT_PERSONAS__ADA__NUMBERS": "100"}
    for name, text in texts.items():
        (folder / name).write_text(text)
        section = "PERSONA" if name == "agent" else f"PERSONAS__{name.upper()}"
        environ[f"VOIPAGENT_{section}__PROMPT_FILE"] = str(folder / name)
    return environ


async def test_new_calls_get_prompts_that_were_read_anew_and_running_ones_keep_theirs(
    recorder: Recorder, tmp_path: Path, used: Used, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "calls").mkdir()
    environ = files(tmp_path, agent="You are Bob.", ada="You are Ada.")
    engine = WatchedEngine(used)
    async with answering(recorder, tmp_path / "calls", read_personas(environ), engine) as (agent, call):
        await call(callee="100")
        before = agent.personas
        files(tmp_path, ada="You are Ada, and tired.")
        agent.personas = read_anew(environ, engine, Memory(), agent.personas)
        await call(callee="100")
        await call(callee="7")
    assert [prompt.text for prompt in used.prompts] == ["You are Ada.", "You are Ada, and tired.", "You are Bob."]
    assert before.named["ada"].prompt == "You are Ada."
    assert "SIGHUP: prompts were read again; changed: ada" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda path: path.unlink(), "VOIPAGENT_PERSONAS__ADA__PROMPT_FILE: cannot read"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "VOIPAGENT_PERSONAS__ADA__PROMPT_FILE: cannot read"),
        (lambda path: path.write_text("Hello {name}."), r"VOIPAGENT_PERSONAS__ADA__PROMPT: there is no {name}"),
        (lambda path: path.write_text("word " * 700), "the persona 'ada' takes 700 frames, and may take 600"),
    ],
    ids=["gone", "no text", "a placeholder that is none", "too long"],
)
async def test_a_bad_file_leaves_all_prompts_as_they_were(
    tmp_path: Path, used: Used, spoil: Callable[[Path], None], complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    environ = files(tmp_path, agent="You are Bob.", ada="You are Ada.")
    before = read_personas(environ)
    (tmp_path / "agent").write_text("You are Bob the second.")
    spoil(tmp_path / "ada")
    async with WatchedEngine(used) as engine:
        assert read_anew(environ, engine, Memory(), before) is before
    (record,) = caplog.records
    assert record.levelname == "ERROR" and record.getMessage().endswith("; the prompts of before stay")
    assert complaint in record.getMessage()


def test_only_who_has_prompts_in_files_has_any_to_read(tmp_path: Path) -> None:
    assert has_files(files(tmp_path, ada="You are Ada."))
    assert not has_files({"VOIPAGENT_PERSONA__PROMPT": "You are Ada.", "VOIPAGENT_HTTP__TOKEN_FILE": "/x"})
