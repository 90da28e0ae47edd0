"""One thread owns the device; conversations on the loop neither lose a frame nor wait for a dead one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine import local as local_module
from engine.admission import Admission
from engine.batch import RowStep, Stepped
from engine.device import Answers, Command, Open, Prime, Step, Stop, Worker
from engine.ear import Ear, Hearing
from engine.local import LocalEngine
from engine.localslot import LocalSlot
from engine.model.checkpoint import load_checkpoint
from engine.model.listening import load_ear
from engine.model.prompt import PromptLayout
from engine.model.text import TextReader, Tokenizer
from engine.model.voice import Voices, VoiceState
from engine.nano import train_tokenizer
from engine.prefix import Prefixes
from engine.prime import PrimeChunk
from engine.slot import (
    CheckpointError,
    Engine,
    EngineError,
    EngineFull,
    EngineState,
    Frame,
    Pause,
    Prompt,
    PromptError,
    Reply,
    Sampling,
    Slot,
    Tokens,
)
from tests.engine.ears import DELAY_FRAMES
from tests.engine.rows import noise

SILENCE: Frame = np.zeros(1920, np.float32)
TOKENIZER = Tokenizer(train_tokenizer())


class FakeRows:
    """Rows without a model: a frame comes back as it is. `before` is called on the engine's thread before each act."""

    def __init__(self, rows: int = 4, before: Callable[[str], None] = lambda act: None) -> None:
        self.rows, self.window_frames, self.renewable_frames = rows, 200, 100
        self.hearing = Hearing(TOKENIZER, rows, 7, "ear@0", "no room")
        self.heard: list[int] = []
        self.heard_by: list[bool] = []
        self.vocabulary: tuple[int, ...] = (400,) * 17
        self.revision, self.tokenizer = "fake@0", TOKENIZER
        self.voices: Voices = {"ada": np.zeros((3, 8), np.int64)}
        self.sampling = Sampling(text_temperature=0.3)
        self.layout = PromptLayout("text", (1,) * 8, (2,) * 8, gap_frames=1)
        self.admission, self.prefixes = Admission(rows, None), Prefixes(0)
        self.before = before
        self.acts: list[str] = []
        self.numbers = [0] * rows
        self.seeds: list[int] = []
        self.broken: set[int] = set()
        self.pins = False
        self.says: Callable[[int], int] = lambda row: 3

    def _act(self, act: str) -> None:
        self.before(act)
        self.acts.append(act)

    def open(self, row: int, log: Tokens) -> None:
        self._act(f"open {row}")
        self.numbers[row] = len(log)

    def plan(
        self,
        row: int,
        frames: NDArray[np.int64],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None = None,
        pinned: bool = False,
    ) -> list[PrimeChunk]:
        return [PrimeChunk(row, frames[:2]), PrimeChunk(row, frames[2:], draw=sampling)]

    def prefill(self, chunk: PrimeChunk) -> None:
        self._act(f"prefill {chunk.row}")

    def renew(
        self,
        row: int,
        frames: NDArray[np.int64],
        keep_frames: int,
        sampling: Sampling,
        voice: VoiceState | None = None,
        wait: Callable[[], bool] = lambda: False,
    ) -> Generator[bool, None, None]:
        try:
            for _ in range(2):
                self._act(f"renew {row}")
                yield False
            while True:
                self._act(f"renew {row}")
                if not wait():
                    break
                yield False
            yield True
        finally:
            self.acts.append(f"renewed {row}")

    def step(self, steps: Sequence[RowStep]) -> list[Stepped]:
        self._act("step " + " ".join(str(step.row) for step in steps))
        return [self._one(step) for step in steps]

    def _one(self, step: RowStep) -> Stepped:
        self.seeds.append(step.sampling.seed)
        token = self.says(step.row) if step.forced is None else step.forced
        self.numbers[step.row] += 1
        self.heard_by.append(step.hears)
        heard, broken, number = self.heard.pop(0) if self.heard else 3, step.row in self.broken, self.numbers[step.row]
        column = np.full(17, token, np.uint16)
        return Stepped(step.frame, token, column, number - 1, heard, broken, (0.25, 0.5))


def fake_engine(rows: FakeRows) -> LocalEngine:
    return LocalEngine("fake", load=lambda: rows)


class Gate:
    """Holds the engine's thread at an act that a test chooses."""

    def __init__(self, act: str) -> None:
        self._act, self._loop = act, asyncio.get_running_loop()
        self._reached, self._open = asyncio.Event(), threading.Event()

    def __call__(self, act: str) -> None:
        if act.startswith(self._act) and not self._open.is_set():
            self._loop.call_soon_threadsafe(self._reached.set)
            assert self._open.wait(10)

    async def reached(self) -> None:
        async with asyncio.timeout(10):
            await self._reached.wait()

    def open(self) -> None:
        self._open.set()


