"""Calls, composed frame by frame: who says what when, and what the agent is to do about it.

The rules that the model learns from these, in frames of 80 ms:

- The text leads the sound by LEAD, with EPAD one frame before a word where there is room.
- A question that ended in frame e is answered with EPAD in e + 4 (or 5), so with sound in e + 7 (or 8). Only a number
  is waited for longer, NUMBER_GAP, for another digit may follow: callers say them with pauses between.
- A caller who interrupts is given the floor STOP frames after the first sound; who says "mm-hm" is not.
- Who tells a story hears "mm-hm" in the first pause of a phrase after LISTEN_S, timed as an answer would be, and again
  AGAIN_S later at the earliest.
- A pause within a question, noise, tones, music and the agent's own echo change nothing.
- After SILENCE_FRAMES in which nobody speaks, the agent asks whether the caller is still there. Not after a goodbye.
- A call's beginning (a prompt without "Known:") is greeted at GREETING; a call that goes on is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.model.text import EPAD, PAD
from engine.pocket.prompt import render
from engine.pocket.recipe.channel import echo, telephone
from engine.pocket.recipe.domain import ASKING, TELLING, UNKNOWN, Domain, Facts, State, Wording
from engine.pocket.recipe.formats import (
    SILENCE,
    Audio,
    Clip,
    Dialogue,
    Event,
    Span,
    Split,
    Utterance,
)
from engine.pocket.recipe.noises import NOISES
from engine.pocket.recipe.voices import audible
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

Kind: TypeAlias = Literal["stage1", "stage2", "strays", "asides", "talk", "probe"]
"""Short windows with one question; calls; windows with one thing that the agent knows nothing about; windows in which
nobody wants anything (`asides`) or nobody answers (`talk`); calls of held-out voices and personas, in trained wordings
and in held-out ones."""

FRAMES = 400
WINDOW = (44, 64)
"""Frames of a window; more where a question is long."""

ANSWERED = 16
"""Frames of a window behind the question: its answer's first words, all that is decided."""

TOLD = 48
"""The same, of an answer that names something: each digit is a decision, and that there is none any more."""

LEAD = 2
GREETING = 4
GAPS = ((4, 0.8), (5, 0.2))
"""Frames from a question's last to the answer's EPAD, and how often. Sooner, and every breath is taken for the end."""

NUMBER_GAP = 6
"""Frames from a number's last to the EPAD of reading it back."""

STOP = 5
INTERRUPTS_S = 0.7
MUTTERS_S = 0.6
"""What is shorter than the first does not interrupt the agent, and a mutter is shorter than the second."""

LISTEN_S, AGAIN_S = 2.4, 6.0
SILENCE_FRAMES = 75
PAUSE_S = (0.25, 0.7)
PHRASE_PAUSE_S = (0.35, 0.75)
DIGIT_PAUSE_S = (0.03, 0.33)

BARGE_IN = 0.3
MUTTER = 0.45
NOISE = 0.35
STORY = 0.3
PAUSED = 0.5
SPACED = 0.5
"""Of the numbers, those whose digits are said apart."""
ECHO = 0.5
RESUMED = 0.3
IDLE = 0.05
"""Of the calls, those in which nobody says anything to the agent."""
LONG_WAIT = 0.1

SPEED = 0.1
"""Callers to train with play this much faster or slower, log-uniformly: more voices than there are."""

LATEST = 40
"""Frames before the end after which no turn begins."""

