"""The text stream: SentencePiece pieces <-> text, PAD and EPAD, and the pace of words that are forced.

The Inner Monologue has one token a frame (Moshi paper, section 3.4.4): the pieces of a word while it is being said, PAD
where no word is due, EPAD where one is about to begin.
"""

from __future__ import annotations

import codecs
import math
import re
from collections import deque
from dataclasses import dataclass

import sentencepiece

EPAD = 0
"""A word is about to begin. Also the tokenizer's id for a character that it cannot express."""

BOS = 1
EOS = 2

PAD = 3
"""No word."""

SILENT = frozenset({EPAD, BOS, EOS, PAD})
"""Tokens that are no text."""

LETTERS_A_FRAME = 1.1
"""The pace of forced words: 14 letters a second, spaces included, a calm speaker."""


class Tokenizer:
    """A trained SentencePiece model, from its file's bytes. Raises ValueError if they are none."""

    def __init__(self, model: bytes) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            size: int = self._processor.get_piece_size()
        except RuntimeError as error:
            raise ValueError(f"not a SentencePiece model ({error})") from None
        if size == 0:
            raise ValueError("not a SentencePiece model (it holds no pieces)")
        self._pieces = [self._piece(token) for token in range(size)]

    def _piece(self, token: int) -> str | bytes:
        """What a token adds to the text: characters, or one byte of a character that has no piece of its own."""
        piece: str = self._processor.id_to_piece(token)
        if token in SILENT or self._processor.is_control(token):
            return ""
        if self._processor.is_byte(token):
            return bytes([int(piece[3:5], 16)])  # <0xE2>
        return piece.replace("▁", " ")

    def __len__(self) -> int:
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        """Tokens of `text`, without BOS and EOS."""
        tokens: list[int] = self._processor.encode(text)
        return tokens

    def piece(self, token: int) -> str | bytes:
        """What `token` adds to the text; "" where it is none, or not one of ours."""
        return self._pieces[token] if 0 <= token < len(self._pieces) else ""


class TextReader:
    """Reads one row's text stream. Bytes of a character are held back until it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self, token: int) -> str:
        """The text of the next token, "" on PAD and EPAD. Always valid; torn bytes become U+FFFD."""
        piece = self._tokenizer.piece(token)
        if isinstance(piece, bytes):
            return self._decoder.decode(piece)
        return self._decoder.decode(b"", final=True) + piece if piece else ""


@dataclass(frozen=True, slots=True)
class Forced:
    """One token of the text stream that is not sampled, and the text to report for it."""

    token: int
    text: str = ""


def schedule(tokenizer: Tokenizer, text: str) -> deque[Forced]:
    """`text` as forced tokens, one a frame: EPAD, a word's pieces, PAD until the pace allows the next word.

    The tokens are an approximation where the tokenizer normalises or lacks a character; the reported texts, joined, are
    `text` itself but for white space at its end. A word's text rides on its first piece.
    """
    forced: deque[Forced] = deque()
    letters = 0
    for word in re.findall(r"\s*\S+", text):
        due = math.ceil(letters / LETTERS_A_FRAME)
        forced.extend([Forced(PAD)] * (due - len(forced)))
        forced.append(Forced(EPAD))
        pieces = [token for token in tokenizer.encode(word.strip()) if token not in SILENT]
        first, *rest = pieces or [PAD]  # nothing of it can be said: it keeps its place in the text
        forced.append(Forced(first, word))
        forced.extend(Forced(token) for token in rest)
        letters += len(word)
    return forced
