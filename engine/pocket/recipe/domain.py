"""The front desk: what callers say, what it means, and what the agent answers. Read from domain.yaml; pure otherwise.

A line of a grammar is plain words with [maybe] and (this|that); `expand` lists what it can say. What stands in braces
is filled from a list, or stays for the generator: {digits} are a number's words, {name} one of the names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.pocket.prompt import render
from engine.pocket.recipe.formats import Split

UNKNOWN = "unknown"
"""The intent of everything that the agent knows nothing about."""

REPEAT = "repeat"
"""The intent, and the answer, of saying the last thing again."""

TELLING = {"tell_name": "name", "tell_number": "number"}
ASKING = {"ask_name": "name", "ask_number": "number"}

FILE = Path(__file__).with_name("domain.yaml")

WORDINGS = 800
"""Most wordings of an intent that are trained on; of `unknown` twice as many."""

FRAMED_UNKNOWN = 0.5

HELD_OUT_WORDINGS = 24

HELD_OUT_UNKNOWN = 260

ANSWER_WEIGHT = 60
"""How often the tokenizer hears each answer, for one hearing of what callers say: nearly a piece a word."""

ASKED = 130
"""How many wordings of each intent the tokenizer hears: with more of them, the answers' words fall to pieces."""

DIGITS = ((3, 0.7), (4, 0.2), (2, 0.1))
"""How many digits a number has, and how often."""


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to say something. `slot` is what was filled in: a name, digits, or ""."""

    text: str
    intent: str
    slot: str = ""
    split: Split = "train"


@dataclass(frozen=True, slots=True)
class Intent:
    """What callers may mean. `answer` are clip ids, or lists' names in braces; `fallback` is for a fact nobody told.

    `wordings` are what is said; `cores` all that could be, without what may stand before and behind it.
    """

    name: str
    answer: tuple[str, ...]
    fallback: tuple[str, ...]
    wordings: Mapping[Split, tuple[str, ...]]
    cores: frozenset[str]


@dataclass(frozen=True, slots=True)
class Persona:
    """Who the agent was told to be. A field is "" where the text does not say, or says what no clip has."""

    text: str = ""
    agent: str = ""
    company: str = ""
    greeting: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the caller told: a name, a number's digits as words."""

    name: str = ""
    number: str = ""

    def told(self, wording: Wording) -> Facts:
        """These, and what the wording tells."""
        kind = TELLING.get(wording.intent)
        return Facts(
            wording.slot if kind == "name" else self.name,
            wording.slot if kind == "number" else self.number,
        )


@dataclass(frozen=True, slots=True)
class ClipText:
    """A clip to be spoken: words `first` up to `last` of `carrier`. A part of an answer is fitted to the frames."""

    id: str
    carrier: str
    first: int = 0
    last: int | None = None

    @property
    def part(self) -> bool:
        return self.first > 0 or self.last is not None


@dataclass(frozen=True, slots=True)
class State:
    """What an answer depends on besides the question."""

    persona: Persona = Persona()
    facts: Facts = Facts()
    unknowns: int = 0
    last: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Opening:
    """The parts of a greeting around its names: "Hello, this is Emma at Blue Harbor. How can I help?"

    A name is a clip of its own: within "this is Emma" the sound of the first word would already tell which name comes,
    and a model that is taught with the sound at hand learns the name from there, not from its prompt.
    """

    who: str
    nobody: str
    where: str
    offer: str


