"""The forty phones that the codec is taught, and how each synthesiser's own alphabet maps to them."""

from __future__ import annotations

from engine.pocket.recipe.formats import Span

PAUSE = "pau"

PHONES = (
    *(PAUSE, "aa", "ae", "ah", "ao", "aw", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh", "ih", "iy"),
    *("jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y", "z", "zh"),
)
"""ARPABET without stress, as cmulex has it, and the pause. A label is an index into this."""

IPA = {
    **{"tʃ": "ch", "dʒ": "jh", "ʧ": "ch", "ʤ": "jh", "oʊ": "ow", "əʊ": "ow", "aɪ": "ay", "aʊ": "aw", "eɪ": "ey"},
    **{"ɔɪ": "oy", "ɜː": "er", "ɜɹ": "er", "əɹ": "er", "ɚ": "er", "ɝ": "er", "ɪə": "ih r", "eə": "eh r", "ʊə": "uh r"},
    **{"iː": "iy", "uː": "uw", "ɔː": "ao", "ɑː": "aa", "aː": "aa", "oː": "ao", "ɐː": "ah", "əl": "ah l", "ən": "ah n"},
    **{"A": "ey", "I": "ay", "O": "ow", "Q": "ow", "W": "aw", "Y": "oy", "ᵊ": "ah", "ᵻ": "ih", "T": "t"},
    **{"i": "iy", "ɪ": "ih", "e": "eh", "ɛ": "eh", "æ": "ae", "a": "ae", "ɑ": "aa", "ɒ": "aa", "ɔ": "ao", "o": "ow"},
    **{"ʊ": "uh", "u": "uw", "ʌ": "ah", "ə": "ah", "ɐ": "ah", "ɜ": "er", "ɨ": "ih", "ʉ": "uw", "ɵ": "uh"},
    **{"p": "p", "b": "b", "t": "t", "d": "d", "k": "k", "ɡ": "g", "g": "g", "ɾ": "t", "ʔ": "t", "m": "m", "n": "n"},
    **{"ŋ": "ng", "f": "f", "v": "v", "θ": "th", "ð": "dh", "s": "s", "z": "z", "ʃ": "sh", "ʒ": "zh", "h": "hh"},
    **{"x": "k", "l": "l", "ɫ": "l", "ɹ": "r", "r": "r", "ɻ": "r", "w": "w", "ʍ": "w", "j": "y", "c": "k", "ç": "hh"},
}
"""IPA as espeak-ng writes it, and the one-letter diphthongs of hibari's alphabet."""

FLITE = {"ax": "ah", "pau": PAUSE, "h#": PAUSE, "brth": PAUSE}


def from_ipa(symbol: str) -> tuple[str, ...]:
    """The phones of an IPA string, longest match first; what has no sound of its own (stress, length) is left out."""
    phones: list[str] = []
    while symbol:
        length = next((n for n in (2, 1) if symbol[:n] in IPA and len(symbol) >= n), 0)
        if length:
            phones += IPA[symbol[:length]].split()
        symbol = symbol[length or 1 :]
    return tuple(phones)


def from_flite(name: str) -> str:
    """Raises KeyError for what is none of its phones."""
    phone = FLITE.get(name, name)
    if phone not in PHONES:
        raise KeyError(f"{name!r} is not a phone of flite's English voices")
    return phone


def divided(phones: tuple[str, ...], start_s: float, end_s: float) -> list[Span]:
    """Phones that share a span, in equal parts."""
    step = (end_s - start_s) / max(1, len(phones))
    return [Span(phone, start_s + n * step, start_s + (n + 1) * step) for n, phone in enumerate(phones)]
