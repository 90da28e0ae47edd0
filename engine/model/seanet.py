"""SEANet, the convolutions of Mimi: waveform <-> latent at 25 Hz, causal, streamed with an explicit state.

Tensors are [B, C, T] (rows, channels, positions). What a convolution must remember of a row's past is its *carry*,
[B, C, kernel - stride]; a call updates the carries of the rows in `mask` in place and leaves the others bit-identical;
a mask of None runs every row.
A call of n chunks equals n calls of one chunk, and a fresh state is the zero padding of the offline network.

Kernels and strides: SEANet (arXiv 2009.02095) as Mimi has it (Moshi paper, section 3.3): a transposed convolution's
kernel is twice its stride, one residual block a stage, ELU, no normalisation. Module names are those of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.model.rows import Rows

FEW_POSITIONS = 16
"""Up to so many output positions, a convolution is one matrix product that reads the weights once, in place. The CPU's
convolution kernels rearrange all weights first: 57 ms instead of 3 for the first transposed one at 2 positions."""


@dataclass(frozen=True)
class SeanetConfig:
    """Sizes under their published names. `ratios` are the decoder's strides; the encoder's are the same, reversed."""

    dimension: int = 512
    n_filters: int = 64
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    kernel_size: int = 7
    residual_kernel_size: int = 3
    last_kernel_size: int = 3
    compress: int = 2


@dataclass
class ConvState:
    """The carries of a network's convolutions, in the order in which they run; each [B, C, samples]."""

    carries: tuple[Tensor, ...]

    def reset(self, rows: Tensor) -> None:
        """Forget the past of `rows`, [B] bool."""
        for carry in self.carries:
            carry.masked_fill_(rows[:, None, None], 0)

    def select(self, rows: Rows) -> ConvState:
        """The state of some rows, to run them alone; `merge` takes it back."""
        return ConvState(tuple(map(rows.take, self.carries)))

    def merge(self, rows: Rows, selected: ConvState) -> None:
        """Take back what `select` gave, once it has run."""
        for carry, taken in zip(self.carries, selected.carries, strict=True):
            rows.put(carry, taken)


def initial_state(network: nn.Module, rows: int, device: torch.device | str | None = None) -> ConvState:
    """Fresh rows for the convolutions inside `network`, on their own device unless told otherwise."""
    return ConvState(
        tuple(
            torch.zeros(rows, *layer.carry_shape, device=device or layer.weight.device, dtype=layer.weight.dtype)
            for layer in network.modules()
            if isinstance(layer, (CausalConv, CausalConvTranspose)) and layer.carry_shape[1]
        )
    )


def _remember(carry: Tensor, new: Tensor, mask: Tensor | None) -> None:
    carry.copy_(new if mask is None else torch.where(mask[:, None, None], new, carry))


class _Conv(nn.Module):
    """The weights' files name each convolution twice: conv.conv."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.conv = conv


class _ConvTranspose(nn.Module):
    """And so the transposed ones: convtr.convtr."""

    def __init__(self, convtr: nn.ConvTranspose1d) -> None:
        super().__init__()
        self.convtr = convtr


class CausalConv(nn.Module):
    """[B, inputs, T] -> [B, outputs, T / stride]; T is a multiple of the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = _Conv(nn.Conv1d(inputs, outputs, kernel, stride, bias=bias))
        self.kernel, self.stride = kernel, stride
        self.carry_shape = (inputs, kernel - stride)

    @property
    def weight(self) -> Tensor:
        return self.conv.conv.weight

    def forward(self, x: Tensor, carries: Iterator[Tensor], mask: Tensor | None) -> Tensor:
        if past := self.carry_shape[1]:
            carry = next(carries)
            x = torch.cat((carry, x), dim=2)
            _remember(carry, x[:, :, -past:], mask)
        weight, bias = self.conv.conv.weight, self.conv.conv.bias
        if (x.shape[2] - self.kernel) // self.stride >= FEW_POSITIONS:
            return F.conv1d(x, weight, bias, self.stride)
        patches = x.unfold(2, self.kernel, self.stride).transpose(1, 2).flatten(2)  # [B, T / stride, inputs * kernel]
        return F.linear(patches, weight.flatten(1), bias).transpose(1, 2)

    __call__ = forward  # as of the transformers' layers