Encode: TypeAlias = Callable[[str], list[int]]
"""A word's tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """What callers have been recorded to say, by voice and by meaning."""

    by_intent: Mapping[str, Sequence[Utterance]]
    by_voice: Mapping[tuple[str, str], Sequence[Utterance]]
    voices: Sequence[str]
    mutters: Sequence[Utterance]
    stories: Mapping[str, Sequence[Utterance]]

    @classmethod
    def of(cls, utterances: Iterable[Utterance], domain: Domain) -> Pool:
        """Raises ValueError where there is nobody who asks anything."""
        by_intent: dict[str, list[Utterance]] = defaultdict(list)
        by_voice: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
        stories: dict[str, list[Utterance]] = defaultdict(list)
        mutters: list[Utterance] = []
        for each in utterances:
            if each.intent:
                by_intent[each.intent].append(each)
                by_voice[each.voice, each.intent].append(each)
            elif each.text in domain.mutters:
                mutters.append(each)
            else:
                stories[each.voice].append(each)
        if not by_intent:
            raise ValueError("nobody asks anything: generate callers first")
        return cls(by_intent, by_voice, sorted({voice for voice, _ in by_voice}), mutters, stories)

    def pick(self, random: np.random.Generator, voice: str, intent: str) -> Utterance:
        """The intent in this voice, or, where it never said that, in another."""
        return _one(random, self.by_voice.get((voice, intent)) or self.by_intent[intent])


def _one(random: np.random.Generator, things: Sequence[Utterance]) -> Utterance:
    return things[int(random.integers(len(things)))]


class Timeline:
    """A dialogue while it is written. What would lie beyond its end is dropped."""

    def __init__(self, frames: int, clips: Sequence[Clip], encode: Encode) -> None:
        self.frames = frames
        self.events: list[Event] = []
        self.heard: list[Span] = []
        self.phones: list[Span] = []
        self.schedule: NDArray[np.int16] = np.full((frames, 2), SILENCE, np.int16)
        self.text: NDArray[np.int16] = np.full(frames, PAD, np.int16)
        self.caller: Audio = np.zeros(frames * FRAME_SAMPLES, np.float32)
        self._clips, self._encode = clips, encode

    def hear(self, audio: Audio, sample: int, words: Sequence[Span] = (), phones: Sequence[Span] = ()) -> None:
        """The caller's side, from a sample on."""
        part = audio[: max(0, len(self.caller) - sample)]
        self.caller[sample : sample + len(part)] += part
        at_s, end_s = sample / SAMPLE_RATE, len(self.caller) / SAMPLE_RATE
        self.heard += [word for word in moved(words, at_s) if word.end_s <= end_s]
        self.phones += [phone for phone in moved(phones, at_s) if phone.end_s <= end_s]

    def speak(self, clips: Sequence[int], frame: int) -> int:
        """The agent's clips in a row, sounding from `frame` on, and their text ahead of them. Gives the end."""
        free = max(0, frame - LEAD - 1)
        for number in clips:
            clip = self._clips[number]
            shown = self.schedule[frame : frame + clip.frames]
            shown[:, 0], shown[:, 1] = number, np.arange(len(shown))
            for word in clip.words:
                free = self._write(self._encode(word.word), frame + word.frame - LEAD, free)
            frame += clip.frames
        return min(frame, self.frames)

    def _write(self, tokens: Sequence[int], due: int, free: int) -> int:
        """A word's tokens where they are due, or as soon as the last word is through; EPAD before if that is free."""
        start = max(due, free)
        if start > free:
            self._token(start - 1, EPAD)
        for at, token in enumerate(tokens):
            self._token(start + at, token)
        return start + len(tokens)

    def _token(self, frame: int, token: int) -> None:
        if 0 <= frame < self.frames:
            self.text[frame] = token

    def hush(self, frame: int) -> None:
        """Nothing more of what the agent was saying."""
        self.schedule[frame:] = SILENCE
        self.text[frame:] = PAD

    def agent(self) -> Audio:
        """How the agent's side sounds."""
        made = np.zeros((self.frames, FRAME_SAMPLES), np.float32)
        for frame, (number, within) in enumerate(self.schedule.tolist()):
            if number != SILENCE:
                made[frame] = self._clips[number].audio[within * FRAME_SAMPLES : (within + 1) * FRAME_SAMPLES]
        return made.reshape(-1)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What a caller says in one go: its sound, words and phones, where it is audible (seconds), its phrases' ends."""

    wording: Wording
    audio: Audio
    words: tuple[Span, ...]
    start_s: float
    end_s: float
    phrase_ends_s: tuple[float, ...] = ()
    phones: tuple[Span, ...] = ()


