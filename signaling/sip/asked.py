"""What a peer asks of a session while a call goes on: whatever goes wrong there, it gets an answer."""

from __future__ import annotations

import asyncio
import logging

from signaling.call import NotAllowed, Rejection, SignalingError
from signaling.sip.dialog import CHANGE_S
from signaling.sip.sipcall import REJECTIONS, SipCall

logger = logging.getLogger(__name__)

REFERRED_S = 180.0
"""How long a call that a peer wants of us may take to be answered."""


async def renegotiated(call: SipCall, offer: str | None) -> str | int:
    """The session's answer to a change, or the status that refuses it: the old one stands then."""
    try:
        if call.renegotiate is not None:
            async with asyncio.timeout(CHANGE_S):
                answer = await call.renegotiate(offer)
            return REJECTIONS[answer] if isinstance(answer, Rejection) else answer
    except TimeoutError:
        logger.warning("x %s no answer to a change in %g s", call.offer.id, CHANGE_S)
    except Exception:
        logger.exception("x %s change failed", call.offer.id)
    return 488


async def refreshed(call: SipCall) -> None:
    """Have the session offer what it has now, and hand over the answer; whatever goes wrong, the old one stands."""
    offer = await renegotiated(call, None)
    if isinstance(offer, int):
        logger.warning("x %s the session is not refreshed: nothing to offer", call.offer.id)
        return
    try:
        answer = await call.propose(offer)
        if call.answered is not None:
            await call.answered(answer)
    except SignalingError as error:
        logger.warning("x %s the session is not refreshed: %s", call.offer.id, error)
    except Exception:
        logger.exception("x %s the session is not refreshed: the answer cannot be used", call.offer.id)


async def referred(call: SipCall, target: str) -> int:
    """Let the session call whom the peer wants called; the status that says what became of it."""
    try:
        if call.referred is not None:
            async with asyncio.timeout(REFERRED_S):
                await call.referred(target)
            return 200
    except NotAllowed as error:
        logger.warning("x %s transfer to %s: %s", call.offer.id, target, error)
    except (SignalingError, TimeoutError) as error:
        logger.warning("x %s transfer to %s: %s", call.offer.id, target, str(error) or "too slow")
        return 503
    except Exception:
        logger.exception("x %s transfer failed", call.offer.id)
        return 500
    return 603


async def answered(call: SipCall, answer: str) -> None:
    """Hand over the answer to our offer; if it cannot be used, the call is over."""
    try:
        if call.answered is not None:
            await call.answered(answer)
    except Exception as error:
        logger.warning("x %s answer refused: %s: %s", call.offer.id, type(error).__name__, error, exc_info=error)
        await call.hang_up(str(error))
