"""Meetings elsewhere over the API: joining them."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, status
from pydantic import BaseModel, ConfigDict, Field

from engine.slot import EngineError
from signaling.call import NotAllowed, SignalingError
from voipagent.meetings import Meetings, UnknownMeeting
from voipagent.outbound import UnknownPersona, explained
from voipagent.web.calls import check_token


class MeetingRequest(BaseModel):
    """Which meeting to join, and as whom."""

    model_config = ConfigDict(extra="forbid")

    meeting: str = Field(
        min_length=1, max_length=4096, description="name of a meeting, or the URL of another room on a server of ours"
    )
    persona: str = Field(default="", max_length=64, description="who takes part; empty: the meeting's persona")


class MeetingBegun(BaseModel):
    """We are on our way. `id` is that of the call, whose record will be in the folder that has it in its name."""

    id: str
    url: str


def serve_meetings(api: FastAPI, meetings: Meetings, token: str) -> None:
    """`POST /api/v1/meetings`, for whoever has the token: 202, or why there is none. It is left as a call is."""

    @api.post("/api/v1/meetings", status_code=status.HTTP_202_ACCEPTED)
    async def join_meeting(wanted: MeetingRequest, authorization: Annotated[str, Header()] = "") -> MeetingBegun:
        check_token(authorization, token)
        try:
            meetings.check(wanted.meeting)
            call = await meetings.join(wanted.meeting, wanted.persona)
        except (UnknownMeeting, UnknownPersona) as error:
            raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from None
        except NotAllowed as error:
            raise HTTPException(status.HTTP_403_FORBIDDEN, explained(error)) from None
        except EngineError as error:
            raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, str(error)) from None
        except SignalingError as error:
            raise HTTPException(status.HTTP_502_BAD_GATEWAY, str(error)) from None
        return MeetingBegun(id=call.offer.id, url=call.offer.callee)
