"""A safetensors file as a module's weights: published names, strictly, one tensor at a time.

A tensor that is missing, left over, of another shape or kind is an error that names it. Only trailing codebooks and
depth steps that the module does not run may be left over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.model.moshi import linear_maps
from engine.model.weights import Packed, Packing, pack, published
from engine.slot import CheckpointError

ALIASES = (
    (re.compile(r"\.in_proj\.weight$"), ".in_proj_weight"),
    (re.compile(r"\.in_projs\.(\d+)\.weight$"), ".in_proj_weight"),
    (re.compile(r"\.out_projs\.(\d+)\.weight$"), ".out_proj.weight"),
    (re.compile(r"\._codebook\.inited$"), "._codebook._initialized"),
    (re.compile(r"\._codebook\.cluster_size$"), "._codebook.cluster_usage"),
    (re.compile(r"\._codebook\.embed_(?:avg|sum)$"), "._codebook.embedding_sum"),
)
"""Names that newer or older programs write, and ours. A number is a part of the tensor of our name, in its order."""

UNUSED = re.compile(
    r"quantizer\.rvq_rest\.vq\.layers\.\d+\..+|(linears|depformer_in|depformer_emb|depformer_norms|depformer\.layers\.\d+\.gating)\.\d+\..+"
)
"""Codebooks and depth steps, of which the last may be left over."""

UNHEARD = re.compile(r"emb\.\d+\.weight")
"""Codebooks that a model which only listens may do without: it was trained on any number of the first."""

STACKED = re.compile(r"depformer\.layers\.\d+\.self_attn\.(in_proj_weight|out_proj\.weight)(_scb)?")
"""All depth steps in one tensor, of which the last may be left over."""

SCALES = "_scb"
"""What the name of an 8-bit weight's scales has behind the weight's."""

M = TypeVar("M", bound=nn.Module)


class Adapters(Protocol):
    """What is added to linear maps as they are read: `engine.model.lora`."""

    def check(self, linears: Mapping[str, tuple[int, ...]]) -> None:
        """Raises CheckpointError unless all of it fits these."""

    def fused(self, name: str, weight: Tensor) -> Tensor:
        """The weight with what belongs to it."""


class Stored:
    """The tensors of a safetensors file under our names. Raises CheckpointError where the file is none, or torn.

    `quantised`: the large linear maps are in 8 bits, in the published form.
    """

    def __init__(self, path: Path, quantised: bool = False) -> None:
        self._path = path
        self.quantised = quantised
        self._stamp = _stamp(path)
        self._file, names = open_tensors(path)
        self._parts: dict[str, dict[int, str]] = {}
        for name in names:
            ours, part = our_name(name)
            if part in self._parts.setdefault(ours, {}):
                raise CheckpointError(f"{str(path)!r} holds tensor {ours!r} twice, once as {name!r}")
            self._parts[ours][part] = name

    def count(self, group: str) -> int:
        """How many tensors `group.N.weight` there are."""
        return sum(1 for name in self._parts if re.fullmatch(rf"{group}\.\d+\.weight", name))

    @property
    def depth_steps(self) -> int:
        """How many depth steps a language model's file holds. Each has both tensors; one may be missing."""
        return max(self.count("linears"), self.count("depformer_in"))

    def shape(self, name: str) -> tuple[int, ...]:
        """Of all its parts together. Raises CheckpointError if it is not there, or a part is missing or unlike."""
        parts = self._parts.get(name)
        if parts is None:
            raise CheckpointError(f"{str(self._path)!r} lacks tensor {name!r}")
        shapes = [tuple(self._file.get_slice(part).get_shape()) for part in parts.values()]
        if sorted(parts) != list(range(len(parts))) or len(set(shapes)) > 1 or (len(parts) > 1 and not shapes[0]):
            found = ", ".join(f"{part!r} {list(shape)}" for part, shape in zip(parts.values(), shapes, strict=True))
            raise CheckpointError(f"{str(self._path)!r}: the parts of tensor {name!r} do not make a whole: {found}")
        return shapes[0] if len(parts) == 1 else (len(parts) * shapes[0][0], *shapes[0][1:])

    def check(self, wanted: Mapping[str, tuple[int, ...]], linears: Iterable[str] = ()) -> None:
        """Raises CheckpointError that names a tensor which is missing, of another shape or kind, or left over.

        `linears` are those of `wanted` that a quantised file has in 8 bits.
        """
        scales = {name + SCALES: wanted[name][:1] for name in linears} if self.quantised else {}
        everything = {**wanted, **scales}
        for name, shape in everything.items():
            if not _fits(name, self.shape(name), shape):
                raise CheckpointError(
                    f"tensor {name!r} in {str(self._path)!r} has shape {list(self.shape(name))}; "
                    f"the config makes it {list(shape)}"
                )
            self._check_kind(name, in_8_bits=name + SCALES in scales, is_scale=name in scales)
        for name in (name for name in self._parts if name not in everything):
            base = name.removesuffix(SCALES)
            if base in wanted and not self.quantised:
                raise CheckpointError(
                    f"{str(self._path)!r} holds tensor {name!r}, the scales of 8-bit weights, but the config does not "
                    "say that it is quantised (quantize)"
                )
            if not (UNUSED.fullmatch(name) or (UNHEARD.fullmatch(name) and "linears.0.weight" not in wanted)):
                raise CheckpointError(f"{str(self._path)!r} holds tensor {name!r}, which this model does not have")

    def _check_kind(self, name: str, in_8_bits: bool, is_scale: bool) -> None:
        kinds = {self._file.get_slice(part).get_dtype() for part in self._parts[name].values()}
        if is_scale:
            right, wanted = (
                kinds == {"F32"},
                "scales of 8-bit weights must be F32: in fewer bits they spoil a whole row",
            )
        elif in_8_bits:
            right, wanted = kinds == {"I8"}, "the config says that it is quantised (quantize), so it must be I8"
        else:
            right = all(kind in {"F64", "F32", "F16", "BF16"} for kind in kinds) or self.shape(name) in {(), (1,)}
            wanted = "it must be a floating-point type, or the config must say that it is quantised (quantize)"
        if not right:
            raise CheckpointError(f"tensor {name!r} in {str(self._path)!r} is {'/'.join(sorted(kinds))}; {wanted}")

    def read(self, name: str, rows: int | None = None) -> Tensor:
        """The tensor, or its first `rows`, without what is left over at its end. Raises CheckpointError.

        It lies in a mapping of the file that ends with it: one for all would count as memory, as far as it was read.
        """
        if _stamp(self._path) != self._stamp:
            raise CheckpointError(f"{str(self._path)!r} was written anew while it was read; start again")
        try:
            file, _ = open_tensors(self._path)
            parts = [file.get_tensor(part) for _, part in sorted(self._parts[name].items())]
        except SafetensorError as error:
            raise CheckpointError(f"tensor {name!r} in {str(self._path)!r} cannot be read: {error}") from None
        return (torch.cat(parts) if len(parts) > 1 else parts[0])[:rows]


