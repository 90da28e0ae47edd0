"""Everything the language model and the ear read, as codes:  python -m engine.pocket.recipe.encode --work DIR

    WORK/codec                        whose tokens are final
    WORK/dialogues/*.npz              with sound
    -> WORK/coded/voice.npz           the agent's clips and its silence, and what a tone is: a `Voice`
    -> WORK/coded/{kind}-*.npz        the same dialogues with codes

A shard that is there is not made again, so a run that was stopped goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.model.checkpoint import measured_layout
from engine.model.mimi import Mimi
from engine.model.prompt import PromptLayout
from engine.pocket.recipe.export_codec import encode_after_silence, read_codec
from engine.pocket.recipe.formats import (
    CODEBOOKS,
    SILENCE,
    Audio,
    Dialogue,
    read_clips,
    read_dialogues,
    shards,
    write_dialogues,
)
from engine.pocket.recipe.offline_codec import OfflineCodec
from engine.pocket.recipe.training import use_device
from engine.slot import FRAME_SAMPLES

KINDS = ("stage1", "stage2", "strays", "asides", "talk", "probe")

LAYOUT = "layout.json"
"""In WORK, where weights were adopted: their `prompt_config`. Their codec has learnt on since they learnt what silence
and a tone are to it, and does not say so itself any more."""

BATCH_FRAMES = 60
"""Of one call of the codec: one window or call at a time, for several no longer fit a CPU's cache and take 1.8 times as
long."""


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """All clips end to end as codes [N, codebooks], where each begins, and the prompt's codes."""

    codes: NDArray[np.int64]
    starts: NDArray[np.int64]
    layout: PromptLayout

    def clips(self) -> list[NDArray[np.int64]]:
        """Each clip's codes [frames, codebooks]."""
        return np.split(self.codes, self.starts[1:])

    def agent(self, schedule: NDArray[np.int16]) -> NDArray[np.int64]:
        """The agent's codes [T, codebooks] of a dialogue's schedule [T, 2]."""
        clip, frame = schedule.astype(np.int64).T
        said = self.codes[np.where(clip == SILENCE, 0, self.starts[clip] + frame)]
        return np.where((clip == SILENCE)[:, None], self.layout.silence, said)


def code_voice(mimi: Mimi, clips: Sequence[Audio], layout: PromptLayout | None = None) -> Voice:
    """Each clip after silence, as the decoder learnt it. `layout`: of the prompt; None: as this codec measures it.

    Raises ValueError where there are no clips.
    """
    if not clips:
        raise ValueError("there are no clips to learn; make them first with engine.pocket.recipe.generate")
    coded = encode_after_silence(mimi, clips)
    lengths = [len(codes) for codes in coded]
    layout = layout or measured_layout("system", mimi, CODEBOOKS, CODEBOOKS)
    return Voice(np.concatenate(coded), np.cumsum([0, *lengths[:-1]]), layout)


def write_voice(path: Path, voice: Voice) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part.npz")
    np.savez(part, codes=voice.codes, starts=voice.starts, layout=json.dumps(asdict(voice.layout)))
    part.rename(path)


def read_voice(path: Path, bins: int) -> Voice:
    """What `write_voice` wrote, for a codec of so many codes a book. Raises ValueError where it is not there."""
    if not path.exists():
        raise ValueError(
            f"{path} is missing; make it with engine.pocket.recipe.encode once the codec's tokens are final"
        )
    with np.load(path) as archive:
        layout = PromptLayout.parse(json.loads(str(archive["layout"])), CODEBOOKS, CODEBOOKS, bins)
        return Voice(archive["codes"], archive["starts"], layout)


def voice_in(work: Path, mimi: Mimi) -> Voice:
    """WORK/coded/voice.npz, which `recover` may have made of what the weights say; before that is there, what the codec
    makes of WORK/clips.npz. Raises ValueError where there are no clips, or they are others."""
    clips, path = [clip.audio for clip in read_clips(work / "clips.npz")], work / "coded" / "voice.npz"
    bins = mimi.config.quantizer.bins
    if not path.exists():
        return code_voice(mimi, clips, _adopted_layout(work, bins))
    voice = read_voice(path, bins)
    if [len(codes) * FRAME_SAMPLES for codes in voice.clips()] != [len(clip) for clip in clips]:
        raise ValueError(f"{path} is of other clips than {work / 'clips.npz'}; delete it, and encode anew")
    return voice


def _adopted_layout(work: Path, bins: int) -> PromptLayout | None:
    if not (work / LAYOUT).exists():
        return None
    return PromptLayout.parse(json.loads((work / LAYOUT).read_text(encoding="utf-8")), CODEBOOKS, CODEBOOKS, bins)


@torch.no_grad()
def encode(mimi: Mimi, dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """The callers' sound as codes: what the streaming engine makes of it, a row that is fresh at the first frame."""
    device, offline = next(mimi.parameters()).device, OfflineCodec(mimi)
    coded: dict[int, Dialogue] = {}
    order = sorted(range(len(dialogues)), key=lambda index: dialogues[index].frames)
    while order:
        longest = dialogues[order[-1]].frames
        count = max(1, BATCH_FRAMES // longest)
        taken, order = order[-count:], order[:-count]
        audio = np.zeros((len(taken), 1, longest * FRAME_SAMPLES), np.float32)
        for row, index in enumerate(taken):
            sound = dialogues[index].audio
            if sound is None:
                raise ValueError("a dialogue has no sound to encode")
            audio[row, 0, : len(sound)] = sound
        codes = offline.encode(torch.from_numpy(audio).to(device)).transpose(1, 2).cpu().numpy().astype(np.uint16)
        for row, index in enumerate(taken):
            dialogue = dialogues[index]
            coded[index] = replace(dialogue, audio=None, codes=codes[row, : dialogue.frames])
    return [coded[index] for index in range(len(dialogues))]


def encode_all(work: Path, minutes: float, kinds: Sequence[str] = KINDS) -> bool:
    """True once all shards that lie there are coded; a shard is begun only while there is time."""
    began, folder = time.monotonic(), work / "coded"
    mimi = read_codec(work / "codec").to(use_device())
    if not (folder / "voice.npz").exists():
        write_voice(folder / "voice.npz", voice_in(work, mimi))
    found = [path for kind in kinds for path in shards(work / "dialogues", kind)]
    for number, path in enumerate(found):
        target = folder / path.name
        if target.exists():
            continue
        if time.monotonic() - began > 60 * minutes:
            return False
        dialogues = encode(mimi, read_dialogues(path))
        write_dialogues(target, dialogues)
        seconds = sum(dialogue.frames for dialogue in dialogues) * FRAME_SAMPLES / 24_000
        print(f"{number + 1}/{len(found)} {path.name}: {len(dialogues)} dialogues, {seconds / 60:.0f} min", flush=True)
    return True


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="encode", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where the data lies (build/pocket)")
    parser.add_argument("--minutes", type=float, default=8, help="to run before stopping (8)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help=f"of dialogues ({' '.join(KINDS)})")
    options = parser.parse_args(arguments)
    encode_all(options.work, options.minutes, options.kinds)


if __name__ == "__main__":
    main()
