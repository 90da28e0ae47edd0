"""Calls over the API: making them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, status
from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.slot import EngineError
from media.dtmf import check_digits
from media.leg import LegError
from signaling.call import NotAllowed, OutgoingCall, SignalingError
from voipagent.outbound import UnknownPersona, Wanted, explained
from voipagent.web.bearer import shows

NO_TOKEN = "calls are for whoever has the token, and there is none; VOIPAGENT_HTTP__TOKEN sets it"


class CallRequest(BaseModel):
    """What to call, and how."""

    model_config = ConfigDict(extra="forbid")

    target: str = Field(min_length=1, max_length=200, description="a number, such as +49301234567, or a SIP URI")
    trunk: str = Field(default="", max_length=64, description="the trunk to call by; empty: the first that may")
    persona: str = Field(default="", max_length=64, description="who speaks; empty: the default persona")
    digits: str = Field(
        default="",
        max_length=64,
        description="keys to press once it is answered; pauses are , (2 s) and w (half a second)",
    )

    @field_validator("digits")
    @classmethod
    def _keys(cls, digits: str) -> str:
        try:
            check_digits(digits)
        except LegError as error:
            raise ValueError(str(error)) from None
        return digits


class CallBegun(BaseModel):
    """A call that is being made. Its record will be in the folder that has `id` in its name."""

    id: str
    target: str
    trunk: str


def serve_calls(api: FastAPI, place: Callable[[Wanted], Awaitable[OutgoingCall]], token: str) -> None:
    """`POST /api/v1/calls` with `Authorization: Bearer` and the token begins a call: 202, or why there is none."""

    @api.post("/api/v1/calls", status_code=status.HTTP_202_ACCEPTED)
    async def make_call(wanted: CallRequest, authorization: Annotated[str, Header()] = "") -> CallBegun:
        check_token(authorization, token)
        try:
            call = await place(Wanted(wanted.target, wanted.trunk, wanted.persona, wanted.digits))
        except UnknownPersona as error:
            raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from None
        except NotAllowed as error:
            raise HTTPException(status.HTTP_403_FORBIDDEN, explained(error)) from None
        except EngineError as error:
            raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, str(error)) from None
        except SignalingError as error:
            raise HTTPException(status.HTTP_502_BAD_GATEWAY, str(error)) from None
        return CallBegun(id=call.offer.id, target=wanted.target, trunk=call.offer.trunk)


def check_token(authorization: str, token: str) -> None:
    """Whether that is the token. A call costs money, and its record is private: without a token nobody gets either."""
    if not token:
        raise HTTPException(status.HTTP_403_FORBIDDEN, NO_TOKEN)
    if not shows(authorization, token):
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED,
            "Authorization: Bearer, and the token in VOIPAGENT_HTTP__TOKEN, is wanted",
            {"WWW-Authenticate": "Bearer"},
        )
