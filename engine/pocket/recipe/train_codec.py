"""Train the embedded model's codec:  python -m engine.pocket.recipe.train_codec {encoder,decoder,tune} --work DIR

    encoder   callers, clips -> WORK/codec: tokens are final when it is done, so everything else can be encoded
    decoder   clips, WORK/codec, and WORK/coded/voice.npz where it is -> WORK/codec, its decoder written again at every
              checkpoint
    tune      callers, actors, WORK/codec -> WORK/codec: an encoder that hears more, for the same codebooks and decoder;
              what callers say is to be encoded anew then, and WORK/coded/voice.npz to be kept

Each stops after --minutes and goes on when called again. WORK/codec/{encoder,decoder,tune}.pt are the checkpoints.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.model.mimi import Mimi
from engine.pocket.recipe.channel import telephone
from engine.pocket.recipe.encode import Voice, voice_in
from engine.pocket.recipe.export_codec import (
    CONFIG,
    MIMI,
    UNTRAINED,
    WEIGHTS,
    build,
    note_of,
    read_codec,
    write_codec,
)
from engine.pocket.recipe.formats import Audio, Clip, Utterance, read_clips, read_utterances, shards
from engine.pocket.recipe.init_codec import draw
from engine.pocket.recipe.sounds import Sounds, Windows, voice_of
from engine.pocket.recipe.spectra import snr_db
from engine.pocket.recipe.train_decoder import DecoderTask, Script
from engine.pocket.recipe.train_encoder import SHORT, EncoderTask
from engine.pocket.recipe.training import Plan, begin_again, train, use_device
from engine.pocket.recipe.tune_encoder import TuneTask

HELD_ROWS = 24

ROWS, FREE_STEPS, SETTLING = 8, 200, 100
"""Of the encoder's training: windows a step, steps before anything is quantised, batches to settle on at the end."""

