"""Both halves of the codec's training on stand-in voices: it learns, goes on where it stopped, and ends in a file."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.model.checkpoint import measured_layout
from engine.model.mimi import Mimi
from engine.model.stored import Stored
from engine.pocket.recipe import sounds as sounds_module
from engine.pocket.recipe import train_codec as train_codec_module
from engine.pocket.recipe import train_decoder, training
from engine.pocket.recipe import tune_encoder as tune_encoder_module
from engine.pocket.recipe.encode import code_voice, voice_in, write_voice
from engine.pocket.recipe.export_codec import (
    UNTRAINED,
    build,
    encode_after_silence,
    note_of,
    read_codec,
    round_encoder,
    write_codec,
)
from engine.pocket.recipe.formats import Audio, Clip, ClipWord, Span, Utterance, shard, write_clips, write_utterances
from engine.pocket.recipe.init_codec import draw
from engine.pocket.recipe.offline_codec import OfflineCodec
from engine.pocket.recipe.phones import PAUSE, PHONES
from engine.pocket.recipe.sounds import UNKNOWN, Sounds, Voice, row_of, voice_of
from engine.pocket.recipe.spectra import LogMel, WaveLoss, mel_bands, snr_db
from engine.pocket.recipe.train_codec import _held, train_encoder
from engine.pocket.recipe.train_decoder import DecoderTask, Script
from engine.pocket.recipe.train_encoder import SHORT, EncoderTask
from engine.pocket.recipe.training import Plan, load, store, train
from engine.pocket.recipe.tune_encoder import TuneTask, given_to, tuned_weights
from tests.engine.pocket.voices import FORMANTS_HZ, vowel, word

FRAME, RATE = 1920, 24_000
NANO: dict[str, Any] = {
    "seanet": {"n_filters": 2, "dimension": 32},
    "transformer": {"d_model": 32, "num_heads": 2, "num_layers": 1, "dim_feedforward": 64, "context": 250},
    "quantizer": {"input_dimension": 32, "dimension": 16, "n_q": 8, "bins": 32},
}
PLAN = Plan(30, 3e-3, warm_up=5, betas=(0.8, 0.99), clip=2, seed=3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def said(names: list[str], pitch_hz: float) -> Utterance:
    """Two frames of each vowel, labelled."""
    spans = tuple(Span(name, 0.16 * n, 0.16 * (n + 1)) for n, name in enumerate(names))
    return Utterance(word(names, pitch_hz), " ".join(names), f"tone-{pitch_hz}", "train", phones=spans)


@pytest.fixture(scope="module")
def callers() -> list[Voice]:
    orders = itertools.permutations(FORMANTS_HZ)
    return [voice_of(said(list(order), pitch)) for order, pitch in zip(orders, np.linspace(100, 240, 12), strict=False)]


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    words = [["aa", "iy"], ["uw", "eh"], ["iy", "uw", "aa"]]
    return [Clip(" ".join(names), word(names), (ClipWord("x", 0),)) for names in words]


def line(audio: Audio, random: np.random.Generator) -> Audio:
    """A stand-in telephone: some noise."""
    return audio + random.normal(0, 0.003, len(audio)).astype(np.float32)


@pytest.fixture(scope="module")
def sounds(callers: list[Voice], clips: list[Clip]) -> Sounds:
    voices = [voice_of(clip) for clip in clips]
    return Sounds(callers, voices, voices, line)


def new_mimi() -> Mimi:
    mimi = build(NANO)
    draw(mimi, 1)
    return mimi


def encoder_task(sounds: Sounds) -> EncoderTask:
    held = sounds.callers(np.random.default_rng(9), 4, SHORT)
    task = EncoderTask(new_mimi(), sounds, held, seed=3, rows=4, free_steps=10)
    task.CLUSTER_BATCHES = 2
    return task


@pytest.fixture(scope="module")
def mimi(sounds: Sounds) -> Mimi:
    """A nano codec whose tokens are final; its decoder is untrained."""
    torch.set_num_threads(1)
    task = encoder_task(sounds)
    task.loss(10, PLAN.random(10))  # the first that is quantised
    task.finish(3)
    return task.mimi.requires_grad_(False)


# --- what is heard -------------------------------------------------------------------------------------------------


def test_labels_lie_behind_the_sound() -> None:
    """A vowel that starts a frame in is labelled from 40 ms after that on, where the encoder has heard 40 ms of it."""
    tone = np.ones(4 * FRAME, np.float32)
    voice = Voice(tone, np.full(320, PHONES.index("aa"), np.int8))
    for seed in range(20):
        audio, phones = row_of([voice], np.random.default_rng(seed), 12, on_grid=True)
        starts = np.flatnonzero(np.diff(audio, prepend=0) > 0)
        assert not (starts % FRAME).any()
        begun = np.flatnonzero(np.diff((phones == PHONES.index("aa")).astype(int), prepend=0) > 0)
        assert [start // 480 + 2 for start in starts if start and start // 480 + 2 < 48] == [n for n in begun if n > 2]


def test_a_caller_at_another_speed_keeps_its_labels(callers: list[Voice]) -> None:
    """Where the label is a pause there is no sound, and where it is a vowel there is."""
    for seed in range(10):
        audio, phones = row_of(callers, np.random.default_rng(seed), 24)
        loud = np.abs(audio).reshape(-1, 480).max(1) > 0.01
        heard = phones[2:] != PHONES.index(PAUSE)
        assert np.mean(heard == loud[:-2]) > 0.93  # but for the edges


def test_what_nobody_labelled_is_unknown(clips: list[Clip]) -> None:
    assert set(voice_of(clips[0]).phones) == {UNKNOWN}
    labelled = voice_of(said(["aa"], 100))
    assert set(labelled.phones) == {PHONES.index("aa")}


def test_no_callers_is_an_error(clips: list[Clip]) -> None:
    with pytest.raises(ValueError, match="there must be callers and clips"):
        Sounds([], [voice_of(clips[0])], [], line)


def test_quiet_windows_and_silence(sounds: Sounds) -> None:
    audio, phones = row_of((), np.random.default_rng(0), 3)
    assert not audio.any() and set(phones) == {PHONES.index(PAUSE)}
    windows = sounds.batch(np.random.default_rng(1), 3, 6)
    assert windows.heard.shape == windows.clean.shape == (3, 6 * FRAME) and windows.phones.shape == (3, 24)


def test_a_coloured_caller_with_an_echo_stays_coloured(sounds: Sounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounds_module, "coloured", lambda audio, random: 0 * audio)
    for name, share in {
        "COLOURED_SHARE": 1.0,
        "ECHO_SHARE": 1.0,
        "QUIET_SHARE": 0.0,
        "ECHO_DB": (-40.0, -40.0),
    }.items():
        monkeypatch.setattr(sounds_module, name, share)
    windows = sounds.callers(np.random.default_rng(0), 4, 24)
    assert windows.heard.abs().max() < 0.1 * windows.clean.abs().max()


def test_where_nobody_speaks_the_agents_echo_is_often_all_there_is(
    sounds: Sounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sounds_module, "QUIET_SHARE", 1.0)
    monkeypatch.setattr(sounds_module, "ECHO_DB", (0.0, 0.0))  # far above the line's noise
    windows = sounds.callers(np.random.default_rng(0), 100, 24)
    echoing = windows.heard.abs().amax(1) > 0.05
    assert abs(echoing.float().mean() - sounds_module.ECHO_ALONE_SHARE) < 0.15
    assert not windows.clean.any() and (windows.phones == PHONES.index(PAUSE)).all()


# --- an encoder that learns on -------------------------------------------------------------------------------------


def tune_task(mimi: Mimi, sounds: Sounds, plan: Plan = PLAN, workers: int = 0) -> TuneTask:
    task = TuneTask(copy.deepcopy(mimi), sounds, sounds.callers(np.random.default_rng(9), 4, SHORT), plan, 4, workers)
    task.HEADS_FIRST = 3
    return task


def test_an_encoder_learns_on_for_the_same_codebooks(mimi: Mimi, sounds: Sounds, tmp_path: Path) -> None:
    """Heads first; nothing that makes sound of codes moves; a slice goes on as if it had been one run."""
    task = tune_task(mimi, sounds)
    tuned = {id(weight) for weight in tuned_weights(task.mimi)}
    theirs = {name for name, weight in task.mimi.named_parameters() if id(weight) in tuned}
    assert (
        not any(name.startswith("encoder.model.3.") for name in theirs) and "downsample.conv.conv.conv.weight" in theirs
    )
    began = {name: tensor.clone() for name, tensor in task.mimi.state_dict().items()}
    for step in range(2):
        loss, figures = task.loss(step, PLAN.random(step))
        torch.autograd.backward(loss)
        assert all(weight.grad is None for weight in tuned_weights(task.mimi))
    assert {"held_first", "held_all"} <= set(task.loss(100, PLAN.random(100))[1]) and "first" in figures

    whole, sliced = tune_task(mimi, sounds), tmp_path / "sliced.pt"
    assert train(whole, PLAN, tmp_path / "whole.pt", 1e9)
    assert not train(tune_task(mimi, sounds), PLAN, sliced, 1, clock=ticking(5))
    again = tune_task(mimi, sounds)
    assert train(again, PLAN, sliced, 1e9)
    for name, tensor in again.mimi.state_dict().items():
        torch.testing.assert_close(tensor, whole.mimi.state_dict()[name], atol=1e-6, rtol=0)
        assert torch.equal(tensor, began[name]) == (name not in theirs), name
    again.finish()
    write_codec(again.mimi, tmp_path, NANO, "tuned")


def test_what_an_older_version_left_is_named(mimi: Mimi, sounds: Sounds, tmp_path: Path) -> None:
    path = tmp_path / "tune.pt"
    assert not train(tune_task(mimi, sounds), PLAN, path, 1, clock=ticking(5))
    left = load(path)
    del left["task"]["near"]
    store(path, left)
    with pytest.raises(ValueError, match="of an older version of this training; delete it"):
        train(tune_task(mimi, sounds), PLAN, path, 1e9)


def test_tuning_leaves_a_decoder_that_learnt_on_alone(mimi: Mimi, sounds: Sounds, tmp_path: Path) -> None:
    assert train(tune_task(mimi, sounds), PLAN, tmp_path / "tune.pt", 1e9)
    later = copy.deepcopy(mimi)
    with torch.no_grad():
        for weight in later.decoder.parameters():
            weight.add_(1)
    task = tune_task(later, sounds)
    assert train(task, PLAN, tmp_path / "tune.pt", 1e9)
    for ours, learnt in zip(task.mimi.decoder.parameters(), later.decoder.parameters(), strict=True):
        assert torch.equal(ours, learnt)


def test_tuning_holds_what_the_codebooks_are_given_near_what_it_was(
    mimi: Mimi, sounds: Sounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = sounds.callers(np.random.default_rng(9), 4, SHORT).heard[:, None]

    def far(tuned: Mimi) -> float:
        with torch.no_grad():
            now, before = (torch.cat(given_to(each, OfflineCodec(each).latent(heard)), 1) for each in (tuned, mimi))
        return (now - before).square().mean().item()

    held, free = tune_task(mimi, sounds), tune_task(mimi, sounds)
    assert train(held, PLAN, tmp_path / "held.pt", 1e9)
    monkeypatch.setattr(tune_encoder_module, "ANCHOR_WEIGHT", 0.0)
    assert train(free, PLAN, tmp_path / "free.pt", 1e9)
    assert 0 < far(held.mimi) < far(free.mimi)
    assert tune_task(mimi, sounds).loss(0, PLAN.random(0))[1]["moved"] == 0


def test_a_codec_stays_where_there_is_nothing_to_begin_again_from(
    mimi: Mimi, clips: list[Clip], tmp_path: Path
) -> None:
    work = tmp_path / "codec"
    write_codec(mimi, work, NANO, "final")
    with pytest.raises(ValueError, match=r"clips\.npz cannot be read"):
        train_encoder(tmp_path, PLAN, 1, config=NANO, again=True)
    write_clips(tmp_path / "clips.npz", clips)
    sound = [Utterance(clip.audio, "oh", "tones", "train", phones=(Span("ow", 0.0, 0.3),)) for clip in clips]
    write_utterances(shard(tmp_path / "callers", "train", 0), sound)
    write_utterances(shard(tmp_path / "agent", "train", 0), sound)
    with pytest.raises(ValueError, match="to begin again from"):
        train_encoder(tmp_path, PLAN, 1, config=NANO, again=True)
    assert read_codec(work)


def test_who_is_held_out_is_a_voice_that_was_not_trained_on(clips: list[Clip], tmp_path: Path) -> None:
    seen = [Utterance(clip.audio, "oh", "tones", "train", phones=(Span("ow", 0.0, 0.3),)) for clip in clips]
    write_utterances(shard(tmp_path / "callers", "held-out", 0), seen)
    assert _held(tmp_path) is None
    strange = [replace(each, split="held-out") for each in seen]
    write_utterances(shard(tmp_path / "callers", "held-out", 1), strange)
    assert _held(tmp_path) is not None


def test_windows_are_the_same_whoever_makes_them(mimi: Mimi, sounds: Sounds) -> None:
    alone, helped = tune_task(mimi, sounds), tune_task(mimi, sounds, workers=2)
    for step in range(6):
        assert alone.loss(step, PLAN.random(step))[1] == helped.loss(step, PLAN.random(step))[1]


# --- spectra -------------------------------------------------------------------------------------------------------


def test_mel_bands_cover_every_bin_and_weigh_alike() -> None:
    for size, count in WaveLoss.SCALES:
        bands = mel_bands(size, count)
        assert bands.shape == (count, size // 2 + 1)
        torch.testing.assert_close(bands.sum(1), torch.ones(count))


def test_log_mel_is_of_its_20_ms() -> None:
    audio = torch.zeros(1, 4 * FRAME)
    audio[0, FRAME : FRAME + 480] = torch.from_numpy(vowel("aa", 1)[:480])
    loudness = LogMel(torch.device("cpu"))(audio)[0].sum(1)
    assert len(loudness) == 16 and loudness.argmax() == 4


def test_the_wave_loss_hears_phase_where_magnitudes_do_not() -> None:
    target = torch.from_numpy(vowel("aa", 6))
    measure = WaveLoss(target)
    same, _ = measure(target[None], target[None])
    turned, figures = measure(-target[None], target[None])
    assert same == 0 and turned > 1 and figures["mel"] == pytest.approx(0, abs=1e-5)
    assert snr_db(-target, target) == pytest.approx(-6.02, abs=0.01)


# --- the loop ------------------------------------------------------------------------------------------------------


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that moves on so far whenever it is looked at."""
    ticks = itertools.count(0.0, seconds)
    return lambda: next(ticks)


