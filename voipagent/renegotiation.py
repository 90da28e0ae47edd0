"""A far end that changes its media in mid-call, and the leg that answers it."""

from __future__ import annotations

import logging

from media.leg import Leg, LegError
from signaling.call import Rejection

logger = logging.getLogger(__name__)


async def renegotiate(leg: Leg, offer: str | None, name: str) -> str | Rejection:
    """The leg's answer, or its offer where the far end wants one; what it cannot do is not acceptable, and logged."""
    try:
        return await leg.offer() if offer is None else await leg.answer(offer)
    except LegError as error:
        logger.info("x %s change refused: %s", name, error)
        return Rejection.NOT_ACCEPTABLE