def turn_of(*parts: tuple[Utterance, float], story: bool = False) -> Turn:
    """Utterances, each after so many seconds of silence, as one turn; the last is the question."""
    audio: list[Audio] = []
    words: list[Span] = []
    phones: list[Span] = []
    ends: list[float] = []
    at = 0.0
    for said, pause_s in parts:
        silence = np.zeros(int(pause_s * SAMPLE_RATE), np.float32)
        at += len(silence) / SAMPLE_RATE
        words += moved(said.words, at)
        phones += moved(said.phones, at)
        ends.append(at + audible(said.audio)[1])
        audio += [silence, said.audio]
        at += said.seconds
    last = parts[-1][0]
    wording = Wording(last.text, last.intent, last.slot, last.wording)
    joined = np.concatenate(audio)
    phrase_ends = tuple(ends[:-1]) if story else ()
    return Turn(wording, joined, tuple(words), audible(joined)[0], ends[-1], phrase_ends, tuple(phones))


def paused(said: Utterance, pauses_s: Mapping[int, float]) -> Turn:
    """An utterance with pauses before its words of these numbers."""
    parts: list[tuple[Utterance, float]] = []
    cuts = [0, *sorted(pauses_s), len(said.words)]
    for first, last in zip(cuts, cuts[1:], strict=False):
        start_s = said.words[first].start_s if first else 0.0
        end_s = said.words[last].start_s if last < len(said.words) else said.seconds
        audio = said.audio[int(start_s * SAMPLE_RATE) : int(end_s * SAMPLE_RATE)]
        words = tuple(moved(said.words[first:last], -start_s))
        phones = tuple(moved((phone for phone in said.phones if start_s <= phone.start_s < end_s), -start_s))
        audio = _faded(audio, first > 0, last < len(said.words))
        part = replace(said, audio=audio, words=words, phones=phones)
        parts.append((part, pauses_s.get(first, 0.0)))
    return turn_of(*parts)


def played(turn: Turn, speed: float) -> Turn:
    """A turn faster and higher, or slower and deeper."""
    samples = np.arange(int(len(turn.audio) / speed)) * speed
    words, phones = (
        tuple(Span(span.label, span.start_s / speed, span.end_s / speed) for span in spans)
        for spans in (turn.words, turn.phones)
    )
    return Turn(
        turn.wording,
        np.interp(samples, np.arange(len(turn.audio)), turn.audio).astype(np.float32),
        words,
        turn.start_s / speed,
        turn.end_s / speed,
        tuple(end_s / speed for end_s in turn.phrase_ends_s),
        phones,
    )


def moved(spans: Iterable[Span], by_s: float) -> list[Span]:
    """Where they are if what they are of begins so much later."""
    return [Span(span.label, by_s + span.start_s, by_s + span.end_s) for span in spans]


def _faded(audio: Audio, begins: bool, ends: bool) -> Audio:
    ramp = np.minimum(1, np.arange(len(audio), dtype=np.float32) / 120)
    return audio * (ramp if begins else 1) * (ramp[::-1] if ends else 1)


