"""Put the trained parts together:  python -m engine.pocket.recipe.export --work DIR --to FOLDER

    WORK/codec, WORK/coded/voice.npz, WORK/tokenizer.model, WORK/lm/model.pt, WORK/ear/model.pt
    -> FOLDER: config.json, model.safetensors, mimi.safetensors, mimi.json, tokenizer.model,
               and, where there is an ear, ear.json and ear.safetensors

A checkpoint in the published form, which `engine.model.checkpoint` loads as it does any other; the ear is a second
model over the same codec and tokenizer, loaded with `config_name="ear.json"`. What is written is read again before it
counts as done.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.model.checkpoint import load_checkpoint
from engine.model.listening import EAR_CONFIG, load_ear
from engine.pocket.recipe.encode import Voice, read_voice
from engine.pocket.recipe.export_codec import CONFIG as CODEC_CONFIG
from engine.pocket.recipe.export_codec import WEIGHTS as CODEC_WEIGHTS
from engine.pocket.recipe.train_ear import DELAY
from engine.pocket.recipe.training import load
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

MOST_BYTES = 40_000_000
"""Of all tensors' files together: the package ships them."""

SHARED = {"mimi_name": CODEC_WEIGHTS, "mimi_config_name": CODEC_CONFIG, "tokenizer_name": "tokenizer.model"}

SETTINGS = ("model_type", "lm_gen_config", "prompt_config", "stt_config")
"""What else stands in a configuration, beside a model's sizes."""

GREEDY = {"temp": 0.0, "temp_text": 0.0, "top_k": 25, "top_k_text": 25}
"""How to draw, under the reference's names: clips are constants, so the likeliest code is the right one."""


def export(work: Path, folder: Path) -> int:
    """Write the checkpoint, load it, and give its tensors' size in bytes. Raises ValueError where that is too much."""
    codec = json.loads((work / "codec" / CODEC_CONFIG).read_text(encoding="utf-8"))
    voice = read_voice(work / "coded" / "voice.npz", codec["quantizer"]["bins"])
    folder.mkdir(parents=True, exist_ok=True)
    for source in (work / "codec" / CODEC_WEIGHTS, work / "codec" / CODEC_CONFIG, work / "tokenizer.model"):
        shutil.copyfile(source, folder / source.name)
    _write_model(folder, "config.json", "model.safetensors", load(work / "lm" / "model.pt"), _moshi_settings(voice))
    checkpoint = load_checkpoint(str(folder))
    if (work / "ear" / "model.pt").exists():
        settings = _ear_settings(voice)
        _write_model(folder, EAR_CONFIG, "ear.safetensors", load(work / "ear" / "model.pt"), settings)
        load_ear(str(folder), checkpoint)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if size > MOST_BYTES:
        raise ValueError(f"the tensors in {folder} take {size} bytes; at most {MOST_BYTES} are shipped")
    return size


def _moshi_settings(voice: Voice) -> dict[str, Any]:
    return {"model_type": "moshi", "lm_gen_config": GREEDY, "prompt_config": asdict(voice.layout)}


def _ear_settings(voice: Voice) -> dict[str, Any]:
    """No prompt. The step that hears a word's DELAY-th frame is the first to write of it."""
    delay = {"audio_silence_prefix_seconds": 0.0, "audio_delay_seconds": (DELAY - 1) * FRAME_SAMPLES / SAMPLE_RATE}
    layout = asdict(replace(voice.layout, style="none", silence=()))
    return {"model_type": "stt", "lm_gen_config": GREEDY, "stt_config": delay, "prompt_config": layout}


def _write_model(
    folder: Path, config: str, weights: str, model: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """bfloat16 on disk, float32 where it runs: half the size, and no slower on a CPU."""
    tensors: dict[str, Tensor] = {name: tensor.to(torch.bfloat16) for name, tensor in model["weights"].items()}
    part = folder / f".{weights}.part"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    part.chmod(0o644)  # it is written for its owner only
    part.rename(folder / weights)
    content = {"moshi_name": weights, **SHARED, **settings, **model["sizes"]}
    (folder / config).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="export", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="where the parts lie (build/pocket)")
    parser.add_argument("--to", type=Path, help="where the checkpoint goes (WORK/checkpoint)")
    options = parser.parse_args(arguments)
    folder = options.to or options.work / "checkpoint"
    print(f"{folder}: {export(options.work, folder) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