async def soon(condition: Callable[[], bool]) -> None:
    """Wait until it holds, or fail."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def until_waiting(engine: LocalEngine, count: int) -> None:
    """Wait until so many steps and primes are under way."""
    await soon(lambda: len(engine._waiting) == count)


@pytest.fixture
async def nano_engine(nano: Path) -> AsyncIterator[LocalEngine]:
    async with LocalEngine(str(nano), rows=2, device="cpu") as engine:
        yield engine


# --- with the nano model -------------------------------------------------------------------------------------------


async def test_it_is_an_engine(nano_engine: LocalEngine) -> None:
    engine: Engine = nano_engine
    assert (engine.sample_rate, engine.frame_samples, engine.window_frames) == (24_000, 1_920, 500)
    assert (engine.state, engine.free) == (EngineState.READY, 2)
    assert engine.revision.startswith("nano@")
    async with engine.open(Sampling()) as opened:
        slot: Slot = opened
        assert slot.window_frames == 500


async def test_a_reply_is_a_frame_with_all_that_belongs_to_it(nano_engine: LocalEngine) -> None:
    async with nano_engine.open(Sampling()) as slot:
        await slot.prime(Prompt("You are Ada."))
        replies = [await slot.step(frame) for frame in noise(5)]
    assert [reply.number for reply in replies] == [0, 1, 2, 3, 4]
    for reply in replies:
        assert (reply.frame.shape, str(reply.frame.dtype), reply.tokens.shape) == ((1920,), "float32", (17,))
        assert np.abs(reply.frame).max() > 0
        assert reply.waited_s >= 0
        assert reply.step_s > 0


async def test_what_the_caller_says_is_in_the_reply(eared: Path) -> None:
    async with LocalEngine(str(eared), rows=2, device="cpu") as engine, engine.open(Sampling()) as slot:
        await slot.prime(Prompt("You are Ada."))
        heard = "".join([(await slot.step(frame)).heard for frame in noise(30)])
        assert slot.hearing_delay_frames == DELAY_FRAMES
    checkpoint = load_checkpoint(str(eared))
    ear = load_ear(str(eared), checkpoint)
    assert ear is not None
    listener, reader, text = Ear(ear, 1), TextReader(checkpoint.tokenizer), ""
    state = checkpoint.mimi.initial_state(1)
    for frame in noise(30):
        codes = checkpoint.mimi.encode(torch.from_numpy(frame)[None, None], state, None)[:, :, 0]
        text += reader.read(int(listener.hear(codes, None)[0]))
    assert heard == text
    assert len(heard) > 20


async def test_an_ear_that_is_not_wanted_hears_nothing(eared: Path) -> None:
    async with LocalEngine(str(eared), rows=1, device="cpu", ear="off") as engine, engine.open(Sampling()) as slot:
        await slot.prime(Prompt("You are Ada."))
        assert {(await slot.step(frame)).heard for frame in noise(20)} == {""}
        assert slot.hearing_delay_frames == 0


async def test_what_is_heard_is_read_apart_from_what_is_said() -> None:
    """A character in two bytes, and a greeting that begins between them."""
    rows = FakeRows()
    first, second = (token for token in TOKENIZER.encode("é") if isinstance(TOKENIZER.piece(token), bytes))
    async with fake_engine(rows) as engine, engine.open(Sampling()) as slot:
        rows.heard = [first, second, 3]
        replies = [await slot.step(SILENCE)]
        slot.say("Hello.")
        replies += [await slot.step(SILENCE) for _ in range(2)]
        assert slot.hearing_delay_frames == 7
    assert [reply.heard for reply in replies] == ["", "é", ""]
    assert [reply.text for reply in replies] == ["", "", "Hello."]


@pytest.mark.parametrize(
    "greeting",
    [
        "Hello, this is Ada. How can I help you?",
        "Grüß Gott! Hier ist  die Rezeption,\nguten Tag.",
        "ﬁne ①½ „quotes“ 日本 👋🏽 e\u0301 x\u00a0y",
    ],
)
async def test_the_text_begins_with_exactly_the_greeting(nano_engine: LocalEngine, greeting: str) -> None:
    async with nano_engine.open(Sampling(seed=3)) as slot:
        await slot.prime(Prompt("You are Ada."))
        slot.say(greeting)
        assert slot.saying
        said = ""
        while slot.saying:
            said += (await slot.step(SILENCE)).text
        assert said.strip() == greeting
        after = [(await slot.step(SILENCE)).text for _ in range(25)]
    assert "".join(after).strip()  # then the model speaks for itself


async def test_same_seed_prompt_and_frames_give_the_same_reply(nano_engine: LocalEngine) -> None:
    async def call(seed: int, speech: Sequence[Frame]) -> list[Reply]:
        async with nano_engine.open(Sampling(seed=seed)) as slot:
            await slot.prime(Prompt("You are Ada."))
            return [await slot.step(frame) for frame in speech]

    alone = await call(1, noise(12))
    together, beside = await asyncio.gather(call(1, noise(12)), call(2, noise(12, seed=9)))
    assert all(np.array_equal(a.tokens, b.tokens) and a.text == b.text for a, b in zip(alone, together, strict=True))
    assert all(np.allclose(a.frame, b.frame, atol=1e-5) for a, b in zip(alone, together, strict=True))
    assert not all(np.array_equal(a.tokens, b.tokens) for a, b in zip(alone, beside, strict=True))


async def test_a_replay_goes_on_with_the_frames_number(nano_engine: LocalEngine) -> None:
    async with nano_engine.open(Sampling()) as slot:
        log = np.stack([(await slot.step(frame)).tokens for frame in noise(4)])
    async with nano_engine.open(Sampling(), replay=log) as slot:
        await slot.prime(Prompt("You are Ada."), keep_frames=4)
        assert (await slot.step(SILENCE)).number == 4


async def test_a_prompt_tells_how_many_frames_it_takes(nano_engine: LocalEngine) -> None:
    """Its tokens and the gap on both sides: what is kept beside it fits up to there, and not one more."""
    async with nano_engine.open(Sampling()) as slot:
        prompt = Prompt("You are Ada.")
        frames = slot.prompt_frames(prompt)
        assert frames > slot.prompt_frames(Prompt("Ada.")) > slot.prompt_frames(Prompt("")) == 0
        fits = slot.window_frames - frames - 1
        await slot.prime(prompt, keep_frames=fits)
        with pytest.raises(PromptError):
            await slot.prime(prompt, keep_frames=fits + 1)


async def test_a_prompt_that_does_not_fit_says_by_how_much(nano_engine: LocalEngine) -> None:
    async with nano_engine.open(Sampling()) as slot:
        with pytest.raises(PromptError, match=r"the prompt takes \d+ frames and 0 are to be kept.* the 500 that"):
            await slot.prime(Prompt("All work and no play makes Jack a dull boy. " * 40))
        with pytest.raises(PromptError, match="and 490 are to be kept"):
            await slot.prime(Prompt("You are Ada."), keep_frames=490)
        assert (await slot.step(SILENCE)).number == 0  # the row is as it was


async def test_a_broken_checkpoint_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    engine = LocalEngine(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"config\.json.* no JSON"):
        async with engine:
            pass
    assert engine.state is EngineState.FAILED
    assert not engine._thread.is_alive()


# --- rows ----------------------------------------------------------------------------------------------------------


async def test_the_weights_say_how_they_are_drawn() -> None:
    async with fake_engine(FakeRows()) as engine:
        assert engine.sampling == Sampling(text_temperature=0.3)


async def test_one_more_than_there_are_rows_is_refused() -> None:
    async with fake_engine(FakeRows(rows=3)) as engine, AsyncExitStack() as stack:
        for free in (3, 2, 1):
            assert engine.free == free
            await stack.enter_async_context(engine.open(Sampling()))
        with pytest.raises(EngineFull, match="every one of the 3 rows is taken"):
            async with engine.open(Sampling()):
                pass
        await stack.aclose()
        assert engine.free == 3


async def test_free_says_no_more_rows_than_are_admitted() -> None:
    rows = FakeRows(rows=8)
    rows.admission = Admission(8, 0.064)
    rows.admission.ticks.measured(1, 0.016)
    async with fake_engine(rows) as engine, AsyncExitStack() as stack:
        for free in (4, 3, 2, 1):
            assert engine.free == free
            await stack.enter_async_context(engine.open(Sampling()))
        assert engine.free == 0
        with pytest.raises(EngineFull, match="one more would wait"):
            async with engine.open(Sampling()):
                pass


async def test_two_hundred_calls_leave_no_thread_no_row_and_no_waiter_behind() -> None:
    threads = threading.active_count()
    rows = FakeRows(rows=2)
    async with fake_engine(rows) as engine:
        for _ in range(200):
            async with engine.open(Sampling()) as slot:
                await slot.prime(Prompt("Hello"))
                await slot.step(SILENCE)
        assert (engine.free, engine._waiting) == (2, set())
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert len([act for act in rows.acts if act.startswith("step")]) == 200


async def test_a_row_is_opened_before_it_is_stepped_and_works_without_a_prime() -> None:
    rows = FakeRows(rows=1)
    async with fake_engine(rows) as engine, engine.open(Sampling()) as slot:
        await slot.step(SILENCE)
    assert rows.acts == ["open 0", "prefill 0", "prefill 0", "step 0"]


async def test_it_opens_only_while_ready() -> None:
    engine = fake_engine(FakeRows())
    assert engine.free == 0
    with pytest.raises(EngineError, match="loading"):
        async with engine.open(Sampling()):
            pass
    async with engine:
        pass
    with pytest.raises(EngineError, match="draining"):
        async with engine.open(Sampling()):
            pass
    assert engine.free == 0


# --- steps ---------------------------------------------------------------------------------------------------------


async def test_frames_that_came_during_a_stall_share_the_next_tick() -> None:
    gate = Gate("step 0")
    rows = FakeRows(before=gate)
    async with fake_engine(rows) as engine, AsyncExitStack() as stack:
        slots = [await stack.enter_async_context(engine.open(Sampling())) for _ in range(4)]
        for slot in slots:
            await slot.prime(Prompt())
        first = asyncio.create_task(slots[0].step(SILENCE))
        await gate.reached()
        others = [asyncio.create_task(slot.step(SILENCE + number)) for number, slot in enumerate(slots[1:])]
        await until_waiting(engine, 4)
        gate.open()
        async with asyncio.timeout(10):
            replies = await asyncio.gather(first, *others)
        assert [reply.frame[0] for reply in replies] == [0, 0, 1, 2]
        assert all(reply.waited_s > 0 for reply in replies)
        assert rows.acts[-2:] == ["step 0", "step 1 2 3"]


async def test_while_someone_is_put_through_the_others_speak_on() -> None:
    rows = FakeRows(rows=3)
    async with fake_engine(rows) as engine, AsyncExitStack() as stack:
        speaker = await stack.enter_async_context(engine.open(Sampling()))
        await speaker.prime(Prompt())

        async def speak() -> None:
            for _ in range(30):
                await speaker.step(SILENCE)

        async def ring() -> None:
            for _ in range(10):
                async with engine.open(Sampling()) as slot:
                    await slot.prime(Prompt("You are Ada."))

        await asyncio.gather(speak(), ring(), ring())
    assert len([act for act in rows.acts if act == "step 0"]) == 30


async def test_what_is_no_frame_is_refused_before_it_reaches_the_thread() -> None:
    async with fake_engine(FakeRows()) as engine, engine.open(Sampling()) as slot:
        wrong: Any
        for wrong in (np.zeros(1919, np.float32), np.zeros(1920), np.zeros((1, 1920), np.float32)):
            with pytest.raises(ValueError, match="a frame is float32 of shape"):
                await slot.step(wrong)
        assert (await slot.step(SILENCE)).number == 0


async def test_a_slot_is_asked_for_one_thing_at_a_time() -> None:
    gate = Gate("step")
    async with fake_engine(FakeRows(before=gate)) as engine, engine.open(Sampling()) as slot:
        first = asyncio.create_task(slot.step(SILENCE))
        await gate.reached()
        with pytest.raises(RuntimeError, match="one step at a time"):
            await slot.step(SILENCE)
        gate.open()
        assert (await first).number == 0


async def test_sampling_counts_from_the_next_step_on() -> None:
    rows = FakeRows()
    async with fake_engine(rows) as engine, engine.open(Sampling(seed=1)) as slot:
        await slot.step(SILENCE)
        slot.sample(Sampling(seed=2))
        await slot.step(SILENCE)
    assert rows.seeds == [1, 2]


@pytest.mark.parametrize(
    ("sampling", "complaint"),
    [
        (Sampling(text_temperature=-1), "text_temperature is -1"),
        (Sampling(audio_temperature=float("nan")), "audio_temperature is nan"),
        (Sampling(text_top_k=0), "text_top_k is 0; it must be 1 to 250"),
        (Sampling(audio_top_k=251), "audio_top_k is 251"),
        (Sampling(seed=-1), "seed is -1"),
        (Sampling(seed=2**63), f"seed is {2**63}; it must be 0 to {2**63 - 1}"),
    ],
)
async def test_sampling_that_makes_no_sense_is_refused(sampling: Sampling, complaint: str) -> None:
    async with fake_engine(FakeRows()) as engine:
        with pytest.raises(ValueError, match=complaint):
            async with engine.open(sampling):
                pass
        async with engine.open(Sampling()) as slot:
            with pytest.raises(ValueError, match=complaint):
                slot.sample(sampling)
        assert engine.free == 4


@pytest.mark.parametrize("replay", [np.zeros((3, 16), np.uint16), np.zeros(17, np.uint16), np.zeros((3, 17), np.int64)])
async def test_a_replay_that_is_no_log_is_refused(replay: Tokens) -> None:
    async with fake_engine(FakeRows()) as engine:
        with pytest.raises(ValueError, match=r"a replay is uint16 of shape \(frames, 17\)"):
            async with engine.open(Sampling(), replay):
                pass
        assert engine.free == 4


async def test_a_replay_of_tokens_that_the_model_does_not_have_is_refused(nano_engine: LocalEngine) -> None:
    """On the device, an index outside of a table would end every call."""
    log = np.zeros((3, 17), np.uint16)
    log[1, 9] = 500
    with pytest.raises(ValueError, match="stream 9 of the replay holds token 500; this model has 129"):
        async with nano_engine.open(Sampling(), log):
            pass
    assert nano_engine.free == 2


# --- priming a live row --------------------------------------------------------------------------------------------


async def test_a_call_that_is_primed_anew_is_stepped_on_with_a_chunk_a_tick_at_most() -> None:
    """Two callers whose next frame is there as soon as the last is answered; without a thread, so none is ever late."""
    rows, commands, future = FakeRows(rows=2), SimpleQueue[Command](), asyncio.get_running_loop().create_future
    asked: dict[asyncio.Future[Any], int] = {}
    primed: asyncio.Future[None] = future()

    def step(row: int) -> None:
        asked[done := future()] = row
        commands.put(Step(RowStep(row, SILENCE, None, Sampling()), done, 0.0))

    def post(answers: Answers) -> None:
        if rows.acts.count("step 0 1") == 1 and rows.acts[-1] == "step 0 1":
            commands.put(Prime(0, np.zeros((4, 17), np.int64), None, 2, Sampling(), primed))
        for done, _ in answers:
            if done is primed:
                commands.put(Stop())
            else:
                step(asked[done])

    for row in range(2):
        commands.put(Open(row, np.zeros((0, 17), np.uint16), Sampling()))
        step(row)
    Worker(rows, commands, post).serve()
    spoken = rows.acts[rows.acts.index("step 0 1") :]
    assert spoken == ["step 0 1", *["renew 0", "step 0 1"] * 2, "renew 0", "renewed 0"]


async def serve(rows: FakeRows, ticks: int, pauses: Sequence[Pause | None], forced: Sequence[int] = ()) -> list[str]:
    """What ran in so many ticks after each row was asked to be primed anew, with a pause each; no thread, no clock.

    The rows' next frames are there as soon as the last are answered. In those `forced`, a given silence is said.
    """
    commands, future = SimpleQueue[Command](), asyncio.get_running_loop().create_future
    opened: set[asyncio.Future[Any]] = set()
    asked: dict[asyncio.Future[Any], int] = {}
    began = 0

    def prime(row: int, done: asyncio.Future[Any], pause: Pause | None = None) -> None:
        commands.put(Prime(row, np.zeros((4, 17), np.int64), None, 2, Sampling(), done, pause))

    def step(row: int) -> None:
        asked[done := future()] = row
        commands.put(Step(RowStep(row, SILENCE, 3 if row in forced else None, Sampling()), done, 0.0))

    def post(answers: Answers) -> None:
        nonlocal began
        done = {each for each, _ in answers}
        if done & opened:
            opened.difference_update(done)
            for row in () if opened else range(rows.rows):
                step(row)
        if done & asked.keys():
            if not began:
                began = len(rows.acts)
                for row, pause in enumerate(pauses):
                    prime(row, future(), pause)
            if rows.numbers[0] > ticks:
                commands.put(Stop())
            for each in done & asked.keys():
                step(asked[each])

    for row in range(rows.rows):
        commands.put(Open(row, np.zeros((0, 17), np.uint16), Sampling()))
        opened.add(done := future())
        prime(row, done)
    Worker(rows, commands, post).serve()
    return rows.acts[began:]


def stepped_until(acts: Sequence[str], act: str) -> int:
    """How many ticks there were before it."""
    return sum(each.startswith("step") for each in acts[: acts.index(act)])


@pytest.mark.parametrize(
    ("words", "pause", "swapped"),
    [
        (range(0), None, 2),
        (range(0), Pause(4, 50), 3),
        (range(11), Pause(4, 50), 15),
        ([*range(6), 8], Pause(4, 50), 13),
        (range(100), Pause(4, 20), 20),
        (range(100), Pause(4, 0), 2),
    ],
    ids=["at once", "quiet already", "in the first pause", "a short silence is none", "the hard limit", "past it"],
)
async def test_a_row_is_replaced_in_a_pause_between_two_ticks(
    words: Sequence[int], pause: Pause | None, swapped: int
) -> None:
    """Its shadow is ready after two ticks; `words` are the frames, from the prime on, in which there is one."""
    rows = FakeRows(rows=1)
    rows.says = lambda row: 100 if rows.numbers[row] - 1 in words else 3
    acts = await serve(rows, 60, [pause])
    assert stepped_until(acts, "renewed 0") == swapped


async def test_a_given_silence_is_no_pause() -> None:
    """Between the words of a greeting there are frames without one."""
    assert stepped_until(await serve(FakeRows(rows=1), 60, [Pause(4, 30)], forced=[0]), "renewed 0") == 30


async def test_a_row_whose_time_is_up_is_primed_though_no_other_has_paused() -> None:
    rows = FakeRows(rows=3)
    rows.says = lambda row: 100
    acts = await serve(rows, 60, [Pause(4, 50), Pause(4, 40), Pause(4, 10)])
    assert [stepped_until(acts, f"renewed {row}") for row in (1, 2, 0)] == [10, 14, 50]


async def test_a_call_is_put_through_again_in_its_row_until_it_is_stepped() -> None:
    rows = FakeRows(rows=1)
    async with fake_engine(rows) as engine, engine.open(Sampling()) as slot:
        await slot.prime(Prompt("Hello"))
        await slot.prime(Prompt("Hello again"))
        assert rows.acts[-2:] == ["prefill 0"] * 2
        await slot.step(SILENCE)
        await slot.prime(Prompt("Hello once more"))
        assert rows.acts[-4:] == ["renew 0"] * 3 + ["renewed 0"]


async def test_a_prime_is_asked_for_beside_a_step_but_not_beside_another() -> None:
    gate = Gate("renew")
    async with fake_engine(FakeRows(rows=1, before=gate)) as engine, engine.open(Sampling()) as slot:
        await slot.step(SILENCE)
        first = asyncio.create_task(slot.prime(Prompt("Hello")))
        await gate.reached()
        step = asyncio.create_task(slot.step(SILENCE))
        await until_waiting(engine, 2)
        with pytest.raises(RuntimeError, match="and for one prime"):
            await slot.prime(Prompt("Hello"))
        gate.open()
        async with asyncio.timeout(10):
            assert (await step).number == 1
            await first


async def test_a_prime_that_is_given_up_is_replaced_by_the_next() -> None:
    gate = Gate("renew")
    rows = FakeRows(rows=1, before=gate)
    async with fake_engine(rows) as engine, engine.open(Sampling()) as slot:
        await slot.step(SILENCE)
        first = asyncio.create_task(slot.prime(Prompt("Hello")))
        await gate.reached()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(slot.prime(Prompt("Good bye")))
        await until_waiting(engine, 1)
        gate.open()
        async with asyncio.timeout(10):
            await second
        assert rows.acts[-6:] == ["renew 0", "renewed 0", *["renew 0"] * 3, "renewed 0"]


@pytest.mark.parametrize("broken", [False, True])
async def test_a_call_that_ends_while_it_is_primed_anew_gives_its_shadow_back(broken: bool) -> None:
    gate = Gate("renew")
    rows = FakeRows(rows=2, before=gate)
    async with asyncio.timeout(10), fake_engine(rows) as engine, engine.open(Sampling()) as other:
        async with engine.open(Sampling()) as slot:
            await slot.step(SILENCE)
            rows.broken = {1} if broken else set()
            waiting = asyncio.gather(slot.prime(Prompt("Hello")), slot.step(SILENCE), return_exceptions=True)
            await gate.reached()
            await until_waiting(engine, 2)
            if broken:
                gate.open()
                assert [str(error) for error in await waiting if "no number any more" in str(error)]
        gate.open()
        await waiting
        await other.step(SILENCE)
        assert "renewed 1" in rows.acts


async def test_a_prime_that_memory_does_not_hold_leaves_a_live_call_as_it_was() -> None:
    def before(act: str) -> None:
        if act.startswith("renew"):
            raise EngineFull("the device's memory is full")

    async with fake_engine(FakeRows(rows=1, before=before)) as engine, engine.open(Sampling()) as slot:
        await slot.step(SILENCE)
        for number in (1, 2):
            with pytest.raises(EngineFull, match="memory is full"):
                await slot.prime(Prompt("Hello"))
            assert (await slot.step(SILENCE)).number == number


async def test_a_live_call_is_told_how_much_it_can_be_primed_with() -> None:
    async with fake_engine(FakeRows()) as engine, engine.open(Sampling()) as slot:
        await slot.prime(Prompt("Hello"), keep_frames=150)
        await slot.step(SILENCE)
        with pytest.raises(
            PromptError, match=r"takes \d+ frames and 150 are to be kept.* fewer than the 100 that a call"
        ):
            await slot.prime(Prompt("Hello"), keep_frames=150)


async def test_a_nano_call_speaks_through_a_prime(nano_engine: LocalEngine) -> None:
    async with nano_engine.open(Sampling(seed=1)) as slot:
        await slot.prime(Prompt("You are Ada."))
        await slot.step(SILENCE)
        slot.say("Hello, this is Ada.")
        prime, text, number = asyncio.create_task(slot.prime(Prompt("You are Ada, still."), keep_frames=9)), "", 0
        while slot.saying or not prime.done():
            reply = await slot.step(SILENCE)
            text, number = text + reply.text, number + 1
            assert reply.number == number
        await prime
    assert text.strip().startswith("Hello, this is Ada.")


# --- say -----------------------------------------------------------------------------------------------------------


async def speak(slot: LocalSlot, frames: int) -> str:
    return "".join([(await slot.step(SILENCE)).text for _ in range(frames)])


async def test_a_new_text_replaces_the_rest_and_nothing_stops_it() -> None:
    async with fake_engine(FakeRows()) as engine, engine.open(Sampling()) as slot:
        slot.say("one two three")
        assert await speak(slot, 2) == "one"  # EPAD, then the word
        slot.say("four")
        assert await speak(slot, 2) == "four"
        slot.say("five six")
        slot.say("")
        assert not slot.saying
        assert await speak(slot, 20) == ""


async def test_a_text_that_is_said_while_a_step_is_under_way_begins_with_the_next() -> None:
    gate = Gate("step")
    async with fake_engine(FakeRows(before=gate)) as engine, engine.open(Sampling()) as slot:
        slot.say("one two")
        step = asyncio.create_task(slot.step(SILENCE))
        await gate.reached()
        slot.say("four")
        gate.open()
        await step
        assert await speak(slot, 2) == "four"


async def test_everything_that_is_asked_for_is_loaded_with(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load(*arguments: Any, **named: Any) -> FakeRows:
        asked.append((arguments, named))
        return FakeRows()

    monkeypatch.setattr(local_module, "load_batch", load)
    named = {"limit_s": 0.05, "graphs": "off", "prefix_bytes": 7, "deterministic": True, "pins": True}
    arguments = ("m", 3, "cpu", "none", "off", "int4", "int8", ["a.wav"])
    async with LocalEngine(*arguments, **named):  # type: ignore[arg-type]  # a dictionary has no types of its own
        assert asked == [(arguments, named)]


# --- admission -----------------------------------------------------------------------------------------------------


async def test_a_call_that_would_make_others_late_is_refused_and_those_go_on() -> None:
    rows = FakeRows(rows=4)
    rows.admission = Admission(4, 0.064)
    rows.admission.ticks.measured(1, 0.020)
    rows.admission.ticks.measured(4, 0.050)
    async with fake_engine(rows) as engine, AsyncExitStack() as calls:
        slots = [await calls.enter_async_context(engine.open(Sampling())) for _ in range(2)]
        assert engine.free == 2
        rows.admission.chunks.measured(1, 0.015)  # and then it turns out slower: 20 + 30 + 15 ms beside two
        assert engine.free == 0
        with pytest.raises(EngineFull, match="beside 2 calls, one more would wait 65 ms for a reply; it must be 64"):
            await calls.enter_async_context(engine.open(Sampling()))
        assert [(await slot.step(SILENCE)).number for slot in slots] == [0, 0]


async def test_the_youngest_calls_ears_give_way_where_there_is_no_time_and_the_calls_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = FakeRows(rows=4)
    rows.admission = Admission(4, 0.064)
    rows.admission.ticks.measured(1, 0.005)
    rows.admission.ears.measured(1, 0.020)  # four rows take 20 ms, two ears 40
    async with fake_engine(rows) as engine, AsyncExitStack() as calls:
        slots: list[Slot] = []
        deaf = []
        for _ in range(4):
            slots.append(await calls.enter_async_context(engine.open(Sampling())))
            deaf.append([bool(slot.deaf) for slot in slots])
        assert deaf == [[False], [False] * 2, [False, False, True], [False, False, True, True]]
        assert slots[2].deaf == "beside 3 calls there is no time for it" and slots[2].ear == "ear@0"
        for slot in slots:
            await slot.step(SILENCE)
    assert rows.heard_by == [True, True, False, False]
    assert "what the caller says is not written down: beside" in caplog.text


async def test_a_row_beyond_the_ears_says_that_there_is_no_room() -> None:
    rows = FakeRows(rows=2)
    rows.hearing = Hearing(TOKENIZER, 1, 7, "ear@0", "no room")
    async with fake_engine(rows) as engine, engine.open(Sampling()) as first, engine.open(Sampling()) as second:
        assert [(slot.ear, slot.deaf, slot.hearing_delay_frames) for slot in (first, second)] == [
            ("ear@0", "", 7),
            ("", "no room", 0),
        ]


async def test_where_a_word_begins_and_how_quiet_it_will_be_is_in_the_reply() -> None:
    rows = FakeRows(rows=1)
    rows.heard = [3, 0, 300]
    async with fake_engine(rows) as engine, engine.open(Sampling()) as slot:
        replies = [await slot.step(SILENCE) for _ in range(3)]
    assert [reply.word_due for reply in replies] == [False, True, False]
    assert [reply.quiet for reply in replies] == [(0.25, 0.5)] * 3
    assert [bool(reply.heard) for reply in replies] == [False, False, True]


async def test_what_ticks_and_chunks_take_is_remembered() -> None:
    rows = FakeRows(rows=2)
    async with fake_engine(rows) as engine, engine.open(Sampling()) as slot:
        await slot.step(SILENCE)
    assert rows.admission.ears.known() == [1] and rows.admission.chunks.known() == [1]


# --- prompts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        (Prompt(voice="bob"), "no voice 'bob' lies beside the weights; there are: ada"),
        (Prompt(voice="bob"), "a file of your own is named by its path, .wav or .pt"),
    ],
)
async def test_a_voice_that_cannot_be_had_is_named(prompt: Prompt, complaint: str) -> None:
    async with fake_engine(FakeRows()) as engine, engine.open(Sampling()) as slot:
        with pytest.raises(PromptError, match=complaint):
            await slot.prime(prompt)


async def test_keeping_less_than_nothing_is_refused() -> None:
    async with fake_engine(FakeRows()) as engine, engine.open(Sampling()) as slot:
        with pytest.raises(ValueError, match="keep_frames is -1"):
            await slot.prime(Prompt(), keep_frames=-1)


# --- cancellation --------------------------------------------------------------------------------------------------


async def cancel(task: asyncio.Task[Reply]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_step_that_is_given_up_while_it_runs_leaves_the_row_whole() -> None:
    gate = Gate("step")
    rows = FakeRows(before=gate)
    async with fake_engine(rows) as engine, engine.open(Sampling()) as slot:
        slot.say("one two")
        task = asyncio.create_task(slot.step(SILENCE))
        await gate.reached()
        await cancel(task)
        gate.open()
        replies = [await slot.step(SILENCE + number) for number in range(3)]
        assert [reply.number for reply in replies] == [1, 2, 3]  # frame 0 was run, and nobody heard it
        assert [reply.frame[0] for reply in replies] == [0, 1, 2]
        assert "".join(reply.text for reply in replies) == "one"  # and no word was lost over it


async def test_a_step_that_is_given_up_before_it_runs_is_not_run() -> None:
    gate = Gate("step 0")
    rows = FakeRows(before=gate)
    async with fake_engine(rows) as engine, engine.open(Sampling()) as one, engine.open(Sampling()) as other:
        await one.prime(Prompt())
        await other.prime(Prompt())
        first = asyncio.create_task(one.step(SILENCE))
        await gate.reached()
        task = asyncio.create_task(other.step(SILENCE))
        await until_waiting(engine, 2)
        await cancel(task)
        gate.open()
        await first
        assert (await other.step(SILENCE)).number == 0
    assert [act for act in rows.acts if act.startswith("step")] == ["step 0", "step 1"]


async def test_a_call_that_ends_within_a_step_leaves_its_row_to_the_next() -> None:
    gate = Gate("step")
    rows = FakeRows(rows=1, before=gate)
    async with fake_engine(rows) as engine:

        async def call() -> Reply:
            async with engine.open(Sampling()) as slot:
                return await slot.step(SILENCE)

        task = asyncio.create_task(call())
        await gate.reached()
        await cancel(task)
        assert engine.free == 1
        following = asyncio.create_task(call())
        await until_waiting(engine, 1)
        gate.open()
        assert (await following).number == 0
    assert [act for act in rows.acts if "prefill" not in act] == ["open 0", "step 0", "open 0", "step 0"]


async def test_a_slot_that_is_closed_answers_no_more() -> None:
    gate = Gate("step")
    async with fake_engine(FakeRows(before=gate)) as engine:
        async with engine.open(Sampling()) as slot:
            waiting = asyncio.create_task(slot.step(SILENCE))
            await gate.reached()
        with pytest.raises(EngineError, match="the slot is closed"):
            await waiting
        with pytest.raises(EngineError, match="the slot is closed"):
            await slot.step(SILENCE)
        gate.open()


# --- failure -------------------------------------------------------------------------------------------------------


async def test_a_row_that_breaks_ends_its_call_only() -> None:
    """Whatever else the call asks gets the same answer; the row's next holder finds it whole."""
    rows = FakeRows(rows=2)
    async with fake_engine(rows) as engine, engine.open(Sampling()) as other:
        async with engine.open(Sampling()) as slot:
            await slot.step(SILENCE)
            rows.broken = {1}
            answers = await asyncio.gather(slot.step(SILENCE), other.step(SILENCE), return_exceptions=True)
            assert isinstance(answers[1], Reply)
            for failed in (answers[0], *await asyncio.gather(slot.step(SILENCE), return_exceptions=True)):
                assert type(failed) is EngineError and "no number any more" in str(failed)
            with pytest.raises(EngineError, match="no number any more"):
                await slot.prime(Prompt("Hello"))
        rows.broken = set()
        async with engine.open(Sampling()) as again:
            assert (await again.step(SILENCE)).number == 0
            assert (await other.step(SILENCE)).number == 1
        assert engine.state is EngineState.READY