@dataclass
class Progress:
    """Where a composition stands, in frames. `spoke` is the agent's last answer's sound, from and until."""

    state: State
    voice: str
    speed: float = 1.0
    spoke: tuple[int, int] = (0, 0)
    quiet: int = 0
    turns: int = 0
    over: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Composer:
    """Makes dialogues of a pool of utterances. The same generator state gives the same dialogue."""

    domain: Domain
    clips: Sequence[Clip]
    encode: Encode
    pool: Pool
    split: Split = "train"

    def length(self, answer: Sequence[str]) -> int:
        """Frames of these clips."""
        return sum(self.clips[self.domain.index[clip]].frames for clip in answer)

    def compose(self, kind: Kind, random: np.random.Generator) -> Dialogue:
        """One dialogue with the caller's side as audio, through a telephone."""
        return self._window(random) if kind in {"stage1", "strays"} else self._call(random)

    def _window(self, random: np.random.Generator) -> Dialogue:
        """One question, in a call that goes on."""
        persona, facts = self.domain.persona(random, self.split), self._facts(random)
        call = Progress(State(persona, facts), *self.caller(random), turns=2)
        turn = self.turn(random, call, story=False)
        told = turn.wording.intent in self.domain.naming
        asked = int(turn.end_s * SAMPLE_RATE) // FRAME_SAMPLES + (TOLD if told else ANSWERED)
        frames = max(int(random.integers(WINDOW[0], WINDOW[1] + 1)), asked + 2)
        line = Timeline(frames, self.clips, self.encode)
        self.ask(random, line, call, turn, int(random.integers(1, min(frames - asked, 14) + 1)))
        return self.finished(random, line, render(persona.text, _known(facts)))

    def _call(self, random: np.random.Generator) -> Dialogue:
        """Some turns, greeted or going on, until there is no room for another."""
        line = Timeline(FRAMES, self.clips, self.encode)
        persona = self.domain.persona(random, self.split)
        resumed = random.random() < RESUMED
        facts = self._facts(random) if resumed else Facts()
        call = Progress(State(persona, facts), *self.caller(random))
        if not resumed:
            self.say(line, call, self.domain.greeting(persona), GREETING, Event("greeting", GREETING))
            call.state = replace(call.state, last=())
        idle = random.random() < IDLE
        while not call.over and not idle:
            start = self._next_start(random, line, call)
            if start > FRAMES - LATEST:
                break
            turn = self.turn(random, call, story=random.random() < STORY)
            if start < call.quiet and turn.end_s - turn.start_s < INTERRUPTS_S:
                start = call.quiet + 3  # "yeah" into an answer is a mutter, whatever it means in a silence
            self.ask(random, line, call, turn, start)
        if idle:
            for _ in range(int(random.integers(2, 9))):
                self.noise(random, line, int(random.integers(FRAMES)))
        self.wait(line, call, FRAMES)
        return self.finished(random, line, render(persona.text, _known(facts) if resumed else None))

    def _next_start(self, random: np.random.Generator, line: Timeline, call: Progress) -> int:
        """When the caller speaks next, in frames; until then there may be mutters, noise, and the silence question."""
        first, end = call.spoke
        if end - first >= 14 and random.random() < BARGE_IN:
            return int(random.integers(first + 4, end - 6))
        if end - first >= 16 and random.random() < MUTTER:
            self.mutter(random, line, call, int(random.integers(first + 3, end - 8)))
        long = random.random() < LONG_WAIT
        start = call.quiet + int(random.integers(SILENCE_FRAMES + 5, 130) if long else random.integers(3, 26))
        if random.random() < NOISE:
            self.noise(random, line, int(random.integers(first, max(first + 1, min(start, FRAMES)))))
        return max(start, self.wait(line, call, start))

    def mutter(self, random: np.random.Generator, line: Timeline, call: Progress, frame: int) -> None:
        short = [each for each in self.pool.mutters if each.seconds <= MUTTERS_S]
        if short:
            said = _one(random, [each for each in short if each.voice == call.voice] or short)
            sample = frame * FRAME_SAMPLES + int(random.integers(FRAME_SAMPLES))
            line.hear(said.audio, sample, said.words, said.phones)
            line.events.append(Event("noise", frame, text=said.text))

    def noise(self, random: np.random.Generator, line: Timeline, frame: int) -> None:
        name = str(random.choice(list(NOISES)))
        line.hear(NOISES[name](random), frame * FRAME_SAMPLES + int(random.integers(FRAME_SAMPLES)))
        line.events.append(Event("noise", frame, text=name))

    def wait(self, line: Timeline, call: Progress, until: int) -> int:
        """Ask into the silences that end before `until`; gives a frame at which the caller may begin."""
        start = 0
        while not call.over and call.quiet + SILENCE_FRAMES < min(until, line.frames):
            sound = call.quiet + SILENCE_FRAMES + LEAD + 1
            self.say(line, call, (self.domain.silence,), sound, Event("silence", sound))
            start = call.quiet + 3
        return start

    def ask(self, random: np.random.Generator, line: Timeline, call: Progress, turn: Turn, start: int) -> None:
        """The caller's turn from frame `start` on, and what the agent does: stop, listen, answer."""
        sample = start * FRAME_SAMPLES + int(random.integers(FRAME_SAMPLES))
        line.hear(turn.audio, sample, turn.words, turn.phones)
        onset, end = _frame(sample, turn.start_s), _frame(sample, turn.end_s)
        line.events.append(
            Event("question", end, onset, turn.wording.intent, turn.wording.text, turn.wording.slot),
        )
        if onset < call.spoke[1] and onset + STOP < line.frames:
            line.hush(onset + STOP)
            line.events.append(Event("stop", onset + STOP, onset))
        self._listen(line, turn, sample, onset, end)
        answer = self.domain.answer(turn.wording, call.state)
        intent = turn.wording.intent
        gap = NUMBER_GAP if intent == "tell_number" else _gap(random)
        sound = end + gap + LEAD + 1
        self.say(line, call, answer, sound, Event("answer", sound, end, intent))
        call.state = State(
            call.state.persona,
            call.state.facts.told(turn.wording),
            call.state.unknowns + (intent == UNKNOWN),
            answer,
        )
        call.over = intent == "goodbye"

    def _listen(self, line: Timeline, turn: Turn, sample: int, onset: int, end: int) -> None:
        """ "mm-hm", after LISTEN_S and then every AGAIN_S, and not so late that it would run into the answer."""
        due_s = turn.start_s + LISTEN_S
        clip = self.domain.index[self.domain.backchannel]
        for end_s in turn.phrase_ends_s:
            sound = _frame(sample, end_s) + GAPS[0][0] + LEAD + 1
            if end_s >= due_s and sound + self.clips[clip].frames <= end and sound < line.frames:
                line.speak([clip], sound)
                line.events.append(Event("backchannel", sound, onset, text=self.domain.backchannel))
                due_s = end_s + AGAIN_S

    def say(self, line: Timeline, call: Progress, clips: Sequence[str], sound: int, event: Event) -> None:
        end = line.speak([self.domain.index[clip] for clip in clips], sound)
        if sound < line.frames:
            line.events.append(replace(event, text=self.domain.clip_text(clips)))
        call.spoke, call.quiet = (min(sound, line.frames), end), end

    def turn(self, random: np.random.Generator, call: Progress, story: bool) -> Turn:
        return played(self._said(random, call, story), call.speed)

    def _said(self, random: np.random.Generator, call: Progress, story: bool) -> Turn:
        intent = self._intent(random, call)
        said = self.pool.pick(random, call.voice, intent)
        if story and (phrases := self._phrases(random, call.voice)):
            parts = [
                (each, float(random.uniform(*PHRASE_PAUSE_S)) if number else 0.0) for number, each in enumerate(phrases)
            ]
            return turn_of(*parts, (said, float(random.uniform(*PHRASE_PAUSE_S))), story=True)
        places = pauses_within(self.domain, said)
        pauses: dict[int, float] = {}
        if places and random.random() < PAUSED:
            pauses[int(random.choice(places))] = float(random.uniform(*PAUSE_S))
        if said.intent == "tell_number" and random.random() < SPACED:
            pauses |= {number: float(random.uniform(*DIGIT_PAUSE_S)) for number in self._next_digits(said)}
        if pauses:
            return paused(said, pauses)
        return turn_of((said, 0.0))

    def _phrases(self, random: np.random.Generator, voice: str) -> list[Utterance]:
        """One to three phrases of a story, in this voice if it told any."""
        told = self.pool.stories.get(voice) or [each for voice in self.pool.stories.values() for each in voice]
        return [_one(random, told) for _ in range(int(random.integers(1, 4)))] if told else []

    def _next_digits(self, said: Utterance) -> list[int]:
        """The words that are digits, but for the first of them; none where the words are not known well enough."""
        words = said.text.split()
        digits = [number for number, word in enumerate(words) if word in self.domain.lists["digit"]]
        return digits[1:] if len(words) == len(said.words) else []

    def _intent(self, random: np.random.Generator, call: Progress) -> str:
        """What the caller wants: to be remembered more often where there is something to remember."""
        told = [name for name, fact in ASKING.items() if getattr(call.state.facts, fact)]
        tell, ask = 0.1, 0.13 if told else 0.02
        kind = str(random.choice(["tell", "ask", UNKNOWN, ""], p=[tell, ask, 0.14, 0.86 - tell - ask]))
        if kind == "tell":
            wanted = str(random.choice(list(TELLING)))
        elif kind == "ask":
            wanted = str(random.choice(told if told and random.random() < 0.85 else list(ASKING)))
        else:
            wanted = kind or str(random.choice([name for name in self.domain.intents if name not in ASKING]))
        if wanted == "goodbye" and call.turns < 2:
            wanted = "hello"  # nobody says goodbye first thing
        call.turns += 1
        return wanted if wanted in self.pool.by_intent else str(random.choice(list(self.pool.by_intent)))

    def caller(self, random: np.random.Generator) -> tuple[str, float]:
        """Whose voice, and how fast it is played."""
        speed = float(np.exp(random.uniform(-SPEED, SPEED))) if self.split == "train" else 1.0
        return str(random.choice(self.pool.voices)), speed

    def _facts(self, random: np.random.Generator) -> Facts:
        name = str(random.choice(self.domain.lists["name"])) if random.random() < 0.5 else ""
        return Facts(name, self.domain.number(random) if random.random() < 0.5 else "")

    def finished(self, random: np.random.Generator, line: Timeline, prompt: str) -> Dialogue:
        """With the agent's echo and the telephone on the caller's side."""
        caller = line.caller
        if random.random() < ECHO:
            caller = caller + echo(line.agent(), random)
        events = tuple(sorted(line.events, key=lambda event: event.frame))
        heard, phones = (tuple(sorted(spans, key=lambda span: span.start_s)) for spans in (line.heard, line.phones))
        sound = telephone(caller, random)
        return Dialogue(prompt, line.schedule, line.text, heard, events, self.split, sound, phones=phones)