@dataclass(frozen=True, slots=True)
class Strays:
    """Sentences that have nothing to do with the agent's work, without end: lines of the grammar, lists of words."""

    lines: tuple[str, ...]
    lists: Mapping[str, tuple[str, ...]]

    def draw(self, random: np.random.Generator) -> str:
        line = str(random.choice(expand(str(random.choice(self.lines)))))
        return re.sub(r"\{(\w+)\}", lambda found: str(random.choice(self.lists[found[1]])), line)


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """All of it. `clips` is in the order that clips.npz and schedules count by."""

    intents: Mapping[str, Intent]
    unknown: Mapping[Split, tuple[str, ...]]
    lists: Mapping[str, tuple[str, ...]]
    strangers: Mapping[Split, Mapping[str, tuple[str, ...]]]
    personas: Mapping[Split, tuple[str, ...]]
    clips: tuple[ClipText, ...]
    fallbacks: tuple[str, ...]
    silence: str
    backchannel: str
    opening: Opening
    stories: tuple[tuple[str, ...], ...]
    mutters: tuple[str, ...]
    around: tuple[tuple[str, str], ...]
    strays: Strays
    index: Mapping[str, int] = field(default_factory=dict)

    @property
    def naming(self) -> frozenset[str]:
        """The intents whose answers name something that is told, by the caller or by the prompt."""
        return frozenset(name for name, intent in self.intents.items() if any("{" in part for part in intent.answer))

    def answer(self, wording: Wording, state: State) -> tuple[str, ...]:
        """The clips that answer a wording, given what was told before it and is told by it."""
        if wording.intent == UNKNOWN:
            return (self.fallbacks[state.unknowns % len(self.fallbacks)],)
        intent = self.intents[wording.intent]
        if intent.answer == (REPEAT,):
            return state.last or intent.fallback
        facts = state.facts.told(wording)
        values = {"{name}": facts.name, "{digits}": facts.number}
        values |= {"{agent}": state.persona.agent, "{company}": state.persona.company}
        if any(values.get(part) == "" for part in intent.answer):
            return intent.fallback
        return tuple(clip for part in intent.answer for clip in _filled(part, values.get(part)))

    def greeting(self, persona: Persona) -> tuple[str, ...]:
        """What the agent opens with: the parts of it that the persona says and that there are clips for."""
        words, who = self.opening, persona.agent or self.opening.nobody
        rest = (who, words.where, f"{persona.company}.") if persona.company else (f"{who}.",)
        return (f"{persona.greeting or self.lists['greeting'][0]},", words.who, *rest, words.offer)

    def answers(self) -> Iterator[tuple[str, ...]]:
        """Every answer there is, once, with one number for all of them, the greetings left out."""
        state = State(Persona("", self.lists["agent"][0], self.lists["company"][0]), Facts())
        for name, intent in self.intents.items():
            if intent.answer != (REPEAT,):
                values = self.lists["name"] if "{name}" in intent.answer else ("three five two",)
                for value in values:
                    facts = Facts(value, "three five two") if "{name}" in intent.answer else Facts("", value)
                    yield self.answer(
                        Wording("", name, value), State(state.persona, facts if name in ASKING else Facts())
                    )
            if intent.fallback:
                yield intent.fallback
        for clip in (*self.fallbacks, self.silence, self.backchannel):
            yield (clip,)

    def persona(self, random: np.random.Generator, split: Split = "train") -> Persona:
        """A persona's text, and what of it the agent can say. A fifth of the names are strangers'."""
        line = str(random.choice(self.personas[split]))
        said: dict[str, str] = {}
        known: dict[str, str] = {}
        for kind in ("agent", "company", "greeting"):
            if f"{{{kind}}}" in line:
                strange = kind != "greeting" and random.random() < 0.2
                values = self.strangers[split][kind] if strange else self.lists[kind]
                said[kind] = str(random.choice(values))
                known[kind] = "" if strange else said[kind]
        return Persona(line.format(**said), **known)

    def number(self, random: np.random.Generator) -> str:
        """A made-up number's digits, as words."""
        lengths, shares = zip(*DIGITS, strict=True)
        return " ".join(random.choice(self.lists["digit"], int(random.choice(lengths, p=shares))))

    def wording(self, intent: str, random: np.random.Generator, split: Split = "train") -> Wording:
        """One wording of an intent, or of `unknown`, its slot filled."""
        if intent == UNKNOWN:
            return Wording(str(random.choice(self.unknown[split])), UNKNOWN, "", split)
        text = str(random.choice(self.intents[intent].wordings[split]))
        slot = ""
        if "{name}" in text:
            slot = str(random.choice(self.lists["name"]))
        elif "{digits}" in text:
            slot = self.number(random)
        return Wording(text.format(name=slot, digits=slot), intent, slot, split)

    def stray(self, random: np.random.Generator) -> Wording:
        """Something to train on that means nothing here, half of it said as a question to the shop is."""
        text = self.strays.draw(random)
        if random.random() < FRAMED_UNKNOWN:
            text = _between(text, self.around[int(random.integers(len(self.around)))])
        return Wording(text, UNKNOWN)

    def story(self, random: np.random.Generator, parts: int) -> list[str]:
        """Phrases of a long turn, in the order in which they are told."""
        chosen = sorted(random.choice(len(self.stories), parts, replace=False))
        return [str(random.choice(self.stories[number])) for number in chosen]

    def clip_text(self, clips: Iterable[str]) -> str:
        return " ".join(clips)

    def texts(self) -> Iterator[str]:
        """What the tokenizer is to know: answers and prompts several times over, and some of what callers say."""
        random = np.random.default_rng(0)
        greetings = [
            Persona("", agent, company, greeting)
            for agent, company, greeting in product(
                *(("", *self.lists[kind]) for kind in ("agent", "company", "greeting"))
            )
        ]
        for _ in range(ANSWER_WEIGHT):
            yield from (self.clip_text(answer) for answer in self.answers())
            yield from (self.clip_text(["You said", *self.number(random).split()]) for _ in range(20))
        yield from (self.clip_text(self.greeting(persona)) for persona in greetings)
        yield from (self.persona(random).text for _ in range(600))
        for name in self.lists["name"] * 5:
            yield render(self.persona(random).text, {"name": name, "number": self.number(random)})
            yield render("", {})
        for name in (*self.intents, *[UNKNOWN] * 6):
            yield from (self.wording(name, random).text for _ in range(ASKED))
        for story in self.stories:
            yield from story
        yield from self.mutters


