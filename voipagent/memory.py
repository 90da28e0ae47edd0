"""Settings of what keeps a long call going, and what is built from them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from voipagent.kinds import Bearer, Section
from voipagent.story import Telling
from voipagent.summary import Endpoint, Extractive, check_address
from voipagent.trim import Memory
from voipagent.window import Shares


class ContextSettings(Section):
    """Calls that are longer than the model's window."""

    policy: Literal["reprime", "pin", "off"] = Field(
        default="reprime",
        description="reprime: before the window is full, the row is told anew who it is and what was said; "
        "pin: it never forgets its persona, and the rest oldest first (an experiment: no weights were trained so); "
        "off: it forgets the oldest first, its persona before all",
    )
    due: float = Field(default=0.8, description="share of the window from which on the next pause is used for it")
    hard: float = Field(default=0.95, description="share of the window at which no pause is waited for")
    keep: float = Field(default=0.25, description="share of the window that is kept of what was said last")
    prompt: float = Field(default=0.2, description="share of the window that persona and summary may take")

    @property
    def shares(self) -> Shares:
        """What a window is divided into. Raises ValueError where the shares contradict each other."""
        return Shares(self.due, self.hard, self.keep, self.prompt)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        self.shares  # noqa: B018  # it says what is wrong
        return self


class SummarySettings(Section):
    """Who sums up a call for the model that goes on with it."""

    url: str = Field(
        default="",
        description="an OpenAI-compatible endpoint, such as http://127.0.0.1:8080/v1; empty: the facts found here",
    )
    model: str = Field(default="", description="the model that is asked there")
    api_key: Bearer = Field(default=SecretStr(""), description="its key, if it wants one")
    timeout: float = Field(default=20, gt=0, description="seconds after which the facts found here are used instead")

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        return url and check_address(url)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.url) != bool(self.model):
            raise ValueError("url and model belong together: set both, or neither")
        return self


@asynccontextmanager
async def open_memory(
    context: ContextSettings, summary: SummarySettings, tell: Telling
) -> AsyncIterator[Memory | None]:
    """What every call's trims are done with; None with the policy `off`. With `pin` the engine must be made for it."""
    if context.policy == "off":
        yield None
    elif context.policy == "pin":
        yield Memory(context.shares, tell, pinned=True)
    elif not summary.url:
        yield Memory(context.shares, tell, Extractive())
    else:
        key = summary.api_key.get_secret_value()
        async with Endpoint(summary.url, summary.model, key, summary.timeout) as endpoint:
            yield Memory(context.shares, tell, endpoint)
