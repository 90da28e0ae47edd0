"""Mimi's split residual vector quantiser: one semantic codebook beside a residual chain of acoustic ones.

Both branches read the same latent: the acoustic one does not see what the semantic one left over (Moshi paper,
section 3.3.2). Any prefix of the codebooks is valid. Buffer names are those of the weights' files, which hold sums and
counts of a moving average; the centroids are made from them once, whenever weights are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_USAGE = 1e-5
"""A centroid that was never chosen has usage 0; the training code divides by no less than this."""


@dataclass(frozen=True)
class QuantizerConfig:
    """Sizes under their published names: the latent, the centroids' smaller space, codebooks, and centroids in each."""

    input_dimension: int = 512
    dimension: int = 256
    n_q: int = 32
    bins: int = 2048


class _Codebook(nn.Module):
    """One codebook as it stands in the file; `_initialized` is the training code's and means nothing here."""

    _initialized: Tensor
    cluster_usage: Tensor
    embedding_sum: Tensor

    def __init__(self, size: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("_initialized", torch.ones(1))
        self.register_buffer("cluster_usage", torch.ones(size))
        self.register_buffer("embedding_sum", torch.zeros(size, dimension))

    def centroids(self) -> Tensor:
        return self.embedding_sum / self.cluster_usage.clamp(min=LEAST_USAGE)[:, None]


class _Layer(nn.Module):
    def __init__(self, size: int, dimension: int) -> None:
        super().__init__()
        self._codebook = _Codebook(size, dimension)


class _Chain(nn.Module):
    def __init__(self, codebooks: int, size: int, dimension: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(size, dimension) for _ in range(codebooks))


class ResidualQuantizer(nn.Module):
    """A chain of `codebooks`, of which the first `used` are computed with."""

    centroids: Tensor  # [used, size, dimension]
    half_norms: Tensor  # [used, size]: half the squared length of each centroid

    def __init__(self, config: QuantizerConfig, codebooks: int, used: int) -> None:
        super().__init__()
        self.used = used
        self.input_proj = nn.Conv1d(config.input_dimension, config.dimension, 1, bias=False)
        self.output_proj = nn.Conv1d(config.dimension, config.input_dimension, 1, bias=False)
        self.vq = _Chain(codebooks, config.bins, config.dimension)
        self.register_buffer("centroids", torch.zeros(used, config.bins, config.dimension), persistent=False)
        self.register_buffer("half_norms", torch.zeros(used, config.bins), persistent=False)
        # torch leaves this one method without types
        self.register_load_state_dict_post_hook(lambda module, _: module.prepare())  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def prepare(self) -> None:
        """Make the centroids anew. `load_state_dict` does it by itself; whoever writes into the buffers must ask."""
        books = [module for module in self.vq.modules() if isinstance(module, _Codebook)]
        self.centroids = torch.stack([book.centroids() for book in books[: self.used]])
        self.half_norms = self.centroids.square().sum(dim=2) / 2

    def encode(self, latent: Tensor) -> Tensor:
        """Nearest centroid of what the codebooks before left over: [B, C, T] -> [B, used, T] int64."""
        rows, _, length = latent.shape
        left = F.linear(latent.transpose(1, 2).flatten(0, 1), self.input_proj.weight[:, :, 0])  # [B * T, dimension]
        codes = []
        for centroids, half_norms in zip(self.centroids, self.half_norms, strict=True):
            # |r - c|^2 = |r|^2 - 2 (r.c - |c|^2 / 2): the nearest has the largest bracket, the first of equals.
            code = torch.addmm(half_norms, left, centroids.t(), beta=-1).argmax(dim=1)
            left = left - F.embedding(code, centroids)
            codes.append(code)
        return torch.stack(codes).view(-1, rows, length).transpose(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the centroids, projected: [B, k <= used, T] -> [B, C, T]."""
        size = self.centroids.shape[1]
        # A masked row may hold markers below 0; an index outside of the table would stop a CUDA device for good.
        index = codes.clamp(0, size - 1) + torch.arange(codes.shape[1], device=codes.device)[:, None] * size
        summed = F.embedding(index, self.centroids.flatten(0, 1)).sum(dim=1)  # [B, T, dimension]
        return F.linear(summed, self.output_proj.weight[:, :, 0]).transpose(1, 2)


class SplitQuantizer(nn.Module):
    """The semantic codebook and the acoustic ones; `used` counts both."""

    def __init__(self, config: QuantizerConfig, used: int) -> None:
        super().__init__()
        if not 1 < used <= config.n_q:
            raise ValueError(f"{used} codebooks asked of a quantiser that has {config.n_q}; it needs at least 2")
        self.rvq_first = ResidualQuantizer(config, 1, 1)
        self.rvq_rest = ResidualQuantizer(config, config.n_q - 1, used - 1)

    def encode(self, latent: Tensor) -> Tensor:
        """[B, C, T] -> codes [B, used, T] int64, the semantic one first."""
        return torch.cat((self.rvq_first.encode(latent), self.rvq_rest.encode(latent)), dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, k, T], 1 <= k <= used -> [B, C, T]."""
        latent: Tensor = self.rvq_first.decode(codes[:, :1])
        return latent + self.rvq_rest.decode(codes[:, 1:]) if codes.shape[1] > 1 else latent