def _filled(part: str, value: str | None) -> tuple[str, ...]:
    """The clips of an answer's part: a number is a clip a digit; what ends a sentence has its full stop."""
    if value is None:
        return (part,)
    return tuple(value.split()) if part == "{digits}" else (f"{value}.",)


def expand(line: str) -> list[str]:
    """Everything that a line of the grammar can say, in order, without what is said twice.

    >>> expand("(a|b) [c]")
    ['a', 'a c', 'b', 'b c']
    """
    texts, rest = _alternatives(line)
    if rest:
        raise ValueError(f"{line!r} closes a bracket that it does not open, before {rest!r}")
    return list(dict.fromkeys(" ".join(text.split()) for text in texts))


def _alternatives(line: str) -> tuple[list[str], str]:
    """What `line` can say up to a bracket that closes it, and the rest from that bracket on."""
    done: list[str] = []
    texts = [""]
    while line and line[0] not in ")]":
        first, line = line[0], line[1:]
        if first == "|":
            done += texts
            texts = [""]
        elif first in "([":
            inner, line = _alternatives(line)
            if line[:1] != {"(": ")", "[": "]"}[first]:
                raise ValueError(f"{first} is not closed before {line!r}")
            line = line[1:]
            texts = [text + choice for text in texts for choice in (["", *inner] if first == "[" else inner)]
        else:
            texts = [text + first for text in texts]
    return done + texts, line


def shuffled(groups: Sequence[Sequence[str]], random: np.random.Generator) -> list[list[str]]:
    return [[str(text) for text in reversed(random.permutation(list(group)))] for group in groups]


def in_turn(groups: Iterable[Iterable[str]], most: int) -> tuple[str, ...]:
    """At most so many of them, one of each group in turn, so that a line that says little is not drowned."""
    chosen: dict[str, None] = {}
    for text in chain.from_iterable(zip_longest(*groups)):
        if len(chosen) == most:
            break
        if text is not None:
            chosen[text] = None
    return tuple(chosen)


@cache
def load_domain(path: Path = FILE) -> Domain:
    """Raises ValueError with what is wrong in the file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    random = np.random.default_rng(7)
    lists = {name: tuple(values) for name, values in content["lists"].items()}
    unknown = _unknown(content["unknown"], _around(content), random)
    greeting = content["greeting"]
    intents = {name: _intent(name, entry, content) for name, entry in content["intents"].items()}
    strangers = content["strangers"]
    clips = _clips(content, lists)
    return Domain(
        intents,
        unknown,
        lists,
        {
            "train": {kind: tuple(strangers[kind]) for kind in ("agent", "company")},
            "held-out": {kind: tuple(strangers["held_out"][kind]) for kind in ("agent", "company")},
        },
        {"train": tuple(content["persona"]["say"]), "held-out": tuple(content["persona"]["held_out"])},
        clips,
        tuple(content["fallbacks"]),
        content["silence"],
        content["backchannel"],
        Opening(greeting["who"], greeting["nobody"], greeting["where"], greeting["offer"]),
        tuple(tuple(expand(line)) for line in content["stories"]),
        tuple(content["mutters"]),
        tuple(_around(content)),
        _strays(content["strays"]),
        {clip.id: number for number, clip in enumerate(clips)},
    )


def _intent(name: str, entry: Mapping[str, Any], content: Mapping[str, Any]) -> Intent:
    if unknown := sorted(entry.keys() - {"answer", "unknown", "say", "more", "held_out", "plain"}):
        raise ValueError(f"intent {name!r} has no field {unknown[0]!r}")
    for line in (*entry["say"], *entry["more"], *entry["held_out"]):
        if not isinstance(line, str):
            raise ValueError(f"intent {name!r} has a line that YAML takes for {line!r}; put it in quotes")
    random = np.random.default_rng([*name.encode()])  # its own, so that one intent's lines do not move another's
    around = [("", "")] if entry.get("plain", False) else _around(content)
    lines = [_framed(line, around, random) for line in entry["say"]]
    held_out = shuffled([_worded(line, around) for line in entry["held_out"]], random)
    lines += [_framed(line, around, random) for line in entry["more"]]
    # Callers often say no more than the core: half of what is trained on is that, as far as there is another half.
    alone = in_turn((plain for plain, _ in lines), WORDINGS if len(around) == 1 else WORDINGS // 2)
    others = in_turn((framed for _, framed in lines), len(alone))
    wordings: dict[Split, tuple[str, ...]] = {
        "train": tuple(dict.fromkeys((*alone, *others))),
        "held-out": in_turn(held_out, HELD_OUT_WORDINGS),
    }
    cores = frozenset(core for line in (*entry["say"], *entry["more"], *entry["held_out"]) for core in expand(line))
    return Intent(name, tuple(entry["answer"]), tuple(entry.get("unknown", ())), wordings, cores)


def _around(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What may stand before and behind a question; nothing first."""
    return list(dict.fromkeys(product(content["prefix"], content["suffix"])))


