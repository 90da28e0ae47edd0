"""The codec against the published package (goldens from tests/oracle/make_mimi.py), and what must hold of any weights.

The tiny codec's ring holds 4 frames, so nearly all of the 36 frames of a golden run past it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.model.mimi import Mimi, MimiConfig, MimiState
from engine.model.seanet import initial_state
from tests.oracle.mimi_inputs import CODEBOOKS, FRAMES, MASKS, RESETS, TINY, codes, waveform
from tests.oracle.weights import draw_all

FRAME = 1920
ORACLE = Path(__file__).parents[2] / "data/oracle"
Goldens = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def goldens() -> Goldens:
    with np.load(ORACLE / "mimi.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def mimi(goldens: Goldens) -> Mimi:
    return build(int(goldens["seed"]))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(seed: int) -> Mimi:
    mimi = Mimi(MimiConfig.from_dict(TINY), CODEBOOKS)
    weights = draw_all({name: tuple(value.shape) for name, value in mimi.state_dict().items()}, seed)
    mimi.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return mimi


def rows(*flags: bool) -> Tensor:
    return torch.tensor(flags)


def audio(count: int = 1, frames: int = FRAMES) -> Tensor:
    return torch.from_numpy(waveform(count, frames))


def frame(sound: Tensor, number: int, count: int = 1) -> Tensor:
    """`count` frames of sound [B, 1, samples], or of codes [B, K, frames]."""
    size = FRAME if sound.shape[1] == 1 else 1
    return sound[:, :, number * size : (number + count) * size]


def assert_close(ours: Tensor, golden: NDArray[Any], tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the golden's largest value."""
    assert ours.shape == golden.shape
    assert float(np.abs(ours.numpy() - golden).max()) < tolerance * float(np.abs(golden).max())


def tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor of a state, wherever it is kept."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, tuple):
        for part in state:
            yield from tensors(part)
    elif state is not None:
        assert is_dataclass(state)
        for field in fields(state):
            yield from tensors(getattr(state, field.name))


# The published package


def test_names_and_shapes_are_those_of_the_published_weights() -> None:
    with torch.device("meta"):
        state = Mimi(MimiConfig(), 8).state_dict()
    published = json.loads((ORACLE / "mimi_shapes.json").read_text())
    assert {name: list(value.shape) for name, value in state.items()} == published
    assert sum(value.numel() for value in state.values()) == 96_151_393


def test_a_row_remembers_as_much_as_reckoned() -> None:
    with torch.device("meta"):
        state = Mimi(MimiConfig(), 8).initial_state(1)
    encoder = (*state.encoder.convs.carries, *state.encoder.downsample.carries)
    decoder = (*state.decoder.convs.carries, *state.decoder.upsample.carries)
    assert sum(carry.numel() for carry in encoder) == 11_526
    assert sum(carry.numel() for carry in decoder) == 12_672
    assert state.encoder.transformer.keys.shape == (1, 8, 8, 250, 64)


def test_whole_file_with_its_tail_padded(mimi: Mimi, goldens: Goldens) -> None:
    sound = F.pad(frame(audio(frames=4), 0, 4)[:, :, : 3 * FRAME + 700], (0, FRAME - 700))
    assert_close(mimi.latent(sound, mimi.initial_state(1), rows(True)), goldens["offline_latents"])
    encoded = mimi.encode(sound, mimi.initial_state(1), rows(True))
    assert encoded.dtype == torch.int64
    assert np.array_equal(encoded.numpy(), goldens["offline_codes"])


@pytest.mark.parametrize(("golden", "count"), [("offline_audio", CODEBOOKS), ("prefix_audio", 3)])
def test_whole_file_decoded(mimi: Mimi, goldens: Goldens, golden: str, count: int) -> None:
    decoded = mimi.decode(torch.from_numpy(codes(1, 4)[:, :count]), mimi.initial_state(1), rows(True))
    assert decoded.shape == (1, 1, 4 * FRAME) and decoded.dtype == torch.float32
    assert_close(decoded[:, 0, ::7], goldens[golden])


