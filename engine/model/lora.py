"""LoRA adapters, fused into the linear maps that they adapt (Hu et al. 2021, arXiv 2106.09685).

A file holds, for each map that it adapts, `NAME.lora_A.weight` [rank, in] and `NAME.lora_B.weight` [out, rank]; the map
becomes W + scaling B A. Fused, it costs nothing in a step. NAME is any that the map has in a checkpoint; where all
depth steps lie in one tensor, their adapters may too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.model.stored import STACKED, UNUSED, open_tensors, our_name
from engine.slot import CheckpointError

HALF = re.compile(r"(.+)\.lora_([AB])\.weight")


class Lora:
    """The adapters of a file. Raises CheckpointError where it is none, torn, or holds anything else."""

    def __init__(self, path: Path, rank: int, scaling: float) -> None:
        self._path, self._rank, self._scaling = path, rank, scaling
        self._file, names = open_tensors(path)
        self._halves: dict[str, dict[tuple[int, str], str]] = {}
        for name in names:
            if (found := HALF.fullmatch(name)) is None:
                raise CheckpointError(f"{str(path)!r} holds tensor {name!r}, which is no LoRA weight")
            ours, part = our_name(f"{found[1]}.weight")
            self._halves.setdefault(ours, {})[part, found[2]] = name

    def check(self, linears: Mapping[str, tuple[int, ...]]) -> None:
        """Raises CheckpointError that names an adapter which is not whole, or fits none of `linears` (name, [out, in]).

        Adapters of depth steps that are not run may be left over.
        """
        for name in self._halves:
            if name in linears:
                self._check(name, linears[name])
            elif not UNUSED.fullmatch(name):
                raise CheckpointError(f"{str(self._path)!r} adapts {name!r}, which is no linear map of this model")

    def _check(self, name: str, wanted: tuple[int, ...]) -> None:
        rows, stacked = 0, STACKED.fullmatch(name) is not None
        for first, second in self._pairs(name):
            (ranks, inputs), (outputs, rank) = self._shape(first), self._shape(second)
            steps = ranks // self._rank
            if rank != self._rank or not steps or ranks % self._rank or outputs % steps or (steps > 1 and not stacked):
                raise CheckpointError(
                    f"{str(self._path)!r}: the adapter of {name!r} has shapes {[ranks, inputs]} and {[outputs, rank]}; "
                    f"the config says that its rank is {self._rank} (lora_rank)"
                )
            if inputs != wanted[1]:
                raise CheckpointError(
                    f"{str(self._path)!r}: {first!r} reads {inputs} channels; the map has {wanted[1]}"
                )
            rows += outputs
        if rows != wanted[0] and not (stacked and rows > wanted[0]):
            raise CheckpointError(f"{str(self._path)!r}: the adapter of {name!r} makes {rows} rows, not {wanted[0]}")

    def _pairs(self, name: str) -> list[tuple[str, str]]:
        """Names of A and B of each part, in order."""
        halves = self._halves[name]
        wanted = [(part, half) for part in range((len(halves) + 1) // 2) for half in "AB"]
        if sorted(halves) != wanted:
            raise CheckpointError(
                f"{str(self._path)!r}: the adapter of {name!r} lacks a part: {sorted(halves.values())}"
            )
        return [(halves[part, "A"], halves[part, "B"]) for part, half in wanted if half == "A"]

    def _shape(self, name: str) -> tuple[int, int]:
        shape = tuple(self._file.get_slice(name).get_shape())
        if len(shape) != 2:
            raise CheckpointError(f"{str(self._path)!r}: {name!r} has shape {list(shape)}; it must be a matrix")
        return shape[0], shape[1]

    def fused(self, name: str, weight: Tensor) -> Tensor:
        """A weight [out, in] with its adapter, float32; as it is where it has none. Raises CheckpointError."""
        if name not in self._halves:
            return weight
        try:
            pairs = [[self._file.get_tensor(half) for half in pair] for pair in self._pairs(name)]
        except SafetensorError as error:
            raise CheckpointError(f"the adapter of {name!r} in {str(self._path)!r} cannot be read: {error}") from None
        added = torch.cat([self._product(first.to(weight.device), second.to(weight.device)) for first, second in pairs])
        return weight.float() + self._scaling * added[: len(weight)]

    def _product(self, first: Tensor, second: Tensor) -> Tensor:
        """B A, or as many as are stacked: [steps * rank, in], [steps * out, rank] -> [steps * out, in]."""
        steps = len(first) // self._rank
        first, second = first.float().view(steps, self._rank, -1), second.float().view(steps, -1, self._rank)
        return torch.bmm(second, first).flatten(0, 1)
