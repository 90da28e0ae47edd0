"""The nano checkpoint: complete and in the published format, small, and random. For tests and first demos.

It has Moshi's rates and streams (1920 samples a frame, 17 streams, the acoustic delay), so all of the agent runs on it
many times faster than real time on one core; what it says is noise, because nobody has trained it.
"""

from __future__ import annotations

import filecmp
import io
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from engine.model.checkpoint import measured_layout
from engine.model.mimi import Mimi, MimiConfig
from engine.model.moshi import Moshi, MoshiConfig
from engine.model.seanet import CausalConv
from engine.model.text import BOS, EOS, EPAD, PAD, Tokenizer
from engine.slot import EngineError

PIECES = 400
"""Size of the tokenizer: 4 special, 256 bytes, the rest learnt."""

TEXT = """
Good morning, thank you for calling. How can I help you today?
Hello, this is Ada speaking. I am a voice agent, and I am happy to help.
One moment please, I will look that up for you. Thank you for waiting.
Could you tell me your name and your telephone number, please?
We are open from nine in the morning until six in the evening, Monday to Friday.
Your appointment is on Tuesday at half past ten. Would that be all right for you?
I am sorry, I did not quite understand that. Could you say it again, a little slower?
Yes, of course. No, not at all. Well, let me think about it. That is a good question.
The price is twenty dollars, and delivery takes three to five working days.
Please hold the line while I connect you with one of my colleagues.
Is there anything else that I can do for you? Then I wish you a very nice day. Goodbye!
You can find us at the station, next to the big market. Take the first street on the left.
What kind of room would you like, and for how many nights will you stay with us?
The weather will be sunny tomorrow, with some wind and a few clouds in the afternoon.
That was my mistake, and it should not have happened. I have changed the order now.
Zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve.
"""
"""What the tokenizer learns its pieces from."""


def train_tokenizer() -> bytes:
    """A SentencePiece model with the published ones' special tokens. The same bytes every time."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.strip().splitlines()),
        model_writer=model,
        vocab_size=PIECES,
        unk_id=EPAD,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=PAD,
        byte_fallback=True,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


MIMI: dict[str, Any] = {
    "sample_rate": 24_000,
    "channels": 1,
    "frame_rate": 12.5,
    "seanet": {
        "channels": 1,
        "dimension": 32,
        "causal": True,
        "n_filters": 2,
        "n_residual_layers": 1,
        "activation": "ELU",
        "compress": 2,
        "dilation_base": 2,
        "disable_norm_outer_blocks": 0,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "norm": "none",
        "pad_mode": "constant",
        "ratios": [8, 6, 5, 4],
        "true_skip": True,
    },
    "transformer": {
        "d_model": 32,
        "num_heads": 2,
        "num_layers": 1,
        "causal": True,
        "layer_scale": 0.3,
        "context": 50,
        "conv_layout": True,
        "max_period": 10_000,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": 64,
        "input_dimension": 32,
        "output_dimensions": [32],
    },
    "quantizer": {"dimension": 16, "n_q": 8, "bins": 128, "input_dimension": 32, "output_dimension": 32},
}
"""The codec as the published package wants it told, in full: small, at the published rates."""

MOSHI: dict[str, Any] = {
    "dim": 64,
    "text_card": PIECES,
    "existing_text_padding_id": PAD,
    "n_q": 16,
    "dep_q": 8,
    "card": 128,
    "num_heads": 4,
    "num_layers": 2,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 500,
    "max_period": 10_000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 32,
    "depformer_dim_feedforward": 132,
    "depformer_num_heads": 2,
    "depformer_num_layers": 1,
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_context": 8,
    "depformer_max_period": 10_000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "delays": [0, *[0, 1, 1, 1, 1, 1, 1, 1] * 2],
}
"""The language model's arguments, in full, for the package takes those of config.json alone. Its window is 40 s."""

LEVEL = 0.05
"""RMS of what it says, about -26 dBov: a voice's level."""

FILES = {
    "moshi_name": "model.safetensors",
    "mimi_name": "mimi.safetensors",
    "mimi_config_name": "mimi.json",
    "tokenizer_name": "tokenizer.model",
}


