"""A WORK folder as the recipe's first steps leave it, made of arithmetic: two intents, told apart by a tone's pitch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from engine.model.mimi import Mimi
from engine.model.text import EPAD, PAD, SILENT, Tokenizer
from engine.nano import MIMI
from engine.pocket.recipe.encode import encode_all
from engine.pocket.recipe.export_codec import build, round_encoder, write_codec
from engine.pocket.recipe.formats import (
    SILENCE,
    Clip,
    ClipWord,
    Dialogue,
    Event,
    Span,
    shard,
    write_clips,
    write_dialogues,
)
from engine.pocket.recipe.init_codec import draw, level_decoder, level_encoder
from engine.pocket.recipe.learn_quantizer import cluster
from engine.pocket.recipe.offline_codec import OfflineCodec
from engine.pocket.recipe.tokenizer import train_tokenizer
from engine.slot import FRAME_SAMPLES
from tests.engine.pocket.voices import stand_in, vowel

LM = {
    **{"dim": 32, "num_layers": 2, "num_heads": 2, "context": 120, "n_q": 16, "dep_q": 8, "card": 128},
    **{"text_card": 200, "depformer_dim": 16, "depformer_num_heads": 2, "depformer_num_layers": 1},
}
EAR = {
    **{"dim": 32, "num_layers": 2, "num_heads": 2, "context": 120, "n_q": 8, "dep_q": 0, "card": 128},
    **{"text_card": 200, "delays": [0] * 9},
}

PROMPT = "<system> You are Anna. <system>"
QUESTIONS = {"hours": ("when open", 110.0), "place": ("where exactly", 240.0)}
ANSWERS = {"hours": "We open early.", "place": "Market Street seven."}
FRAMES = 40


def codec() -> Mimi:
    """The nano sizes, random but levelled, its tokens final."""
    mimi = build(MIMI)
    draw(mimi, 0)
    audio = torch.from_numpy(np.stack([stand_in(seed, 10) for seed in range(16)]))[:, None]
    audio += 0.02 * torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))  # or codes would run out
    level_encoder(mimi, audio)
    with torch.no_grad():
        cluster(mimi.quantizer, OfflineCodec(mimi).latent(audio), 4, torch.Generator().manual_seed(0))
    round_encoder(mimi)
    level_decoder(mimi, torch.randn(4, MIMI["seanet"]["dimension"], 8), 0.05)
    return mimi.eval().requires_grad_(False)


def clips() -> list[Clip]:
    return [
        Clip(text, stand_in(10 + number, 12), tuple(ClipWord(word, 4 * at) for at, word in enumerate(text.split())))
        for number, text in enumerate(ANSWERS.values())
    ]


def dialogue(intent: str, seed: int, tokenizer: Tokenizer) -> Dialogue:
    """A question of four frames at a frame that the seed decides, and its answer three frames after its end."""
    random = np.random.default_rng(seed)
    words, pitch = QUESTIONS[intent]
    start = int(random.integers(4, 10))
    sound = np.zeros(FRAMES * FRAME_SAMPLES, np.float32)
    asked = np.concatenate([vowel("aa", 2, pitch), vowel("iy", 2, pitch)]) * np.float32(random.uniform(0.5, 1))
    sound[start * FRAME_SAMPLES : (start + 4) * FRAME_SAMPLES] = asked
    number, answer = list(ANSWERS).index(intent), start + 7
    schedule = np.full((FRAMES, 2), (SILENCE, 0), np.int16)
    schedule[answer : answer + 12] = [(number, frame) for frame in range(12)]
    text = np.full(FRAMES, PAD, np.int16)
    at = answer - 3
    for word in ANSWERS[intent].split():
        pieces = [token for token in tokenizer.encode(word) if token not in SILENT]
        text[at : at + 1 + len(pieces)] = [EPAD, *pieces]
        at += 1 + len(pieces)
    first, second = words.split()
    heard = (
        Span(first, start * 0.08, start * 0.08 + 0.15),
        Span(second, start * 0.08 + 0.16, start * 0.08 + 0.31),
    )
    events = (
        Event("question", start + 3, start, intent, words),
        Event("answer", answer, -1, intent, ANSWERS[intent]),
    )
    phones = (Span("aa", start * 0.08, start * 0.08 + 0.16), Span("iy", start * 0.08 + 0.16, start * 0.08 + 0.32))
    return Dialogue(PROMPT, schedule, text, heard, events, audio=sound, phones=phones)


def make_work(folder: Path, count: int = 24) -> Path:
    """Codec, clips, tokenizer and coded dialogues of every kind."""
    write_codec(codec(), folder / "codec", MIMI, "nano")
    write_clips(folder / "clips.npz", clips())
    texts = [PROMPT, *ANSWERS.values(), *(words for words, _ in QUESTIONS.values())]
    (folder / "tokenizer.model").write_bytes(train_tokenizer(texts * 5, 180))
    tokenizer = Tokenizer((folder / "tokenizer.model").read_bytes())
    for seed, (kind, size) in enumerate({"stage1": count, "stage2": count, "probe": 4}.items()):
        made = [dialogue(list(ANSWERS)[each % 2], 100 * seed + each, tokenizer) for each in range(size)]
        write_dialogues(shard(folder / "dialogues", kind, 0), made)
    assert encode_all(folder, minutes=5)
    return folder