def pauses_within(domain: Domain, said: Utterance) -> list[int]:
    """Numbers of the words before which a caller may pause and is not done: what came before is nothing to answer."""
    words = said.text.split()
    if len(words) != len(said.words):
        return []  # where its words are is not known well enough
    inside = range(1, len(words) - 1)
    if said.intent == "tell_number":
        # A pause between digits could be the end: it is learnt only before the first.
        return [number for number in inside if words[number - 1] not in domain.lists["digit"]]
    return [number for number in inside if not _is_whole(domain, " ".join(words[:number]))]


def _is_whole(domain: Domain, text: str) -> bool:
    """Whether it has an answer, as it is or without what callers say before anything ("well", "hi")."""
    begun = (f"{before} " for before, _ in domain.around if before)
    cores = (text.removeprefix(before) for before in begun if text.startswith(before))
    return text in _wordings(domain) or any(core in _wordings(domain) for core in cores)


def _known(facts: Facts) -> dict[str, str]:
    return {name: value for name, value in (("name", facts.name), ("number", facts.number)) if value}


def _frame(sample: int, seconds: float) -> int:
    return int(sample + seconds * SAMPLE_RATE - 1) // FRAME_SAMPLES


def _gap(random: np.random.Generator) -> int:
    gaps, shares = zip(*GAPS, strict=True)
    return int(random.choice(gaps, p=shares))


_WORDINGS: dict[int, frozenset[str]] = {}


def _wordings(domain: Domain) -> frozenset[str]:
    """Everything that has an answer."""
    if id(domain) not in _WORDINGS:
        intents, unknown = domain.intents.values(), domain.unknown.values()
        texts = {text for intent in intents for said in (intent.cores, *intent.wordings.values()) for text in said}
        _WORDINGS[id(domain)] = frozenset(texts | {text for said in unknown for text in said})
    return _WORDINGS[id(domain)]