@pytest.mark.parametrize("act", ["open 1", "prefill 1"])
async def test_a_call_that_memory_does_not_hold_is_refused_and_the_others_go_on(act: str) -> None:
    full = threading.Event()

    def before(done: str) -> None:
        if done == act and full.is_set():
            raise EngineFull("the device's memory is full")

    async with asyncio.timeout(10), fake_engine(FakeRows(rows=2, before=before)) as engine:
        async with engine.open(Sampling()) as other:
            full.set()
            async with engine.open(Sampling()) as slot:
                with pytest.raises(EngineFull, match="memory is full"):
                    await slot.prime(Prompt("Hello"))
                with pytest.raises(EngineFull, match="memory is full"):
                    await slot.step(SILENCE)
                await other.step(SILENCE)
            full.clear()
            async with engine.open(Sampling()) as again:
                await again.prime(Prompt("Hello"))
                await again.step(SILENCE)
            assert (await other.step(SILENCE)).number == 1
            assert (engine.state, engine.free) == (EngineState.READY, 1)


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [Broken("the card is gone"), SystemExit(3), EngineError("out of memory")])
async def test_a_failed_thread_resolves_all_who_wait(error: BaseException) -> None:
    failing = threading.Event()
    gate = Gate("step 0")

    def before(act: str) -> None:
        gate(act)
        if failing.is_set():
            raise error

    async with fake_engine(FakeRows(before=before)) as engine, AsyncExitStack() as stack:
        slots = [await stack.enter_async_context(engine.open(Sampling())) for _ in range(3)]
        waiting: list[asyncio.Task[Reply] | asyncio.Task[None]] = [asyncio.create_task(slots[0].step(SILENCE))]
        await gate.reached()
        waiting += [asyncio.create_task(slots[1].step(SILENCE)), asyncio.create_task(slots[2].prime(Prompt("Hello")))]
        await until_waiting(engine, 3)
        failing.set()
        gate.open()
        async with asyncio.timeout(10):
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [EngineError] * 3
        assert str(error) in str(results[0])
        assert engine.state is EngineState.FAILED
        assert engine.free == 0
        with pytest.raises(EngineError, match=str(error)):
            await slots[0].step(SILENCE)
        with pytest.raises(EngineError, match=str(error)):
            async with engine.open(Sampling()):
                pass
    assert engine.state is EngineState.FAILED
    assert not engine._thread.is_alive()