class Bowl:
    """The smallest task: a weight that is to become 3, with noise that depends on the step."""

    def __init__(self) -> None:
        self.weight = nn.Parameter(torch.zeros(1))
        self.steps: list[int] = []

    def weights(self) -> list[nn.Parameter]:
        return [self.weight]

    def loss(self, step: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        return (self.weight - 3 + 0.1 * random.normal()).square().sum(), {"weight": self.weight.item()}

    def moved(self, step: int) -> None:
        self.steps.append(step)

    def save(self) -> dict[str, Any]:
        return {"weight": self.weight.detach().clone()}

    def restore(self, saved: dict[str, Any]) -> None:
        self.weight.data.copy_(saved["weight"])


def test_slices_are_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(200, 0.1, warm_up=10, seed=5)
    whole = Bowl()
    assert train(whole, plan, tmp_path / "whole.pt", 1e9)
    assert whole.weight.item() == pytest.approx(3, abs=0.2)
    steps: list[int] = []
    for finished in (False, False, True, True):
        part = Bowl()
        assert train(part, plan, tmp_path / "parts.pt", 1.2, clock=ticking(0.5)) == finished  # some 70 steps a slice
        steps += part.steps
    assert steps == list(range(200)) and part.weight.item() == whole.weight.item()
    assert "200/200" in capsys.readouterr().out


def test_another_plan_is_refused(tmp_path: Path) -> None:
    train(Bowl(), Plan(2, 0.1), tmp_path / "run.pt", 1)
    with pytest.raises(ValueError, match=r"run.pt was begun with .*steps=2.* delete it to start anew"):
        train(Bowl(), Plan(3, 0.1), tmp_path / "run.pt", 1)


def test_a_step_that_blew_up_is_left_out(tmp_path: Path) -> None:
    bowl = Bowl()

    def loss(step: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        return (bowl.weight - 3).square().sum() * (float("inf") if step == 1 else 1), {}

    bowl.loss = loss  # type: ignore[method-assign]  # one step of it only
    train(bowl, Plan(4, 0.1, warm_up=1), tmp_path / "run.pt", 1)
    assert bowl.weight.isfinite() and bowl.weight > 0


def test_the_rate_warms_up_and_falls() -> None:
    plan = Plan(1000, 1.0, warm_up=10, floor=0.03)
    assert plan.rate_at(0) == pytest.approx(0.1) and plan.rate_at(10) == pytest.approx(1, abs=1e-3)
    assert plan.rate_at(1000) == pytest.approx(0.03)
    assert plan.random(4).random() == plan.random(4).random() != plan.random(5).random()


def test_emulated_bfloat16_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert training.fast_type(torch.device("cpu")) is None
    assert training.fast_type(torch.device("cuda")) is torch.bfloat16


# --- phase A -------------------------------------------------------------------------------------------------------


def test_the_encoder_learns_and_goes_on(sounds: Sounds, tmp_path: Path) -> None:
    whole = encoder_task(sounds)
    assert train(whole, PLAN, tmp_path / "whole.pt", 1e9)
    assert not train(encoder_task(sounds), PLAN, tmp_path / "parts.pt", 0.6, clock=ticking(1))
    part = encoder_task(sounds)
    assert train(part, PLAN, tmp_path / "parts.pt", 1e9)
    for (name, ours), theirs in zip(part.mimi.state_dict().items(), whole.mimi.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    curve = training.load(tmp_path / "whole.pt")["curve"]
    assert whole.clustered and any("held_first" in figures for figures in curve)
    first = encoder_task(sounds)
    with torch.no_grad():
        before, after = (
            float(np.mean([t.loss(0, PLAN.random(s))[0].item() for s in range(90, 96)])) for t in (first, whole)
        )
    assert after < 0.8 * before


def test_finished_tokens_survive_the_file(mimi: Mimi, tmp_path: Path) -> None:
    write_codec(mimi, tmp_path, NANO, UNTRAINED)
    read = read_codec(tmp_path)
    clip = word(["aa", "eh", "iy"])
    assert np.array_equal(encode_after_silence(read, [clip])[0], encode_after_silence(mimi, [clip])[0])
    assert len(np.unique(encode_after_silence(read, [clip])[0])) > 4
    assert note_of(tmp_path) == UNTRAINED
    assert json.loads((tmp_path / "mimi.json").read_text()) == NANO


def test_silence_is_what_the_checkpoint_measures(mimi: Mimi) -> None:
    layout = measured_layout("system", mimi, mimi.codebooks, mimi.codebooks)
    assert layout.silence == tuple(encode_after_silence(mimi, [np.zeros(FRAME, np.float32)])[0][0].tolist())


def test_the_file_is_what_the_checkpoint_loader_reads(mimi: Mimi, tmp_path: Path) -> None:
    write_codec(mimi, tmp_path, NANO, UNTRAINED)
    Stored(tmp_path / "mimi.safetensors").check({name: tuple(t.shape) for name, t in mimi.state_dict().items()})


def test_an_encoder_that_is_not_rounded_is_not_written(tmp_path: Path) -> None:
    mimi = new_mimi()
    with pytest.raises(ValueError, match="encoder.model.0.conv.conv.weight is not rounded"):
        write_codec(mimi, tmp_path, NANO, UNTRAINED)
    round_encoder(mimi)
    write_codec(mimi, tmp_path, NANO, UNTRAINED)


def test_a_clip_off_the_grid_is_refused(mimi: Mimi) -> None:
    with pytest.raises(ValueError, match="a clip of 1921 samples does not end on a frame's edge"):
        encode_after_silence(mimi, [np.zeros(1921, np.float32)])[0]


# --- phase D -------------------------------------------------------------------------------------------------------


def script_of(mimi: Mimi, clips: list[Clip]) -> Script:
    audio = [clip.audio for clip in clips]
    return Script(code_voice(mimi, audio), audio)


def test_the_decoder_learns_the_codes_that_weights_have_for_the_clips(
    mimi: Mimi, clips: list[Clip], tmp_path: Path
) -> None:
    audio = [clip.audio for clip in clips]
    with pytest.raises(ValueError, match=r"clips\.npz cannot be read"):
        voice_in(tmp_path, mimi)
    write_clips(tmp_path / "clips.npz", clips)
    made = code_voice(mimi, audio)
    assert np.array_equal(voice_in(tmp_path, mimi).codes, made.codes)  # nobody has others yet
    others = replace(made, codes=(made.codes + 1) % 4)
    write_voice(tmp_path / "coded" / "voice.npz", others)
    found = voice_in(tmp_path, mimi)
    assert np.array_equal(Script(found, audio).codes[:-1], others.codes)
    assert [len(codes) for codes in found.clips()] == [len(clip) // FRAME for clip in audio]
    write_clips(tmp_path / "clips.npz", clips[:-1])
    with pytest.raises(ValueError, match=r"voice\.npz is of other clips than .*clips\.npz; delete it"):
        voice_in(tmp_path, mimi)


def test_a_script_says_clips_between_silences(mimi: Mimi, clips: list[Clip]) -> None:
    """Each frame of a row is a clip's frame under its own codes, silence, or what fades out after a barge-in."""
    script = script_of(mimi, clips)
    falling = np.linspace(1, 0, FRAME, dtype=np.float32)
    seen = {"said": 0, "silent": 0, "fading": 0}
    for seed in range(30):
        codes, samples = script.row(np.random.default_rng(seed), 30)
        for code, frame in zip(codes, samples.reshape(-1, FRAME), strict=True):
            said = np.flatnonzero((np.abs(script.samples - frame).max(1) < 1e-6) & (script.codes == code).all(1))
            if len(said):
                seen["silent" if script.silence in said else "said"] += 1
            else:
                assert (code == script.codes[script.silence]).all()
                assert (np.abs(script.samples * falling - frame).max(1) < 1e-6).any()
                seen["fading"] += 1
    assert min(seen.values()) > 5, seen


def test_the_decoder_learns_and_goes_on(
    mimi: Mimi, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ROWS": 1, "FRAMES": 16, "LONG_FRAMES": 24}.items():
        monkeypatch.setattr(train_decoder, name, value)
    plan = Plan(24, 5e-3, warm_up=3, seed=2)

    def task() -> DecoderTask:
        draw_again = build(NANO)
        draw_again.load_state_dict(mimi.state_dict())
        made = DecoderTask(draw_again, script_of(draw_again, clips), plan, decay=0.9)
        made.level()
        return made

    whole, written = task(), []
    assert train(whole, plan, tmp_path / "whole.pt", 1e9, lambda: written.append(whole.average.steps))
    assert written == [0, 24]
    assert not train(task(), plan, tmp_path / "parts.pt", 0.3, clock=ticking(1))
    part = task()
    assert train(part, plan, tmp_path / "parts.pt", 1e9)
    for (name, ours), theirs in zip(part.averaged().items(), whole.averaged().values(), strict=True):
        assert torch.equal(ours, theirs), name
    with torch.no_grad():
        before = task().loss(0, plan.random(999))[0].item()
        whole.mimi.load_state_dict(whole.averaged(), strict=False)
        after = whole.loss(0, plan.random(999))[0].item()
    assert after < 0.8 * before


def test_an_encoder_that_learns_on_hears_actors_beside_callers(
    mimi: Mimi, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_codec(mimi, tmp_path / "codec", NANO, UNTRAINED)
    write_clips(tmp_path / "clips.npz", clips)
    for folder, pitch_hz in (("callers", 120.0), ("actors", 90.0), ("strangers", 200.0)):
        write_utterances(shard(tmp_path / folder, "train", 0), [said(["aa", "iy"], pitch_hz)])

    class Heard(Exception):
        """By how many."""

    def hear(callers: list[Voice], *_: object) -> Sounds:
        raise Heard(len(callers))

    monkeypatch.setattr(train_codec_module, "Sounds", hear)
    with pytest.raises(Heard, match="2"):
        train_codec_module.tune_encoder(tmp_path, PLAN, 1)