def _unknown(
    entry: Mapping[str, Any], pairs: Sequence[tuple[str, str]], random: np.random.Generator
) -> dict[Split, tuple[str, ...]]:
    say = shuffled(_filled_lines(entry["say"], entry["lists"]), random)
    held_out = shuffled(_filled_lines(entry["held_out"], entry["held_out_lists"]), random)
    say += shuffled(_filled_lines(entry["more"], entry["lists"]), random)
    said = in_turn(say, 2 * WORDINGS)
    # Some with a prefix or a suffix, as what is known has: else that alone would tell them apart.
    framed = [
        _between(text, pairs[int(random.integers(len(pairs)))]) if random.random() < FRAMED_UNKNOWN else text
        for text in said
    ]
    return {"train": tuple(dict.fromkeys(framed)), "held-out": in_turn(held_out, HELD_OUT_UNKNOWN)}


def _strays(entry: Mapping[str, Any]) -> Strays:
    return Strays(tuple(entry["say"]), {name: tuple(values) for name, values in entry["lists"].items()})


def _framed(
    line: str, around: Sequence[tuple[str, str]], random: np.random.Generator
) -> tuple[list[str], Iterator[str]]:
    """A line's cores, then all that they say with a prefix or a suffix, made as it is asked for: both in random order.

    The first pair of `around` is empty.
    """
    cores = expand(line)
    which, pairs = np.divmod(random.permutation(len(cores) * len(around))[::-1], len(around))
    plain = [cores[core] for core in which[pairs == 0]]
    framed = zip(which[pairs > 0], pairs[pairs > 0], strict=True)
    return plain, (_between(cores[core], around[pair]) for core, pair in framed)


def _worded(line: str, around: Sequence[tuple[str, str]]) -> list[str]:
    """Every core with every pair of prefix and suffix."""
    return [_between(core, pair) for core in expand(line) for pair in around]


def _between(core: str, pair: tuple[str, str]) -> str:
    return " ".join(part for part in (pair[0], core, pair[1]) if part)


def _filled_lines(lines: Sequence[str], lists: Mapping[str, Sequence[str]]) -> list[list[str]]:
    groups: list[list[str]] = []
    for line in lines:
        names = re.findall(r"\{(\w+)\}", line)
        values = [dict(zip(names, chosen, strict=True)) for chosen in product(*(lists[name] for name in names))]
        groups.append([text.format(**value) for text in expand(line) for value in values])
    return groups


def _clips(content: Mapping[str, Any], lists: Mapping[str, tuple[str, ...]]) -> tuple[ClipText, ...]:
    """Whole answers and the beginnings of others, then what those end on."""
    greeting = content["greeting"]
    clips = [ClipText(text, text) for text in (greeting["offer"], content["silence"], content["backchannel"])]
    clips += [ClipText(text, text) for text in content["fallbacks"]]
    for intent in content["intents"].values():
        for parts in (intent["answer"], intent.get("unknown", [])):
            for part in parts:
                if len(parts) > 1 and not part.startswith("{"):
                    clips.append(ClipText(part, f"{part} {_example(parts[1], lists)}.", 0, len(part.split())))
                elif len(parts) == 1 and part != REPEAT:
                    clips.append(ClipText(part, part))
    for part, values in ((greeting["who"], "agent"), (greeting["where"], "company")):
        clips.append(ClipText(part, f"{part.capitalize()} {_example(f'{{{values}}}', lists)}.", 0, len(part.split())))
    # A word cut out of a sentence lacks its beginning, which sounds in the end of the word before: so said alone.
    parts = [f"{each}," for each in lists["greeting"]]
    parts += [greeting["nobody"], f"{greeting['nobody']}.", *lists["agent"]]
    parts += [f"{each}." for kind in ("agent", "company", "name") for each in lists[kind]]
    parts += lists["digit"]
    clips += [ClipText(each, f"{each[0].upper()}{each[1:].rstrip('.,')}.") for each in parts]
    return tuple({clip.id: clip for clip in clips}.values())


def _example(part: str, lists: Mapping[str, tuple[str, ...]]) -> str:
    """What stands behind the beginning of an answer while it is spoken: a breath leaves the least of itself in it."""
    if part == "{digits}":
        return "five five two"
    values = lists[part.strip("{}")]
    return next((value for value in values if value[0] in "HAEIOU"), values[0])
