"""The tokenizer has the text stream's special ids, and can spell what it has never seen."""

from __future__ import annotations

import string

import pytest

from engine.model.prompt import SYSTEM_TAG
from engine.model.text import BOS, EOS, EPAD, PAD, Tokenizer
from engine.pocket.recipe.tokenizer import PIECES, train_tokenizer

TEXTS = [
    *["We are open from nine to five.", "You said three five two.", "Is the office open today"] * 20,
    *[f"{SYSTEM_TAG} You are Ada at Northwind. Known: name=Anna; number=3 5 2 {SYSTEM_TAG}"] * 20,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(TEXTS))


def written(tokenizer: Tokenizer, text: str) -> str:
    return "".join(str(tokenizer.piece(token)) for token in tokenizer.encode(text)).strip()


def test_special_ids_are_no_text(tokenizer: Tokenizer) -> None:
    assert [tokenizer.piece(token) for token in (EPAD, BOS, EOS, PAD)] == [""] * 4
    assert len(tokenizer) <= PIECES


def test_a_frequent_word_is_one_piece(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("open")) == 1


def test_it_spells_anything_of_ascii(tokenizer: Tokenizer) -> None:
    for word in (string.ascii_letters, string.digits, string.punctuation, "Xquzyt & Sons"):
        assert written(tokenizer, word) == word


def test_what_it_cannot_spell_is_a_silent_token(tokenizer: Tokenizer) -> None:
    assert EPAD in tokenizer.encode("\u4f60")


def test_the_tag_is_one_piece_that_nothing_else_contains(tokenizer: Tokenizer) -> None:
    tag = [token for token in tokenizer.encode(SYSTEM_TAG) if tokenizer.piece(token).strip()]
    assert len(tag) == 1
    assert tag[0] not in tokenizer.encode("< system > system>")


def test_the_same_texts_give_the_same_bytes() -> None:
    assert train_tokenizer(TEXTS) == train_tokenizer(TEXTS)


def test_fewer_pieces_where_texts_are_few() -> None:
    assert len(Tokenizer(train_tokenizer(["a b c"], pieces=5_000))) < 200