async def test_a_thread_that_ends_without_a_word_is_a_failure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    dying = threading.Event()
    monkeypatch.setattr("engine.local.Worker.serve", lambda worker: dying.wait(10))
    async with fake_engine(FakeRows()) as engine, engine.open(Sampling()) as slot:
        waiting = asyncio.create_task(slot.step(SILENCE))
        await until_waiting(engine, 1)
        dying.set()
        with pytest.raises(EngineError, match="the engine's thread died"):
            await waiting
        assert engine.state is EngineState.FAILED
        with pytest.raises(EngineError, match="died"):
            async with engine.open(Sampling()):
                pass


async def test_a_thread_that_ends_at_once_never_makes_the_engine_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.local.Worker.serve", lambda worker: None)
    engine = fake_engine(FakeRows())
    starting = asyncio.create_task(engine.__aenter__())
    await asyncio.sleep(0)  # it starts the thread, and waits
    engine._thread.join(5)  # holds the loop, so that it hears of the loading and of the death at once
    with pytest.raises(EngineError, match="died"):
        await starting
    assert engine.state is EngineState.FAILED


@pytest.mark.parametrize("error", [Broken("no such kernel"), MemoryError("cannot allocate")])
async def test_what_fails_while_loading_is_told_on_entering(error: Exception) -> None:
    def load() -> FakeRows:
        raise error

    engine = LocalEngine("fake", load=load)
    with pytest.raises(EngineError, match=str(error)) as caught:
        async with engine:
            pass
    assert caught.value.__cause__ is error
    assert engine.state is EngineState.FAILED
    assert not engine._thread.is_alive()


