"""How the codec speaks:  python -m engine.pocket.recipe.judge_codec --work DIR

Every answer, put together from its clips' codes in WORK/coded/voice.npz (before that is there, from what the codec
makes of them) and decoded by the streaming engine in one conversation, through G.711, against its target. A column each
for what was decoded and for the target, which is the ceiling.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.model.mimi import Mimi
from engine.pocket.recipe.channel import g711
from engine.pocket.recipe.domain import Domain, Persona, load_domain
from engine.pocket.recipe.encode import Voice, voice_in
from engine.pocket.recipe.export_codec import note_of, read_codec
from engine.pocket.recipe.formats import Audio, Clip, read_clips
from engine.pocket.recipe.judges import Missing, sphinx, whisper, word_error_rate
from engine.pocket.recipe.training import use_device
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

GAP_FRAMES = 6
"""Of silence between answers."""

SEMITONE = 2 ** (1 / 12)


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """An answer as it was decoded, and as it should be."""

    text: str
    made: Audio
    target: Audio


def say_answers(mimi: Mimi, voice: Voice, clips: Sequence[Clip], answers: Sequence[tuple[str, ...]]) -> list[Said]:
    """One streaming conversation, an 80 ms frame a call, with silence between the answers."""
    by_id = {clip.id: number for number, clip in enumerate(clips)}
    codes, quiet = voice.clips(), np.tile(voice.layout.silence, (GAP_FRAMES, 1))
    state, row = mimi.initial_state(1), torch.ones(1, dtype=torch.bool)
    said = []
    for answer in answers:
        numbers = [by_id[clip] for clip in answer]
        frames = np.concatenate([quiet, *[codes[number] for number in numbers]])
        made = [mimi.decode(torch.from_numpy(frame)[None, :, None], state, row)[0, 0].numpy() for frame in frames]
        target = np.concatenate([clips[number].audio for number in numbers])
        said.append(Said(" ".join(answer), np.concatenate(made)[GAP_FRAMES * FRAME_SAMPLES :], target))
    return said


def answers_of(domain: Domain) -> list[tuple[str, ...]]:
    """All that a conversation can hear, once; one number, and three greetings."""
    agents, companies, greetings = (domain.lists[kind] for kind in ("agent", "company", "greeting"))
    personas = [Persona("", *names) for names in zip(agents, companies, greetings, strict=False)]
    return list(dict.fromkeys([*domain.answers(), *map(domain.greeting, personas)]))


def snr_db(said: Sequence[Said]) -> float:
    """Of the waveform, over all answers."""
    noise = sum(float(np.square(each.made - each.target).sum()) for each in said)
    return 10 * float(np.log10(sum(float(np.square(each.target).sum()) for each in said) / noise))


def voicing(said: Sequence[Said]) -> tuple[float, float]:
    """Share of 5 ms steps in which both are voiced or both are not; of those voiced in both, F0 within a semitone."""
    import pyworld

    agree, near = [], []
    for each in said:
        f0, wanted = (pyworld.dio(wave.astype(np.float64), SAMPLE_RATE)[0] for wave in (each.made, each.target))
        agree.append((f0 > 0) == (wanted > 0))
        both = (f0 > 0) & (wanted > 0)
        near.append(np.abs(np.log(f0[both] / wanted[both])) < np.log(SEMITONE))
    return float(np.concatenate(agree).mean()), float(np.concatenate(near).mean())


def intelligibility(said: Sequence[Said]) -> float:
    """STOI against the target, after G.711. Raises Missing."""
    if importlib.util.find_spec("pystoi") is None:
        raise Missing("pystoi is not installed")
    from pystoi import stoi

    long = [each for each in said if len(each.target) > SAMPLE_RATE // 2]
    return float(np.mean([stoi(g711(each.target), g711(each.made), SAMPLE_RATE) for each in long]))


def table(said: Sequence[Said], judges: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Lines of measure, decoded, target, as they are found. A judge that is missing says so in its line."""
    yield "waveform SNR, dB", f"{snr_db(said):.1f}", ""
    agree, near = voicing(said)
    yield "voicing agrees", f"{agree:.3f}", ""
    yield "F0 within a semitone", f"{near:.3f}", ""
    for judge in judges:
        try:
            if judge == "stoi":
                yield "STOI, G.711", f"{intelligibility(said):.3f}", ""
            elif judge == "sphinx":
                pick = sphinx([each.text for each in said])
                right = [np.mean([pick(wave(each)) == each.text for each in said]) for wave in (_made, _target)]
                yield "picked right, G.711", f"{right[0]:.1%}", f"{right[1]:.1%}"
            else:
                write = whisper()
                rates = [
                    word_error_rate([(each.text, write(wave(each))) for each in said]) for wave in (_made, _target)
                ]
                yield "free WER, G.711", f"{rates[0]:.1%}", f"{rates[1]:.1%}"
        except Missing as missing:
            yield judge, str(missing), ""


def _made(said: Said) -> Audio:
    return said.made


def _target(said: Said) -> Audio:
    return said.target


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="judge_codec", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where the data lies (build/pocket)")
    parser.add_argument("--judges", nargs="*", default=["stoi", "sphinx", "whisper"], help="which to ask")
    parser.add_argument("--every", type=int, default=1, help="judge every n-th answer only")
    options = parser.parse_args(arguments)
    use_device()
    mimi = read_codec(options.work / "codec")
    answers = answers_of(load_domain())[:: options.every]
    said = say_answers(mimi, voice_in(options.work, mimi), read_clips(options.work / "clips.npz"), answers)
    print(f"{note_of(options.work / 'codec')}; {len(said)} answers")
    print(f"{'':24}{'decoded':>10}{'target':>10}", flush=True)
    for name, made, target in table(said, options.judges):
        print(f"{name:24}{made:>10}{target:>10}", flush=True)


if __name__ == "__main__":
    main()
