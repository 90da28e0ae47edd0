"""Who answers: the persona, and what the engine is told of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from engine.slot import Prompt


class Persona(BaseModel):
    """One persona. Texts are the operator's own, so they go to the model as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="agent", description="what the persona is called in records and logs")
    prompt: str = Field(
        default="", description="who the agent is and what it knows; how far it binds depends on the weights"
    )
    voice: str = Field(default="", description="a voice that lies beside the weights; empty: the weights' own")
    greeting: str = Field(default="", description="spoken first, word for word; empty: the model begins as it likes")

    def engine_prompt(self) -> Prompt:
        """What a row is primed with before the call begins."""
        return Prompt(text=self.prompt, voice=self.voice)
