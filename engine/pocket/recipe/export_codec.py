"""The trained codec as a published-format checkpoint's files, and the codes it gives the agent's clips.

The encoder is rounded to bfloat16 before its tokens are final, so the file holds exactly what made them; the decoder is
rounded when it is written, which nobody hears. The codebooks' sums and counts stay float32.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.model.mimi import Mimi, MimiConfig
from engine.pocket.recipe.formats import Audio
from engine.pocket.recipe.offline_codec import OfflineCodec
from engine.slot import FRAME_SAMPLES

MIMI: dict[str, Any] = {
    "sample_rate": 24000,
    "frame_rate": 12.5,
    "seanet": {"n_filters": 16, "dimension": 256, "ratios": [8, 6, 5, 4]},
    "transformer": {"d_model": 256, "num_heads": 4, "num_layers": 2, "dim_feedforward": 1024, "context": 250},
    "quantizer": {"input_dimension": 256, "dimension": 128, "n_q": 8, "bins": 512},
}
"""The embedded codec, in the published package's form. What is not said is as published."""

WEIGHTS, CONFIG = "mimi.safetensors", "mimi.json"

UNTRAINED = "tokens final, decoder untrained"
"""The note of a codec that can only listen yet."""

ENCODER = ("encoder.", "encoder_transformer.", "downsample.", "quantizer.")
"""What decides the tokens."""

LEAD_FRAMES = 13
"""Of silence before a clip: from the thirteenth on its codes do not change (`checkpoint.STEADY_FRAMES`)."""


def build(config: dict[str, Any]) -> Mimi:
    """A codec of that form; its weights are torch's."""
    sizes = MimiConfig.from_dict(config)
    return Mimi(sizes, sizes.quantizer.n_q)


@torch.no_grad()
def round_encoder(mimi: Mimi) -> None:
    """To bfloat16, in place, all weights that the tokens depend on but for the centroids."""
    for name, weight in mimi.named_parameters():
        if name.startswith(ENCODER):
            weight.copy_(weight.bfloat16())


def write_codec(mimi: Mimi, folder: Path, config: dict[str, Any], note: str) -> None:
    """The weights, `note` within them, and their config.

    Raises ValueError where the encoder is not rounded yet: the file would make other tokens.
    """
    tensors = {}
    for name, tensor in mimi.state_dict().items():
        books = "_codebook" in name
        tensors[name] = tensor.detach().cpu().float() if books else tensor.detach().cpu().bfloat16()
        if not books and name.startswith(ENCODER) and not torch.equal(tensors[name].float(), tensor.cpu()):
            raise ValueError(f"{name} is not rounded to bfloat16; finish the encoder's training first")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{WEIGHTS}.part"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, {"note": note})
    part.rename(folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_codec(folder: Path) -> Mimi:
    """What `write_codec` wrote, in float32, as the engine runs it. Raises ValueError where it is not there."""
    if not (folder / WEIGHTS).exists():
        raise ValueError(f"there is no codec in {folder}; make it first with engine.pocket.recipe.train_codec encoder")
    mimi = build(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    mimi.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()})
    return mimi.eval().requires_grad_(False)


def note_of(folder: Path) -> str:
    """The note within the weights' file."""
    opened: Any = safe_open(folder / WEIGHTS, framework="pt")  # the package does not type its methods
    with opened as file:
        return str(file.metadata()["note"])


@torch.no_grad()
def encode_after_silence(mimi: Mimi, clips: Sequence[Audio]) -> list[NDArray[np.int64]]:
    """Each clip by itself, so that its codes are constants whatever was said before."""
    offline, device, coded = OfflineCodec(mimi), next(mimi.parameters()).device, []
    for audio in clips:
        if len(audio) % FRAME_SAMPLES:
            raise ValueError(f"a clip of {len(audio)} samples does not end on a frame's edge ({FRAME_SAMPLES})")
        samples = np.pad(audio, (LEAD_FRAMES * FRAME_SAMPLES, 0))
        codes = offline.encode(torch.from_numpy(samples).to(device)[None, None])
        coded.append(codes[0, :, LEAD_FRAMES:].t().cpu().numpy())
    return coded