def open_tensors(path: Path) -> tuple[Any, list[str]]:
    """A safetensors file, and the names in it. Raises CheckpointError where it is none, or torn."""
    try:
        file: Any = safe_open(path, framework="pt")  # the package does not type its methods
        return file, list(file.keys())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{str(path)!r} is not a whole safetensors file: {error}") from None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from one that took its place; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def our_name(name: str) -> tuple[str, int]:
    """The name of a published tensor, or of its scales, in our modules, and which part of that tensor it is."""
    base = name.removesuffix(SCALES)
    for pattern, ours in ALIASES:
        if found := pattern.search(base):
            return pattern.sub(ours, base) + name[len(base) :], int(found[1]) if pattern.groups else 0
    return name, 0


def _fits(name: str, stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if (stacked := STACKED.fullmatch(name)) and stored[1:] == wanted[1:]:
        step = wanted[1] if not stacked[2] else 1  # scales have no columns to count by
        return stored[0] >= wanted[0] and stored[0] % step == 0
    return stored == wanted


class _NoDraw(TorchFunctionMode):
    """torch draws initial weights even where there is no memory for them, and imports its compiler to do so: 2 s."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def fill(
    build: Callable[[], M],
    stored: Stored,
    device: torch.device | str,
    dtype: torch.dtype,
    packing: Packing = "stored",
    adapters: Adapters | None = None,
) -> M:
    """A module with the file's tensors for weights, made without drawing any first; `adapters` are fused into them.

    Raises CheckpointError.
    """
    with torch.device("meta"), _NoDraw():
        module = build()
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    linears = linear_maps(module)
    stored.check(wanted, linears)
    if adapters is not None:
        adapters.check({name: wanted[name] for name in linears})
    tensors: dict[str, Tensor] = {}
    for name, (*shape,) in wanted.items():
        rows = shape[0] if shape else None
        # Copied in any case: what is read lies in the file itself, which somebody may write anew while we serve.
        if name not in linears or (packing in {"stored", "none"} and not stored.quantised and adapters is None):
            tensors[name] = stored.read(name, rows).to(device, dtype, copy=True)
            continue
        weight = _weight(stored, name, rows, device, _packing_of(name, packing), adapters)
        if isinstance(weight, Packed):
            _replace(module, name, weight)
            tensors |= {f"{name}.{part}": value for part, value in weight.state_dict().items()}
        else:
            tensors[name] = weight.to(dtype)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def repack(module: nn.Module, packing: Packing) -> None:
    """Pack the large linear maps of a module whose weights are there, one at a time, as `fill` packs a file's."""
    if packing in {"stored", "none"}:
        return
    for name in sorted(linear_maps(module)):
        _replace(module, name, pack(module.get_parameter(name), _packing_of(name, packing)))


def _packing_of(name: str, packing: Packing) -> Packing:
    """Four bits are for the Temporal Transformer's layers; heads and the Depth Transformer lose too much by them."""
    return "int8" if packing == "int4" and not name.startswith("transformer.") else packing


def _weight(
    stored: Stored,
    name: str,
    rows: int | None,
    device: torch.device | str,
    packing: Packing,
    adapters: Adapters | None,
) -> Packed | Tensor:
    """A large linear map's weight, adapted, and as it is stored or packed anew."""
    weight = stored.read(name, rows).to(device, copy=True)
    if not stored.quantised:
        weight = weight if adapters is None else adapters.fused(name, weight)
        return weight if packing in {"stored", "none"} else pack(weight, packing)
    packed = published(weight, stored.read(name + SCALES, rows).to(device, copy=True))
    if packing in {"stored", "int8"}:
        return packed
    return packed.plain() if packing == "none" else pack(packed.plain(), packing)


def _replace(module: nn.Module, name: str, weight: Packed) -> None:
    """Let `weight` stand where the parameter `name` stood."""
    owner, _, field = name.rpartition(".")
    place = module.get_submodule(owner)
    delattr(place, field)
    setattr(place, field, weight)