def write_nano(folder: Path, seed: int) -> None:
    """Write a nano checkpoint into `folder`, which is made. The same seed gives the same files.

    It is there completely or not at all. Raises EngineError where it cannot be written, or other files lie there.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        _write(part, np.random.default_rng(seed))
        if not (folder.is_dir() and _same(part, folder)):
            part.rename(folder)  # onto nothing, or an empty folder
    except OSError as error:
        raise EngineError(f"cannot write the nano checkpoint to {str(folder)!r}: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _same(part: Path, folder: Path) -> bool:
    """Whether all of `part` lies in `folder` already: another process was faster, or it was written before."""
    names = [path.name for path in part.iterdir()]
    return filecmp.cmpfiles(part, folder, names, shallow=False)[0] == names


def _write(folder: Path, random: np.random.Generator) -> None:
    codec, sizes = MimiConfig.from_dict(MIMI), MoshiConfig.from_kwargs(MOSHI)
    mimi = Mimi(codec, codec.quantizer.n_q)
    mimi.load_state_dict(_draw(mimi, random))
    _level(mimi, random)
    layout = measured_layout("text", mimi, sizes.dep_q, sizes.n_q - sizes.dep_q)
    tokenizer = train_tokenizer()
    weights = _draw(Moshi(sizes), random)
    _speak_now_and_then(weights, Tokenizer(tokenizer))
    (folder / FILES["mimi_name"]).write_bytes(save(mimi.state_dict()))
    (folder / FILES["moshi_name"]).write_bytes(save({name: tensor.bfloat16() for name, tensor in weights.items()}))
    (folder / FILES["tokenizer_name"]).write_bytes(tokenizer)
    _write_json(folder / FILES["mimi_config_name"], MIMI)
    _write_json(folder / "config.json", {**FILES, "model_type": "moshi", **MOSHI, "prompt_config": asdict(layout)})


def _draw(module: nn.Module, random: np.random.Generator) -> dict[str, Tensor]:
    """Weights for every tensor, of a size that keeps signals from fading or exploding through the layers."""
    return {
        name: torch.from_numpy(_weight(name, tuple(tensor.shape), random)).to(tensor.dtype)
        for name, tensor in module.state_dict().items()
    }


def _weight(name: str, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
    *_, owner, field = name.split(".")
    if field in {"_initialized", "cluster_usage", "alpha"} or (field == "weight" and owner.startswith("norm")):
        return np.ones(shape, np.float32)
    if field == "scale":
        return np.full(shape, 0.3, np.float32)
    if field == "bias":
        return np.zeros(shape, np.float32)
    fan_in = 1 if "emb" in name else 2 * shape[0] if "convtr.weight" in name else int(np.prod(shape[1:]))
    return random.normal(0, fan_in**-0.5, shape).astype(np.float32)


def _speak_now_and_then(weights: dict[str, Tensor], tokenizer: Tokenizer) -> None:
    """Let the text be mostly PAD, as in a trained model, and else pieces of words rather than single bytes.

    The first channel is the same whatever is heard or said, so what the text head makes of it is a bias.
    """
    weights["text_emb.weight"][:, 0] = 12
    bias = weights["text_linear.weight"][:, 0]
    bias[:] = torch.tensor([0.0 if isinstance(tokenizer.piece(token), str) else -2.0 for token in range(len(bias))])
    bias[BOS] = bias[EOS] = -2
    bias[PAD] = 2


def _level(mimi: Mimi, random: np.random.Generator) -> None:
    """Scale the last convolution until random codes sound at LEVEL."""
    state, mask = mimi.initial_state(1), torch.ones(1, dtype=torch.bool)
    codes = torch.from_numpy(random.integers(0, MOSHI["card"], (50, 1, mimi.codebooks, 1)))
    audio = torch.cat([mimi.decode(frame, state, mask) for frame in codes])
    last = mimi.decoder.model[-1]
    assert isinstance(last, CausalConv)
    # Rounded, so that a machine that adds in another order makes the same weights.
    factor = float(f"{LEVEL / audio.square().mean().sqrt().item():.2g}")
    with torch.no_grad():
        last.weight.mul_(factor)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
