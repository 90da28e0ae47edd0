"""Where the codec's training starts: random weights, each scaled until real sound comes through it at unit size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.model.mimi import Mimi
from engine.model.seanet import CausalConv, CausalConvTranspose
from engine.pocket.recipe.offline_codec import OfflineCodec


class _UnitVariance(OfflineCodec):
    """Scales every convolution that is run so that its output has standard deviation 1."""

    @torch.no_grad()
    def conv(self, layer: CausalConv, x: Tensor, padded: bool = False) -> Tensor:
        layer.weight.div_(super().conv(layer, x, padded).std().clamp(min=1e-6))
        return super().conv(layer, x, padded)

    @torch.no_grad()
    def spread(self, layer: CausalConvTranspose, x: Tensor) -> Tensor:
        layer.weight.div_(super().spread(layer, x).std().clamp(min=1e-6))
        return super().spread(layer, x)


def draw(mimi: Mimi, seed: int) -> None:
    """Initial weights: orthogonal matrices, no bias, residual branches at a tenth. The centroids are not touched."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in mimi.named_parameters():
        if weight.dim() > 1:
            nn.init.orthogonal_(weight, generator=generator)
        elif name.endswith(".scale"):
            nn.init.constant_(weight, 0.1)
        elif name.endswith(".bias"):
            nn.init.zeros_(weight)
    # Each position is held for two, the second half of the kernel being the next one's: smooth, and alike everywhere.
    with torch.no_grad():
        mimi.upsample.convtr.weight.copy_(torch.tensor([0.75, 1.0, 0.25, 0.0]))


@torch.no_grad()
def level_encoder(mimi: Mimi, audio: Tensor) -> Tensor:
    """Data-dependent initialisation (LSUV, arXiv 1511.06422) of encoder and projections on a batch; gives its latents.

    With the library's own initial scale such a deep stack without norms learns nothing in 500 steps.
    """
    latent = _UnitVariance(mimi).latent(audio)
    for branch in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
        projection = branch.input_proj
        projection.weight.div_(projection(latent).std())
        branch.output_proj.weight.div_(branch.output_proj(projection(latent)).std())
    return latent


@torch.no_grad()
def level_decoder(mimi: Mimi, latent: Tensor, loudness: float) -> None:
    """The same for the decoder, whose last convolution starts at `loudness`, RMS."""
    _UnitVariance(mimi).audio(latent)
    last = mimi.decoder.model[-1]
    assert isinstance(last, CausalConv)
    last.weight.mul_(loudness)
