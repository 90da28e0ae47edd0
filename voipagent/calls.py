"""Settings of what is kept of a call."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from voipagent.kinds import Section


class CallsSettings(Section):
    """What is kept of a call."""

    dir: Path = Field(default=Path("calls"), description="one folder a call is made here")
    record: Literal["both", "agent", "none"] = Field(default="both", description="whose voice is recorded")
    format: Literal["wav", "ogg"] = Field(default="wav", description="ogg is Opus, a tenth of the size")
    max_hold: float = Field(default=600, gt=0, description="seconds a caller may hold before we hang up")
