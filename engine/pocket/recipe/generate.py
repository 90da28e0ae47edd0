"""Make the data:  python -m engine.pocket.recipe.generate PART --work DIR

    clips       the agent's answers, the tokenizer      -> WORK/clips.npz, WORK/tokenizer.model
    callers     what callers say, many voices           -> WORK/callers/{train,held-out}-*.npz
    strangers   callers who say something unrelated     -> WORK/strangers/train-*.npz
    actors      people who were recorded                -> WORK/actors/{train,held-out}-*.npz
    agent       sentences in the agent's voice          -> WORK/agent/train-*.npz
    stage1      short windows with one question         -> WORK/dialogues/stage1-*.npz
    strays      the same, by the strangers              -> WORK/dialogues/strays-*.npz
    asides      windows in which nobody wants anything  -> WORK/dialogues/asides-*.npz
    talk        windows in which nobody answers         -> WORK/dialogues/talk-*.npz
    stage2      calls of 32 s                           -> WORK/dialogues/stage2-*.npz
    probe       calls by held-out voices                -> WORK/dialogues/probe-*.npz

`formats` says what lies in them and reads it. Callers' audio is clean; `channel.telephone` puts it on a line, anew each
time. Dialogues have been through it. A shard depends on the seed and its number alone, dialogues also on which callers
and actors lie there; actors' are as many as there are. Each part stops after --minutes, and goes on when called again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias, TypeVar, get_args

import numpy as np

from engine.model.text import Tokenizer
from engine.pocket.recipe import actors, asides, standin, talk, voices
from engine.pocket.recipe.aligned import ReadAlong, at_rate, read_along
from engine.pocket.recipe.callers import ALIGNED, NATURAL, Caller, callers, drawn, varied
from engine.pocket.recipe.dialogues import Composer, Kind, Pool
from engine.pocket.recipe.dictation import Dictation, dictation
from engine.pocket.recipe.domain import UNKNOWN, ClipText, Domain, Wording, load_domain
from engine.pocket.recipe.formats import (
    Clip,
    Dialogue,
    Split,
    Utterance,
    read_clips,
    read_utterances,
    shard,
    shards,
    write_clips,
    write_dialogues,
    write_utterances,
)
from engine.pocket.recipe.tokenizer import train_tokenizer

SHARD = 200
"""Utterances in a shard."""

CALLERS = 240
HELD_OUT = 16
STRANGERS = 38
AGENT = 2
DIALOGUES: Mapping[Kind, tuple[int, int]] = {
    **{"stage1": (150, 500), "strays": (27, 500), "asides": (20, 500), "talk": (40, 250)},
    **{"stage2": (50, 60), "probe": (4, 60)},
}
"""Shards, and dialogues in each."""

Compose: TypeAlias = Callable[[Composer, np.random.Generator], Dialogue]

COMPOSED: Mapping[Kind, Compose] = {"asides": asides.compose, "talk": talk.compose}
"""Those that are no calls; the others are `Composer.compose`'s."""

POOL = 12
"""Shards of callers that a shard of dialogues draws from: as many as fit the memory well."""

ACTED = 4
"""Shards of actors beside them."""

TURNS = 5
"""How many of them one caller says."""

SHARES = {"tell_number": 0.09, "tell_name": 0.05, UNKNOWN: 0.16, "story": 0.07, "mutter": 0.04}
"""Of what callers say; the rest is shared equally by the other intents."""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Makers:
    """Where voices come from: the real ones, or those of tones."""

    clip: Callable[[ClipText], Clip]
    sentence: Callable[[str], Utterance]
    callers: tuple[Caller, ...]
    say: Callable[[Caller, str], Utterance]
    natural: tuple[Caller, ...] = NATURAL
    """Who is only tested with."""
    lines: Callable[[], list[actors.Line]] = actors.lines
    dictation: Callable[[], Dictation] = dictation
    read_along: ReadAlong = read_along


def real_makers(seed: int) -> Makers:
    from engine.pocket.recipe import agent

    return Makers(agent.speak_clip, agent.speak_freely, callers(seed), voices.say)


