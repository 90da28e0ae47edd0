"""Pieces to text, text to forced tokens."""

from __future__ import annotations

import io

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.text import EPAD, PAD, Forced, TextReader, Tokenizer, schedule
from engine.nano import train_tokenizer

TOKENIZER = Tokenizer(train_tokenizer())


def read(tokens: list[int]) -> str:
    reader = TextReader(TOKENIZER)
    return "".join(reader.read(token) for token in tokens)


@pytest.mark.parametrize("text", ["Hello, how are you?", "Grüße aus Köln", "30 € für 日本 👋🏽"])
def test_text_comes_back_from_its_tokens(text: str) -> None:
    assert read(TOKENIZER.encode(text)) == f" {text}"  # SentencePiece marks the first word's start too


def test_silent_tokens_are_no_text_wherever_they_stand() -> None:
    tokens = [token for piece in TOKENIZER.encode("Hello 日本") for token in (EPAD, piece, PAD)]
    assert read([PAD, *tokens, 1, 2]) == " Hello 日本"


def test_a_character_is_given_out_once_its_bytes_are_whole() -> None:
    reader = TextReader(TOKENIZER)
    tokens = TOKENIZER.encode("€")  # ▁, then three bytes
    assert [reader.read(token) for token in tokens] == [" ", "", "", "€"]


def test_torn_bytes_become_a_replacement_character() -> None:
    half = TOKENIZER.encode("€")[:-1]
    assert read([*half, *TOKENIZER.encode("yes")]) == " \ufffd yes"


def test_tokens_beyond_the_vocabulary_are_no_text() -> None:
    assert read([len(TOKENIZER), 32_000, -1, -2]) == ""


@given(st.lists(st.integers(0, len(TOKENIZER) - 1)))
def test_any_tokens_give_valid_text(tokens: list[int]) -> None:
    read(tokens).encode()


@pytest.mark.parametrize("model", [b"", b"not a model", train_tokenizer()[:100]])
def test_what_is_no_model_is_refused(model: bytes) -> None:
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        Tokenizer(model)


@given(st.text())
@settings(max_examples=200)
def test_the_text_to_report_is_the_text(text: str) -> None:
    assert "".join(step.text for step in schedule(TOKENIZER, text)).strip() == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "ﬁne, ①½",
        "two  spaces\tand\na line",
        "　全角　ＡＢＣ",
        "soft\u00adhyphen\u200b",
        "e\u0301 versus \u00e9",
        "🙂 ▁ <0x41> <s>",
    ],
)
def test_also_where_the_tokenizer_would_change_it(text: str) -> None:
    assert "".join(step.text for step in schedule(TOKENIZER, text)) == text


def test_a_word_is_its_marker_and_its_pieces() -> None:
    steps = list(schedule(TOKENIZER, "Hello unbelievable"))
    first = steps.index(Forced(EPAD), 1)
    assert steps[0] == Forced(EPAD)
    assert read([step.token for step in steps[:first]]) == " Hello"
    assert read([step.token for step in steps[first:]]) == " unbelievable"
    assert [step.text for step in steps if step.text] == ["Hello", " unbelievable"]


def test_words_come_at_a_speakers_pace() -> None:
    text = "Good morning, this is Ada speaking. How can I help you today?"
    steps = list(schedule(TOKENIZER, text))
    starts = [index for index, step in enumerate(steps) if step.token == EPAD]
    letters = len(text) - len(text.split()[-1])
    assert 12 <= letters / (starts[-1] * 0.08) <= 15  # a second
    assert len(starts) == len(text.split())


def test_a_word_of_many_pieces_is_not_waited_for_twice() -> None:
    steps = schedule(TOKENIZER, "日本語日本語 a b")  # eighteen bytes, seven letters
    assert PAD not in [step.token for step in steps][1:]


def test_a_character_without_a_piece_keeps_its_place() -> None:
    model = Tokenizer(without_byte_fallback())
    steps = list(schedule(model, "a 日 b"))
    assert "".join(step.text for step in steps) == "a 日 b"
    assert "".join(str(model.piece(step.token)) for step in steps) == " a  b"


def without_byte_fallback() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b a b ab ba", "b a b a"]),
        model_writer=model,
        vocab_size=8,
        hard_vocab_limit=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        minloglevel=2,
    )
    return model.getvalue()


def test_nothing_to_say_is_no_step() -> None:
    assert not schedule(TOKENIZER, "")
    assert not schedule(TOKENIZER, " \n")
