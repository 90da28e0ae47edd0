"""What weights call each clip:  python -m engine.pocket.recipe.recover --work DIR

    WORK/coded/voice.npz, WORK/clips.npz, WORK/lm/model.pt -> WORK/coded/voice.npz

Once, between `encode` and a training of adopted weights, the decoder's included. Clips that are made again on another
machine are not the same to the last bit, and the encoder has learnt on since: most frames have other codes. The
weights, and the codec's decoder, know those of the first: here the language model says everything, each clip's codes
are taken from where they sound most like it, and what it says no better than the new codes do keeps those.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.model.mimi import Mimi
from engine.model.moshi import Moshi
from engine.model.moshi_config import MoshiConfig
from engine.model.text import PAD, Tokenizer
from engine.pocket.prompt import render
from engine.pocket.recipe import offline_lm
from engine.pocket.recipe.dialogues import GREETING, Timeline
from engine.pocket.recipe.domain import Domain, Facts, Persona, State, Wording, load_domain
from engine.pocket.recipe.encode import Voice, read_voice, write_voice
from engine.pocket.recipe.export_codec import LEAD_FRAMES, read_codec
from engine.pocket.recipe.formats import Audio, Clip, read_clips
from engine.pocket.recipe.offline_codec import OfflineCodec
from engine.pocket.recipe.training import load, use_device
from engine.slot import FRAME_SAMPLES

BEFORE = 14
"""Frames of silence before an answer."""

AT_ONCE = 24
"""Scripts that are said side by side."""

Codes = NDArray[np.int64]
"""[frames, codebooks]."""


@dataclass(frozen=True, slots=True)
class Script:
    """Clips' numbers in a row: behind a prompt as a greeting, without one as an answer."""

    clips: tuple[int, ...]
    prompt: str = ""


def scripts(domain: Domain) -> Iterator[Script]:
    """Every clip at least once, in a sentence that it belongs to."""

    def script(names: Sequence[str], prompt: str = "") -> Script:
        return Script(tuple(domain.index[name] for name in names), prompt)

    agents, companies, greetings = (domain.lists[name] for name in ("agent", "company", "greeting"))
    personas = [Persona("You are an assistant."), Persona(f"You work for {companies[0]}.", company=companies[0])]
    personas += [Persona(f"You are {agent}.", agent) for agent in agents]
    for number in range(max(len(agents), len(companies), len(greetings))):
        agent, company, greeting = (names[number % len(names)] for names in (agents, companies, greetings))
        text = f"You are {agent} from {company}. Greet with {greeting}."
        personas.append(Persona(text, agent, company, greeting))
    for persona in personas:
        yield script(domain.greeting(persona), render(persona.text))
    digits = domain.lists["digit"]
    for number in range(len(digits)):
        said = " ".join(digits[(number + step) % len(digits)] for step in (0, 3, 7))
        yield script(domain.answer(Wording("", "tell_number", said), State(Persona(""), Facts())))
    for answer in domain.answers():
        yield script(answer)


@torch.no_grad()
def say(
    moshi: Moshi, voice: Voice, tokenizer: Tokenizer, clips: Sequence[Clip], said: Sequence[Script]
) -> Mapping[int, list[Codes]]:
    """What the model says for each clip, given the text: greedily, and hearing nobody."""
    config, found = moshi.config, defaultdict[int, list[Codes]](list)
    rows = [_row(config, voice, tokenizer, clips, script) for script in said]
    longest = max(len(frames) for frames, _ in rows)
    padded = np.stack([np.concatenate([f, _silence(config, voice, longest - len(f))]) for f, _ in rows])
    columns = offline_lm.lay_out(config, torch.from_numpy(padded).to(next(moshi.parameters()).device))
    starts = torch.tensor([start for _, start in rows], device=columns.device)
    for column in range(int(starts.min()), longest):
        hidden = offline_lm.temporal(moshi, columns[:, : column + 1])[:, -1]
        columns[:, column + 1, : config.made] = torch.where(
            (column >= starts)[:, None],
            _drawn(moshi, hidden, columns[:, column + 1]),
            columns[:, column + 1, : config.made],
        )
    for row, (script, (_, start)) in enumerate(zip(said, rows, strict=True)):
        for number in script.clips:
            frames = np.arange(start, start + clips[number].frames)
            streams = range(1, config.made)
            codes = [columns[row, 1 + config.delays[stream] + frames, stream].cpu().numpy() for stream in streams]
            found[number].append(np.stack(codes, 1))
            start = int(frames[-1]) + 1
    return found