class CausalConvTranspose(nn.Module):
    """[B, inputs, T] -> [B, outputs, T * stride]. The carry is what the last position adds to the next outputs.

    `depthwise`: each channel by itself, as in Mimi's upsampling.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, bias: bool = True, depthwise: bool = False) -> None:
        super().__init__()
        groups = inputs if depthwise else 1
        self.convtr = _ConvTranspose(
            nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride, groups=groups, bias=bias),
        )
        self.stride, self.groups = stride, groups
        self.carry_shape = (outputs, stride)

    @property
    def weight(self) -> Tensor:
        return self.convtr.convtr.weight

    def forward(self, x: Tensor, carries: Iterator[Tensor], mask: Tensor | None) -> Tensor:
        carry = next(carries)
        y = self._spread(x, carry)
        _remember(carry, y[:, :, -self.stride :], mask)
        y, bias = y[:, :, : -self.stride], self.convtr.convtr.bias
        # The bias comes last, so that the carry does not bring it a second time.
        return y if bias is None else y + bias[:, None]

    __call__ = forward

    def _spread(self, x: Tensor, carry: Tensor) -> Tensor:
        """Each position's contribution to two strides of outputs, with the carry but without the bias:
        [B, outputs, (T + 1) * stride]."""
        rows, _, positions = x.shape
        if positions > FEW_POSITIONS:
            y = F.conv_transpose1d(x, self.weight, None, self.stride, groups=self.groups)
            y[:, :, : self.stride].add_(carry)
            return y
        x = x.transpose(1, 2)
        taps = x @ self.weight.flatten(1) if self.groups == 1 else x[..., None] * self.weight[:, 0]
        taps = taps.view(rows, positions, -1, 2, self.stride).permute(0, 2, 3, 1, 4)  # [B, outputs, 2, T, stride]
        y = torch.cat((carry[:, :, None], taps[:, :, 1]), 2)
        y[:, :, :-1].add_(taps[:, :, 0])
        return y.flatten(2)


class ResidualBlock(nn.Module):
    """x + conv1(elu(conv3(elu(x)))), [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int, kernel: int, compress: int) -> None:
        super().__init__()
        hidden = channels // compress
        self.block = nn.ModuleList(
            [nn.ELU(), CausalConv(channels, hidden, kernel), nn.ELU(), CausalConv(hidden, channels, 1)]
        )

    def forward(self, x: Tensor, carries: Iterator[Tensor], mask: Tensor | None) -> Tensor:
        return x + _run(self.block, x, carries, mask)


def _run(layers: nn.ModuleList, x: Tensor, carries: Iterator[Tensor], mask: Tensor | None) -> Tensor:
    for layer in layers:
        x = F.elu(x) if isinstance(layer, nn.ELU) else layer(x, carries, mask)
    return x


class _Seanet(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.model = nn.ModuleList(layers)

    def forward(self, x: Tensor, state: ConvState, mask: Tensor | None) -> Tensor:
        return _run(self.model, x, iter(state.carries), mask)


class SeanetEncoder(_Seanet):
    """Waveform [B, 1, T * prod(ratios)] -> latent [B, dimension, T]."""

    def __init__(self, config: SeanetConfig) -> None:
        widths = [config.n_filters << stage for stage in range(len(config.ratios) + 1)]
        layers: list[nn.Module] = [CausalConv(1, widths[0], config.kernel_size)]
        for (inputs, outputs), stride in zip(pairwise(widths), reversed(config.ratios), strict=True):
            layers += [
                ResidualBlock(inputs, config.residual_kernel_size, config.compress),
                nn.ELU(),
                CausalConv(inputs, outputs, 2 * stride, stride),
            ]
        super().__init__([*layers, nn.ELU(), CausalConv(widths[-1], config.dimension, config.last_kernel_size)])


class SeanetDecoder(_Seanet):
    """Latent [B, dimension, T] -> waveform [B, 1, T * prod(ratios)], not clamped."""

    def __init__(self, config: SeanetConfig) -> None:
        widths = [config.n_filters << stage for stage in reversed(range(len(config.ratios) + 1))]
        layers: list[nn.Module] = [CausalConv(config.dimension, widths[0], config.kernel_size)]
        for (inputs, outputs), stride in zip(pairwise(widths), config.ratios, strict=True):
            layers += [
                nn.ELU(),
                CausalConvTranspose(inputs, outputs, stride),
                ResidualBlock(outputs, config.residual_kernel_size, config.compress),
            ]
        super().__init__([*layers, nn.ELU(), CausalConv(widths[-1], 1, config.last_kernel_size)])
