"""Settings of what is kept of a call and for how long, of what a caller is told, and of how long a call may be."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from voipagent.kinds import Section

MOST_DAYS = 36_500
"""A century: beyond it is what nobody means, up to what no date has."""

GOODBYE = "Thank you for calling and goodbye."


class CallsSettings(Section):
    """What is kept of a call, what a caller is told of it, and how long one may be."""

    dir: Path = Field(default=Path("calls"), description="one folder a call is made here")
    record: Literal["both", "agent", "none"] = Field(default="both", description="whose voice is recorded")
    format: Literal["wav", "ogg"] = Field(default="wav", description="ogg is Opus, a tenth of the size")
    max_hold: float = Field(default=600, gt=0, description="seconds a caller may hold before we hang up")
    retention_days: float | None = Field(
        default=None,
        gt=0,
        le=MOST_DAYS,
        description="days after which all that is kept of a call is removed; empty: never",
    )
    recordings_days: float | None = Field(
        default=None,
        gt=0,
        le=MOST_DAYS,
        description="days after which its recording is removed, if sooner; empty: with the rest",
    )
    consent: str = Field(
        default="off",
        description="what a caller hears before the agent listens: off, tone, or an announcement as an audio file",
    )
    max_length: float | None = Field(
        default=None, gt=0, description="seconds from the answer after which the agent says goodbye; empty: any length"
    )
    goodbye: str = Field(
        default=GOODBYE, description="what it says then, before it hangs up; empty: nothing, as with pocket"
    )

    @field_validator("consent")
    @classmethod
    def _named(cls, consent: str) -> str:
        if consent not in ("off", "tone") and not Path(consent).suffix:
            raise ValueError(f"{consent!r} is neither off nor tone, nor an audio file such as announcement.wav")
        return consent

    @model_validator(mode="after")
    def _sooner(self) -> Self:
        days, recordings = self.retention_days, self.recordings_days
        if days is not None and recordings is not None and recordings > days:
            raise ValueError(
                f"recordings_days ({recordings:g}) is longer than retention_days ({days:g}), "
                "after which recordings are removed with the rest"
            )
        return self

    def as_said_by(self, model: str) -> Self:
        """Without a goodbye for the embedded model: words that it is given out of its turn are not understood."""
        return self.model_copy(update={"goodbye": ""}) if model == "pocket" else self