# --- the end -------------------------------------------------------------------------------------------------------


async def test_leaving_finishes_the_tick_and_resolves_who_waits_behind_it() -> None:
    gate = Gate("step 0")
    engine = fake_engine(FakeRows(before=gate))
    async with AsyncExitStack() as stack:
        await engine.__aenter__()
        slots = [await stack.enter_async_context(engine.open(Sampling())) for _ in range(2)]
        running = asyncio.create_task(slots[0].step(SILENCE))
        await gate.reached()
        behind = asyncio.create_task(slots[1].step(SILENCE))
        await until_waiting(engine, 2)
        leaving = asyncio.create_task(engine.__aexit__(None, None, None))
        await soon(lambda: engine.state is EngineState.DRAINING)
        gate.open()
        async with asyncio.timeout(5):
            await leaving
        assert (await running).number == 0
        with pytest.raises(EngineError, match="the engine is closed"):
            await behind
    assert engine.state is EngineState.DRAINING
    assert not engine._thread.is_alive()


async def test_a_thread_that_hangs_is_left_to_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.local.CLOSE_S", 0.05)
    gate = Gate("step")
    engine = fake_engine(FakeRows(before=gate))
    await engine.__aenter__()
    slot_context = engine.open(Sampling())
    slot = await slot_context.__aenter__()
    waiting = asyncio.create_task(slot.step(SILENCE))
    await gate.reached()
    async with asyncio.timeout(5):
        await engine.__aexit__(None, None, None)
    assert "left to itself" in caplog.text
    with pytest.raises(EngineError, match="closed"):
        await waiting
    await slot_context.__aexit__(None, None, None)
    gate.open()
    engine._thread.join(5)
    assert not engine._thread.is_alive()


async def test_leaving_while_it_loads_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.local.CLOSE_S", 0.05)
    loaded = threading.Event()

    def load() -> FakeRows:
        assert loaded.wait(10)
        return FakeRows()

    engine = LocalEngine("fake", load=load)
    task = asyncio.create_task(engine.__aenter__())
    await soon(lambda: hasattr(engine, "_thread"))
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert engine.state is EngineState.FAILED
    loaded.set()
    engine._thread.join(5)
    assert not engine._thread.is_alive()