def _row(
    config: MoshiConfig, voice: Voice, tokenizer: Tokenizer, clips: Sequence[Clip], script: Script
) -> tuple[Codes, int]:
    """Frames [T, streams] with the script's text and nobody's codes, and the frame in which it begins to sound."""
    prompt = voice.layout.frames(tokenizer, script.prompt) if script.prompt else _silence(config, voice, 0)
    start = GREETING if script.prompt else BEFORE
    # An acoustic code is known a delay later.
    line = Timeline(
        start + sum(clips[number].frames for number in script.clips) + max(config.delays),
        clips,
        cache(tokenizer.encode),
    )
    line.speak(script.clips, start)
    call = _silence(config, voice, line.frames)
    call[:, 0] = line.text
    return np.concatenate([prompt, call]), len(prompt) + start


def _silence(config: MoshiConfig, voice: Voice, frames: int) -> Codes:
    """Frames [T, streams] in which nobody says anything."""
    silence, each = voice.layout.silence, config.made - 1
    heard = config.streams - config.made
    return np.tile(np.array([PAD, *silence[:each], *silence[:heard]], np.int64), (frames, 1))


def _drawn(moshi: Moshi, hidden: Tensor, column: Tensor) -> Tensor:
    """The likeliest column [B, 1 + S] after that output, with the text that it has."""
    made = column[:, : moshi.config.made].clone()
    for stream in range(moshi.config.dep_q):
        made[:, 1 + stream] = offline_lm.depth(moshi, hidden, made)[:, stream].argmax(1)
    return made


def nearest(mimi: Mimi, voice: Voice, clips: Sequence[Clip], said: Mapping[int, Sequence[Codes]]) -> Voice:
    """The voice with, for each clip, the codes that sound most like it."""
    codec, best = OfflineCodec(mimi), list[Codes]()
    before = np.tile(np.array(voice.layout.silence, np.int64), (LEAD_FRAMES, 1))

    def distance(audio: Audio, codes: Codes) -> float:
        made = codec.decode(torch.from_numpy(np.concatenate([before, codes]).T[None]))[0, 0].numpy()
        return _distance(audio, made[LEAD_FRAMES * FRAME_SAMPLES :])

    with torch.no_grad():
        for number, (clip, start) in enumerate(zip(clips, voice.starts.tolist(), strict=True)):
            choices = [voice.codes[start : start + clip.frames], *said.get(number, ())]
            best.append(min(choices, key=lambda codes: distance(clip.audio, codes)))
    return replace(voice, codes=np.concatenate(best))


def _distance(wanted: Audio, got: Audio) -> float:
    """What is left of it, as a share of its energy, once the other is taken away as loud as suits."""
    length = min(len(wanted), len(got))
    wanted, got = wanted[:length], got[:length]
    rest = wanted - got * (wanted @ got) / (got @ got + 1e-9)
    return float((rest @ rest) / (wanted @ wanted + 1e-9))


def recover(work: Path, said: Iterable[Script]) -> tuple[int, int]:
    """From what is said in these scripts. Gives how many clips have other codes now, and how many there are."""
    mimi, clips = read_codec(work / "codec"), read_clips(work / "clips.npz")
    voice = read_voice(work / "coded" / "voice.npz", mimi.config.quantizer.bins)
    tokenizer = Tokenizer((work / "tokenizer.model").read_bytes())
    model = load(work / "lm" / "model.pt")
    moshi = Moshi(MoshiConfig.from_kwargs(model["sizes"]))
    moshi.load_state_dict(model["weights"])
    moshi.to(use_device())
    found = defaultdict[int, list[Codes]](list)
    # Those of a length side by side: the longest decides what all of them cost.
    todo = sorted(said, key=lambda script: (script.prompt, sum(clips[number].frames for number in script.clips)))
    for first in range(0, len(todo), AT_ONCE):
        for number, codes in say(moshi, voice, tokenizer, clips, todo[first : first + AT_ONCE]).items():
            found[number] += codes
    recovered = nearest(mimi, voice, clips, found)
    write_voice(work / "coded" / "voice.npz", recovered)
    bounds = [*voice.starts.tolist(), len(voice.codes)]
    changed = [
        not np.array_equal(voice.codes[start:end], recovered.codes[start:end])
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]
    return sum(changed), len(changed)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="recover", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where it lies (build/pocket)")
    options = parser.parse_args(arguments)
    changed, count = recover(options.work, scripts(load_domain()))
    print(f"{changed} of {count} clips have the codes that the weights give them")


if __name__ == "__main__":
    main()