def test_three_rows_frame_by_frame_with_masks_and_a_reset(mimi: Mimi, goldens: Goldens) -> None:
    sound, spoken = audio(3), torch.from_numpy(codes(3, FRAMES))
    for_codes, state = mimi.initial_state(3), mimi.initial_state(3)
    for call in range(FRAMES):
        if call in RESETS:
            for part in (state, for_codes):
                part.reset(torch.arange(3) == RESETS[call])
        ran, mask = MASKS[call], torch.from_numpy(MASKS[call])
        latent = mimi.latent(frame(sound, call), state, mask)
        encoded = mimi.encode(frame(sound, call), for_codes, mask)
        decoded = mimi.decode(frame(spoken, call), state, mask)
        assert_close(latent[mask], goldens["rows_latents"][call][ran])
        assert np.array_equal(encoded.numpy()[ran], goldens["rows_codes"][call][ran])
        assert_close(decoded[mask][:, 0, ::7], goldens["rows_audio"][call][ran])
        assert torch.isfinite(latent).all() and torch.isfinite(decoded).all()


def test_two_frames_a_call(mimi: Mimi, goldens: Goldens) -> None:
    sound, spoken = audio(), torch.from_numpy(codes(1, FRAMES))
    for_codes, state, mask = mimi.initial_state(1), mimi.initial_state(1), rows(True)
    for call in range(FRAMES // 2):
        assert_close(mimi.latent(frame(sound, 2 * call, 2), state, mask), goldens["pairs_latents"][call])
        encoded = mimi.encode(frame(sound, 2 * call, 2), for_codes, mask)
        assert np.array_equal(encoded.numpy(), goldens["pairs_codes"][call])
        decoded = mimi.decode(frame(spoken, 2 * call, 2), state, mask)
        assert_close(decoded[:, 0, ::7], goldens["pairs_audio"][call])


# Any weights


def test_pieces_equal_the_whole_while_the_ring_is_not_full(mimi: Mimi) -> None:
    sound, spoken, mask = audio(frames=4), torch.from_numpy(codes(1, 4)), rows(True)
    whole, pieces = mimi.initial_state(1), mimi.initial_state(1)
    latents = [mimi.latent(frame(sound, number), pieces, mask) for number in range(4)]
    torch.testing.assert_close(torch.cat(latents, 2), mimi.latent(sound, whole, mask), rtol=1e-5, atol=1e-5)
    decoded = [mimi.decode(frame(spoken, number), pieces, mask) for number in range(4)]
    torch.testing.assert_close(torch.cat(decoded, 2), mimi.decode(spoken, whole, mask), rtol=1e-5, atol=1e-5)


def test_two_frames_a_call_see_less_once_the_ring_is_full(mimi: Mimi) -> None:
    """All keys of a call are written before any query looks: so the deployed package, and so we."""
    sound, mask = audio(frames=8), rows(True)
    single, paired = mimi.initial_state(1), mimi.initial_state(1)
    singles = torch.cat([mimi.latent(frame(sound, number), single, mask) for number in range(8)], 2)
    pairs = torch.cat([mimi.latent(frame(sound, number, 2), paired, mask) for number in range(0, 8, 2)], 2)
    apart = (singles - pairs).abs().amax((0, 1))
    assert float(apart[:4].max()) < 1e-5
    assert float(apart[4:].max()) > 1e-4


def step(mimi: Mimi, state: MimiState, sound: Tensor, spoken: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    return mimi.latent(sound, state, mask), mimi.decode(spoken, state, mask)


def test_a_masked_row_stands_still_bit_for_bit(mimi: Mimi) -> None:
    sound, spoken, state = audio(3), torch.from_numpy(codes(3, FRAMES)), mimi.initial_state(3)
    for number in range(6):
        step(mimi, state, frame(sound, number), frame(spoken, number), rows(True, number > 3, True))
    before = [tensor.clone() for tensor in tensors(state)]
    step(mimi, state, frame(sound, 6), frame(spoken, 6), rows(True, False, True))
    after = list(tensors(state))
    assert len(after) == 10 + 10 + 2 + 2 * 3 + 1  # carries of the convolutions and of resampling, two rings, `fresh`
    assert all(torch.equal(new[1], old[1]) for new, old in zip(after, before, strict=True))
    assert sum(not torch.equal(new[0], old[0]) for new, old in zip(after, before, strict=True)) == len(after) - 1


def test_no_mask_is_a_mask_of_all(mimi: Mimi) -> None:
    sound, spoken, masked, free = audio(2), torch.from_numpy(codes(2, FRAMES)), *(mimi.initial_state(2) for _ in "12")
    for number in range(6):
        ours = step(mimi, free, frame(sound, number), frame(spoken, number), None)
        theirs = step(mimi, masked, frame(sound, number), frame(spoken, number), rows(True, True))
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(tensors(free), tensors(masked), strict=True))


def test_a_row_in_a_batch_hears_only_itself(mimi: Mimi) -> None:
    """Row 1 starts late and pauses: in the batch and alone it says the same."""
    sound, spoken = audio(3), torch.from_numpy(codes(3, FRAMES))
    together, alone = mimi.initial_state(3), mimi.initial_state(1)
    for number in range(14):
        runs = number > 1 and number % 5 != 0
        latent, decoded = step(
            mimi, together, frame(sound, number), frame(spoken, number), rows(number % 2 == 0, runs, number > 7)
        )
        if runs:
            one = step(mimi, alone, frame(sound, number)[1:2], frame(spoken, number)[1:2], rows(True))
            torch.testing.assert_close(latent[1:2], one[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(decoded[1:2], one[1], rtol=1e-5, atol=1e-5)


def test_a_reset_row_is_as_new_and_the_others_do_not_notice(mimi: Mimi) -> None:
    sound, spoken, everybody = audio(3), torch.from_numpy(codes(3, FRAMES)), rows(True, True, True)
    state, other, new = mimi.initial_state(3), mimi.initial_state(3), mimi.initial_state(3)
    for number in range(6):
        step(mimi, state, frame(sound, number), frame(spoken, number), everybody)
        step(mimi, other, frame(sound, number), frame(spoken, number), everybody)
    state.reset(rows(False, True, False))
    for number in range(6, 12):
        here, there, fresh = (
            step(mimi, past, frame(sound, number), frame(spoken, number), everybody) for past in (state, other, new)
        )
        for ours, undisturbed, as_new in zip(here, there, fresh, strict=True):
            assert torch.equal(ours[0], undisturbed[0]) and torch.equal(ours[2], undisturbed[2])
            assert torch.equal(ours[1], as_new[1])


def test_encoding_and_decoding_may_have_masks_of_their_own(mimi: Mimi) -> None:
    state = mimi.initial_state(1)
    mimi.decode(torch.from_numpy(codes(1, 2)), state, rows(True))
    assert all(not tensor.any() for tensor in tensors(replace(state.encoder, fresh=torch.zeros(1))))
    latent = mimi.latent(audio(frames=1), state, rows(True))
    assert torch.equal(latent, mimi.latent(audio(frames=1), mimi.initial_state(1), rows(True)))


def test_only_the_downsampling_starts_on_its_first_position(mimi: Mimi) -> None:
    x = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(3))
    state, fresh = initial_state(mimi.downsample, 2), rows(True, True)
    with torch.no_grad():
        mimi.downsample(x, state, fresh, rows(False, True))  # row 0 does not run yet, so it stays fresh
        assert fresh.tolist() == [True, False]
        assert not state.carries[0][0].any()
        y = mimi.downsample(x, state, fresh, rows(True, True))
        weight = mimi.downsample.conv.weight
        first = F.conv1d(F.pad(x[:1], (2, 0), mode="replicate"), weight, stride=2)
        later = F.conv1d(torch.cat((x[1:, :, -2:], x[1:]), 2), weight, stride=2)
    torch.testing.assert_close(y, torch.cat((first, later)))


def test_the_audio_is_not_clamped(mimi: Mimi) -> None:
    loud = deepcopy(mimi)
    with torch.no_grad():
        loud.get_parameter("decoder.model.14.conv.conv.bias").fill_(40)
    assert float(loud.decode(torch.from_numpy(codes(1, 2)), loud.initial_state(1), rows(True)).max()) > 30


def test_a_step_reads_no_value_on_the_host() -> None:
    """On the meta device there are none to read: what passes here can be captured in a CUDA graph."""
    with torch.device("meta"):
        mimi = Mimi(MimiConfig(), 8)
        state, mask = mimi.initial_state(4), torch.ones(4, dtype=torch.bool)
        encoded = mimi.encode(torch.zeros(4, 1, FRAME), state, mask)
        decoded = mimi.decode(encoded, state, mask)
    assert encoded.shape == (4, 8, 1) and decoded.shape == (4, 1, FRAME)


def test_steps_leave_no_graph_behind(mimi: Mimi) -> None:
    state = mimi.initial_state(1)
    assert not mimi.encode(audio(frames=1), state, rows(True)).requires_grad
    assert not mimi.decode(torch.from_numpy(codes(1, 1)), state, rows(True)).requires_grad
    assert not any(tensor.requires_grad for tensor in tensors(state))


# What is refused


@pytest.mark.parametrize("shape", [(1, 1, 0), (1, 1, 1919), (1, 1, 2000), (1, 2, 1920), (1, 1920)])
def test_audio_that_is_not_whole_frames_is_refused_by_its_sizes(mimi: Mimi, shape: tuple[int, ...]) -> None:
    state = mimi.initial_state(1)
    with pytest.raises(ValueError, match=r"multiple of 1920") as refusal:
        mimi.encode(torch.zeros(shape), state, rows(True))
    assert str(list(shape)) in str(refusal.value)
    assert state.encoder.fresh.all() and not state.encoder.transformer.position.any()


@pytest.mark.parametrize("shape", [(1, 0, 1), (1, 7, 1), (1, 6, 0), (1, 6)])
def test_codes_that_it_does_not_have_are_refused_by_their_sizes(mimi: Mimi, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 to 6 codebooks") as refusal:
        mimi.decode(torch.zeros(shape, dtype=torch.int64), mimi.initial_state(1), rows(True))
    assert str(list(shape)) in str(refusal.value)


def test_more_frames_than_the_ring_holds_are_refused(mimi: Mimi) -> None:
    state = mimi.initial_state(1)
    with pytest.raises(ValueError, match="5 frames in one call; at most 4"):
        mimi.encode(audio(frames=5), state, rows(True))
    with pytest.raises(ValueError, match="5 frames in one call; at most 4"):
        mimi.decode(torch.from_numpy(codes(1, 5)), state, rows(True))
    assert state.encoder.fresh.all() and not state.decoder.upsample.carries[0].any()


# The config


def test_an_empty_config_is_the_published_one() -> None:
    assert MimiConfig.from_dict({}) == MimiConfig()
    assert MimiConfig().frame_samples == FRAME


def test_the_published_form_is_read() -> None:
    config = MimiConfig.from_dict(TINY)
    assert config.seanet.ratios == (8, 6, 5, 4) and config.seanet.n_filters == 2
    assert (config.transformer.dim, config.transformer.hidden, config.transformer.context) == (16, 32, 8)
    assert config.transformer.layer_scale
    assert (config.quantizer.n_q, config.quantizer.bins) == (6, 32)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("seanet", "norm", "weight_norm", "seanet.norm is 'weight_norm'.* has 'none'"),
        ("seanet", "n_residual_layers", 2, "seanet.n_residual_layers is 2"),
        ("seanet", "widht", 3, "unknown key seanet.widht"),
        ("transformer", "gating", "silu", "transformer.gating is 'silu'"),
        ("transformer", "output_dimensions", [8], r"transformer.output_dimensions is \[8\].* has \[16\]"),
        ("transformer", "d_model", 32, "transformer.input_dimension is 16"),
        ("quantizer", "output_dimension", 8, "quantizer.output_dimension is 8"),
        ("seanet", "dimension", 32, r"one latent dimension, not \(32, 16, 16\)"),
        (None, "frame_rate", 25, "frame_rate is 25 .* has 12.5"),
        (None, "channels", 2, "channels is 2 .* has 1"),
        (None, "resampling", "conv", "unknown key resampling"),
    ],
)
def test_a_config_of_another_codec_is_refused_by_its_key(
    section: str | None, key: str, value: object, message: str
) -> None:
    config = deepcopy(TINY)
    (config[section] if section else config)[key] = value
    with pytest.raises(ValueError, match=message):
        MimiConfig.from_dict(config)
