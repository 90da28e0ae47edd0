"""How a prompt is laid out in columns. The layout belongs to the checkpoint: `prompt_config` in its config.json.

    {"style": "system", "silence": [8 codes], "sine": [8 codes], "gap_frames": 6}

One prompt token a frame. While the model is being told who it is, the agent's streams hold the codes of silence and the
caller's those of a steady tone, as the weights were trained (PersonaPlex, arXiv 2602.06053).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.model.text import PAD, Tokenizer

STYLES = ("system", "text", "none")

SYSTEM_TAG = "<system>"
"""Stands at both ends of a prompt, the same each time."""

GAP_FRAMES = 6
"""Silence around the prompt's text: 0.48 s, PersonaPlex's."""

SILENCE = (948, 243, 1178, 546, 1736, 1030, 1978, 2008)
"""What the published Mimi makes of silence."""

SINE = (430, 1268, 381, 1611, 1095, 1495, 56, 472)
"""What the published Mimi makes of a steady tone."""


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """`style`: `system` wraps the text in tags, `text` takes it as it is, `none` ignores it: nothing is run."""

    style: str = "text"
    silence: tuple[int, ...] = SILENCE
    sine: tuple[int, ...] = SINE
    gap_frames: int = GAP_FRAMES

    @classmethod
    def parse(cls, config: object, agent: int, caller: int, codes: int) -> PromptLayout:
        """Read `prompt_config`. Raises ValueError with the field, what it is and what would be right."""
        if not isinstance(config, dict):
            raise ValueError(f"prompt_config must be an object, not {config!r}")
        if unknown := sorted(config.keys() - {"style", "silence", "sine", "gap_frames"}):
            raise ValueError(f"prompt_config has no field {unknown[0]!r}; it has style, silence, sine and gap_frames")
        layout = cls(
            config.get("style", "text"),
            _codes(config, "silence", SILENCE),
            _codes(config, "sine", SINE),
            config.get("gap_frames", GAP_FRAMES),
        )
        layout.check(agent, caller, codes)
        return layout

    def check(self, agent: int, caller: int, codes: int) -> None:
        """Raises ValueError unless this fits so many streams of the agent and the caller, of `codes` values each."""
        if self.style not in STYLES:
            raise ValueError(f"prompt_config.style is {self.style!r}; it must be system, text or none")
        if not _is_count(self.gap_frames) or self.gap_frames > 1_000:
            raise ValueError(f"prompt_config.gap_frames is {self.gap_frames!r}; it must be a number from 0 to 1000")
        for name, values, streams in (("silence", self.silence, agent), ("sine", self.sine, caller)):
            if len(values) != streams or not all(_is_count(value) and value < codes for value in values):
                raise ValueError(
                    f"prompt_config.{name} is {list(values)}; it must be {streams} codes below {codes}, one a stream"
                )

    def frames(self, tokenizer: Tokenizer, text: str, voice: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Undelayed tokens (T, K) of a prompt: a gap, the text, a gap. No frames without a text, or in style `none`.

        With a voice, the agent's codes [n, agent] of a recording, that comes first, and a gap behind it in any case.
        For one that is a state, and comes before all frames, n is 0.
        """
        told = self._told(tokenizer, text)
        if voice is None:
            return told
        spoken = self._frames([PAD] * len(voice))
        spoken[:, 1 : 1 + len(self.silence)] = voice
        return np.concatenate((spoken, told if len(told) else self._frames([PAD] * self.gap_frames)))

    def _told(self, tokenizer: Tokenizer, text: str) -> NDArray[np.int64]:
        text = text.strip()
        if not text or self.style == "none":
            return self._frames([])
        if self.style == "system" and not (text.startswith(SYSTEM_TAG) and text.endswith(SYSTEM_TAG)):
            text = f"{SYSTEM_TAG} {text} {SYSTEM_TAG}"
        gap = [PAD] * self.gap_frames
        return self._frames([*gap, *tokenizer.encode(text), *gap])

    def _frames(self, text: Sequence[int]) -> NDArray[np.int64]:
        frames = np.empty((len(text), 1 + len(self.silence) + len(self.sine)), np.int64)
        frames[:, 0] = text
        frames[:, 1:] = [*self.silence, *self.sine]
        return frames


def _codes(config: dict[str, object], name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    values = config.get(name, default)
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"prompt_config.{name} must be a list of codes, not {values!r}")
    return tuple(values)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