TUNED_ROWS = 256
"""Windows of a step that tunes it: for a card."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="train_codec", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=("encoder", "decoder", "tune"))
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where the data lies (build/pocket)")
    parser.add_argument("--minutes", type=float, default=8, help="to run before stopping (8)")
    parser.add_argument("--steps", type=int, help="of the whole training (encoder 2000, decoder 6000, tune 1500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--freeze", action="store_true", help="encoder: make the tokens final however far it came")
    parser.add_argument("--again", action="store_true", help="a new cosine from the weights that there are")
    parser.add_argument(
        "--rows",
        type=int,
        default=TUNED_ROWS,
        help=f"tune: short windows a step, in every slice the same ({TUNED_ROWS}; on a CPU 48)",
    )
    parser.add_argument("--workers", type=int, default=0, help="tune: processes that make what it hears (0: itself)")
    options = parser.parse_args(arguments)
    if options.part == "tune":
        plan = Plan(options.steps or 1500, 1.2e-3, warm_up=250, betas=(0.85, 0.99), clip=2, seed=options.seed)
        tune_encoder(options.work, plan, options.minutes, options.rows, options.workers, options.again)
    elif options.part == "encoder":
        plan = Plan(options.steps or 2000, 6e-4, betas=(0.8, 0.99), clip=2, seed=options.seed)
        train_encoder(options.work, plan, options.minutes, options.freeze, again=options.again)
    else:
        plan = Plan(options.steps or 6000, 1e-3, seed=options.seed)
        train_decoder(options.work, plan, options.minutes, options.again)


def train_encoder(
    work: Path,
    plan: Plan,
    minutes: float,
    freeze: bool = False,
    config: dict[str, Any] = MIMI,
    rows: int = ROWS,
    again: bool = False,
) -> bool:
    """True once the tokens are final; they are not touched again. Raises ValueError where there is nothing to hear.

    `again`: from the weights that there are, with a new plan; what was final is so no longer.
    """
    folder = work / "codec"
    if (folder / WEIGHTS).exists() and not again:
        print(f"{folder / WEIGHTS} is there: its tokens are final")
        return True
    mimi = build(config)
    draw(mimi, plan.seed)
    mimi.to(use_device())
    callers = _utterances(work / "callers", "train")
    sounds = Sounds(
        [voice_of(said) for said in callers],
        [voice_of(clip) for clip in _clips(work)],
        [voice_of(said) for said in _utterances(work / "agent", "train")],
        telephone,
    )
    free_steps = min(FREE_STEPS, plan.steps // 4)
    task = EncoderTask(mimi, sounds, _held(work), seed=plan.seed, rows=rows, free_steps=free_steps)
    if again:
        begin_again(task, folder / "encoder.pt")
        (folder / WEIGHTS).unlink(missing_ok=True)
        (work / "coded" / "voice.npz").unlink(missing_ok=True)  # of tokens that are no more
    finished = train(task, plan, folder / "encoder.pt", minutes)
    if finished or freeze:
        task.finish(min(SETTLING, plan.steps))
        write_codec(mimi, folder, config, UNTRAINED)
        print(f"the tokens are final: {folder / WEIGHTS}")
    return finished or freeze


def tune_encoder(
    work: Path, plan: Plan, minutes: float, rows: int = TUNED_ROWS, workers: int = 0, again: bool = False
) -> bool:
    """True once the plan is done, and the codec written. Raises ValueError where there is none, or nothing to hear."""
    folder = work / "codec"
    mimi = read_codec(folder).to(use_device())
    clips = [voice_of(clip) for clip in _clips(work)]
    heard = _utterances(work / "callers", "train") + _utterances(work / "actors", "train")
    sounds = Sounds([voice_of(said) for said in heard], clips, [], telephone)
    task = TuneTask(mimi, sounds, _held(work), plan, rows, workers)
    if again:
        begin_again(task, folder / "tune.pt")
    finished = train(task, plan, folder / "tune.pt", minutes)
    if finished:
        task.finish()
        config, note = json.loads((folder / CONFIG).read_text(encoding="utf-8")), note_of(folder)
        write_codec(mimi, folder, config, note)
        print(f"the tokens are others: encode all callers anew by {folder / WEIGHTS}, and keep the voice's")
    return finished


def train_decoder(work: Path, plan: Plan, minutes: float, again: bool = False) -> bool:
    """True once the plan is done. Raises ValueError where there is no codec, or no clips, or WORK/coded has others."""
    folder = work / "codec"
    mimi = read_codec(folder).to(use_device())
    clips, voice = [clip.audio for clip in _clips(work)], voice_in(work, mimi)
    task = DecoderTask(mimi, Script(voice, clips), plan)
    for weight in task.weights():
        weight.requires_grad_(True)
    if again:
        (folder / "decoder.pt").unlink(missing_ok=True)
    if note_of(folder) == UNTRAINED and not (folder / "decoder.pt").exists():
        task.level()
    return train(task, plan, folder / "decoder.pt", minutes, partial(_write_averaged, task, folder, clips, voice))


def _write_averaged(task: DecoderTask, folder: Path, clips: list[Audio], voice: Voice) -> None:
    """The codec with the decoder as it stands, averaged; says how near it comes in the streaming engine."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    shipped = build(config)
    shipped.load_state_dict({name: tensor.cpu() for name, tensor in task.mimi.state_dict().items()})
    shipped.load_state_dict({name: tensor.cpu() for name, tensor in task.averaged().items()}, strict=False)
    write_codec(shipped, folder, config, f"decoder after {task.average.steps} steps; it says the agent's clips only")
    step = max(1, len(clips) // 6)
    some, coded = clips[::step], voice.clips()[::step]
    print(
        f"written; streamed, {len(some)} clips come with {streamed_snr_db(read_codec(folder), coded, some):.1f} dB",
        flush=True,
    )


def streamed_snr_db(mimi: Mimi, coded: Sequence[NDArray[np.int64]], clips: Sequence[Audio]) -> float:
    """Of clips said one after the other by the engine out of their codes, a frame a call, as in a conversation."""
    state, row = mimi.initial_state(1), torch.ones(1, dtype=torch.bool)
    said = [mimi.decode(torch.from_numpy(frame)[None, :, None], state, row) for frame in np.concatenate(coded)]
    return snr_db(torch.cat(said, 2)[0, 0], torch.from_numpy(np.concatenate(clips)))


def _clips(work: Path) -> list[Clip]:
    return read_clips(work / "clips.npz")


def _utterances(folder: Path, kind: str) -> list[Utterance]:
    return [said for path in shards(folder, kind) for said in read_utterances(path)]


def _held(work: Path) -> Windows | None:
    """Voices that are not trained on, through the telephone; None where there are none yet."""
    strange = [said for said in _utterances(work / "callers", "held-out") if said.split == "held-out"]
    voices = [voice_of(said) for said in strange[:200]]
    if not voices:
        return None
    return Sounds(voices, voices, voices, telephone).callers(np.random.default_rng(7), HELD_ROWS, SHORT)


if __name__ == "__main__":
    main()
