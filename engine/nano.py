"""The nano checkpoint: complete and in the published format, small, and random. For tests and first demos.

It has Moshi's rates and streams (1920 samples a frame, 17 streams, the acoustic delay), so all of the agent runs on it
many times faster than real time on one core; what it says is noise, because nobody has trained it.
"""

from __future__ import annotations

import io

import sentencepiece

from engine.model.text import BOS, EOS, EPAD, PAD

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
