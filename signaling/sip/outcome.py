"""What became of a call of ours that nobody took: from a status code (RFC 3261, section 21) to words."""

from __future__ import annotations

from dataclasses import dataclass

from signaling.call import Outcome
from signaling.sip.grammar import clean, seconds_of
from signaling.sip.message import Response
from signaling.sip.reason import reason_of

MAX_RETRY_AFTER_S = 3600.0
"""Longest wait that a peer may ask for."""

OUTCOMES: dict[int, tuple[Outcome, str]] = {
    401: (Outcome.FORBIDDEN, "asks for a user name and a password"),
    403: (Outcome.FORBIDDEN, "does not allow this call"),
    404: (Outcome.NOT_FOUND, "knows no such number"),
    407: (Outcome.FORBIDDEN, "asks for a user name and a password"),
    408: (Outcome.NO_ANSWER, "gave no answer in time"),
    410: (Outcome.NOT_FOUND, "says that the number is gone"),
    415: (Outcome.NOT_ACCEPTABLE, "cannot read our offer"),
    416: (Outcome.NOT_FOUND, "does not call such addresses"),
    480: (Outcome.NO_ANSWER, "says that nobody is there now"),
    484: (Outcome.NOT_FOUND, "says that the number is incomplete"),
    485: (Outcome.NOT_FOUND, "knows more than one such number"),
    486: (Outcome.BUSY, "is busy"),
    487: (Outcome.NO_ANSWER, "stopped ringing"),
    488: (Outcome.NOT_ACCEPTABLE, "speaks none of what we offered"),
    503: (Outcome.UNREACHABLE, "takes no calls now"),
    504: (Outcome.UNREACHABLE, "cannot reach the number in time"),
    600: (Outcome.BUSY, "is busy"),
    603: (Outcome.DECLINED, "declined"),
    604: (Outcome.NOT_FOUND, "knows no such number"),
    606: (Outcome.NOT_ACCEPTABLE, "speaks none of what we offered"),
    607: (Outcome.DECLINED, "does not want calls from us (607)"),
    608: (Outcome.DECLINED, "had the call rejected on its way (608)"),
}
"""What a code says, as the end of a sentence that begins with who was called. Those left out are failures."""

FROM_THE_CALLEE = (Outcome.BUSY, Outcome.DECLINED)
"""What a person did; all else is the network's."""


@dataclass(frozen=True)
class Refusal:
    """Why nobody took a call; `reason` is for people. `code` is 0 where no response said it."""

    outcome: Outcome
    by: str
    reason: str
    code: int = 0
    retry_s: float = 0.0


def refusal_of(response: Response, more: str = "") -> Refusal:
    """What a final response other than 2xx says; `more` is what we know besides."""
    code = response.code
    if code < 400:
        outcome, said = Outcome.FAILED, "has moved, and calls are not forwarded"
    else:
        outcome, said = OUTCOMES.get(code, (Outcome.FAILED, "did not put the call through"))
    theirs = reason_of(response) or clean(response.phrase, 60)
    by = "callee" if outcome in FROM_THE_CALLEE else "network"
    reason = f"the far end {said}: {f'{code} {theirs}'.strip()}{f' ({more})' if more else ''}"
    return Refusal(outcome, by, reason, code, wait_of(response))


def wait_of(response: Response, at_most: float = MAX_RETRY_AFTER_S, else_s: float = 0.0) -> float:
    """Seconds that Retry-After asks us to wait, within reason; `else_s` where it names none."""
    asked = seconds_of(response.headers.get("Retry-After"))
    return else_s if asked is None else min(float(asked), at_most)
