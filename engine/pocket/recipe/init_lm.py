"""The language model and the ear before training: sizes, and initial weights that let both hear from the first step.

A code's embedding begins as the codec's own centroid: what sounds alike looks alike, which the model would need most of
its training to find out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.model.mimi import Mimi
from engine.model.moshi import Moshi
from engine.model.quantizer import ResidualQuantizer
from engine.pocket.recipe.tokenizer import PIECES

LM: dict[str, Any] = {
    "dim": 256,
    "num_layers": 6,
    "num_heads": 4,
    "context": 500,
    "n_q": 16,
    "dep_q": 8,
    "card": 512,
    "text_card": PIECES,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    "depformer_dim": 128,
    "depformer_num_heads": 4,
    "depformer_num_layers": 2,
    # Clips are learnt by heart; a wider one costs 2 MB and says them no better.
    "depformer_dim_feedforward": 192,
}
"""The language model's arguments for config.json. Its window is 40 s."""

EAR: dict[str, Any] = {
    "dim": 160,
    "num_layers": 4,
    "num_heads": 4,
    "context": 100,
    "n_q": 8,
    "dep_q": 0,
    "card": 512,
    "text_card": PIECES,
    "delays": [0] * 9,
}
"""The ear's. It hears 8 s back: less than the windows that it is trained on, or it would be lost in a longer call."""

CODE_SIZE = 1.0
"""Of an embedded semantic code, standard deviation."""

OTHER_SIZE = 0.6
"""Of what stands for a code in the depth steps, and for the initial tokens."""


@torch.no_grad()
def draw(moshi: Moshi, mimi: Mimi, seed: int) -> None:
    """Set all weights. Where the codec's latent is of another width, its centroids are projected at random."""
    generator = torch.Generator().manual_seed(seed)
    layers = 2 * moshi.config.num_layers
    for name, weight in moshi.named_parameters():
        if weight.dim() == 2:
            size = 1.0 if name.startswith(("text_emb", "depformer_text_emb")) else weight.shape[1] ** -0.5
            if name.endswith(("out_proj.weight", "linear_out.weight")):
                size *= layers**-0.5  # all layers' branches together weigh as much as what they are added to
            if name.startswith(("emb.", "depformer_emb.")):
                size = OTHER_SIZE
            weight.copy_(torch.randn(weight.shape, generator=generator) * size)
    sounds = centroids(mimi)
    loudest = sounds[0].std().clamp_min(1e-6)
    for stream, embedding in enumerate(moshi.emb):
        assert isinstance(embedding, nn.Embedding)
        vectors = _fitted(sounds[stream % len(sounds)], embedding.embedding_dim, generator)
        # One factor for all codebooks: together they add up to what the codec heard. Those of a residual chain's end
        # are small there, and made as large as the first they would drown it.
        embedding.weight[: len(vectors)] = vectors * (CODE_SIZE / loudest)


def centroids(mimi: Mimi) -> list[Tensor]:
    """Each codebook's centroids in the latent space, [bins, dimension]."""
    branches: tuple[ResidualQuantizer, ...] = (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest)
    return [book @ branch.output_proj.weight[:, :, 0].T for branch in branches for book in branch.centroids]


def _fitted(vectors: Tensor, width: int, generator: torch.Generator) -> Tensor:
    size = vectors.shape[1]
    if size == width:
        return vectors
    return vectors @ torch.randn(size, width, generator=generator).div(size**0.5)
