"""The whole-sequence codec against the streaming engine, past the attention's window; quantiser and initial weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.model.mimi import Mimi, MimiConfig
from engine.pocket.recipe.export_codec import MIMI, build
from engine.pocket.recipe.init_codec import draw, level_decoder, level_encoder
from engine.pocket.recipe.learn_quantizer import average, cluster, projected, quantise
from engine.pocket.recipe.offline_codec import OfflineCodec
from tests.engine.pocket.voices import stand_in

FRAME, FRAMES = 1920, 14
CONFIG = {
    "seanet": {"n_filters": 2, "dimension": 32},
    # Five frames' ring: most of the fourteen are past it.
    "transformer": {"d_model": 32, "num_heads": 2, "num_layers": 2, "dim_feedforward": 64, "context": 10},
    "quantizer": {"input_dimension": 32, "dimension": 16, "n_q": 4, "bins": 16},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def audio() -> Tensor:
    return torch.from_numpy(np.stack([stand_in(seed, FRAMES) for seed in range(4)]))[:, None]


@pytest.fixture
def mimi(audio: Tensor) -> Mimi:
    mimi = Mimi(MimiConfig.from_dict(CONFIG), 4)
    draw(mimi, 1)
    latent = level_encoder(mimi, audio)
    cluster(mimi.quantizer, latent, 5, torch.Generator().manual_seed(1))
    level_decoder(mimi, quantise(mimi.quantizer, latent).latent, 0.05)
    return mimi


def streamed(mimi: Mimi, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, codes and sound of a frame a call."""
    rows = torch.ones(len(audio), dtype=torch.bool)
    heard, said = mimi.initial_state(len(audio)), mimi.initial_state(len(audio))
    latents = [mimi.latent(frame, heard, rows) for frame in torch.split(audio, FRAME, 2)]
    codes = [mimi.quantizer.encode(latent) for latent in latents]
    return torch.cat(latents, 2), torch.cat(codes, 2), torch.cat([mimi.decode(c, said, rows) for c in codes], 2)


def test_equals_the_streaming_engine(mimi: Mimi, audio: Tensor) -> None:
    latents, codes, sound = streamed(mimi, audio)
    offline = OfflineCodec(mimi)
    with torch.no_grad():
        torch.testing.assert_close(offline.latent(audio), latents, rtol=0, atol=1e-5)
        assert torch.equal(offline.encode(audio), codes)
        torch.testing.assert_close(offline.decode(codes), sound, rtol=0, atol=1e-5)
    assert len(set(codes.flatten().tolist())) > 8 and sound.std() > 0.01  # nothing of this was silence


def test_gives_in_bfloat16_nearly_what_it_gives_in_float32() -> None:
    """Values and gradients at the shipped codec's widths, whose strided convolutions some processors get wrong."""
    mimi = build(MIMI)
    draw(mimi, 1)
    audio = torch.from_numpy(stand_in(1, FRAMES))[None, None]
    level_encoder(mimi, audio)
    offline = OfflineCodec(mimi)

    def computed(fast: bool) -> list[Tensor]:
        given = torch.randn(1, 256, FRAMES, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            heard, said = offline.latent(audio), offline.audio(given)
        wanted = torch.randn(said.shape, generator=torch.Generator().manual_seed(2)).to(said)
        return [heard, said, *torch.autograd.grad(said, given, wanted)]

    for fast, exact in zip(computed(True), computed(False), strict=True):
        assert (fast.float() - exact).norm() < 0.1 * exact.norm()


def test_gradients_reach_every_weight(mimi: Mimi, audio: Tensor) -> None:
    offline = OfflineCodec(mimi)
    quantised = quantise(mimi.quantizer, offline.latent(audio))
    torch.autograd.backward((offline.audio(quantised.latent) - audio).square().mean())
    for name, weight in mimi.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name


def test_quantised_is_what_the_engine_makes_of_the_codes(mimi: Mimi, audio: Tensor) -> None:
    latent = OfflineCodec(mimi).latent(audio)
    quantised = quantise(mimi.quantizer, latent)
    assert torch.equal(quantised.codes, mimi.quantizer.encode(latent))
    torch.testing.assert_close(quantised.latent, mimi.quantizer.decode(quantised.codes), rtol=0, atol=1e-5)
    torch.testing.assert_close(quantised.semantic, mimi.quantizer.decode(quantised.codes[:, :1]), rtol=0, atol=1e-5)


def test_the_average_is_a_moving_one(mimi: Mimi) -> None:
    """One codebook's arithmetic by hand, and dead centroids come back to life."""
    buffers = dict(mimi.quantizer.rvq_first.named_buffers())
    usage, total = (buffers[f"vq.layers.0._codebook.{name}"] for name in ("cluster_usage", "embedding_sum"))
    usage.fill_(1)
    usage[3] = 0.01  # chosen by nobody, so it stays below a tenth of the mean
    before = total.clone()
    codes = torch.zeros(1, 4, 2, dtype=torch.int64)  # both frames choose centroid 0
    left = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(2))
    average(mimi.quantizer, codes, left, 0.9, torch.Generator().manual_seed(3))
    torch.testing.assert_close(usage[:2], torch.tensor([0.9 + 0.1 * 2, 0.9]))
    torch.testing.assert_close(total[0], 0.9 * before[0] + 0.1 * left[0].sum(0))
    centroids = mimi.quantizer.rvq_first.centroids[0]
    torch.testing.assert_close(centroids[1], before[1] / 1)
    assert min((centroids[3] - given).abs().max().item() for given in left[0]) < 1e-5


def test_k_means_finds_the_clusters(mimi: Mimi) -> None:
    """Sixteen tight clusters in the projected space are what the semantic codebook becomes."""
    generator = torch.Generator().manual_seed(4)
    centres = 5 * torch.randn(1, 32, 16, generator=generator)
    latent = centres.repeat(1, 1, 40) + 0.01 * torch.randn(1, 32, 640, generator=generator)
    cluster(mimi.quantizer, latent, 10, generator)
    with torch.no_grad():
        wanted = mimi.quantizer.rvq_first.input_proj(centres)[0].t()
    found = torch.cdist(mimi.quantizer.rvq_first.centroids[0], wanted)
    assert found.min(0).values.max() < 0.1
    with pytest.raises(ValueError, match="8 frames cannot make 16 centroids"):
        cluster(mimi.quantizer, latent[:, :, :8], 1, generator)


def test_initial_weights_pass_sound_on_at_unit_size(mimi: Mimi, audio: Tensor) -> None:
    with torch.no_grad():
        latent = OfflineCodec(mimi).latent(audio)
        assert latent.std() == pytest.approx(1, rel=1e-3)
        for part in projected(mimi.quantizer, latent):
            assert part.std() == pytest.approx(1, rel=1e-3)
        sound = OfflineCodec(mimi).audio(quantise(mimi.quantizer, latent).latent)
    assert sound.std() == pytest.approx(0.05, rel=1e-2)
