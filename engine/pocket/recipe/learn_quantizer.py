"""The quantiser while it is learnt: gradients past the codes, k-means to begin with, moving averages after that.

The buffers are the engine's own, so what is learnt is at once what the engine computes with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.model.quantizer import LEAST_USAGE, ResidualQuantizer, SplitQuantizer

LEAST_SHARE = 0.1
"""Of the mean usage: below it a centroid counts as dead."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """A latent as the codes give it back, with gradients that pass straight to what was quantised.

    `semantic`, `acoustic`: the two branches' parts of the decoder's input, [B, C, n]. `codes`: [B, codebooks, n] int64.
    `left`: what each codebook was given, [codebooks, B * n, dimension], for its moving average. `commit`: how far off
    the centroids it was, mean square.
    """

    semantic: Tensor
    acoustic: Tensor
    codes: Tensor
    left: Tensor
    commit: Tensor

    @property
    def latent(self) -> Tensor:
        return self.semantic + self.acoustic


def quantise(quantizer: SplitQuantizer, latent: Tensor) -> Quantised:
    """Nearest centroids as `SplitQuantizer.encode` finds them; [B, C, n], in float32."""
    first, rest = (_quantise(branch, latent.float()) for branch in (quantizer.rvq_first, quantizer.rvq_rest))
    return Quantised(
        first[0],
        rest[0],
        torch.cat((first[1], rest[1]), 1),
        torch.cat((first[2], rest[2])),
        F.mse_loss(first[3], first[4]) + F.mse_loss(rest[3], rest[4]),
    )


def _quantise(branch: ResidualQuantizer, latent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output [B, C, n], codes [B, used, n], what each codebook was given; the projected latent and its centroids."""
    rows, _, frames = latent.shape
    given = F.linear(latent.transpose(1, 2).flatten(0, 1), branch.input_proj.weight[:, :, 0])  # [B * n, dimension]
    left, codes, before = given.detach(), [], []
    for centroids, half_norms in zip(branch.centroids, branch.half_norms, strict=True):
        code = torch.addmm(half_norms, left, centroids.t(), beta=-1).argmax(dim=1)
        codes.append(code)
        before.append(left)
        left = left - F.embedding(code, centroids)
    found = given.detach() - left
    through = given + (found - given).detach()
    out = F.linear(through, branch.output_proj.weight[:, :, 0]).view(rows, frames, -1).transpose(1, 2)
    return out, torch.stack(codes).view(-1, rows, frames).transpose(0, 1), torch.stack(before), given, found


def projected(quantizer: SplitQuantizer, latent: Tensor) -> tuple[Tensor, Tensor]:
    """The latent's way through each branch's projections with nothing quantised, twice [B, C, n]."""
    first, rest = (
        branch.output_proj(branch.input_proj(latent)) for branch in (quantizer.rvq_first, quantizer.rvq_rest)
    )
    return first, rest


@torch.no_grad()
def average(quantizer: SplitQuantizer, codes: Tensor, left: Tensor, decay: float, generator: torch.Generator) -> int:
    """Move each centroid towards the mean of what chose it (van den Oord et al., arXiv 1711.00937, appendix A.1).

    A centroid that is chosen less than LEAST_SHARE of its fair share is replaced by something the batch holds. Gives
    how many were. Codes [B, codebooks, n]; left [codebooks, B * n, dimension] as in `Quantised`.
    """
    flat = codes.transpose(0, 1).flatten(1)
    replaced = 0
    for (usage, total), chosen, given in zip(_books(quantizer), flat, left, strict=True):
        usage.lerp_(torch.bincount(chosen, minlength=len(usage)).to(usage.dtype), 1 - decay)
        total.lerp_(torch.zeros_like(total).index_add_(0, chosen, given.to(total.dtype)), 1 - decay)
        fair = usage.mean()
        dead = (usage < LEAST_SHARE * fair).nonzero()[:, 0]
        pick = torch.randint(len(given), (len(dead),), generator=generator).to(given.device)
        usage[dead], total[dead] = fair, given[pick].to(total.dtype) * fair
        replaced += len(dead)
    _prepare(quantizer)
    return replaced


@torch.no_grad()
def cluster(quantizer: SplitQuantizer, latent: Tensor, rounds: int, generator: torch.Generator) -> None:
    """Set all centroids by k-means on latents [B, C, n], one codebook after the other, each on what is left over."""
    books = iter(_books(quantizer))
    for branch in (quantizer.rvq_first, quantizer.rvq_rest):
        left = F.linear(latent.transpose(1, 2).flatten(0, 1), branch.input_proj.weight[:, :, 0])
        for usage, total in (next(books) for _ in range(branch.used)):
            counts, sums, nearest = _k_means(left, len(usage), rounds, generator)
            fair = counts.mean()  # as after a long average of batches of one code's fair share each
            usage.copy_(counts / fair)
            total.copy_(sums / fair)
            left = left - (sums / counts[:, None].clamp(min=LEAST_USAGE))[nearest]
    _prepare(quantizer)


def _k_means(points: Tensor, size: int, rounds: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Counts [size], sums [size, d] and each point's cluster. An empty cluster starts again on a point."""
    if len(points) < size:
        raise ValueError(f"{len(points)} frames cannot make {size} centroids; give it a larger batch")
    centroids = _spread_out(points, size, generator)
    for _ in range(rounds):
        nearest = torch.addmm(centroids.square().sum(1) / 2, points, centroids.t(), beta=-1).argmax(1)
        counts = torch.bincount(nearest, minlength=size).to(points.dtype)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        empty = (counts == 0).nonzero()[:, 0]
        pick = torch.randint(len(points), (len(empty),), generator=generator).to(points.device)
        counts[empty], sums[empty] = 1, points[pick]
        centroids = sums / counts[:, None]
    return counts, sums, nearest


def _spread_out(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """`size` of the points, each drawn the likelier the further it lies from those before (k-means++)."""
    draws = torch.rand(size, generator=generator, dtype=torch.float64).to(points.device)
    chosen = points[:1]
    distance = (points - chosen).square().sum(1)
    for draw in draws[1:]:
        odds = distance.double().cumsum(0)
        pick = points[torch.searchsorted(odds, draw * odds[-1]).clamp(max=len(points) - 1)]
        chosen = torch.cat((chosen, pick[None]))
        distance = torch.minimum(distance, (points - pick).square().sum(1))
    return chosen


def _books(quantizer: SplitQuantizer) -> list[tuple[Tensor, Tensor]]:
    """Usage [bins] and sums [bins, dimension] of each codebook in use, the semantic one first."""
    books = []
    for branch in (quantizer.rvq_first, quantizer.rvq_rest):
        buffers = dict(branch.named_buffers())
        names = [f"vq.layers.{index}._codebook" for index in range(branch.used)]
        books += [(buffers[f"{name}.cluster_usage"], buffers[f"{name}.embedding_sum"]) for name in names]
    return books


def _prepare(quantizer: SplitQuantizer) -> None:
    quantizer.rvq_first.prepare()
    quantizer.rvq_rest.prepare()
