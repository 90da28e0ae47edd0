"""What the API does with calls that run: hold, resume, transfer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, status
from pydantic import BaseModel, ConfigDict, Field

from signaling.call import NotAllowed, SignalingError
from voipagent.outbound import explained
from voipagent.session import Session
from voipagent.transfer import Switchboard
from voipagent.web.calls import check_token


class TransferRequest(BaseModel):
    """Whom the caller is put through to."""

    model_config = ConfigDict(extra="forbid")

    target: str = Field(min_length=1, max_length=200, description="a number, such as +49301234567, or a SIP URI")
    trunk: str = Field(
        default="", max_length=64, description="the trunk to call by where the far end will not transfer"
    )


class Transferred(BaseModel):
    """How: the far end has done it ("transferred") and leaves, or we stay in the middle ("bridged")."""

    how: str


def serve_control(api: FastAPI, sessions: Mapping[str, Session], board: Switchboard, token: str) -> None:
    """`POST /api/v1/calls/{id}/hold`, `/resume`, `/transfer`, for whoever has the token. 502: the far end refused."""

    def session_of(call_id: str, authorization: str) -> Session:
        check_token(authorization, token)
        if (session := sessions.get(call_id)) is None:
            raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no call {call_id!r} now")
        return session

    @api.post("/api/v1/calls/{call_id}/hold", status_code=status.HTTP_204_NO_CONTENT)
    async def hold(call_id: str, authorization: Annotated[str, Header()] = "") -> None:
        await _hold(session_of(call_id, authorization), True)

    @api.post("/api/v1/calls/{call_id}/resume", status_code=status.HTTP_204_NO_CONTENT)
    async def resume(call_id: str, authorization: Annotated[str, Header()] = "") -> None:
        await _hold(session_of(call_id, authorization), False)

    @api.post("/api/v1/calls/{call_id}/transfer")
    async def transfer(
        call_id: str, wanted: TransferRequest, authorization: Annotated[str, Header()] = ""
    ) -> Transferred:
        session = session_of(call_id, authorization)
        try:
            return Transferred(how=await session.transfer(board, wanted.target, wanted.trunk))
        except NotAllowed as error:
            raise HTTPException(status.HTTP_403_FORBIDDEN, explained(error)) from None
        except SignalingError as error:
            raise HTTPException(status.HTTP_502_BAD_GATEWAY, str(error)) from None


async def _hold(session: Session, held: bool) -> None:
    try:
        await session.hold(held)
    except SignalingError as error:
        raise HTTPException(status.HTTP_502_BAD_GATEWAY, str(error)) from None