def nano_makers() -> Makers:
    return Makers(
        standin.tone_clip,
        standin.tone_sentence,
        standin.callers(),
        partial(voices.say, synthesiser=standin.tones),
        tuple(replace(caller, size=1.0) for caller in NATURAL),  # which wants no resampling, and so no more packages
        standin.lines,
        standin.dictation,
        standin.read_along,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="generate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=("clips", "callers", "natural", "strangers", "actors", "agent", *DIALOGUES))
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where it goes (build/pocket)")
    parser.add_argument("--minutes", type=float, default=8, help="to run before stopping (8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, help="how many; else as many as the whole data has")
    parser.add_argument("--nano", action="store_true", help="voices of tones and small shards, to try the chain out")
    options = parser.parse_args(arguments)
    makers = nano_makers() if options.nano else real_makers(options.seed)
    domain, until = load_domain(), time.monotonic() + 60 * options.minutes
    size = 40 if options.nano else SHARD
    match options.part:
        case "clips":
            make_clips(options.work, domain, makers)
            whole = True
        case "callers":
            count = options.shards or CALLERS
            whole = make_callers(options.work, domain, makers, options.seed, count, size, until)
        case "natural":
            whole = make_natural(options.work, domain, makers, options.seed, options.shards or 2, size, until)
        case "strangers":
            count = options.shards or STRANGERS
            whole = make_strangers(options.work, domain, makers, options.seed, count, size, until)
        case "actors":
            whole = make_actors(options.work, domain, makers, size, until)
        case "agent":
            whole = make_agent(options.work, domain, makers, options.seed, options.shards or AGENT, size, until)
        case kind:
            count, size = DIALOGUES[kind]
            size = 4 if options.nano else size
            whole = make_dialogues(options.work, domain, kind, options.seed, options.shards or count, size, until)
    print(f"{options.part}: {'complete' if whole else 'stopped in time, call again to go on'}")


def make_clips(work: Path, domain: Domain, makers: Makers) -> None:
    """All clips of the domain, and the tokenizer of its texts.

    A tokenizer that lies there stays: in dialogues, and in weights that are trained further, its tokens mean its words.
    """
    path = work / "tokenizer.model"
    write_clips(work / "clips.npz", [makers.clip(text) for text in _counted(domain.clips, "clips")])
    if not path.exists():
        path.write_bytes(train_tokenizer(domain.texts()))


def make_dialogues(work: Path, domain: Domain, kind: Kind, seed: int, count: int, size: int, until: float) -> bool:
    """Raises ValueError where clips or callers are missing."""
    clips, tokenizer = read_clips(work / "clips.npz"), Tokenizer((work / "tokenizer.model").read_bytes())
    if [clip.id for clip in clips] != [clip.id for clip in domain.clips]:
        raise ValueError(f"{work / 'clips.npz'} holds other clips than the domain; make it again")
    split: Split = "held-out" if kind == "probe" else "train"
    for number in range(count):
        path = shard(work / "dialogues", kind, number)
        if path.exists():
            continue
        if time.monotonic() > until:
            return False
        random = np.random.default_rng((seed, *kind.encode(), number))
        pool = Pool.of(_drawn_from(work, kind, split, random), domain)
        composer = Composer(domain, clips, cache(tokenizer.encode), pool, split)
        compose = partial(COMPOSED[kind], composer) if kind in COMPOSED else partial(composer.compose, kind)
        write_dialogues(path, [compose(random) for _ in _counted(range(size), path.name)])
    return True


def _drawn_from(work: Path, kind: Kind, split: Split, random: np.random.Generator) -> Iterator[Utterance]:
    """What is said in a shard of dialogues: by some of the callers, or strangers, and by some of the actors.

    To callers those lines of the actors are added that mean something to the agent, to strangers the others. Raises
    ValueError where there are no callers, or strangers.
    """
    folder = work / ("strangers" if kind == "strays" else "callers")
    lying = shards(folder, split)
    if not lying:
        raise ValueError(f"nobody asks anything: {folder} has no {split} shard; generate {folder.name} first")
    acted = shards(work / "actors", split)
    for at in random.permutation(len(lying))[:POOL]:
        yield from (each for each in read_utterances(lying[at]) if each.split == split)
    for at in random.permutation(len(acted))[:ACTED]:
        for each in read_utterances(acted[at]):
            if kind == "talk" or (each.intent == UNKNOWN) == (kind == "strays"):
                yield each


def make_callers(work: Path, domain: Domain, makers: Makers, seed: int, count: int, size: int, until: float) -> bool:
    """Shards to train on and, beside the first of them, shards to test with."""
    for number in range(count):
        plan: list[tuple[Split, int]] = [("train", number)]
        if number < HELD_OUT:
            plan.append(("held-out", number))
        for split, its_number in plan:
            path = shard(work / "callers", split, its_number)
            if path.exists():
                continue
            if time.monotonic() > until:
                return False
            random = np.random.default_rng((seed, split == "train", its_number))
            jobs = caller_jobs(domain, makers.callers, split, its_number, size, random)
            write_utterances(path, [spoken(makers, *job) for job in _counted(jobs, path.name)])
    return True


def make_natural(work: Path, domain: Domain, makers: Makers, seed: int, count: int, size: int, until: float) -> bool:
    """Shards to test with by voices like people's, for `evaluate --callers WORK/natural`."""
    for number in range(count):
        path = shard(work / "natural", "held-out", number)
        if path.exists():
            continue
        if time.monotonic() > until:
            return False
        random = np.random.default_rng((seed, 4, number))
        jobs = caller_jobs(domain, makers.natural, "held-out", number, size, random)
        write_utterances(path, [spoken(makers, *job) for job in _counted(jobs, path.name)])
    return True


def make_strangers(work: Path, domain: Domain, makers: Makers, seed: int, count: int, size: int, until: float) -> bool:
    """Each sentence by a relative of another voice that is trained on, as questions are: a voice tells nothing."""
    voices_there = [caller for caller in makers.callers if caller.split == "train"]

    def stray(random: np.random.Generator) -> Utterance:
        caller = varied(voices_there[int(random.integers(len(voices_there)))], random)
        return spoken(makers, caller, domain.stray(random))

    return _make_sentences(work / "strangers", stray, (seed, 3), count, size, until)


def make_actors(work: Path, domain: Domain, makers: Makers, size: int, until: float) -> bool:
    """Of each `size` lines a shard to train on, and one of those who are held out: all there are, by no seed.

    Raises ValueError, Missing and SynthesisError for what is not installed.
    """
    lines, write = makers.lines(), None
    for number in range(-(-len(lines) // size)):
        paths: dict[Split, Path] = {split: shard(work / "actors", split, number) for split in get_args(Split)}
        if all(path.exists() for path in paths.values()):
            continue
        if time.monotonic() > until:
            return False
        write = write or makers.dictation()
        some = lines[number * size :][:size]
        written = write([at_rate(line.audio, line.rate) for line in some])
        said = [
            made
            for line, text in zip(_counted(some, f"actors-{number:05d}"), written, strict=True)
            if (made := actors.spoken(line, text, domain, makers.read_along))
        ]
        for split, path in paths.items():
            write_utterances(path, [each for each in said if each.split == split])
    return True


def make_agent(work: Path, domain: Domain, makers: Makers, seed: int, count: int, size: int, until: float) -> bool:
    """Sentences of the training wordings."""

    def sentence(random: np.random.Generator) -> Utterance:
        return makers.sentence(said(domain, random, "train").text)

    return _make_sentences(work / "agent", sentence, (seed, 2), count, size, until)


def _make_sentences(
    folder: Path,
    make: Callable[[np.random.Generator], Utterance],
    seed: tuple[int, int],
    count: int,
    size: int,
    until: float,
) -> bool:
    """`count` shards of `size` each, those that are not there yet."""
    for number in range(count):
        path = shard(folder, "train", number)
        if path.exists():
            continue
        if time.monotonic() > until:
            return False
        random = np.random.default_rng((*seed, number))
        write_utterances(path, [make(random) for _ in _counted(range(size), path.name)])
    return True


def said(domain: Domain, random: np.random.Generator, split: Split) -> Wording:
    """What a caller says next: a wording of an intent, or, with intent "", a phrase of a story or a mutter."""
    kinds = [*SHARES, ""]
    kind = str(random.choice(kinds, p=[*SHARES.values(), 1 - sum(SHARES.values())]))
    if kind == "story":
        return Wording(domain.story(random, 1)[0], "", "", split)
    if kind == "mutter":
        return Wording(str(random.choice(domain.mutters)), "", "", split)
    if kind == "":
        kind = str(random.choice([name for name in domain.intents if name not in SHARES]))
    return domain.wording(kind, random, split)


def caller_jobs(
    domain: Domain, callers: Sequence[Caller], split: Split, number: int, size: int, random: np.random.Generator
) -> list[tuple[Caller, Wording]]:
    """Who says what in a shard: some callers, a few things each. Shards go through all of them, time and again, and to
    train on it is a relative of theirs each time.

    To test with: unseen voices, half of them with unseen wordings, and some unseen wordings by voices that were seen,
    where `callers` has any.
    """
    mine = [caller for caller in callers if caller.split == split]
    later = {"chorus", "choir", *ALIGNED}  # without them tests stay the same
    seen = [
        caller for caller in callers if caller.split == "train" and caller.engine not in later and not drawn(caller)
    ]
    first = number * (size // TURNS)
    jobs: list[tuple[Caller, Wording]] = []
    for place in range(size):
        if place % TURNS == 0:
            round_number, at = divmod(first + place // TURNS, len(mine))
            turn = mine[int(np.random.default_rng((round_number, len(mine))).permutation(len(mine))[at])]
            speaker = varied(turn, random) if split == "train" else turn
        caller = speaker
        wording: Split = "train"
        if split == "held-out":
            wording = "held-out" if random.random() < 0.5 else "train"
            if wording == "held-out" and seen and random.random() < 0.4:
                caller = seen[int(random.integers(len(seen)))]
        jobs.append((caller, said(domain, random, wording)))
    return jobs


def spoken(makers: Makers, caller: Caller, wording: Wording) -> Utterance:
    made = makers.say(caller, wording.text)
    return replace(made, intent=wording.intent, slot=wording.slot, wording=wording.split)


def _counted(things: Sequence[Made], what: str) -> Iterator[Made]:
    """The same things, with a bar on standard error while they are gone through."""
    for number, thing in enumerate(things):
        filled = 30 * number // len(things)
        print(f"\r{what} {'#' * filled:30} {number}/{len(things)}", end="", file=sys.stderr, flush=True)
        yield thing
    print(f"\r{what} {'#' * 30} {len(things)}/{len(things)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
