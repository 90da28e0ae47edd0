"""The tokenizer: one for the agent's text, the prompt and what the ear writes."""

from __future__ import annotations

import io
import string
from collections.abc import Iterable

import sentencepiece

from engine.model.prompt import SYSTEM_TAG
from engine.model.text import BOS, EOS, EPAD, PAD

PIECES = 900
"""Most pieces: a word that the agent often says is one, a rare one is spelt."""

CHARACTERS = "".join(sorted({*string.ascii_letters, *string.digits, *string.punctuation}))
"""Each has a piece of its own whatever the texts hold: a persona may be named anything. What is beyond is id 0."""


def train_tokenizer(texts: Iterable[str], pieces: int = PIECES) -> bytes:
    """A SentencePiece model of at most so many pieces, learnt from `texts`; a text that occurs often weighs more.

    The prompt's tag is one piece, for no caller can say it. The same texts give the same bytes.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in texts if text.strip()]),
        model_writer=model,
        model_type="bpe",  # unigram finds no piece that lies within one word only, however often that is said
        vocab_size=pieces,
        hard_vocab_limit=False,  # few texts hold few pieces
        unk_id=EPAD,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=PAD,
        user_defined_symbols=[SYSTEM_TAG],
        required_chars=CHARACTERS,
        character_coverage=1.0,
        max_sentence_length=16_384,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
