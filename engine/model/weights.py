"""Weights of the large linear maps in 8 bits or 4, where they are stored or wanted so.

A `Packed` weight is a module that stands where a float parameter [out, in] stood, under the same name; `project`
multiplies by either. What is computed is always x W, with W as its few bits have it: only weights are rounded, not what
passes through. Integers up to 127 and all fp8 values are exact in bfloat16, so `RowScaled` scales what comes out.

On a CUDA device `products` reads them as they lie; elsewhere they are written out for each product.

The published 8-bit form has int8 [out, in] and, as `weight_scb`, the greatest magnitude of each row in float32: a
weight is codes * scb / 127. Scales stay float32 whatever the activations are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache
from importlib import import_module
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Packing: TypeAlias = Literal["stored", "none", "fp8", "int8", "int4"]
"""How large linear maps lie in memory: as the file has them, as plain numbers, or in so many bits."""

Wanted: TypeAlias = Literal["auto", "bf16", "fp8", "int8", "int4"]
"""The setting."""

MOST_INT8 = 127
MOST_INT4 = 7
MOST_FP8 = 448.0
"""The greatest magnitude of a code; fp8 is float8_e4m3fn, which has no infinity."""

GROUP = 128
"""Weights of a row that share a 4-bit scale, at most."""

LEAST_GROUP = 8
"""At least: with fewer, the scales are what is stored."""

SLOW_BANDWIDTH = 1e12
"""Bytes a second below which reading 16-bit weights takes most of a frame: an L4 has 0.3e12, an A100 1.5e12 or more."""

FP8_CAPABILITY = (8, 9)
"""The first CUDA cards that know fp8 (Ada); Hopper has 9.0."""


class Packed(nn.Module, ABC):
    """A weight [out, in] in few bits. It asks for no gradients, and is never written."""

    @abstractmethod
    def project(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """x [..., in] -> [..., out], or of some rows of the weight only."""

    @abstractmethod
    def plain(self) -> Tensor:
        """The weight [out, in] as numbers, float32."""


class RowScaled(Packed):
    """Codes [out, in] of one byte, int8 or fp8, and a float32 scale [out] for each row."""

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    def project(self, x: Tensor, rows: slice | None = None) -> Tensor:
        codes, scale = (self.codes, self.scale) if rows is None else (self.codes[rows], self.scale[rows])
        if (kernels := _kernels(x, scale)) is not None:
            made: Tensor = kernels.by_rows(x, codes, scale)
            return made
        return (F.linear(x, codes.to(x.dtype)) * scale).to(x.dtype)

    def plain(self) -> Tensor:
        return self.codes.float() * self.scale[:, None]


class GroupScaled(Packed):
    """Codes of four bits, two to a byte [out, in / 2], and a float32 scale [out, groups] for each group of a row.

    The lower half of a byte is the earlier weight; a half holds the code plus 8.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    def project(self, x: Tensor, rows: slice | None = None) -> Tensor:
        codes, scale = (self.codes, self.scale) if rows is None else (self.codes[rows], self.scale[rows])
        if (kernels := _kernels(x, scale)) is not None:
            made: Tensor = kernels.by_groups(x, codes, scale)
            return made
        return F.linear(x, _unpacked(codes, scale, x.dtype))

    def plain(self) -> Tensor:
        return _unpacked(self.codes, self.scale, torch.float32)


def _unpacked(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    halves = torch.stack((codes & 15, codes >> 4), -1).flatten(1).to(torch.int8) - 8  # [out, in]
    groups = halves.view(*scale.shape, -1)
    return (groups * scale[..., None]).flatten(1).to(dtype)


@cache
def _products() -> Any:
    """`products`, where triton is."""
    try:
        return import_module("engine.model.products")
    except ImportError:
        return None


def _kernels(x: Tensor, scale: Tensor) -> Any:
    """Kernels that read such a weight as it lies; None where torch has to write it out first."""
    kernels = _products() if x.is_cuda else None
    return kernels if kernels is not None and kernels.takes(x, scale) else None


def project(x: Tensor, weight: Tensor | Packed, rows: slice | None = None) -> Tensor:
    """x [..., in] times a weight [out, in], or times some of its rows -> [..., out]."""
    if isinstance(weight, Packed):
        return weight.project(x, rows)
    return F.linear(x, weight if rows is None else weight[rows])


class Linear(nn.Linear):
    """W x. A call is `forward` itself, here as in all that a step goes through: a step makes hundreds, and torch's way
    there, past hooks that nobody has set, is longer than most of the products."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight)

    __call__ = forward


# --- making them ---------------------------------------------------------------------------------------------------


def published(codes: Tensor, scb: Tensor) -> RowScaled:
    """The published form: int8 codes and the greatest magnitude of each row."""
    return RowScaled(codes, scb.float() / MOST_INT8)


def pack(weight: Tensor, packing: Packing) -> Packed:
    """A float weight [out, in] in so many bits, each row or group scaled to its greatest magnitude.

    In `int4`, a row that does not part into groups of LEAST_GROUP or more gets 8 bits.
    """
    numbers = weight.float()
    if packing == "fp8":
        codes, scale = _scaled(numbers, MOST_FP8)
        return RowScaled(codes.to(torch.float8_e4m3fn), scale)
    group = math.gcd(weight.shape[1], GROUP)
    if packing == "int4" and group >= LEAST_GROUP:
        codes, scale = _scaled(numbers.view(len(weight), -1, group), MOST_INT4)
        halves = (codes.round() + 8).to(torch.uint8).view(len(weight), -1, 2)
        return GroupScaled(halves[..., 0] | halves[..., 1] << 4, scale)
    codes, scale = _scaled(numbers, MOST_INT8)
    return RowScaled(codes.round().to(torch.int8), scale)


def _scaled(numbers: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Numbers [..., n] brought into [-most, most], and by what each line is to be multiplied to undo that."""
    greatest = numbers.abs().amax(-1)
    greatest = torch.where(greatest == 0, 1.0, greatest)
    factor = torch.full_like(greatest, most) / greatest  # a plain number would be multiplied by a rounded 1 / greatest
    return (numbers * factor[..., None]).clamp(-most, most), greatest / most


# --- which -----------------------------------------------------------------------------------------------------------


def choose(
    wanted: Wanted, device: str, bandwidth: float | None = None, capability: tuple[int, int] = (0, 0)
) -> tuple[torch.dtype, Packing]:
    """The type of the activations and how weights are packed, on a kind of device that reads so many bytes a second.

    `auto` is as the file has them, but int8 on a CUDA card that is slow to read; without CUDA it computes in float32.
    Raises ValueError where the device cannot do what is wanted.
    """
    if wanted == "fp8" and not (device == "cuda" and capability >= FP8_CAPABILITY):
        raise ValueError("fp8 needs a CUDA card of compute capability 8.9 or later; int8 runs anywhere")
    dtype = torch.bfloat16 if device == "cuda" or wanted == "bf16" else torch.float32
    if wanted == "auto":
        return dtype, "int8" if bandwidth is not None and bandwidth < SLOW_BANDWIDTH else "stored"
    return dtype, "none" if wanted == "bf16" else wanted


def precision(wanted: Wanted, device: torch.device) -> tuple[torch.dtype, Packing]:
    """As `choose`, of a device of this machine."""
    if device.type != "cuda":
        return choose(wanted, device.type)
    card = torch.cuda.get_device_properties(device)
    bandwidth = 2 * card.memory_clock_rate * 1e3 * card.memory_bus_width / 8  # kHz, both edges; bits
    return choose(wanted, "cuda", bandwidth, (card.major, card.minor))
